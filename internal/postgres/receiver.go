package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Receiving is the part of Status that tells whether WAL can flow to a standby, cheap enough to be
// asked many times a second.
type Receiving struct {
	InRecovery         bool
	ReceiverRuns       bool // also while it is on its way to connect
	PrimaryConninfoSet bool
	// RetryInterval is wal_retrieve_retry_interval in milliseconds.
	RetryIntervalMillis int
}

// Receiving asks the server, over the reserved connection, bounded by SQLTimeout.
func (s *Server) Receiving(ctx context.Context) (Receiving, error) {
	var r Receiving
	err := s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT pg_is_in_recovery(),
 EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver'),
 current_setting('primary_conninfo') <> '',
 (SELECT setting::int FROM pg_settings WHERE name = 'wal_retrieve_retry_interval')`).
			Scan(&r.InRecovery, &r.ReceiverRuns, &r.PrimaryConninfoSet, &r.RetryIntervalMillis)
	})
	if err != nil {
		return Receiving{}, fmt.Errorf("ask PostgreSQL whether it receives WAL: %w", err)
	}
	return r, nil
}
