package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// promoteEvery is how often the request to promote is repeated. A standby whose WAL receiver has
// just died may swallow one and sleep for wal_retrieve_retry_interval; measured on 15 and 17, one
// promotion in three then took five seconds, and none did with the repetition.
const promoteEvery = 50 * time.Millisecond

// promotePoll is how often the server is asked whether recovery has ended.
const promotePoll = 10 * time.Millisecond

// promoteAsk bounds one question between two requests.
const promoteAsk = 500 * time.Millisecond

// Promote ends recovery and returns nil once the server says so: it then takes writes. It does
// what pg_promote() does (a file and SIGUSR1), so it needs SQL only to see the result, and
// repeats it until ctx ends. The checkpoint that follows is not waited for.
func (s *Server) Promote(ctx context.Context) error {
	if _, err := s.Adopt(ctx); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	signalFile := filepath.Join(s.cfg.DataDir, "promote")
	defer os.Remove(signalFile) // one that the server did not consume
	tick := time.NewTicker(promotePoll)
	defer tick.Stop()
	var last error
	var requested time.Time
	for {
		ask, cancel := context.WithTimeout(ctx, promoteAsk)
		inRecovery, err := s.InRecovery(ask)
		cancel()
		if err == nil && !inRecovery {
			return nil
		}
		if ctx.Err() == nil {
			// A server that does not answer may still be on its way to consistency: the request
			// stands and is obeyed when it gets there.
			last = err
			if time.Since(requested) >= promoteEvery {
				requested = time.Now()
				if err := s.requestPromotion(signalFile); err != nil {
					return fmt.Errorf("promote: %w", err)
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("promote: recovery has not ended: %w", errors.Join(context.Cause(ctx), last))
		}
	}
}

func (s *Server) requestPromotion(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := s.chown(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // gone already: it was obeyed
	}
	return s.signal(unix.SIGUSR1)
}

// InRecovery asks whether the server is a standby (or still recovers).
func (s *Server) InRecovery(ctx context.Context) (bool, error) {
	var r bool
	err := s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&r)
	})
	if err != nil {
		return false, fmt.Errorf("ask whether PostgreSQL is in recovery: %w", err)
	}
	return r, nil
}
