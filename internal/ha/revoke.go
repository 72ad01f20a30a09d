package ha

import (
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// The quorum fence: the way below the lease duration.
//
// Under synchronous rules a leader can acknowledge a commit only with enough standbys, and whatever
// rule it may set by itself, q+1 members of /sync always include one of them (package quorum). So
// once q+1 members have stopped receiving from it, and promised not to begin again as long as the
// lock is at the revision they saw, it can acknowledge nothing, however frozen its agent and its
// guardian are. A take-over that compares that very revision then needs no waiting.
//
// The promise is bound to a revision of the lock and needs no time limit: as soon as the lock is
// seen at another one, either it was taken, and there is a new leader to follow, or the leader has
// renewed it, and a take-over that compares the old revision can never succeed any more.
//
// The three conditions below are about not disturbing a leader that is well. Safety does not rest
// on them.
const (
	// suspectAfter is how long the lock must not have been renewed, and no direct probe answered.
	// The lock is renewed at least every 400 ms.
	suspectAfter = time.Second
	// revokeAgain is the pause between the end of a round of asking for promises and the next.
	revokeAgain = 300 * time.Millisecond
)

// suspects says why the present leader counts as gone before its lease has run out, or "".
func (d *decider) suspects() string {
	v, db := d.Store.View, d.DB
	still, mute := d.Now-d.Store.LockSeenAt, d.Now-d.Store.LeaderAnsweredAt
	switch {
	case !d.Store.Reachable || !d.Store.LockAlive || d.Store.LeaderAnsweredAt == 0 || !v.Lock.Ready || v.Lock.Paused:
		return ""
	case v.Config.SynchronousMode == cluster.SyncOff || v.SyncBad || v.Sync.Leader != v.Lock.Node || len(v.Sync.Standbys) == 0:
		return ""
	case still < suspectAfter || mute < suspectAfter:
		return ""
	case db.MovedAt != 0 && d.Now-db.MovedAt < suspectAfter:
		return "" // its PostgreSQL still sends
	}
	return fmt.Sprintf("%s has not renewed the lock for %s, answered no probe for %s, and sends no WAL", v.Lock.Node, still.Round(10*time.Millisecond), mute.Round(10*time.Millisecond))
}

// suspectAt is the earliest instant at which the present leader may count as gone, as far as is known
// now; 0 when nobody probes it.
func (d *decider) suspectAt() time.Duration {
	if d.Store.LeaderAnsweredAt == 0 || d.settings().SynchronousMode == cluster.SyncOff {
		return 0
	}
	return max(d.Store.LockSeenAt, d.Store.LeaderAnsweredAt, d.DB.MovedAt) + suspectAfter
}

// promised says that this node has promised not to receive from the present holder of the lock.
func (d *decider) promised() bool {
	return d.Store.RevokedRev != 0 && d.Store.Seen && d.Store.RevokedRev == d.Store.View.LockRev
}

// depose is the way to the lead while the former leader's lease has not run out; ok is false when
// this node has no part in it.
func (d *decider) depose() (dec Decision, ok bool) {
	why := d.suspects()
	v := d.Store.View
	if why == "" {
		if d.promised() {
			return d.wait(StateCandidate, soon, "this node stopped receiving from %s and waits for a new leader, or for %s to renew the lock", v.Lock.Node, v.Lock.Node), true
		}
		return Decision{}, false
	}
	if !v.Sync.Has(d.Self.Name) || d.DB.Replaced != "" || !d.Lease.GuardianAlive || d.unfit(false) != "" || d.Now < d.Store.PromisedUntil || d.m.PromoteFailures > 0 {
		return Decision{}, false
	}
	ask := func() (Decision, bool) {
		d.m.RevokedAt = d.Now
		return d.act(StateCandidate, 0, 0, why+": asking the synchronous standbys to stop receiving from it", Revoke{Epoch: v.Lock.Epoch, LockRev: v.LockRev}), true
	}
	switch {
	case d.m.RevokedAt == 0 || d.Now-max(d.m.RevokedAt, d.Peers.AskedAt) >= revokeAgain:
		return ask()
	case !d.promised():
		return d.wait(StateCandidate, soon, "%s; this node could not stop receiving from it yet", why), true
	}
	me := cluster.PeerStatus{Name: d.Self.Name, Timeline: d.DB.Timeline, LSN: d.DB.LSN, Tags: d.Self.Tags}
	got, other := 0, ""
	for _, name := range v.Sync.Standbys {
		a, answered := d.Peers.Answers[name]
		if name == d.Self.Name || !answered || d.Peers.AskedAt < d.m.RevokedAt || a.Revoked != v.LockRev || !a.InRecovery || !a.Running || a.LSN == 0 {
			continue
		}
		if a.Eligible && a.Tags.FailoverPriority() > 0 && better(a, me) {
			other = name
		}
		if !ahead(a, me) {
			got++
		}
	}
	switch {
	case got < v.Sync.Quorum:
		return d.wait(StateCandidate, soon, "%s; %d of the synchronous standbys %s must have stopped receiving from it and not be ahead of %s, and %d have", why, v.Sync.Quorum, orNone(v.Sync.Standbys), d.DB.LSN, got), true
	case other != "" && d.Now-d.m.DeposeSince < revokeAgain*2:
		return d.wait(StateCandidate, soon/4, "leaving the lead to %s for a moment", other), true
	}
	return d.act(StateCandidate, 0, 0, fmt.Sprintf("%s; %d of %s have stopped receiving from it, so it can acknowledge nothing, and this node, at %s, has every acknowledged commit", why, got+1, orNone(v.Sync.Standbys), d.DB.LSN), d.take()), true
}
