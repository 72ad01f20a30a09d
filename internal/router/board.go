package router

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/route"
)

// published is the table in force. It is never modified.
type published struct {
	table  route.Table
	tenure *tenure // for table.Write; nil when there is none
	// changed is closed when another table takes its place.
	changed chan struct{}
}

const (
	// loadTimeout bounds one read of the store.
	loadTimeout = 2 * time.Second
	// lateExpiry is how late the end of a tenure must be noticed for the reason to be that the
	// router itself did not run. A tenure that ends on time is over: the store was silent.
	lateExpiry = 500 * time.Millisecond
	// revalidation is how long sessions wait, without a byte moving, for a router that was frozen to
	// confirm their epoch again: a read of the store and the next renewal of the lock.
	revalidation = 2 * time.Second
)

// rebuild computes the table from the view and puts it in force: it extends, ends and begins
// tenures, wakes newcomers and cuts sessions. It is called with r.mu held.
func (r *Router) rebuild(now time.Duration) {
	t := route.Build(r.view.input(now, r.cfg.MaxLag, r.cfg.Hold))
	ended := false
	if cur := r.tenure; cur != nil {
		if why := r.review(cur, t, now); why != nil {
			cur.end(why)
			r.tenure, r.grace, ended = nil, 0, true
		}
	}
	if r.tenure == nil && t.Write != nil {
		r.tenure = newTenure(*t.Write, t.Until)
	}
	if r.tenure != nil {
		r.tenure.renewed(r.view.seen, r.view.lease())
	}
	before := r.pub.Load()
	p := &published{table: t, changed: make(chan struct{})}
	if t.Write != nil {
		p.tenure = r.tenure
	}
	if !ended && same(before, p) {
		return
	}
	r.pub.Store(p)
	close(before.changed)
	r.announce(before.table, t)
	cut := r.sessions.cut(func(s *session) error { return r.judge(s, p) })
	if cut > 0 {
		r.log.Info("cut sessions", "count", cut, "why", t.Why)
	}
}

// review says why a tenure ends, nil while it does not.
func (r *Router) review(cur *tenure, t route.Table, now time.Duration) error {
	switch {
	case !t.KeepEpoch(cur.backend.Name, cur.backend.Epoch), t.Write != nil && *t.Write != cur.backend:
		return errDeposed
	case t.Confirmed:
		cur.extend(t.Until)
		r.grace = 0
	case r.grace == 0 && now-time.Duration(cur.until.Load()) > lateExpiry:
		r.grace = now + revalidation
		signal(r.reload)
		r.log.Warn("the router did not run for a while; no byte moves until the primary is confirmed again", "node", cur.backend.Name, "epoch", cur.backend.Epoch)
	case now >= r.grace: // also when there is no grace
		return errExpired
	}
	return nil
}

// same compares what matters to sessions: the instants and a sentence that counts time do not.
func same(a, b *published) bool {
	if a.tenure != b.tenure {
		return false
	}
	x, y := a.table, b.table
	x.Until, y.Until = 0, 0
	if !x.Confirmed && !y.Confirmed && x.Epoch != 0 && x.Epoch == y.Epoch && x.Holder == y.Holder {
		x.Why, y.Why, x.ReadWhy, y.ReadWhy = "", "", "", ""
	}
	return reflect.DeepEqual(x, y)
}

func (r *Router) announce(a, b route.Table) {
	name := func(t route.Table) string {
		if t.Write == nil {
			return ""
		}
		return t.Write.Name
	}
	if name(a) != name(b) || a.Epoch != b.Epoch || a.Hold != b.Hold {
		r.log.Info("write route", "from", name(a), "to", name(b), "epoch", b.Epoch, "hold", b.Hold, "why", b.Why)
	}
	if len(a.Read) != len(b.Read) || a.ReadFallback != b.ReadFallback {
		r.log.Info("read routes", "replicas", len(b.Read), "fallback", b.ReadFallback, "why", b.ReadWhy)
	}
}

// judge says why s may not go on under p, nil when it may.
func (r *Router) judge(s *session, p *published) error {
	if t := s.target.tenure; t != nil {
		return context.Cause(t.ctx)
	}
	if s.target.backend.Name != "" && !p.table.KeepReplica(s.target.backend) {
		return errNoMember
	}
	return nil
}

