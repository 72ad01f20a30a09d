package node

import (
	"context"
	"time"

	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
)

// Run ticks until the node is told to end (ctx or Shutdown) and has stopped. A leader stops
// PostgreSQL cleanly and gives the lock back first; that is bounded by the stop ladder.
func (n *Node) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ending := ctx.Done()
	for {
		d := n.Tick(work)
		if d.State == ha.StateStopped {
			return nil
		}
		timer := time.NewTimer(max(d.Wait, 5*time.Millisecond))
		select {
		case <-timer.C:
		case <-n.wake:
		case <-n.c.Feed.Changed():
		case <-n.c.DB.Exited():
		case <-n.c.Jobs.Done():
		case <-ending:
			ending = nil
			n.Shutdown()
		}
		timer.Stop()
	}
}

// Keep renews the lease until ctx ends. It belongs to a goroutine of its own, and the store that
// Leadership writes to has a connection of its own: nothing that a tick does can delay it.
func (n *Node) Keep(ctx context.Context) {
	for n.awaitRenewal(ctx) {
		if err := n.c.Lead.Renew(ctx); err != nil {
			n.c.Log.Warn("lease not renewed", "err", err)
			if _, held := n.c.Lead.Held(); !held {
				n.Wake()
			}
		}
	}
}

// ProbeLoop probes the leader every ProbeEvery until ctx ends.
func (n *Node) ProbeLoop(ctx context.Context) {
	tick := time.NewTicker(ProbeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.ProbeLeader(ctx)
		}
	}
}

// KeepFailsafeLoop runs KeepFailsafe as often as the lease is renewed, until ctx ends.
func (n *Node) KeepFailsafeLoop(ctx context.Context) {
	for n.awaitRenewal(ctx) {
		n.KeepFailsafe(ctx)
	}
}

// awaitRenewal waits until the next renewal is due; false when ctx has ended. While the lock is not
// held nothing is.
func (n *Node) awaitRenewal(ctx context.Context) bool {
	for {
		taken := n.c.Lead.Taken()
		if _, held := n.c.Lead.Held(); held {
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-taken:
		}
	}
	timer := time.NewTimer(lease.RenewEvery(n.c.Lead.TTL()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
