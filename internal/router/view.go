package router

import (
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/route"
)

// view is what the router knows of the cluster, with the instants at which it came to know it. It
// does no I/O; its owner serializes access.
type view struct {
	snap    dcs.Snapshot
	cluster cluster.View
	lockErr error
	loaded  bool

	// lock is the last lock that could be read.
	lock cluster.Lock
	// current is an instant at which lock was surely the present value: the beginning of a
	// linearizable read, or the arrival of the change by watch.
	current time.Duration
	// seen is the instant from which the lease of lock counts: never later than its last change
	// could be seen. Zero until a change was seen.
	seen time.Duration
	// asked is the instant until which the holder's own word, asked for directly, confirms epoch.
	asked        time.Duration
	highestEpoch uint64

	failoverRev  int64
	failoverSeen time.Duration
}

// load takes a linearizable snapshot whose request began at started. The snapshot proves what the
// lock was at started, not when it last changed. If it differs from what was known, it changed after
// the instant at which that was known to be current, and from there its lease is counted.
func (v *view) load(s dcs.Snapshot, started time.Duration) {
	before, current := v.lock, v.current
	v.snap = s
	v.decode(started)
	if before.Epoch != 0 && changed(before, v.lock) {
		v.seen = current
	}
	v.current = max(v.current, started)
	v.loaded = true
}

// apply brings the view forward by one update of the watch that arrived at now. It returns false,
// and changes nothing, when the update may be old: the router slept or was cut off, and what lies in
// the channel since then says nothing about the present. The caller then loads anew.
func (v *view) apply(u dcs.Update, now time.Duration) bool {
	for _, c := range u.Changes {
		if c.Key == dcs.KeyLock && !v.trust(now) {
			return false
		}
	}
	before := v.lock
	dcs.Apply(&v.snap, u)
	v.decode(now)
	if changed(before, v.lock) {
		v.seen, v.current = now, now
	}
	return true
}

// trust says whether a change of the lock that arrives at now can be taken for one that just
// happened. A healthy holder renews every sixth of the lease; after a gap of a third nobody knows
// how long the change was on its way.
func (v *view) trust(now time.Duration) bool { return now-v.current <= v.lease()/3 }

func (v *view) lease() time.Duration { return route.Lease(v.lock, v.cluster.Config.TTL) }

// confirm notes that the holder of epoch, asked at the instant asked, said that it holds the lock,
// which is good for the time given.
func (v *view) confirm(epoch uint64, asked, good time.Duration) {
	if v.lockErr == nil && v.lock.Held() && v.lock.Epoch == epoch {
		v.asked = max(v.asked, asked+good)
	}
}

func changed(a, b cluster.Lock) bool {
	return a.Node != b.Node || a.Instance != b.Instance || a.Epoch != b.Epoch || a.Seq != b.Seq
}

// decode reads the snapshot. A lock that cannot be read leaves the last good one in place: sessions
// live on until its lease ends, newcomers are not let in (lockErr).
func (v *view) decode(now time.Duration) {
	v.cluster = dcs.Decode(v.snap)
	v.lockErr = nil
	if v.cluster.LockBad {
		_, v.lockErr = cluster.ParseLock(v.snap.Entries[dcs.KeyLock].Value)
	} else {
		if v.cluster.Lock.Node != v.lock.Node || v.cluster.Lock.Epoch != v.lock.Epoch {
			v.asked = 0
		}
		v.lock = v.cluster.Lock
	}
	v.highestEpoch = max(v.highestEpoch, v.lock.Epoch)
	if v.cluster.Failover == nil {
		v.failoverRev = 0
	} else if v.cluster.FailoverRev != v.failoverRev {
		v.failoverRev, v.failoverSeen = v.cluster.FailoverRev, now
	}
}

func (v *view) input(now time.Duration, maxLag int64, hold time.Duration) route.Input {
	return route.Input{
		Now: now, Lock: v.lock, LockErr: v.lockErr, LockSeen: v.seen, ConfirmedUntil: v.asked,
		HighestEpoch: v.highestEpoch, Members: v.cluster.Members, Status: v.cluster.Status,
		Failover: v.cluster.Failover, FailoverSeen: v.failoverSeen,
		TTL: v.cluster.Config.TTL, MaxLag: maxLag, HoldMax: hold,
	}
}
