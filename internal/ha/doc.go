// Package ha decides what a node does next.
//
// One function, Decide, maps everything known (Observation, the time included) to what to do
// (Decision): an ordered list of effects, a sentence for the operator, and how long the database
// may be vouched for. It is pure: it does no I/O, starts no goroutine, reads no clock, logs
// nothing. If it lacks a fact, such as the WAL positions of the peers, it returns an effect that
// asks for it and is called again. Package node performs the effects and reports what happened in
// the next observation; the simulator does the same on fakes.
//
//	              no data                     no leader, safe to lead
//	┌───────┐  ───────────▶ cloning ──▶ following ───────────▶ candidate ──▶ taking the lock
//	│ start │                              ▲   ▲                                   │
//	└───────┘  no cluster yet              │   └── rewinding ◀── demoting ◀──┐     ▼
//	    └────▶ bootstrapping ──▶ leading   │        │ fails                  │  promoting
//	                                ▲      └────────┴─ set aside, clone      │     │
//	                                └────────────────────────────────────────┼─────┘
//	                                 lease lost, switchover, hung, crashed ──┘
//
// What Decide guarantees, given that the effects do what they say (DESIGN section 3):
//   - a writable PostgreSQL without the lease is stopped (Pause apart);
//   - the lock is taken only when it is free, released, our own from before a restart, or when it
//     was not seen to change for longer than its duration, and always by comparing the revision seen;
//   - under synchronous rules it is taken only when no acknowledged commit can be missing here;
//   - nothing that could be the only copy of data is deleted: directories are set aside.
//
// What it does not: it trusts its observation. That a renewal counts from before it was sent, that
// the guardian is alive, and that a take-over compares the revision of /sync are package node's.
package ha
