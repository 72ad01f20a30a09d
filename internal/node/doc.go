// Package node is one member of the cluster: it observes, decides (package ha), performs and
// records, once per Tick.
//
// Tick is synchronous and complete in itself; Run is the short loop around it. Everything outside
// comes in through small interfaces: the store, PostgreSQL (Database), the guardian, the peers, the
// clock. The daemon gives the real ones, the simulator its fakes.
//
//	Run ──▶ Tick: Feed, Database, Leadership, Peers ──▶ ha.Decide ──▶ perform ──▶ publish
//	Keep ──▶ Leadership.Renew (own goroutine, own store connection)
//
// What it guarantees: effects are performed in the order that the decision gives, the first failure
// ends the tick; an effect that needs the lock is refused without it; one job runs at a time, and
// every job has a bound. What it does not: it trusts that Database does what it says.
package node
