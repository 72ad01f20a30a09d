package cli

import (
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
)

func TestLeaderBefore(t *testing.T) {
	reason := func(name, from, to string) map[string]cluster.PendingReason {
		return map[string]cluster.PendingReason{name: {OldValue: from, NewValue: to}}
	}
	for _, x := range []struct {
		name    string
		pending map[string]cluster.PendingReason
		want    string
	}{
		{"raised", reason("max_connections", "100", "200"), "pg1, pg2, pg3"},
		{"lowered", reason("max_connections", "200", "100"), "pg3, pg1, pg2"},
		{"lowered, of no matter to standbys", reason("shared_buffers", "200", "100"), "pg1, pg2, pg3"},
		{"no number", reason("max_wal_senders", "ten", "9"), "pg1, pg2, pg3"},
		{"nothing pending", nil, "pg1, pg2, pg3"},
	} {
		members := []cluster.Member{{Name: "pg1"}, {Name: "pg2"}, {Name: "pg3", PendingReason: x.pending}}
		changed := leaderBefore(members, "pg3")
		if got := namesOf(members); got != x.want || changed != (x.want[:3] == "pg3") {
			t.Errorf("%s: got %s, %t, want %s", x.name, got, changed, x.want)
		}
	}
}
