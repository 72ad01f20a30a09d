// Package sim runs whole clusters on virtual time from one seed.
//
// Each machine has a real node.Node, with its Leadership and its Feed, on fakes: the store in memory
// behind a network that delays, loses and cuts; a PostgreSQL with WAL, timelines, replication,
// synchronous commit, promotion, crash recovery, rewind and clone; a guardian with its page and its
// ladder; peers; jobs; clients that write through whatever primary they reach. One scheduler moves
// virtual time from event to event. Code of a node that waits (for an answer of the store, say) is
// a coroutine that gives control back, so exactly one thing runs at any time, nothing reads a real
// clock, and a seed gives the same history on every machine.
//
//	seed ──▶ settings, machines, clocks that drift, faults, human actions
//	              │
//	              ▼
//	scheduler ──▶ Tick, Renew, KeepFailsafe, jobs ──▶ fakes ──▶ acknowledgements
//	              │                                                   │
//	              └── after the faults: everything heals ──▶ settled? └──▶ invariants 1 to 4 and 6
//
// What it checks is listed at check.go. What it cannot find: faults of the real PostgreSQL, etcd or
// kernel that the fakes do not have; races between goroutines of one agent beyond those that store
// and peer calls give; and anything in the code that the fakes replace.
package sim
