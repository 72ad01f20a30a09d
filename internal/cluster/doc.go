// Package cluster is the vocabulary of hathi: members, the lock, the leader, the synchronous state,
// fail-over requests, timeline history, the dynamic configuration, WAL positions.
//
// It is pure: values, their JSON, and arithmetic on them. It does no I/O, starts no goroutine and
// reads no clock. Every other package may import it; it imports none of them.
//
// The JSON of each type is a promise. Where a key of the store exists in Patroni too, it has
// Patroni's name and shape (patroni/dcs/__init__.py, release 4.1), because people's tools read it;
// fields of our own are added beside, never in place of Patroni's.
package cluster
