package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hathi-ha/hathi/internal/boottime"
)

// rejoin watches from the fault on for the instant at which the old primary streams from another. It
// asks over one connection to whoever leads, which it keeps: a question costs no handshake, and that
// instant is known to within rejoinEvery.
type rejoin struct {
	s      system
	old    string
	can    atomic.Int64 // boot time from which on streaming counts; 0 for not yet
	cancel context.CancelFunc
	wg     sync.WaitGroup
	at     atomic.Int64
	next   atomic.Value // string
}

const rejoinEvery = 20 * time.Millisecond

// watchRejoin begins to watch. Where the old primary can come back by itself, atOnce, it may have done so before
// anybody waits for it.
func watchRejoin(ctx context.Context, s system, old string, atOnce bool) *rejoin {
	ctx, cancel := context.WithCancel(ctx)
	w := &rejoin{s: s, old: old, cancel: cancel}
	if atOnce {
		w.can.Store(int64(boottime.Now()))
	}
	w.wg.Go(func() { w.watch(ctx) })
	return w
}

func (w *rejoin) watch(ctx context.Context) {
	var c *pgx.Conn
	var node string
	hang := func() {
		if c != nil {
			hangUp(c)
		}
		c = nil
	}
	defer hang()
	for ; ctx.Err() == nil; _ = pause(ctx, rejoinEvery) {
		now := w.s.leads()
		if now != node {
			hang()
			node = now
		}
		if node == "" || node == w.old {
			continue
		}
		if c == nil {
			cctx, cancel := context.WithTimeout(ctx, time.Second)
			var err error
			c, err = pgx.Connect(cctx, w.s.directURI(node))
			cancel()
			if err != nil {
				c = nil
				continue
			}
		}
		qctx, cancel := context.WithTimeout(ctx, time.Second)
		var n int
		err := c.QueryRow(qctx, "SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE state = 'streaming' AND application_name = $1", pgx.QueryExecModeExec, w.old).Scan(&n)
		cancel()
		if err != nil {
			hang()
			continue
		}
		if n > 0 && w.can.Load() > 0 {
			w.next.Store(node)
			w.at.Store(int64(boottime.Now()))
			return
		}
	}
}

func (w *rejoin) close() { w.cancel(); w.wg.Wait() }

// await waits until the old primary, which can come back since can, streams from another, or is shown
// as the primary again for good: then the second result is false.
func (w *rejoin) await(ctx context.Context, can time.Duration) (time.Duration, bool, error) {
	w.can.CompareAndSwap(0, int64(can))
	var leads time.Duration // since when the old primary is shown as the primary again
	streams := false
	err := until(ctx, 2*time.Minute, rejoinEvery, w.old+" streaming again", func(context.Context) error {
		if w.at.Load() > 0 {
			streams = true
			return nil
		}
		if w.s.leads() != w.old {
			leads = 0
			return errors.New("not streaming")
		}
		// It may have been promoted again in its place, or the record of it may be an old one.
		if leads == 0 {
			leads = boottime.Now()
		}
		if boottime.Now()-leads < 5*time.Second {
			return errors.New("still shown as the primary")
		}
		return nil
	})
	return time.Duration(w.at.Load()) - can, streams, err
}
