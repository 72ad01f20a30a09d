package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hathi-ha/hathi/internal/boottime"
)

// How clients behave.
const (
	writers        = 8
	thinkTime      = 10 * time.Millisecond
	connectTimeout = time.Second // for the whole way to a session that can be used
	// statementBound only keeps a broken system from holding the program for ever: clients have no
	// statement timeout.
	statementBound = 2 * time.Minute
)

// schema makes the table that writers insert into.
const schema = "CREATE TABLE IF NOT EXISTS bench (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"

// insert returns the timeline that the server writes on.
const insert = "INSERT INTO bench (id) VALUES ($1) RETURNING pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)"

// ack is one insert that the server confirmed, noted after its answer.
type ack struct {
	id          int64
	sent, acked time.Duration // CLOCK_BOOTTIME
	timeline    string
}

// failure is what a client saw go wrong.
type failure struct {
	at      time.Duration
	connect bool // no session came about; else a statement failed or its outcome is unknown
	text    string
}

// load is the writers at work, and their log.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	count  atomic.Int64

	mu       sync.Mutex
	acks     []ack
	failures []failure
}

// lastID numbers rows over the whole run.
var lastID atomic.Int64

// startLoad begins to write through uri.
func startLoad(uri string) (*load, error) {
	cfg, err := pgx.ParseConfig(uri)
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.ConnectTimeout = connectTimeout
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range writers {
		l.wg.Go(func() { l.write(ctx, cfg) })
	}
	return l, nil
}

func (l *load) write(ctx context.Context, cfg *pgx.ConnConfig) {
	var c *pgx.Conn
	defer func() {
		if c != nil {
			hangUp(c)
		}
	}()
	for ctx.Err() == nil {
		var err error
		if c == nil {
			cctx, cancel := context.WithTimeout(ctx, connectTimeout)
			c, err = pgx.ConnectConfig(cctx, cfg.Copy())
			cancel()
			if err != nil {
				c = nil
				l.fail(ctx, true, err)
			}
		}
		if c != nil {
			a := ack{id: lastID.Add(1), sent: boottime.Now()}
			sctx, cancel := context.WithTimeout(ctx, statementBound)
			err = c.QueryRow(sctx, insert, a.id).Scan(&a.timeline)
			cancel()
			if err != nil {
				l.fail(ctx, false, err)
				hangUp(c)
				c = nil
			} else {
				a.acked = boottime.Now()
				l.mu.Lock()
				l.acks = append(l.acks, a)
				l.mu.Unlock()
				l.count.Add(1)
			}
		}
		select {
		case <-time.After(thinkTime):
		case <-ctx.Done():
		}
	}
}

func hangUp(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = c.Close(ctx)
}

func (l *load) fail(ctx context.Context, connect bool, err error) {
	if ctx.Err() != nil {
		return // the writers were told to stop
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, failure{boottime.Now(), connect, err.Error()})
}

// since are the acknowledgements and failures after an instant.
func (l *load) since(at time.Duration) (acks []ack, failures []failure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.acks {
		if a.acked > at {
			acks = append(acks, a)
		}
	}
	for _, f := range l.failures {
		if f.at > at {
			failures = append(failures, f)
		}
	}
	return acks, failures
}

// awaitRate waits until acknowledgements come at a rate (per second) over the last second.
func (l *load) awaitRate(ctx context.Context, rate int, within time.Duration) (float64, error) {
	deadline := time.Now().Add(within)
	for {
		before := l.count.Load()
		if err := pause(ctx, time.Second); err != nil {
			return 0, err
		}
		got := l.count.Load() - before
		if got >= int64(rate) {
			return float64(got), nil
		}
		if time.Now().After(deadline) {
			l.mu.Lock()
			defer l.mu.Unlock()
			last := "none"
			if n := len(l.failures); n > 0 {
				last = l.failures[n-1].text
			}
			return float64(got), fmt.Errorf("%d writers reach %d acknowledged inserts a second, want %d; last error: %s", writers, got, rate, last)
		}
	}
}

// stop ends the writers and returns the whole log.
func (l *load) stop() ([]ack, []failure) {
	l.cancel()
	l.wg.Wait()
	return l.acks, l.failures
}

// pause waits, or returns why it was cut short.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until asks again until it is true, and says what was last in the way.
func until(ctx context.Context, within, every time.Duration, what string, ask func(context.Context) error) error {
	deadline := time.Now().Add(within)
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s: %w", what, within, err)
		}
		if err := pause(ctx, every); err != nil {
			return err
		}
	}
}
