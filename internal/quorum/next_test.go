package quorum_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// story runs Next with an obedient store and PostgreSQL whose streaming standbys flush everything.
type story struct {
	t      *testing.T
	state  quorum.State
	live   quorum.Rule
	stored cluster.SyncState
	rev    int64
}

func (y *story) run(target quorum.Target) []string {
	y.t.Helper()
	target.Self = "a"
	var out []string
	for range 20 {
		o := quorum.Observation{Live: y.live, Flush: 100, Flushed: map[string]cluster.LSN{}}
		for _, c := range target.Candidates {
			if c.Streaming {
				o.Flushed[c.Name] = 100
			}
		}
		if !y.state.InForce().Equal(y.live) { // standbys flush only after one look
			o.Flushed = nil
		}
		y.state = y.state.Observe(o)
		s := quorum.Next(y.state, target)
		switch s.Kind {
		case quorum.None:
			return out
		case quorum.SetRule:
			out = append(out, "rule "+s.Rule.String())
			y.state = y.state.Intend(s.Rule)
			y.live = s.Rule
		case quorum.WriteSync:
			out = append(out, fmt.Sprintf("sync %s [%s] %d", s.Sync.Leader, strings.Join(s.Sync.Standbys, ","), s.Sync.Quorum))
			y.state = y.state.Writing(s.Sync)
			y.stored = s.Sync
			y.rev++
			y.state = y.state.Stored(y.stored, y.rev)
		case quorum.Wait:
			if len(out) == 0 || out[len(out)-1] != "wait" {
				out = append(out, "wait")
			}
		}
	}
	y.t.Fatalf("got no end after 20 steps: %q", out)
	return nil
}

func standbys(names ...string) []quorum.Standby {
	var out []quorum.Standby
	for _, n := range names {
		out = append(out, quorum.Standby{Name: n, Streaming: true, SyncPriority: 1})
	}
	return out
}

func target(mode cluster.SyncMode, strict bool, count int, names ...string) quorum.Target {
	return quorum.Target{Mode: mode, Strict: strict, Count: count, Candidates: standbys(names...)}
}

