package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
)

// storeLink is one connection of an agent to the store: dcs.Store over a network that delays, loses
// and cuts. A request that was sent is carried out (or not) whatever becomes of its sender.
type storeLink struct {
	m      *machine
	client *mem.Client
	what   string // tick or lease
}

var _ dcs.Store = (*storeLink)(nil)

var errTimeout = fmt.Errorf("no answer: %w", context.DeadlineExceeded)

// call sends a request and waits for its answer until ctx ends.
//
// apply is what the store does when the request arrives; what it returns hands the answer over. A
// request may arrive twice: it is then carried out twice, and the first answer that comes counts.
func (l *storeLink) call(ctx context.Context, apply func() func()) error {
	w, p := l.m.w, l.m.w.cur
	deadline := deadlineOf(ctx, w)
	if w.now >= deadline {
		return errTimeout
	}
	if !l.m.storeReachable() && w.chance(0.3) {
		p.sleep(w.between(time.Millisecond, 20*time.Millisecond))
		return dcs.ErrUnavailable // the connection is refused: surely not sent
	}
	p.token++
	t := p.token
	var answered bool
	// The end of the wait is an event only where the answer does not come first: most do, and there
	// are thousands.
	timeout := func() {
		if deadline < forever {
			w.after(deadline-w.now, func() { p.resume(t) })
		}
	}
	arrive := func(again bool) {
		unanswered := timeout
		if again {
			unanswered = func() {}
		}
		if !l.m.storeReachable() {
			unanswered()
			return
		}
		deliver := apply()
		if l.m.loseReplies > 0 && w.chance(l.m.loseReplies) {
			w.tracef(l.m, "an answer of the store is lost (%s)", l.what)
			unanswered()
			return
		}
		back := w.hop() + w.storeSlow/4 + l.m.slowBack
		if l.m.slowStore > 0 {
			back += w.between(0, l.m.slowStore)
		}
		if w.now+back >= deadline {
			unanswered()
			return
		}
		w.after(back, func() {
			if p.ended || answered || p.token != t {
				return
			}
			if !l.m.answersReach() {
				unanswered()
				return
			}
			answered = true
			deliver()
			p.resume(t)
		})
	}
	d := w.hop() + w.between(0, w.storeSlow)
	if l.m.slowStore > 0 {
		d += w.between(0, l.m.slowStore)
		if w.chance(0.1) {
			d += w.between(0, 10*time.Second) // delivered long after everybody gave up
		}
	}
	if w.now+d >= deadline {
		timeout()
	}
	w.after(d, func() {
		w.twice(func() { arrive(true) })
		arrive(false)
	})
	for !answered && w.now < deadline {
		p.park()
	}
	if !answered {
		return errTimeout
	}
	return nil
}

// Load implements dcs.Store.
func (l *storeLink) Load(ctx context.Context) (dcs.Snapshot, error) {
	var snap dcs.Snapshot
	var err error
	if cerr := l.call(ctx, func() func() {
		s, e := l.m.w.load(l.client)
		return func() { snap, err = s, e }
	}); cerr != nil {
		return dcs.Snapshot{}, cerr
	}
	return snap, err
}

// Commit implements dcs.Store.
func (l *storeLink) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	var res dcs.Result
	var err error
	cerr := l.call(ctx, func() func() {
		r, e := l.client.Commit(context.Background(), t)
		if e == nil {
			l.m.w.committed(t, r)
		}
		return func() { res, err = r, e }
	})
	if cerr != nil {
		return dcs.Result{}, cerr
	}
	return res, err
}

// Grant implements dcs.Store.
func (l *storeLink) Grant(ctx context.Context, ttl time.Duration) (dcs.LeaseID, error) {
	var id dcs.LeaseID
	var err error
	if cerr := l.call(ctx, func() func() {
		i, e := l.client.Grant(context.Background(), ttl)
		return func() { id, err = i, e }
	}); cerr != nil {
		return 0, cerr
	}
	return id, err
}

// KeepAlive implements dcs.Store.
func (l *storeLink) KeepAlive(ctx context.Context, id dcs.LeaseID) error {
	var err error
	if cerr := l.call(ctx, func() func() {
		e := l.client.KeepAlive(context.Background(), id)
		return func() { err = e }
	}); cerr != nil {
		return cerr
	}
	return err
}

// Revoke implements dcs.Store.
func (l *storeLink) Revoke(ctx context.Context, id dcs.LeaseID) error {
	var err error
	if cerr := l.call(ctx, func() func() {
		e := l.client.Revoke(context.Background(), id)
		return func() { err = e }
	}); cerr != nil {
		return cerr
	}
	return err
}

// Watch implements dcs.Store. Nodes in the simulator read the store with each tick instead.
func (l *storeLink) Watch(context.Context, int64) <-chan dcs.Update {
	panic(errors.New("sim: a node must not watch the store"))
}

// Close implements dcs.Store.
func (l *storeLink) Close() error { return nil }
