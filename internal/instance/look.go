package instance

import (
	"context"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/ha"
)

// observeLimit bounds one observation, whoever asked for it: two questions to the server, or a look at
// its control file.
const observeLimit = 3 * time.Second

// looks makes observations one at a time, each for all who asked before it began: the tick and any
// number of peers wait for the one under way and the next one at most, each under its own deadline.
type looks struct {
	mu   sync.Mutex
	next *observation // wanted, not begun
	busy bool
	made bool // last is set
	last ha.Database
}

// observation is one look at the database. db is set before done is closed.
type observation struct {
	done chan struct{}
	db   ha.Database
}

// join is an observation that begins after the call. run is called, in a goroutine of its own, when
// there is nobody who makes it.
func (l *looks) join(run func()) *observation {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.next = &observation{done: make(chan struct{})}
	}
	o := l.next
	if !l.busy {
		l.busy = true
		run()
	}
	return o
}

// take is the observation to make now; nil, and nobody is busy, when none is wanted.
func (l *looks) take() *observation {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.next
	l.next, l.busy = nil, o != nil
	return o
}

func (l *looks) finish(o *observation, db ha.Database) {
	l.mu.Lock()
	o.db, l.last, l.made = db, db, true
	l.mu.Unlock()
	close(o.done)
}

// unanswered is what may be said when the time of the asker is up: nothing about the present. The
// position is left out, so that nobody takes an old one for what is confirmed now.
func (l *looks) unanswered(now time.Duration) ha.Database {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.made {
		return ha.Database{Dir: ha.DirForeign, DirWhy: "the data directory was not looked at yet"}
	}
	db := l.last
	db.LSN, db.Replayed, db.RuleKnown, db.Streaming = 0, 0, false, false
	if db.Phase == ha.Up {
		db.Phase, db.PhaseAt = ha.Mute, now
	}
	return db
}

// Observe looks at the directory, the process and, where it answers, at SQL. The look begins after the
// call; it is shared with others who ask meanwhile, so that neither a tick nor a peer's question waits
// behind more than one other look, and none of them is cut short by the deadline of another.
func (i *Instance) Observe(ctx context.Context) ha.Database {
	o := i.looks.join(func() { i.wg.Go(i.makeLooks) })
	select {
	case <-o.done:
		return o.db
	case <-ctx.Done():
		return i.looks.unanswered(i.c.Now())
	}
}

// makeLooks observes for as long as somebody asks.
func (i *Instance) makeLooks() {
	for {
		o := i.looks.take()
		if o == nil {
			return
		}
		ctx, cancel := context.WithTimeout(i.ctx, observeLimit)
		i.looks.finish(o, i.observe(ctx))
		cancel()
	}
}
