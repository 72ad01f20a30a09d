// Command bench measures how long clients cannot write when a node of a cluster fails, and what the
// cluster costs while nothing fails. `make bench-failover` runs it.
//
// Every node is a network namespace with a cable of its own (a veth pair on a bridge) and the real
// daemons: etcd member, agent, guardian, PostgreSQL. A router and the writers live in one more
// namespace, that of the clients. All addresses are private to these namespaces, which the program
// makes and removes; nothing leaves them. A pulled cable or a power cut sends neither FIN nor RST.
//
//	             bench-client: bridge 10.91.k.1, router, 8 writers, this program
//	             /             |             \
//	bench-k-1: 10.91.k.11  bench-k-2: .12  bench-k-3: .13      k: the cluster under test
//
// All processes share one machine and so one CLOCK_BOOTTIME: instants of clients, of the store and of
// the agents' decision journals are compared directly. They also share its processors, so a figure
// is an upper bound of what separate machines would show.
//
// With -peer patroni the same rounds run against Patroni, etcd and HAProxy from Debian's packages,
// each round of one system next to that of the other.
//
// Storage that no longer answers is an ext4 file system in a loop device, frozen with FIFREEZE. It is
// thawed however the round ends, at the end of the program, by the process around it, and should both
// be killed by a third one after 90 s.
//
// Every result is appended to a file of JSON lines as it comes (records.go); -report makes the tables
// and the verdicts on the goals (goals.go) from one or more of these.
//
// It needs root and Linux (cgroup freezer version 1 or 2). It kills only what it started: everything
// is in cgroups of its own, which also lets a later run clean up after one that was killed.
package main
