package quorum

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Kind is what a step does.
type Kind int

// The kinds of a step.
const (
	None      Kind = iota // the target is reached
	SetRule               // set synchronous_standby_names to Rule
	WriteSync             // write Sync to the store
	Wait                  // nothing to do until the standbys have flushed more
)

// String is the kind in a word.
func (k Kind) String() string {
	switch k {
	case SetRule:
		return "set rule"
	case WriteSync:
		return "write sync"
	case Wait:
		return "wait"
	}
	return "none"
}

// Step is the next single thing to do. After it the caller observes and asks again.
type Step struct {
	Kind Kind
	Rule Rule
	Sync cluster.SyncState
	Why  string // a sentence for the operator
}

// Next is the next step from s toward t. With a stable environment the steps end at the target
// after a bounded number; each of them leaves the stored state safe.
func Next(s State, t Target) Step {
	goal := t.Goal(s)
	off := t.Mode != cluster.SyncOn && t.Mode != cluster.SyncQuorum
	if off && s.Sync.Empty() && pendingAllow(s, t.Self, Rule{}) && (!s.Unsettled || s.InForce().Async()) {
		return setOrStay(s, Rule{}, "synchronous mode is off")
	}
	if off {
		// The operator gave up the promise; the store says so first, then PostgreSQL.
		return Step{Kind: WriteSync, Why: "synchronous mode is off: nobody is a synchronous standby any more"}
	}

	mine := s.Sync
	mine.Leader = t.Self
	if !s.allows(t.Self, mine) {
		return write(repaired(s, t.Self), "the stored synchronous state may miss commits under the present rules (%s)", texts(s.rules()))
	}
	if s.Sync.Leader != t.Self {
		return write(mine, "%s leads now", t.Self)
	}
	if s.Unsettled {
		return write(mine, "a write of a former life may still arrive: writing the state again so that it cannot")
	}

	if !s.InForce().same(goal.Rule) || s.Intended != nil && !s.Intended.Equal(goal.Rule) {
		return toward(s, t, goal.Rule)
	}
	if goal.KeepVoters {
		return Step{Kind: None, Why: "strict mode and no standby to wait for: commits wait"}
	}
	if s.Sync.Equal(goal.Sync) {
		if s.Confirmed {
			return Step{Kind: None, Why: "the synchronous state is as wanted"}
		}
		return waitFor(s)
	}
	if s.Confirmed && s.allows(t.Self, goal.Sync) {
		return write(goal.Sync, "%s is in force and confirmed", text(goal.Rule))
	}
	if s.Confirmed && s.Intended != nil {
		return Step{Kind: SetRule, Rule: goal.Rule, Why: "an earlier change of the rule may still come into force: setting it again"}
	}
	return waitFor(s)
}

func setOrStay(s State, r Rule, why string) Step {
	if s.InForce().same(r) && (s.Intended == nil || s.Intended.Equal(r)) {
		return Step{Kind: None, Why: why}
	}
	return Step{Kind: SetRule, Rule: r, Why: why}
}

// toward is the next step to bring r into force.
func toward(s State, t Target, r Rule) Step {
	self := t.Self
	if s.allows(self, s.Sync, r) && pendingAllow(s, self, r) {
		return Step{Kind: SetRule, Rule: r, Why: fmt.Sprintf("the stored state is safe under %s and under %s", texts(s.rules()), text(r))}
	}
	if s.allows(self, s.Sync, r) {
		return write(s.Sync, "an earlier write may still arrive and would not be safe under %s: writing the state again", text(r))
	}
	v := between(s, self, r)
	if len(v.Standbys) == 0 && confirmable(s, t) {
		sure := s
		sure.Active, sure.Unknown, sure.Confirmed = []Rule{s.InForce()}, false, true
		if better := between(sure, self, r); len(better.Standbys) > 0 {
			return waitFor(s)
		}
	}
	if len(v.Standbys) == 0 {
		return write(v, "no set of standbys is safe under both %s and %s: until the new rule is confirmed only %s may lead", texts(s.rules()), text(r), self)
	}
	return write(v, "safe under both %s and %s", texts(s.rules()), text(r))
}

// between is a state that is safe for the rules that are active and for r: with the most voters
// that still leave a choice, and empty when there is none.
func between(s State, self string, r Rule) cluster.SyncState {
	names := r.real()
	var both []string
	for _, n := range s.Sync.Standbys {
		if slices.Contains(names, n) {
			both = append(both, n)
		}
	}
	union := append(append([]string{}, s.Sync.Standbys...), names...)
	if v, ok := safeWith(s, self, union, r); ok {
		return v
	}
	for _, voters := range [][]string{both, s.Sync.Standbys, names} {
		if v, ok := safeWith(s, self, voters, r); ok {
			return v
		}
	}
	return cluster.SyncState{Leader: self}
}

func safeWith(s State, self string, voters []string, more ...Rule) (cluster.SyncState, bool) {
	if len(voters) == 0 {
		return cluster.SyncState{}, false
	}
	least := 0
	if s.Unknown {
		least = s.Sync.Quorum
	}
	q, usable := quorumFor(self, voters, least, s.rules(more...))
	v := cluster.SyncState{Leader: self, Standbys: cluster.Sorted(voters), Quorum: q}
	return v, usable && s.allows(self, v, more...)
}

// repaired is a safe state as near to the stored one as there is.
func repaired(s State, self string) cluster.SyncState {
	if v, ok := safeWith(s, self, s.Sync.Standbys); ok {
		return v
	}
	return cluster.SyncState{Leader: self}
}

func pendingAllow(s State, self string, r Rule) bool {
	for _, w := range s.Pending {
		v := w.Sync
		if !v.Empty() {
			v.Leader = self
		}
		if !Safe(v, s.rules(r)...) {
			return false
		}
	}
	return true
}

// confirmable says whether the rule in force is not confirmed yet and can be: enough of its standbys
// stream.
func confirmable(s State, t Target) bool {
	r := s.InForce()
	if s.Confirmed || r.Blocks() {
		return false
	}
	streaming := 0
	for _, n := range r.real() {
		if slices.ContainsFunc(t.Candidates, func(c Standby) bool { return c.Name == n && c.Streaming }) {
			streaming++
		}
	}
	return streaming >= r.Num
}

func waitFor(s State) Step {
	r := s.InForce()
	if s.Mark == 0 {
		return Step{Kind: Wait, Why: fmt.Sprintf("%s was not seen in force yet", text(r))}
	}
	return Step{Kind: Wait, Why: fmt.Sprintf("%d of %s must flush up to %s before older rules are done with", r.Num, strings.Join(r.Names, ", "), s.Mark)}
}

func write(v cluster.SyncState, format string, args ...any) Step {
	return Step{Kind: WriteSync, Sync: v, Why: fmt.Sprintf(format, args...)}
}

func text(r Rule) string {
	if r.Async() {
		return "asynchronous commit"
	}
	return r.String()
}

func texts(rules []Rule) string {
	var out []string
	for _, r := range rules {
		if t := text(r); len(out) == 0 || out[len(out)-1] != t {
			out = append(out, t)
		}
	}
	return strings.Join(out, ", then ")
}
