// Package quorum is the arithmetic of synchronous replication: which commits PostgreSQL may have
// acknowledged, who may therefore lead, and in which order the two records of that may change.
//
// There are two records. PostgreSQL has synchronous_standby_names, a Rule: a commit is acknowledged
// once Num of Names have flushed it. The store has cluster.SyncState (V, q): a member of V may lead
// when q other members of V confirm that they are not ahead of it, and Leader may always lead again.
// A choice takes q+1 members of V, an acknowledgement Num members of Names; they must overlap:
//
//	(q + 1) + Num > |Names ∪ V|        or V is empty
//
// This must hold for every rule under which a commit may have been acknowledged that is not yet
// known to be covered by a later rule (the active rules). From that alone follow the well-known
// orders: widen PostgreSQL first and then the store, narrow the store first and then PostgreSQL.
//
// State holds what the leader knows, and Next gives the next single step toward a Target:
//
//	          SetRule                   Num of Names flushed P                WriteSync
//	[old] ──────────────▶ [old, new] ───────────────────────▶ [new] ───────────────────▶ target
//	  │  stored (V,q) safe for both      (confirmed: old is retired)   (V,q) safe for new
//	  └─ else first WriteSync of an intermediate (V', q') that is safe for both
//
// P is the primary's flush position observed after the new rule came into force: every commit that
// an older rule acknowledged lies before it.
//
// What is guaranteed: if the caller keeps the protocol described at State, any choice by the stored
// (V,q) holds every acknowledged commit, at every instant, through lost answers of the store, late
// writes, and restarts of the caller.
//
// What is not: commits made with synchronous_commit off or local, or whose wait was cancelled; a
// walsender that still releases waiters under the old rule after the reload was seen (the caller
// reports a rule as live only after a short grace); a member that lost its data and confirms
// nevertheless (it must not answer before it is whole again); two branches of history (the caller
// compares timelines before positions).
//
// The package is pure.
package quorum
