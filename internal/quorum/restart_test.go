package quorum_test

import (
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

func TestRestart_IsSafeForWhateverMayBeStored(t *testing.T) {
	state := func(q int, standbys ...string) cluster.SyncState {
		return cluster.SyncState{Leader: "a", Standbys: standbys, Quorum: q}
	}
	tests := []struct {
		name   string
		states []cluster.SyncState
		want   string
	}{
		{"nothing recorded", []cluster.SyncState{{}}, ""},
		{"only the leader may lead", []cluster.SyncState{state(0)}, ""},
		{"as stored", []cluster.SyncState{state(1, "b", "c")}, `ANY 1 ("b","c")`},
		// Found by the simulator: the leader wrote that b may lead, its PostgreSQL crashed before it saw
		// that this was stored, and it started with asynchronous commit.
		{"a write that entitles b is on its way", []cluster.SyncState{state(0), state(0, "b")}, `ANY 1 ("b")`},
		{"one that entitles b alone, of b and c", []cluster.SyncState{state(1, "b", "c"), state(0, "b")}, `ANY 1 ("b")`},
		{"one that entitles c instead of b", []cluster.SyncState{state(0, "b"), state(0, "c")}, `ANY 2 ("b","c")`},
		{"one that takes b away", []cluster.SyncState{state(0, "b"), state(0)}, `ANY 1 ("b")`},
		{"one that switches the mode off", []cluster.SyncState{state(0, "b"), {}}, `ANY 1 ("b")`},
		{"after a take-over that lists the leader itself", []cluster.SyncState{state(1, "a", "b")}, `ANY 1 ("b")`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := quorum.Restart("a", tt.states...)
			if got := r.String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			for _, s := range tt.states {
				if !quorum.Safe(s, r) {
					t.Errorf("%s is not safe for %+v", r, s)
				}
			}
		})
	}
}
