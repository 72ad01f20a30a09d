// Package supervise keeps a handful of child processes alive in one run directory. `hathi demo` runs
// its etcd members, agents and router under it.
//
// A child that ends is started again, after a pause that doubles from 200 ms to 5 s and begins anew
// once the child has lived for 10 s. Children have a group; groups start in rising order and stop in
// falling order, a group at a time: the stop signal, then SIGKILL at the bound of each child.
//
//	    Start                  ends                 pause over
//	──────────▶ running ──────────────▶ waiting ──────────────▶ running
//	               │                       │
//	          Stop │ Restart          Stop │
//	               ▼                       ▼
//	           stopping ──────────────▶ stopped
//
// What happens when the supervisor itself dies without a chance to stop anything (SIGKILL, panic, out
// of memory): the kernel sends every child its DeathSignal (SIGKILL unless told otherwise), so the
// children go with it. The kernel ties that signal to the thread that forked, not to the process, so
// all children are forked from one thread that lives as long as the supervisor. What the children
// put into sessions of their own, PostgreSQL and the guardian above all, lives on: the guardian
// fences a primary whose agent is gone, and the agents of the next start adopt what they find. That
// is the same situation as a crash of all agents at once, for which they are made.
//
// Should a child outlive its supervisor all the same, the next supervisor of the directory finds it
// through its pid file and ends it before it starts anything. It touches only a process that has the
// recorded pid, the recorded start time of this boot, and the recorded command line.
//
// Guarantees: one supervisor per directory (a lock the kernel drops with its holder); no signal ever
// goes to a pid that was handed to another process; Close returns when all children have ended, or
// says which have not. Not guaranteed: that processes which a child started end with it; that a log
// line written in the instant of a rotation is kept.
//
// Files in the directory: supervise.lock, supervise.sock (mode 0600), NAME.pid, NAME.log, NAME.log.1.
// The socket speaks one JSON object a line; Dial is its client.
package supervise
