package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
)

// feedStale is how old the last sign of the store may be for the view to count as present. The
// watch asks for a sign each second.
const feedStale = 3 * time.Second

// Feed keeps the node's view of the store: by a watch in the daemon, by single reads in the
// simulator. The view is a hint; whatever is irreversible compares revisions when it is written.
type Feed struct {
	store dcs.Store
	now   func() time.Duration
	log   *slog.Logger

	mu         sync.Mutex
	snap       dcs.Snapshot
	view       cluster.View
	config     cluster.Dynamic // the last one that could be read
	configured bool            // and that there was one
	decode     func(dcs.Snapshot) cluster.View
	seen       bool
	failed     bool
	contactAt  time.Duration
	lockSeenAt time.Duration
	lockAlive  bool
	mark       Mark
	wentBack   string
	changed    chan struct{} // holds a token after each change
}

// Mark is how far a lock has come: it only ever grows, by epoch, and within one by the sequence of its
// writes. A store that shows a lock from before one that was seen went back in time.
type Mark struct {
	Epoch, Seq uint64
}

// after says whether the lock of a view is older than the mark. One that was deleted is not: that is the loss
// of the key, which the leader survives by stopping.
func (m Mark) after(v cluster.View) bool {
	l := v.Lock
	return v.LockRev != 0 && !v.LockBad && (l.Epoch < m.Epoch || l.Epoch == m.Epoch && l.Seq < m.Seq)
}

// NewFeed makes a feed; it knows nothing until Refresh or Run.
func NewFeed(store dcs.Store, now func() time.Duration, log *slog.Logger) *Feed {
	return &Feed{store: store, now: now, log: log, changed: make(chan struct{}, 1), view: dcs.Decode(dcs.Snapshot{}), decode: new(dcs.Decoder).Decode}
}

// DecodeWith has decode read the snapshots. The simulator's nodes share one: they all read the same
// keys. It is called before the first Refresh.
func (f *Feed) DecodeWith(decode func(dcs.Snapshot) cluster.View) { f.decode = decode }

// Changed delivers a token after the view changed.
func (f *Feed) Changed() <-chan struct{} { return f.changed }

// Get is what is known now.
func (f *Feed) Get() ha.Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := f.seen && !f.failed && f.now()-f.contactAt < feedStale
	if f.wentBack != "" {
		return ha.Store{WentBack: f.wentBack, HighestEpoch: f.mark.Epoch, Seen: f.seen, View: f.view, LockSeenAt: f.lockSeenAt, LockAlive: f.lockAlive}
	}
	return ha.Store{Reachable: fresh, HighestEpoch: f.mark.Epoch, Seen: f.seen, View: f.view, LockSeenAt: f.lockSeenAt, LockAlive: f.lockAlive}
}

// ContactAt is when the store gave its last sign of life; 0 for never.
func (f *Feed) ContactAt() time.Duration { f.mu.Lock(); defer f.mu.Unlock(); return f.contactAt }

// Mark is how far the lock has come, as far as this node knows.
func (f *Feed) Mark() Mark { f.mu.Lock(); defer f.mu.Unlock(); return f.mark }

// Remember hands in the mark of an earlier process. Call it before Refresh and Run.
func (f *Feed) Remember(m Mark) { f.mu.Lock(); defer f.mu.Unlock(); f.mark = m }

// Refresh reads everything once.
func (f *Feed) Refresh(ctx context.Context) error {
	snap, err := f.store.Load(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed = true
		if errors.Is(err, dcs.ErrWentBack) {
			f.wentBack = err.Error()
		}
		return err
	}
	f.install(snap)
	return nil
}

// install takes a snapshot in. mu is held.
func (f *Feed) install(snap dcs.Snapshot) {
	if f.seen && snap.Revision < f.snap.Revision {
		return // an older answer that arrived late
	}
	known := f.seen && snap.Revision == f.snap.Revision
	f.snap = snap
	f.contactAt, f.failed = f.now(), false
	if !known || f.wentBack != "" {
		f.take()
	}
}

// take reads the snapshot and notes what happened to the lock. mu is held.
func (f *Feed) take() {
	old, now := f.view, f.decode(f.snap)
	if f.mark.after(now) {
		// What was seen last stands: nothing may be decided by an older record.
		f.wentBack = fmt.Sprintf("%v: it shows the lock in epoch %d at write %d after epoch %d at write %d had been seen",
			dcs.ErrWentBack, now.Lock.Epoch, now.Lock.Seq, f.mark.Epoch, f.mark.Seq)
		f.poke()
		return
	}
	f.wentBack = ""
	f.view = now
	if now.LockRev != 0 && !now.LockBad {
		f.mark = Mark{now.Lock.Epoch, now.Lock.Seq}
	}
	switch {
	case !f.view.ConfigBad && f.view.ConfigRev != 0:
		f.config, f.configured = f.view.Config, true
	case f.view.ConfigBad && f.configured:
		// A damaged key must not make a running cluster asynchronous; View.Problems tells of it.
		f.view.Config, f.view.ConfigBad = f.config, false
	}
	switch {
	case !f.seen:
		f.lockSeenAt, f.lockAlive = f.now(), false
	case f.view.LockRev != old.LockRev:
		f.lockSeenAt = f.now()
		f.lockAlive = f.view.Lock.Held()
	}
	first := !f.seen
	f.seen = true
	if !first && onlyRenewed(old, f.view) {
		return
	}
	f.poke()
}

func (f *Feed) poke() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Run keeps the view by a watch until ctx ends. It loads anew whenever the watch ends.
func (f *Feed) Run(ctx context.Context) {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		if err := f.Refresh(ctx); err != nil {
			f.log.Debug("store not readable", "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(pause*2, time.Second)
			continue
		}
		if f.follow(ctx) {
			pause = 50 * time.Millisecond
			continue
		}
		// A watch that told nothing: its member has no leader, perhaps. The next one may be no better.
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(pause*2, time.Second)
	}
}

// follow watches until the watch ends, and says whether it told anything.
func (f *Feed) follow(ctx context.Context) (told bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	after := f.snap.Revision
	f.mu.Unlock()
	for u := range f.store.Watch(ctx, after) {
		if u.Err != nil {
			f.log.Debug("watch of the store ended", "err", u.Err)
			return told
		}
		told = true
		f.mu.Lock()
		f.contactAt = f.now()
		if len(u.Changes) > 0 {
			dcs.Apply(&f.snap, u)
			f.take()
		}
		f.mu.Unlock()
	}
	return told
}

// onlyRenewed says that between two views nothing changed but the lock's renewal and the leader's
// position: nothing that a decision waits for.
func onlyRenewed(a, b cluster.View) bool {
	x, y := a.Lock, b.Lock
	x.Seq, y.Seq = 0, 0
	return a.LockRev != b.LockRev && x == y && a.ConfigRev == b.ConfigRev && a.SyncRev == b.SyncRev &&
		a.FailoverRev == b.FailoverRev && a.InitializeRev == b.InitializeRev && len(a.Members) == len(b.Members)
}
