package router

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/route"
)

// The reasons for which sessions are cut.
var (
	errDeposed  = errors.New("the primary was deposed")
	errExpired  = errors.New("the view of the lock expired")
	errNoMember = errors.New("the member is no replica any more")
	errSilent   = errors.New("the peer does not acknowledge data")
	errClosing  = errors.New("the router is stopping")
)

// tenure is one member's time as the write backend in one epoch, as this router can confirm it. All
// sessions opened to it share it. It ends once and does not begin again: if the same epoch is
// confirmed later, that is another tenure.
type tenure struct {
	backend route.Backend
	// until is the instant, in nanoseconds, from which no byte may move.
	until atomic.Int64
	// fresh is until when the lock counts as renewed lately, sure until when its holder can not have
	// fenced itself: see Router.prove. Instants in nanoseconds.
	fresh, sure atomic.Int64
	// ctx ends, with its cause, when the tenure ends.
	ctx context.Context
	end context.CancelCauseFunc

	mu       sync.Mutex
	extended chan struct{} // closed and replaced when until grows after it had passed
}

func newTenure(b route.Backend, until time.Duration) *tenure {
	t := &tenure{backend: b, extended: make(chan struct{})}
	t.ctx, t.end = context.WithCancelCause(context.Background())
	t.until.Store(int64(until))
	return t
}

// allows says whether a byte may move at now.
func (t *tenure) allows(now time.Duration) bool {
	return int64(now) < t.until.Load() && t.ctx.Err() == nil
}

// extend moves the end, and wakes those who wait for it.
func (t *tenure) extend(until time.Duration) {
	if t.until.Swap(int64(until)) == int64(until) {
		return
	}
	t.mu.Lock()
	close(t.extended)
	t.extended = make(chan struct{})
	t.mu.Unlock()
}

// renewed notes when the lock was seen to change for the last time; l is its lease.
func (t *tenure) renewed(seen, l time.Duration) {
	t.fresh.Store(int64(seen + lease.SilentAfter(l)))
	t.sure.Store(int64(lease.UnfencedUntil(seen, l)))
}

// wait returns nil as soon as a byte may move, or the reason for which none ever will. kick asks
// the keeper to look at the table now.
func (t *tenure) wait(now func() time.Duration, kick func()) error {
	for {
		t.mu.Lock()
		extended := t.extended
		t.mu.Unlock()
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		if t.allows(now()) {
			return nil
		}
		kick()
		select {
		case <-extended:
		case <-t.ctx.Done():
		}
	}
}
