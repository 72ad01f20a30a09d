// Package route turns what a router knows of the cluster into a table of backends: where writes go,
// where reads may go, and which open sessions may stay.
//
// It is pure: Build is a function of its Input, the time included. It does no I/O and reads no clock.
// The router calls it on each change of the store and at the instants at which time alone changes
// the answer (Table.Until, Table.Recheck).
//
// What it guarantees: a write backend is the holder of the lock and nobody else, only after that
// holder said it accepts writes in this epoch, and only while the router's own view of the lock is
// younger than the lease. What it does not guarantee: that the holder's PostgreSQL can be reached;
// whoever dials finds out.
//
// A paused cluster is routed like any other: pause stops the agents from acting, not the lock from
// being true.
package route
