// Package e2e proves hathi whole: real PostgreSQL, real etcd, the real program, on one machine.
//
// Each test makes a cluster of its own from a demo's layout, runs its processes itself (so that one
// of them can be killed and stay dead), breaks something while clients write through the router, and
// then compares what the clients were told with what is in the tables. It guarantees nothing about
// speed: outages are written into the log of a test and never judged tightly, because the machines
// that run it are loaded. Faults of networks, disks and clocks are not here; the simulator plays them.
//
// The tests skip, with a sentence, where PostgreSQL is missing. With -short a handful runs. With
// HATHI_E2E_KEEP set, what a test leaves on disk is kept, and its place is logged.
package e2e
