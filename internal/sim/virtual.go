package sim

import (
	"context"
	"math"
	"time"

	"github.com/hathi-ha/hathi/internal/node"
)

// forever is an instant that does not come.
const forever = time.Duration(math.MaxInt64)

// virtual is node.Virtual for one machine: time by its clock, waits in coroutines.
type virtual struct{ m *machine }

var _ node.Virtual = virtual{}

// Timeout implements node.Virtual.
func (v virtual) Timeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	w := v.m.w
	end := min(w.now+v.m.global(d), deadlineOf(ctx, w))
	return &deadlineCtx{Context: ctx, w: w, end: end}, func() {}
}

// Receive implements node.Virtual.
func (v virtual) Receive(ctx context.Context, ch <-chan struct{}) error {
	w := v.m.w
	for {
		select {
		case <-ch:
			return nil
		default:
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		w.cur.sleep(2 * time.Millisecond)
	}
}

// Each implements node.Virtual.
func (v virtual) Each(ctx context.Context, n int, work func(ctx context.Context, i int)) {
	w := v.m.w
	boss := w.cur
	left := n
	for i := range n {
		w.spawn(boss.life, func(*proc) {
			work(ctx, i)
			left--
			if left == 0 {
				t := boss.token
				w.after(0, func() { boss.resume(t) })
			}
		})
	}
	boss.token++
	for left > 0 {
		boss.park()
	}
}

// deadlineCtx is a context that ends at an instant of virtual time. Nothing in the simulator waits
// on Done.
type deadlineCtx struct {
	context.Context
	w   *world
	end time.Duration
}

type deadlineKey struct{}

func (c *deadlineCtx) Err() error {
	if c.w.now >= c.end {
		return context.DeadlineExceeded
	}
	return c.Context.Err()
}

func (c *deadlineCtx) Value(key any) any {
	if _, ok := key.(deadlineKey); ok {
		return c
	}
	return c.Context.Value(key)
}

// deadlineOf is when ctx ends, in virtual time.
func deadlineOf(ctx context.Context, w *world) time.Duration {
	c, ok := ctx.(*deadlineCtx)
	if !ok {
		c, ok = ctx.Value(deadlineKey{}).(*deadlineCtx)
	}
	if ok {
		return c.end
	}
	return forever
}
