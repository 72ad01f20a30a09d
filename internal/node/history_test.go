package node

import (
	"slices"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
)

func TestHistory_IsThatOfTheLeader(t *testing.T) {
	line := func(tl uint32, at cluster.LSN) cluster.HistoryLine {
		return cluster.HistoryLine{Timeline: tl, LSN: at}
	}
	tests := []struct {
		name              string
		stored, own, want cluster.History
		changed           bool
	}{
		{"nothing new", cluster.History{line(1, 100)}, cluster.History{line(1, 100)}, cluster.History{line(1, 100)}, false},
		{"a new timeline", cluster.History{line(1, 100)}, cluster.History{line(1, 100), line(2, 200)}, cluster.History{line(1, 100), line(2, 200)}, true},
		{"never promoted", cluster.History{line(1, 100)}, nil, cluster.History{line(1, 100)}, false},
		{"older lines than this node knows", cluster.History{line(1, 100), line(2, 200)}, cluster.History{line(2, 200), line(3, 300)},
			cluster.History{line(1, 100), line(2, 200), line(3, 300)}, true},
		// Found by the simulator: a member between 150 and 200 of timeline 2 took itself for one that
		// lies in the leader's past, and never streamed.
		{"left timeline 2 earlier than the leader before", cluster.History{line(1, 100), line(2, 200), line(3, 300)},
			cluster.History{line(1, 100), line(2, 150), line(3, 250), line(4, 400)}, cluster.History{line(1, 100), line(2, 150), line(3, 250), line(4, 400)}, true},
		{"did not come by timeline 3", cluster.History{line(1, 100), line(2, 200), line(3, 300)},
			cluster.History{line(1, 100), line(2, 200), line(4, 400)}, cluster.History{line(1, 100), line(2, 200), line(4, 400)}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &Node{c: Config{Name: "pg1", Wall: func() time.Time { return time.Unix(0, 0) }}}
			o := ha.Observation{DB: ha.Database{History: tt.own}}
			o.Store.View.History = tt.stored
			got, changed := n.history(o)
			for i := range got {
				got[i].Timestamp, got[i].NewLeader, got[i].Epoch = "", "", 0
			}
			if !slices.Equal(got, tt.want) || changed != tt.changed {
				t.Errorf("got %v, %t, want %v, %t", got, changed, tt.want, tt.changed)
			}
		})
	}
}
