package instance

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hathi-ha/hathi/internal/postgres"
)

const (
	// probeEvery is how often a new connection, and the storage, is tried.
	probeEvery = time.Second
	// probeWithin bounds one try of the server. A loaded machine takes its time to fork.
	probeWithin = 2500 * time.Millisecond
	// probeDoubt is how long a try may be under way, or have failed, before a server that still
	// answers on an old connection counts as mute.
	probeDoubt = 2 * time.Second
	// storageDoubt is how long making a small file durable may take before a write of the server itself
	// is tried. It alone proves nothing: under load a new file can take long while the WAL, whose files
	// exist already, is written as ever.
	storageDoubt = 700 * time.Millisecond
	// writeEvery is the pause between two writes while there is doubt.
	writeEvery = 500 * time.Millisecond
	// writeAtMost is how long it may grow while none ends.
	writeAtMost = 30 * time.Second
)

// prober looks for what old connections do not show: a postmaster that is stopped still answers on
// them, through its backends, and a server whose storage is frozen, or one of whose processes was
// stopped while it held a lock, answers everything but a commit.
//
// New connections and the storage are tried all the time, writes of the server only in doubt: they
// make WAL, and a server that is idle must stay idle.
type prober struct {
	connections, storage, writes trial
	primary                      atomic.Bool
	doubts                       chan struct{} // holds a token when a write should be tried
}

func newProber() *prober { return &prober{doubts: make(chan struct{}, 1)} }

// trial is a row of tries. From its beginning a try counts as not answered, so that one that hangs
// shows at once.
type trial struct{ since atomic.Int64 } // boottime of the first try in a row that was not answered; 0: none

func (t *trial) begin(now time.Duration) { t.since.CompareAndSwap(0, int64(now)) }
func (t *trial) answered()               { t.since.Store(0) }

// unanswered is since when; 0 when the last try was answered.
func (t *trial) unanswered() time.Duration { return time.Duration(t.since.Load()) }

// doubt asks for a write to be tried.
func (p *prober) doubt() {
	select {
	case p.doubts <- struct{}{}:
	default:
	}
}

// stalled is since when the storage has made nothing durable; 0 when it did lately.
func (p *prober) stalled(now time.Duration) time.Duration {
	if since := p.storage.unanswered(); since != 0 && now-since >= storageDoubt {
		return since
	}
	return 0
}

// failing says since when the server hangs and how that shows, if it has lasted long enough to count.
// moved is when its WAL was last seen to grow: where it does, a write that has not ended is slow.
func (p *prober) failing(now, moved time.Duration) (since time.Duration, why string, ok bool) {
	if since = p.connections.unanswered(); since != 0 && now-since >= probeDoubt {
		return since, "no new connection is answered", true
	}
	since = p.writes.unanswered()
	if since == 0 || now-max(since, moved) < probeDoubt {
		return 0, "", false
	}
	if stalled := p.stalled(now); stalled != 0 {
		return max(min(since, stalled), moved), "its storage makes nothing durable and no write ends", true
	}
	return max(since, moved), "no write ends", true
}

// came waits for something from c, and is false when ended is closed or the instance is instead.
func came[T any](i *Instance, ended <-chan struct{}, c <-chan T) bool {
	select {
	case <-ended:
		return false
	case <-i.ctx.Done():
		return false
	case <-c:
		return true
	}
}

// probe tries new connections until ended is closed or the instance is.
func (i *Instance) probe(p *prober, ended <-chan struct{}) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		if !came(i, ended, tick.C) {
			return
		}
		p.connections.begin(i.c.Now())
		if i.try(i.pg.Probe) {
			p.connections.answered()
		}
	}
}

// try says whether the server answered. A refusal is an answer: out of connections, starting up,
// shutting down.
func (i *Instance) try(probe func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(i.ctx, probeWithin)
	defer cancel()
	err := probe(ctx)
	var refused *pgconn.PgError
	return err == nil || errors.As(err, &refused) || errors.Is(err, postgres.ErrStarting)
}

// tryWrite says whether a write ended, or the server at least answered.
func (i *Instance) tryWrite() (wrote, answered bool) {
	answered = i.try(func(ctx context.Context) error {
		err := i.pg.ProbeWrite(ctx)
		wrote = err == nil
		return err
	})
	return wrote, answered
}

// probeStorage tries the file systems of the data directory until ended is closed or the instance is.
func (i *Instance) probeStorage(p *prober, ended <-chan struct{}) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	doubt := time.NewTimer(storageDoubt)
	defer doubt.Stop()
	for {
		if !came(i, ended, tick.C) {
			return
		}
		p.storage.begin(i.c.Now())
		done := make(chan error, 1)
		// Nothing ends a call that the storage does not answer, so nobody waits for this goroutine; there
		// is one at most, because the next try waits for it.
		go func() { done <- postgres.TryStorage(i.c.DataDir) }()
		doubt.Reset(storageDoubt)
		for waiting := true; waiting; {
			select {
			case <-ended:
				return
			case <-i.ctx.Done():
				return
			case <-doubt.C:
				p.doubt()
			case err := <-done:
				// An error is an answer, and the server will meet it too.
				if err != nil {
					i.warnOnce("the storage of the data directory: " + err.Error())
				}
				p.storage.answered()
				waiting = false
			}
		}
	}
}

// probeWrites tries writes while there is doubt, until ended is closed or the instance is.
func (i *Instance) probeWrites(p *prober, ended <-chan struct{}) {
	for {
		if !came(i, ended, p.doubts) {
			return
		}
		pause := writeEvery
		for again := p.primary.Load(); again; {
			p.writes.begin(i.c.Now())
			switch wrote, answered := i.tryWrite(); {
			case wrote, answered && p.stalled(i.c.Now()) == 0:
				// A refused connection says nothing of writes; without doubt about the storage it is none.
				p.writes.answered()
				again, pause = p.stalled(i.c.Now()) != 0, writeEvery
			default:
				pause = min(2*pause, writeAtMost) // each try that hangs leaves a session behind
			}
			if !came(i, ended, time.After(pause)) {
				return
			}
		}
	}
}
