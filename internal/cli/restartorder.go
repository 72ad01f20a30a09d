package cli

import (
	"context"
	"slices"
	"strconv"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// heldUp are the settings of which a standby must have at least as much as its primary
// (https://www.postgresql.org/docs/current/hot-standby.html, "Administrator's Overview"). A smaller
// value takes effect on the primary first, and on a standby only once it has replayed the record in
// which the primary says so.
var heldUp = []string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"}

// lowered says whether a member waits for a restart with less of such a setting.
func lowered(pending map[string]cluster.PendingReason) bool {
	return slices.ContainsFunc(heldUp, func(name string) bool {
		r, ok := pending[name]
		from, err1 := strconv.Atoi(r.OldValue)
		to, err2 := strconv.Atoi(r.NewValue)
		return ok && err1 == nil && err2 == nil && to < from
	})
}

// leaderBefore puts the leader before the others where a setting was lowered; otherwise it stays last.
func leaderBefore(members []cluster.Member, leader string) (changed bool) {
	i := slices.IndexFunc(members, func(m cluster.Member) bool { return m.Name == leader && lowered(m.PendingReason) })
	if i < 0 {
		return false
	}
	m := members[i]
	copy(members[1:i+1], members[:i])
	members[0] = m
	return true
}

// roundsLowered bounds how often a standby is restarted until it has taken a lowered setting.
const roundsLowered = 3

// stillLowered says whether a member that was just restarted waits for another restart, because it
// had not yet replayed the leader's record.
func (t *target) stillLowered(ctx context.Context, name string) bool {
	v, err := t.view(ctx)
	if err != nil {
		return false
	}
	a, ok := t.askAll(ctx, v)[name]
	return ok && lowered(a.PendingReason)
}
