package instance

import (
	"context"
	"time"

	"github.com/hathi-ha/hathi/internal/ha"
)

// lookWithin bounds one observation, whoever asked for it: two questions to the server, or a look at its
// control file.
const lookWithin = 3 * time.Second

// Observe looks at the directory, the process and, where it answers, at SQL. The look begins after the
// call. It is shared with others who ask meanwhile: neither a tick nor a peer's question waits behind
// more than one other look, and none is cut short by the deadline of another, which would take the
// reserved connection with it.
func (i *Instance) Observe(ctx context.Context) ha.Database {
	db, err := i.looks.Ask(ctx)
	if err != nil {
		return unanswered(i.seen.Load(), i.c.Now())
	}
	return db
}

func (i *Instance) lookNow() ha.Database {
	ctx, cancel := context.WithTimeout(i.ctx, lookWithin)
	defer cancel()
	db := i.observe(ctx)
	i.seen.Store(&db)
	return db
}

// unanswered is what may be said when the time of the asker is up: nothing about the present. The
// position is left out, so that nobody takes an old one for what is confirmed now.
func unanswered(last *ha.Database, now time.Duration) ha.Database {
	if last == nil {
		return ha.Database{Dir: ha.DirForeign, DirWhy: "the data directory was not looked at yet"}
	}
	db := *last
	db.LSN, db.Replayed, db.RuleKnown, db.Streaming = 0, 0, false, false
	if db.Phase == ha.Up {
		db.Phase, db.PhaseAt = ha.Mute, now
	}
	return db
}
