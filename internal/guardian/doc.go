// Package guardian is the fence: a process of its own that kills PostgreSQL when the agent has not
// extended its deadline in time.
//
// Agent and guardian share one page of memory, a file mapped by both. The agent writes the
// deadline into it (Handle.Extend, after each confirmed renewal of the lock); the guardian compares
// it with CLOCK_BOOTTIME at least every 20 ms and needs nothing else: no SQL, no HTTP, no DNS, no
// lock that the agent could hold, no memory that it has not touched before.
//
//	           Arm                  deadline passes              no process left
//	disarmed ───────▶ armed ──────────────────────▶ fencing ──────────────────▶ fenced
//	    ▲  ▲            │ ▲ Extend                                                 │
//	    │  └── Disarm ──┘ └─ (forward only, and never after the deadline)           │
//	    └────────────────────────────────────────── Disarm, or Arm ────────────────┘
//
// The step from armed to fencing is a compare-and-swap on the deadline itself, and so is Extend:
// one of them wins. The kill ladder counts from the deadline: SIGINT at once, SIGQUIT at
// Ladder.Immediate, SIGKILL to every process of the data directory at Ladder.Kill; a guardian
// that was frozen and wakes up later goes to the step that is due, so straight to SIGKILL.
//
// What it guarantees: while the guardian gets the processor now and then, no PostgreSQL of the data
// directory is alive after deadline + Ladder.Kill plus the time that the kernel needs to end it,
// whether the agent lives, hangs, is stopped or is dead. A guardian that died is noticed by
// Handle.Alive and by its missing answer in WaitAck; a new one takes over the same deadline.
//
// What it does not: a machine that does not run the guardian at all does not fence either (the
// quorum and the routers' epochs do); and a process in uninterruptible sleep dies only when its
// disk answers.
package guardian
