package quorum

import (
	"slices"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Safe says whether any choice of a leader by v holds every commit that v.Leader acknowledged under
// any of the rules: (q+1) + Num > |Names ∪ V| for each, or V is empty. A rule that blocks
// acknowledged nothing and is always safe; an asynchronous one is safe only with V empty; a rule
// with the wildcard too, because its names are not known.
//
// Where the leader itself stands in V (right after it took over) it counts as one more name that
// always has flushed.
func Safe(v cluster.SyncState, rules ...Rule) bool {
	voters := cluster.Sorted(v.Standbys)
	if len(voters) == 0 {
		return true
	}
	if v.Quorum < 0 {
		return false
	}
	for _, r := range rules {
		if r.Blocks() {
			continue
		}
		if slices.Contains(r.Names, wildcard) {
			return false
		}
		names, num := r.real(), max(r.Num, 0)
		if num == 0 {
			names = nil
		}
		if slices.Contains(voters, v.Leader) {
			names, num = append(names, v.Leader), num+1
		}
		union := cluster.Sorted(append(slices.Clone(voters), names...))
		if v.Quorum+1+num <= len(union) {
			return false
		}
	}
	return true
}

// QuorumFor is the smallest q with which (voters, q) is safe for all rules, for a leader that is not
// one of the voters. It is usable when a choice is possible at all: q+1 voters exist.
func QuorumFor(voters []string, rules ...Rule) (q int, usable bool) {
	return quorumFor("", voters, 0, rules)
}

func quorumFor(leader string, voters []string, least int, rules []Rule) (q int, usable bool) {
	voters = cluster.Sorted(voters)
	for q = max(least, 0); q < len(voters); q++ {
		if Safe(cluster.SyncState{Leader: leader, Standbys: voters, Quorum: q}, rules...) {
			return q, true
		}
	}
	return q, false
}

// TakeOver is what a new leader writes to the store, and the rule that must be in force, both before
// its PostgreSQL acknowledges the first commit: with the take-over of the lock, or at the latest
// before it promotes. Until the store names the new leader, the old one may always lead again, and
// it does not have the new leader's commits. The rule is safe for the state returned, which need
// not be the one that was stored.
//
// A leader that was not entitled by the stored state (ordered by an operator) starts with nobody
// entitled beside itself. The zero state (no synchronous rule ever recorded) stays as it is.
func TakeOver(stored cluster.SyncState, self string, strict bool) (cluster.SyncState, Rule) {
	if stored.Empty() {
		return cluster.SyncState{}, Rule{}
	}
	v := cluster.SyncState{Leader: self}
	if stored.Leader == self || stored.Has(self) {
		v.Standbys, v.Quorum = cluster.Sorted(stored.Standbys), stored.Quorum
	}
	others := slices.DeleteFunc(cluster.Sorted(v.Standbys), func(n string) bool { return n == self })
	for n := 1; n <= len(others); n++ {
		if r := NewRule(others, n, true); Safe(v, r) {
			return v, r
		}
	}
	if strict {
		return v, Blocking(true)
	}
	if !Safe(v, Rule{}) {
		v.Standbys, v.Quorum = nil, 0
	}
	return v, Rule{}
}

// Restart is a rule under which self may start PostgreSQL again when the store may hold any of the
// states: it is safe for each of them. The first state's own rule is preferred.
func Restart(self string, states ...cluster.SyncState) Rule {
	var all []cluster.SyncState
	var rules []Rule
	var names []string
	for _, stored := range states {
		v, r := TakeOver(stored, self, true)
		all, rules, names = append(all, v), append(rules, r), append(names, v.Standbys...)
		if len(stored.Standbys) == 0 {
			rules[len(rules)-1] = Rule{} // it entitles nobody else, and so asks for nothing
		}
	}
	names = slices.DeleteFunc(cluster.Sorted(names), func(n string) bool { return n == self })
	for _, r := range append(rules, NewRule(names, len(names), true)) {
		if !slices.ContainsFunc(all, func(v cluster.SyncState) bool { return !Safe(v, r) }) {
			return r
		}
	}
	return Blocking(true)
}
