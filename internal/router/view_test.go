package router

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
)

func lockEntry(t *testing.T, node string, epoch, seq uint64, rev int64) dcs.Entry {
	t.Helper()
	b, err := json.Marshal(cluster.Lock{Node: node, Epoch: epoch, Seq: seq, TTL: 6000, Ready: true})
	if err != nil {
		t.Fatal(err)
	}
	return dcs.Entry{Value: b, ModRev: rev}
}

// The instants from which the lease counts, in seconds, after each step. L is 6 s, so a gap of more
// than 2 s between changes is not trusted.
func TestView_TheLeaseCountsFromWhatIsProven(t *testing.T) {
	type step struct {
		load        bool
		at          time.Duration
		node        string
		epoch, seq  uint64
		applied     bool // of an update
		seen        time.Duration
		explanation string
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"a first read proves no renewal", []step{
			{true, 100, "a", 1, 5, false, 0, "how old seq 5 is nobody knows"},
			{false, 101, "a", 1, 6, true, 101, "seen to change"},
			{true, 102, "a", 1, 6, false, 101, "the same value: nothing new"},
		}},
		{"a read that differs counts from the last value known to be current", []step{
			{true, 100, "a", 1, 5, false, 0, ""},
			{false, 101, "a", 1, 6, true, 101, ""},
			{true, 103, "a", 1, 9, false, 101, "it changed after 101"},
			{true, 104, "a", 1, 10, false, 103, "it changed after 103, when 9 was current"},
		}},
		{"a frozen router does not believe what lay in the channel", []step{
			{true, 100, "a", 1, 5, false, 0, ""},
			{false, 101, "a", 1, 6, true, 101, ""},
			{false, 111, "a", 1, 7, false, 101, "it may be ten seconds old"},
			{true, 111, "a", 1, 30, false, 101, "still held at 111, renewed after 101"},
			{false, 112, "a", 1, 31, true, 112, "renewed after 111"},
		}},
		{"a new epoch by watch", []step{
			{true, 100, "a", 1, 5, false, 0, ""},
			{false, 101, "b", 2, 1, true, 101, ""},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v view
			for i, s := range tt.steps {
				rev := int64(i + 1)
				e := lockEntry(t, s.node, s.epoch, s.seq, rev)
				if s.load {
					v.load(dcs.Snapshot{Revision: rev, Entries: map[string]dcs.Entry{dcs.KeyLock: e}}, s.at*time.Second)
				} else if got := v.apply(dcs.Update{Revision: rev, Changes: []dcs.Change{{Key: dcs.KeyLock, Entry: e}}}, s.at*time.Second); got != s.applied {
					t.Fatalf("step %d: got applied %v, want %v", i+1, got, s.applied)
				}
				if v.seen != s.seen*time.Second {
					t.Fatalf("step %d: got seen %v, want %v (%s)", i+1, v.seen, s.seen*time.Second, s.explanation)
				}
			}
		})
	}
}

func TestView_AJunkLockKeepsTheLastGoodOne(t *testing.T) {
	var v view
	v.load(dcs.Snapshot{Revision: 1, Entries: map[string]dcs.Entry{dcs.KeyLock: lockEntry(t, "a", 3, 1, 1)}}, 100*time.Second)
	v.apply(dcs.Update{Revision: 2, Changes: []dcs.Change{{Key: dcs.KeyLock, Entry: lockEntry(t, "a", 3, 2, 2)}}}, 101*time.Second)
	if !v.apply(dcs.Update{Revision: 3, Changes: []dcs.Change{{Key: dcs.KeyLock, Entry: dcs.Entry{Value: []byte("junk"), ModRev: 3}}}}, 102*time.Second) {
		t.Fatal("the update was not applied")
	}
	if v.lockErr == nil || v.lock.Node != "a" || v.seen != 101*time.Second {
		t.Errorf("got error %v, lock %+v, seen %v; want an error, a's lock, 101s", v.lockErr, v.lock, v.seen)
	}
}

func TestView_TheHoldersWordCountsForItsEpochOnly(t *testing.T) {
	var v view
	v.load(dcs.Snapshot{Revision: 1, Entries: map[string]dcs.Entry{dcs.KeyLock: lockEntry(t, "a", 3, 1, 1)}}, 100*time.Second)
	v.confirm(2, 100*time.Second, time.Second)
	if v.asked != 0 {
		t.Errorf("another epoch: got %v, want nothing", v.asked)
	}
	v.confirm(3, 100*time.Second, time.Second)
	if v.asked != 101*time.Second {
		t.Errorf("got %v, want 101s", v.asked)
	}
	v.apply(dcs.Update{Revision: 2, Changes: []dcs.Change{{Key: dcs.KeyLock, Entry: lockEntry(t, "b", 4, 1, 2)}}}, 100*time.Second)
	if v.asked != 0 {
		t.Errorf("after a new epoch: got %v, want nothing", v.asked)
	}
}

func TestView_AFailoverRequestIsDatedByItsRevision(t *testing.T) {
	var v view
	req := func(rev int64) dcs.Entry { return dcs.Entry{Value: []byte(`{"leader":"a"}`), ModRev: rev} }
	v.load(dcs.Snapshot{Revision: 1, Entries: map[string]dcs.Entry{dcs.KeyFailover: req(1)}}, 100*time.Second)
	v.load(dcs.Snapshot{Revision: 2, Entries: map[string]dcs.Entry{dcs.KeyFailover: req(1)}}, 105*time.Second)
	if v.failoverSeen != 100*time.Second {
		t.Errorf("the same request: got %v, want 100s", v.failoverSeen)
	}
	v.apply(dcs.Update{Revision: 3, Changes: []dcs.Change{{Key: dcs.KeyFailover, Entry: req(3)}}}, 106*time.Second)
	if v.failoverSeen != 106*time.Second {
		t.Errorf("another request: got %v, want 106s", v.failoverSeen)
	}
}
