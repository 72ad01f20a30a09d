package node

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
)

// ProbeEvery is how often the holder of the lock is probed directly.
const ProbeEvery = 250 * time.Millisecond

// probeWithin bounds one probe.
const probeWithin = 450 * time.Millisecond

// muteFor is how long the holder of the lock must have left every probe unanswered before the other
// members are asked without it.
const muteFor = time.Second

// agreeAfter is how long this node itself must have heard nothing of the leader before it agrees to
// stop receiving from it: a member that still hears it keeps it in office.
const agreeAfter = 700 * time.Millisecond

// ProbeLeader probes the holder of the lock once. The daemon calls it every ProbeEvery, from a
// goroutine of its own.
func (n *Node) ProbeLeader(ctx context.Context) {
	v := n.c.Feed.Get().View
	m, ok := v.Member(v.Lock.Node)
	if !ok || v.Lock.Node == n.c.Name {
		return
	}
	n.leaderAnswered(v) // begins to count for a new holder
	at := n.c.Now()
	ctx, cancel := within(ctx, probeWithin)
	defer cancel()
	if !n.c.Peers.Alive(ctx, m) {
		return
	}
	n.probeMu.Lock()
	defer n.probeMu.Unlock()
	if n.probed == holder(v) {
		n.answered = max(n.answered, at)
	}
}

// hold is one member's time as the holder of the lock.
type hold struct {
	node  string
	epoch uint64
}

func holder(v cluster.View) hold { return hold{v.Lock.Node, v.Lock.Epoch} }

// leaderAnswered is when the holder in v last answered, or since when it is probed.
func (n *Node) leaderAnswered(v cluster.View) time.Duration {
	if !v.Lock.Held() || n.c.Promises == nil {
		return 0
	}
	n.probeMu.Lock()
	defer n.probeMu.Unlock()
	if h := holder(v); n.probed != h {
		n.probed, n.answered = h, n.c.Now()
	}
	return n.answered
}

// Revoke answers a member that wants to depose the holder of the lock: this node stops receiving from
// it and says so. It is refused when this node knows the lock at another revision, still hears the
// holder, or is no standby.
func (n *Node) Revoke(ctx context.Context, r Revocation) (cluster.PeerStatus, error) {
	no := func(format string, args ...any) (cluster.PeerStatus, error) {
		return cluster.PeerStatus{}, fmt.Errorf("%w: %s", errRefused, fmt.Sprintf(format, args...))
	}
	store := n.c.Feed.Get()
	v := store.View
	if !store.Reachable || v.LockRev < r.LockRev {
		rctx, cancel := within(ctx, time.Second)
		_ = n.c.Feed.Refresh(rctx) // a failure shows in Reachable
		cancel()
		store = n.c.Feed.Get()
		v = store.View
	}
	now := n.c.Now()
	switch {
	case n.c.Promises == nil:
		return no("this node makes no such promises")
	case r.Scope != n.c.Scope:
		return no("this node belongs to the cluster %s", n.c.Scope)
	case !store.Reachable:
		return no("this node does not reach the store")
	case !v.Lock.Held() || v.Lock.Epoch != r.Epoch || v.LockRev != r.LockRev:
		return no("the lock is at revision %d in epoch %d", v.LockRev, v.Lock.Epoch)
	case v.Lock.Node == n.c.Name:
		return no("this node holds the lock")
	case now-store.LockSeenAt < agreeAfter:
		return no("%s renewed the lock %s ago", v.Lock.Node, now-store.LockSeenAt)
	case now-n.leaderAnswered(v) < agreeAfter:
		return no("%s answered a probe %s ago", v.Lock.Node, now-n.leaderAnswered(v))
	}
	if err := n.hold(ctx, r.LockRev); err != nil {
		return cluster.PeerStatus{}, err
	}
	n.Wake()
	return n.Peer(ctx), nil
}

// hold makes the promise durable and then true.
func (n *Node) hold(ctx context.Context, lockRev int64) error {
	n.follow.Lock()
	defer n.follow.Unlock()
	if n.revoked == lockRev && n.held {
		return nil
	}
	if live := n.c.Feed.Get().View.LockRev; live != lockRev {
		// Decided, or asked for, before the lock moved on. A promise for what is past would take the place
		// of one that somebody may count on.
		return fmt.Errorf("%w: the lock is at revision %d, not %d", errRefused, live, lockRev)
	}
	if err := n.c.Promises.Save(lockRev); err != nil {
		return fmt.Errorf("keep the promise to receive nothing: %w", err)
	}
	n.revoked, n.held, n.told = lockRev, false, false
	if err := n.c.DB.Hold(ctx); err != nil {
		return fmt.Errorf("stop receiving WAL: %w", err)
	}
	n.held = true
	return nil
}

// mayReceive refuses to have PostgreSQL stream from upstream where that would break a promise, or would
// rest on a view that a promise given since, or a take-over that it served, has overtaken. follow is held.
func (n *Node) mayReceive(v cluster.View, upstream string) error {
	if upstream == "" || n.revoked == 0 {
		return nil
	}
	live := n.c.Feed.Get().View
	switch {
	case n.revoked == v.LockRev || n.revoked == live.LockRev:
		return fmt.Errorf("%w: this node promised to receive nothing at this revision of the lock", errRefused)
	case holder(v) != holder(live):
		return fmt.Errorf("%w: the lock has changed hands since this was decided", errRefused)
	}
	return nil
}

// letGo takes back a promise that nobody was told of: without the others it is of no use, and it would
// keep this node from the leader until the lock is seen to move on.
func (n *Node) letGo(lockRev int64) {
	n.follow.Lock()
	defer n.follow.Unlock()
	if n.revoked == lockRev && n.held && !n.told {
		n.revoked, n.held = 0, false
	}
}

// tell notes that somebody counts on this node's promise, and says what it is; 0: there is none.
func (n *Node) tell() int64 {
	n.follow.Lock()
	defer n.follow.Unlock()
	if !n.held {
		return 0
	}
	n.told = true
	return n.revoked
}

// revoke performs ha.Revoke: this node and the others, at the same time.
func (n *Node) revoke(ctx context.Context, o ha.Observation, e ha.Revoke) error {
	v := o.Store.View
	r := Revocation{Scope: n.c.Scope, Name: n.c.Name, Epoch: e.Epoch, LockRev: e.LockRev}
	// Only those count who can acknowledge for the holder.
	members := maps.Clone(v.Members)
	maps.DeleteFunc(members, func(name string, _ cluster.Member) bool { return !v.Sync.Has(name) })
	var answers map[string]cluster.PeerStatus
	var err error
	// To end a WAL receiver takes its time, and the promises do not depend on each other.
	each(ctx, 2, func(ctx context.Context, i int) {
		if i == 0 {
			err = n.hold(ctx, e.LockRev)
			return
		}
		answers = n.c.Peers.Revoke(ctx, members, n.c.Name, v.Lock.Node, r)
	})
	n.peers = ha.Peers{Answers: answers, AskedAt: n.c.Now()}
	agreed := 0
	for _, a := range answers {
		if a.Revoked == e.LockRev {
			agreed++
		}
	}
	if agreed < v.Sync.Quorum {
		n.letGo(e.LockRev)
	}
	return err
}
