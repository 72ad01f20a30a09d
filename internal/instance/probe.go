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
	// probeEvery is how often a new connection is tried.
	probeEvery = time.Second
	// probeWithin bounds one try. A loaded machine takes its time to fork.
	probeWithin = 2500 * time.Millisecond
	// probeDoubt is how long a try may be under way, or have failed, before a server that still
	// answers on an old connection counts as mute.
	probeDoubt = 2 * time.Second
)

// prober tries new connections to one postmaster: a postmaster that is stopped still answers on old
// ones, through its backends.
type prober struct {
	failingSince atomic.Int64 // boottime of the first try in a row that was not answered; 0: none
}

// failing says since when new connections are not answered, if that has lasted long enough to count.
func (p *prober) failing(now time.Duration) (since time.Duration, ok bool) {
	since = time.Duration(p.failingSince.Load())
	return since, since != 0 && now-since >= probeDoubt
}

// run probes until ended is closed or ctx ends.
func (i *Instance) probe(p *prober, ended <-chan struct{}) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-i.ctx.Done():
			return
		case <-tick.C:
		}
		// From its beginning a try counts as not answered, so that one that hangs shows at once.
		p.failingSince.CompareAndSwap(0, int64(i.c.Now()))
		ctx, cancel := context.WithTimeout(i.ctx, probeWithin)
		err := i.pg.Probe(ctx)
		cancel()
		var refused *pgconn.PgError
		// A refusal is an answer: out of connections, starting up, shutting down.
		if err == nil || errors.As(err, &refused) || errors.Is(err, postgres.ErrStarting) {
			p.failingSince.Store(0)
		}
	}
}