// keep rebuilds the table at the instants at which time alone changes it, and looks for dead peers.
func (r *Router) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var swept time.Duration
	for {
		select {
		case <-timer.C:
		case <-r.kick:
		case <-r.ctx.Done():
			r.mu.Lock()
			if r.tenure != nil {
				r.tenure.end(errClosing)
			}
			r.mu.Unlock()
			return
		}
		now := r.cfg.Now()
		r.mu.Lock()
		r.rebuild(now)
		next := r.next(now)
		l := r.view.lease()
		r.mu.Unlock()
		if every := sweepEvery(l); now-swept >= every {
			swept = now
			r.sessions.sweep(now, l)
		}
		timer.Reset(next)
	}
}

// next is how long the keeper may sleep: until something expires, and a second at most, because
// timers stand still while the machine is suspended.
func (r *Router) next(now time.Duration) time.Duration {
	d := time.Second
	at := func(t time.Duration) {
		if t > now {
			d = min(d, t-now)
		}
	}
	if r.tenure != nil {
		at(time.Duration(r.tenure.until.Load()))
	}
	at(r.grace)
	at(r.pub.Load().table.Recheck)
	return max(d, time.Millisecond)
}

// feed keeps the view up to date: a linearizable read, then a watch from its revision, for as long
// as that lasts, and again.
func (r *Router) feed() {
	backoff := 50 * time.Millisecond
	for r.ctx.Err() == nil {
		err := r.follow(func() { backoff = 50 * time.Millisecond })
		if r.ctx.Err() != nil {
			return
		}
		if err == nil {
			continue // asked to read anew
		}
		text := err.Error()
		r.stats.storeErr.Store(&text)
		r.stats.reloads.Add(1)
		r.log.Warn("cannot follow the store; routes stay as they are until the lease of the lock has passed", "retry_in", backoff, "err", err)
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-r.ctx.Done():
			return
		}
		backoff = min(2*backoff, time.Second)
	}
}

// follow loads and watches once. It returns nil when the store must be read anew at once.
func (r *Router) follow(alive func()) error {
	select {
	case <-r.reload: // this is the reading that was asked for
	default:
	}
	started := r.cfg.Now()
	ctx, cancel := context.WithTimeout(r.ctx, loadTimeout)
	snap, err := r.cfg.Store.Load(ctx)
	cancel()
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	r.mu.Lock()
	r.view.load(snap, started)
	r.rebuild(r.cfg.Now())
	r.mu.Unlock()
	r.stats.storeErr.Store(nil)
	signal(r.kick)

	ctx, cancel = context.WithCancel(r.ctx)
	defer cancel()
	updates := r.cfg.Store.Watch(ctx, snap.Revision)
	for {
		select {
		case u, ok := <-updates:
			switch {
			case !ok:
				return errors.New("watch the store: the watch ended")
			case u.Err != nil:
				return fmt.Errorf("watch the store: %w", u.Err)
			}
			alive()
			if !r.update(u) {
				return nil
			}
		case <-r.reload:
			return nil
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
	}
}

// update takes one update of the watch; false asks for a fresh read.
func (r *Router) update(u dcs.Update) bool {
	if len(u.Changes) == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	if !r.view.apply(u, now) {
		r.stats.distrusted.Add(1)
		return false
	}
	r.rebuild(now)
	signal(r.kick) // the instants at which the keeper must wake have moved
	return true
}

// askHolder asks the holder of the lock itself while the store shows no renewal, see Config.Confirm.
func (r *Router) askHolder() {
	const every = 200 * time.Millisecond
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			return
		}
		r.mu.Lock()
		// Also when the tenure has ended: the holder may just have been slow to answer, and its word
		// begins another one.
		l, seen, held := r.view.lease(), r.view.seen, r.view.lockErr == nil && r.view.lock.Held()
		r.mu.Unlock()
		now := r.cfg.Now()
		// No renewal takes this instant away, so it is slept until; a second at most, because timers
		// stand still while the machine is suspended.
		timer.Reset(min(max(seen+lease.FailsafeAfter(l)-now, every), time.Second))
		if !held || seen == 0 || now-seen < lease.FailsafeAfter(l) {
			continue
		}
		w, err := r.holder.Ask(r.ctx)
		if err != nil || w.err != nil || w.no != "" {
			continue
		}
		r.mu.Lock()
		r.view.confirm(w.lock.Epoch, w.asked, lease.Margin(l))
		r.rebuild(r.cfg.Now())
		r.mu.Unlock()
		signal(r.kick)
	}
}

// signal puts a token into a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
