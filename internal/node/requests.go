package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
)

// Wake asks for a tick soon.
func (n *Node) Wake() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Restart asks for a restart of PostgreSQL here and waits for the outcome, or until ctx ends; the
// restart then still takes place.
func (n *Node) Restart(ctx context.Context) (Outcome, error) {
	return n.ask(ctx, "restart", func(r *ha.Request) { r.Restart = true })
}

// Reinit asks for a fresh copy of the data directory and waits until it has begun.
func (n *Node) Reinit(ctx context.Context, fromLeader bool) (Outcome, error) {
	return n.ask(ctx, "reinit", func(r *ha.Request) { r.Reinit, r.FromLeader = true, fromLeader })
}

// Shutdown asks the node to stop PostgreSQL and to give the lock back; Run then returns.
func (n *Node) Shutdown() {
	n.reqMu.Lock()
	n.request.Shutdown = true
	n.reqMu.Unlock()
	n.Wake()
}

func (n *Node) ask(ctx context.Context, what string, set func(*ha.Request)) (Outcome, error) {
	n.reqMu.Lock()
	if n.answers[what] != nil {
		n.reqMu.Unlock()
		return Outcome{}, fmt.Errorf("%s: another request is under way", what)
	}
	ch := make(chan Outcome, 1)
	n.answers[what] = ch
	set(&n.request)
	n.reqMu.Unlock()
	n.Wake()
	select {
	case out := <-ch:
		return out, nil
	case <-ctx.Done():
		return Outcome{}, fmt.Errorf("%s: no outcome yet: %w", what, context.Cause(ctx))
	}
}

// answer hands an outcome to whoever asked, and takes the request off.
func (n *Node) answer(e ha.Answer) {
	n.reqMu.Lock()
	defer n.reqMu.Unlock()
	switch e.Request {
	case "restart":
		n.request.Restart = false
	case "reinit":
		n.request.Reinit = false
	}
	if ch := n.answers[e.Request]; ch != nil {
		ch <- Outcome{Text: e.Outcome, Done: e.Done}
		delete(n.answers, e.Request)
	}
}

// Promise answers the holder of the lock, who cannot reach the store: yes, this node will take no
// lock until the promise ends. It is refused when this node knows of a later epoch or another
// holder, or is taking the lock itself.
func (n *Node) Promise(p Promise) (bool, string) {
	store := n.c.Feed.Get()
	if p.Scope != "" && p.Scope != n.c.Scope {
		return false, "this node belongs to the cluster " + n.c.Scope
	}
	lock := store.View.Lock
	if store.Seen && (lock.Node != p.Name || p.Epoch != 0 && lock.Epoch != p.Epoch) {
		return false, fmt.Sprintf("the store names %q in epoch %d", lock.Node, lock.Epoch)
	}
	ttl := time.Duration(p.TTL) * time.Millisecond
	if ttl <= 0 || ttl > lease.MaxTTL {
		ttl = store.View.Config.TTL
	}
	n.reqMu.Lock()
	defer n.reqMu.Unlock()
	if n.taking {
		return false, n.c.Name + " is taking the lock"
	}
	// Asked last: a take-over that has just ended is not seen any other way.
	if _, held := n.c.Lead.Held(); held {
		return false, n.c.Name + " holds the lock"
	}
	n.promise = max(n.promise, n.c.Now()+lease.TakeoverAfter(ttl))
	n.promisedEpoch = max(n.promisedEpoch, p.Epoch)
	return true, "Accepted"
}

// promisedUntil is when the failsafe promise ends. It ends at once where the store, v, shows that the
// holder has given the lock of that epoch back: it had no PostgreSQL left that could acknowledge. A lock
// that is gone says nothing of that. reqMu is held.
func (n *Node) promisedUntil(v cluster.View) time.Duration {
	if n.promisedEpoch != 0 && v.LockRev != 0 && !v.LockBad && !v.Lock.Held() && v.Lock.Epoch >= n.promisedEpoch {
		return 0
	}
	return n.promise
}

// mayTake begins the taking of the lock, unless a promise forbids it; the returned function ends it.
func (n *Node) mayTake() (func(), error) {
	view := n.c.Feed.Get().View
	n.reqMu.Lock()
	defer n.reqMu.Unlock()
	if n.c.Now() < n.promisedUntil(view) {
		return nil, fmt.Errorf("%w: this node promised not to take the lock yet", errRefused)
	}
	n.taking = true
	return func() {
		n.reqMu.Lock()
		defer n.reqMu.Unlock()
		n.taking = false
	}, nil
}

// KeepFailsafe keeps the lease on the members' promises while the store is away: every member in
// /failsafe has to promise. It is one round; the daemon calls it as often as it renews.
func (n *Node) KeepFailsafe(ctx context.Context) {
	store := n.c.Feed.Get()
	view := store.View
	if !store.Seen || !view.Config.FailsafeMode || len(view.Failsafe) == 0 {
		return
	}
	if _, held := n.c.Lead.Held(); !held {
		return
	}
	ttl := n.c.Lead.TTL()
	t0 := n.c.Now()
	if t0-n.c.Lead.Confirmed() < lease.FailsafeAfter(ttl) {
		return
	}
	if _, self := view.Failsafe[n.c.Name]; !self {
		return
	}
	lock := n.c.Lead.Lock()
	ctx, cancel := within(ctx, lease.RenewTimeout(ttl))
	defer cancel()
	p := Promise{Scope: n.c.Scope, Name: n.c.Name, Epoch: lock.Epoch, TTL: ttl.Milliseconds(), Slots: view.Status.Slots,
		ConnURL: n.c.Member.ConnURL, APIURL: n.c.Member.APIURL}
	members, enough := n.listed.toAsk(view.Failsafe)
	if !enough {
		return
	}
	others := slices.Sorted(maps.Keys(members))
	others = slices.DeleteFunc(others, func(name string) bool { return name == n.c.Name })
	promised := make([]bool, len(others))
	each(ctx, len(others), func(ctx context.Context, i int) {
		ok, err := n.c.Peers.Failsafe(ctx, members[others[i]], p)
		promised[i] = ok && err == nil
		if !promised[i] {
			n.c.Log.Warn("a member does not confirm the failsafe", "member", others[i], "err", err)
		}
	})
	if !slices.Contains(promised, false) {
		n.c.Lead.Confirm(t0, ttl)
	}
}

// Reconfigure has the next tick write PostgreSQL's files anew, as after a reload of the configuration
// file.
func (n *Node) Reconfigure() {
	n.reconfigure.Store(true)
	n.Wake()
}

// SetTags replaces the member's tags, as after a reload of the configuration file.
func (n *Node) SetTags(t cluster.Tags) {
	n.reqMu.Lock()
	defer n.reqMu.Unlock()
	n.tags = t
}

// Tags are the member's tags.
func (n *Node) Tags() cluster.Tags {
	n.reqMu.Lock()
	defer n.reqMu.Unlock()
	return n.tags
}
