package node

import (
	"context"
	"sync"
	"time"
)

// Virtual stands in for real time and for the waits of a node, so that a simulator can run many
// nodes on virtual time and in one order. It travels in the context that Tick, Renew and
// KeepFailsafe are given (WithVirtual); without one a node uses the real thing.
type Virtual interface {
	// Timeout is context.WithTimeout.
	Timeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
	// Receive waits until ch delivers or ctx ends.
	Receive(ctx context.Context, ch <-chan struct{}) error
	// Each calls work(0) to work(n-1) at the same time and returns when all have returned.
	Each(ctx context.Context, n int, work func(ctx context.Context, i int))
}

type virtualKey struct{}

// WithVirtual makes everything that is done under the context use v.
func WithVirtual(ctx context.Context, v Virtual) context.Context {
	return context.WithValue(ctx, virtualKey{}, v)
}

// within is context.WithTimeout, on whatever time ctx lives by.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if v, ok := ctx.Value(virtualKey{}).(Virtual); ok {
		return v.Timeout(ctx, d)
	}
	return context.WithTimeout(ctx, d)
}

// receive waits until ch delivers or ctx ends.
func receive(ctx context.Context, ch <-chan struct{}) error {
	if v, ok := ctx.Value(virtualKey{}).(Virtual); ok {
		return v.Receive(ctx, ch)
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// each calls work(0) to work(n-1) at the same time and returns when all have returned.
func each(ctx context.Context, n int, work func(ctx context.Context, i int)) {
	if v, ok := ctx.Value(virtualKey{}).(Virtual); ok {
		v.Each(ctx, n, work)
		return
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { work(ctx, i) })
	}
	wg.Wait()
}