func TestNext_UsualSequences(t *testing.T) {
	type leg struct {
		name   string
		target quorum.Target
		want   []string
	}
	tests := []struct {
		name string
		legs []leg
	}{
		{"synchronous mode on, off and on again", []leg{
			{"on", target(cluster.SyncOn, false, 1, "b", "c"), []string{"sync a [] 0", `rule "b"`, "wait", "sync a [b] 0"}},
			{"two standbys: widen PostgreSQL, then the store", target(cluster.SyncOn, false, 2, "b", "c"), []string{`rule 2 ("b","c")`, "wait", "sync a [b,c] 0"}},
			{"one standby: narrow the store, then PostgreSQL", target(cluster.SyncOn, false, 1, "b", "c"), []string{"sync a [b,c] 1", `rule "b"`, "wait", "sync a [b] 0"}},
			{"its standby leaves", target(cluster.SyncOn, false, 1, "c"), []string{"sync a [b,c] 1", `rule "c"`, "wait", "sync a [c] 0"}},
			{"the last one leaves", target(cluster.SyncOn, false, 1), []string{"sync a [] 0", "rule "}},
			{"it comes back", target(cluster.SyncOn, false, 1, "c"), []string{`rule "c"`, "wait", "sync a [c] 0"}},
			{"off", target(cluster.SyncOff, false, 1, "c"), []string{"sync  [] 0", "rule "}},
		}},
		{"strict keeps the old standby", []leg{
			{"on", target(cluster.SyncOn, true, 1, "b"), []string{"sync a [] 0", `rule "b"`, "wait", "sync a [b] 0"}},
			{"nobody there", target(cluster.SyncOn, true, 1), []string{"rule __patroni_strict_sync_replica_placeholder__"}},
			{"another one comes", target(cluster.SyncOn, true, 1, "c"), []string{"sync a [b,c] 1", `rule "c"`, "wait", "sync a [c] 0"}},
		}},
		{"quorum", []leg{
			{"one", target(cluster.SyncQuorum, false, 1, "b"), []string{"sync a [] 0", `rule ANY 1 ("b")`, "wait", "sync a [b] 0"}},
			{"a second joins", target(cluster.SyncQuorum, false, 1, "b", "c"), []string{"sync a [b,c] 1", `rule ANY 1 ("b","c")`, "wait"}},
			{"two must flush", target(cluster.SyncQuorum, false, 2, "b", "c"), []string{`rule ANY 2 ("b","c")`, "wait", "sync a [b,c] 0"}},
			{"one must flush", target(cluster.SyncQuorum, false, 1, "b", "c"), []string{"sync a [b,c] 1", `rule ANY 1 ("b","c")`, "wait"}},
			{"one leaves", target(cluster.SyncQuorum, false, 1, "c"), []string{`rule ANY 1 ("c")`, "wait", "sync a [c] 0"}},
			{"only the spelling changes", target(cluster.SyncOn, false, 1, "c"), []string{`rule "c"`}},
			{"strict, nobody there", target(cluster.SyncQuorum, true, 1), []string{"rule ANY 1 (__patroni_strict_sync_replica_placeholder__)"}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			y := &story{t: t, state: quorum.Begin(cluster.SyncState{}, 0, quorum.Rule{}, true)}
			for _, l := range tt.legs {
				got := y.run(l.target)
				if !slices.Equal(got, l.want) {
					t.Errorf("%s: got %q, want %q", l.name, got, l.want)
				}
			}
		})
	}
}

func TestNext_AfterRestart(t *testing.T) {
	any1 := quorum.NewRule([]string{"b", "c"}, 1, true)
	stored := cluster.SyncState{Leader: "a", Standbys: []string{"b", "c"}, Quorum: 1}
	tests := []struct {
		name   string
		live   quorum.Rule
		target quorum.Target
		want   []string
	}{
		{"nothing changed: the state is written again so that nothing late can land",
			any1, target(cluster.SyncQuorum, false, 1, "b", "c"), []string{"sync a [b,c] 1"}},
		{"the live rule is too weak: the store is emptied first",
			quorum.Rule{}, target(cluster.SyncQuorum, false, 1, "b", "c"), []string{"sync a [] 0", `rule ANY 1 ("b","c")`, "wait", "sync a [b,c] 1"}},
		{"voters may only grow once the live rule is confirmed",
			any1, target(cluster.SyncQuorum, false, 1, "b", "c", "d"), []string{"sync a [b,c] 1", "sync a [b,c,d] 2", `rule ANY 1 ("b","c","d")`, "wait"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			y := &story{t: t, state: quorum.Begin(stored, 7, tt.live, false), live: tt.live, stored: stored, rev: 7}
			if got := y.run(tt.target); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestGoal_WhoIsChosen(t *testing.T) {
	c := func(name string, change func(*quorum.Standby)) quorum.Standby {
		s := standbys(name)[0]
		if change != nil {
			change(&s)
		}
		return s
	}
	tests := []struct {
		name  string
		mode  cluster.SyncMode
		count int
		now   quorum.Rule
		list  []quorum.Standby
		want  string
	}{
		{"the present one stays", cluster.SyncOn, 1, quorum.NewRule([]string{"c"}, 1, false), []quorum.Standby{c("b", func(s *quorum.Standby) { s.Flushed = 9 }), c("c", nil)}, `"c"`},
		{"a higher priority wins over the present one", cluster.SyncOn, 1, quorum.NewRule([]string{"c"}, 1, false), []quorum.Standby{c("b", func(s *quorum.Standby) { s.SyncPriority = 2 }), c("c", nil)}, `"b"`},
		{"more flushed wins among new ones", cluster.SyncOn, 1, quorum.Rule{}, []quorum.Standby{c("b", nil), c("c", func(s *quorum.Standby) { s.Flushed = 9 })}, `"c"`},
		{"priority 0 never", cluster.SyncOn, 1, quorum.Rule{}, []quorum.Standby{c("b", func(s *quorum.Standby) { s.SyncPriority = 0 })}, ""},
		{"not streaming never", cluster.SyncQuorum, 1, quorum.Rule{}, []quorum.Standby{c("b", func(s *quorum.Standby) { s.Streaming = false }), c("c", nil)}, `ANY 1 ("c")`},
		{"lagging only when there is no other", cluster.SyncQuorum, 1, quorum.Rule{}, []quorum.Standby{c("b", func(s *quorum.Standby) { s.Lagging = true }), c("c", nil)}, `ANY 1 ("c")`},
		{"lagging rather than none", cluster.SyncOn, 1, quorum.Rule{}, []quorum.Standby{c("b", func(s *quorum.Standby) { s.Lagging = true })}, `"b"`},
		{"nofailover only to fill the number", cluster.SyncQuorum, 2, quorum.Rule{}, []quorum.Standby{c("b", func(s *quorum.Standby) { s.NoFailover = true }), c("c", nil), c("d", nil)}, `ANY 2 ("c","d")`},
		{"nofailover rather than too few", cluster.SyncQuorum, 2, quorum.Rule{}, []quorum.Standby{c("b", func(s *quorum.Standby) { s.NoFailover = true }), c("c", nil)}, `ANY 2 ("b","c")`},
		{"itself never", cluster.SyncOn, 2, quorum.Rule{}, []quorum.Standby{c("a", nil), c("b", nil)}, `"b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := quorum.Target{Self: "a", Mode: tt.mode, Count: tt.count, Candidates: tt.list}
			got := target.Goal(quorum.Begin(cluster.SyncState{}, 0, tt.now, true)).Rule.String()
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestSafe(t *testing.T) {
	v := func(leader string, q int, names ...string) cluster.SyncState {
		return cluster.SyncState{Leader: leader, Standbys: names, Quorum: q}
	}
	tests := []struct {
		name string
		v    cluster.SyncState
		rule quorum.Rule
		want bool
	}{
		{"one of one", v("a", 0, "b"), quorum.NewRule([]string{"b"}, 1, false), true},
		{"one of two, each alone", v("a", 0, "b", "c"), quorum.NewRule([]string{"b", "c"}, 1, true), false},
		{"one of two, both together", v("a", 1, "b", "c"), quorum.NewRule([]string{"b", "c"}, 1, true), true},
		{"two of two, each alone", v("a", 0, "b", "c"), quorum.NewRule([]string{"b", "c"}, 2, true), true},
		{"a voter that the rule does not name", v("a", 0, "b", "c"), quorum.NewRule([]string{"b"}, 1, false), false},
		{"asynchronous with a voter", v("a", 0, "b"), quorum.Rule{}, false},
		{"asynchronous without", v("a", 0), quorum.Rule{}, true},
		{"blocking", v("a", 0, "b"), quorum.Blocking(false), true},
		{"more asked than named blocks", v("a", 0, "b"), quorum.Rule{Names: []string{"c"}, Num: 2}, true},
		{"wildcard", v("a", 0, "b"), quorum.Rule{Names: []string{"*"}, Num: 2}, false},
		{"placeholder beside a name", v("a", 0, "b"), quorum.Rule{Names: []string{"b", cluster.StrictPlaceholder}, Num: 1}, true},
		{"the leader is a voter", v("b", 1, "b", "c"), quorum.NewRule([]string{"c", "d"}, 1, true), true},
		{"negative quorum", v("a", -1, "b"), quorum.NewRule([]string{"b"}, 1, false), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := quorum.Safe(tt.v, tt.rule); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	if q, ok := quorum.QuorumFor([]string{"b", "c", "d"}, quorum.NewRule([]string{"b", "c", "d"}, 1, true)); q != 2 || !ok {
		t.Errorf("QuorumFor: got %d %v, want 2 true", q, ok)
	}
	if _, ok := quorum.QuorumFor([]string{"b"}, quorum.NewRule([]string{"c"}, 1, true)); ok {
		t.Error("QuorumFor: got usable for voters that share nothing with the rule")
	}
}

func TestTakeOver(t *testing.T) {
	stored := cluster.SyncState{Leader: "a", Standbys: []string{"b", "c", "d"}, Quorum: 1}
	v, r := quorum.TakeOver(stored, "b", false)
	if want := (cluster.SyncState{Leader: "b", Standbys: []string{"b", "c", "d"}, Quorum: 1}); !v.Equal(want) || r.String() != `ANY 1 ("c","d")` {
		t.Errorf("got %+v %v, want %+v ANY 1 (c,d)", v, r, want)
	}
	if v, r = quorum.TakeOver(stored, "x", true); len(v.Standbys) != 0 || !r.Blocks() {
		t.Errorf("not entitled, strict: got %+v %v, want no standbys and a rule that blocks", v, r)
	}
	if v, r = quorum.TakeOver(cluster.SyncState{}, "b", true); !v.Empty() || !r.Async() {
		t.Errorf("no promise recorded: got %+v %v, want nothing", v, r)
	}
	if v, r = quorum.TakeOver(cluster.SyncState{Leader: "a", Standbys: []string{"b"}}, "b", false); v.Leader != "b" || !r.Async() {
		t.Errorf("sole standby: got %+v %v, want leader b and asynchronous", v, r)
	}
}
