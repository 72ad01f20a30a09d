package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// ErrSlotActive: the slot is in use by a connection.
var ErrSlotActive = errors.New("replication slot is in use")

func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// CreateSlot makes a physical replication slot that keeps WAL from now on. One that exists is no
// error, whatever its kind.
func (s *Server) CreateSlot(ctx context.Context, name string) error {
	err := s.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", name)
	if err != nil && !hasCode(err, "42710") {
		return fmt.Errorf("create replication slot %q: %w", name, err)
	}
	return nil
}

// DropSlot drops a replication slot. One that does not exist is no error; ErrSlotActive when it is
// in use.
func (s *Server) DropSlot(ctx context.Context, name string) error {
	err := s.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name)
	switch {
	case err == nil || hasCode(err, "42704"):
		return nil
	case hasCode(err, "55006"):
		err = fmt.Errorf("%w: %w", ErrSlotActive, err)
	}
	return fmt.Errorf("drop replication slot %q: %w", name, err)
}

// AdvanceSlot moves a physical slot forward to lsn, so that it keeps no older WAL. A slot that is
// there or further already is left alone, and so is one without a position. On a standby, lsn is cut
// to what was replayed. ErrSlotActive when it is in use.
func (s *Server) AdvanceSlot(ctx context.Context, name string, lsn cluster.LSN) error {
	err := s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `SELECT pg_replication_slot_advance(slot_name, $2::pg_lsn) FROM pg_replication_slots
			WHERE slot_name = $1 AND slot_type = 'physical' AND restart_lsn < $2::pg_lsn`, name, lsn.String())
		return err
	})
	if hasCode(err, "55006") {
		err = fmt.Errorf("%w: %w", ErrSlotActive, err)
	}
	if err != nil {
		return fmt.Errorf("advance replication slot %q to %s: %w", name, lsn, err)
	}
	return nil
}
