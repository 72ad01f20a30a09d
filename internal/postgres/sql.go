package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// applicationName is how the agent's own sessions are known to the server.
const applicationName = "hathi"

// connConfig is for the local socket. Everything is stated: neither PG* variables nor role or
// database settings change what our sessions do.
func (s *Server) connConfig() (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(Conninfo{
		{"host", s.cfg.SocketDir}, {"port", strconv.Itoa(s.cfg.Port)}, {"user", s.cfg.Superuser.Username},
		{"dbname", "postgres"}, {"password", s.cfg.Superuser.Password}, {"sslmode", "disable"},
		{"passfile", "/dev/null"}, {"target_session_attrs", "any"}, {"connect_timeout", "0"},
	}.String())
	if err != nil {
		// The error of pgx may quote the conninfo.
		return nil, errors.New("prepare the local connection: the socket directory, port or user name is not valid")
	}
	ms := strconv.FormatInt(s.cfg.SQLTimeout.Milliseconds(), 10)
	c.RuntimeParams = map[string]string{
		"application_name":                    applicationName,
		"search_path":                         "pg_catalog",
		"statement_timeout":                   ms,
		"lock_timeout":                        ms,
		"idle_in_transaction_session_timeout": "60000",
		"synchronous_commit":                  "local", // never wait for a standby in order to manage one
		"default_transaction_read_only":       "off",
		"client_encoding":                     "UTF8",
		"datestyle":                           "ISO",
		"timezone":                            "UTC",
	}
	c.Fallbacks = nil
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // one round trip, nothing to prepare
	return c, nil
}

// connect opens a new session. The error is or wraps ErrNotRunning, ErrStarting or a context's
// error where one of them applies.
func (s *Server) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := s.connConfig()
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL at %s, port %d: %w", s.cfg.SocketDir, s.cfg.Port, classify(err))
	}
	return conn, nil
}

// classify puts the sentinel that applies before err.
func classify(err error) error {
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "57P03":
		return fmt.Errorf("%w: %s", ErrStarting, pg.Message)
	case errors.As(err, &pg):
		return pg
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: nobody listens on the socket", ErrNotRunning)
	}
	return err
}

// Probe opens a *new* session and asks one question, which a postmaster that is stopped or out of
// processes cannot answer while an old session still does. It is bounded by SQLTimeout.
func (s *Server) Probe(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.SQLTimeout)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("probe PostgreSQL: %w", err)
	}
	defer closeConn(conn)
	var one int
	if err := conn.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("probe PostgreSQL: %w", classify(err))
	}
	return nil
}

// ProbeWrite commits a transaction with a small message in the WAL, in a new session: what a commit
// needs must work, the storage of the WAL included. No standby is waited for. It is bounded by
// SQLTimeout.
func (s *Server) ProbeWrite(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.SQLTimeout)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("probe PostgreSQL by a write: %w", err)
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'hathi', 'probe')"); err != nil {
		return fmt.Errorf("probe PostgreSQL by a write: %w", classify(err))
	}
	return nil
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// reserved runs f with the connection that is kept open, so that the server running out of
// connections does not look like its death. A connection that was broken before f got it is
// replaced once.
func (s *Server) reserved(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.SQLTimeout)
	defer cancel()
	return s.reservedUnbounded(ctx, f)
}

func (s *Server) reservedUnbounded(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	select {
	case s.connMu <- struct{}{}:
		defer func() { <-s.connMu }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for attempt := 0; ; attempt++ {
		fresh := s.conn == nil || s.conn.IsClosed()
		if fresh {
			conn, err := s.connect(ctx)
			if err != nil {
				return err
			}
			s.conn = conn
		}
		err := f(ctx, s.conn)
		if err == nil {
			return nil
		}
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Severity == "ERROR" && !s.conn.IsClosed() {
			return classify(err)
		}
		// Anything else leaves a session in an unknown state.
		closeConn(s.conn)
		s.conn = nil
		if fresh || attempt > 0 || ctx.Err() != nil || !pgconn.SafeToRetry(err) && !errors.As(err, &pg) {
			return classify(err)
		}
	}
}

// dropConn closes the reserved connection. It does not wait for a statement that is under way:
// that one has a bound and its session ends with the server.
func (s *Server) dropConn() {
	select {
	case s.connMu <- struct{}{}:
		if s.conn != nil {
			closeConn(s.conn)
			s.conn = nil
		}
		<-s.connMu
	case <-time.After(100 * time.Millisecond):
	}
}

// Exec runs one statement without a result on the reserved connection.
func (s *Server) Exec(ctx context.Context, sql string, args ...any) error {
	return s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, sql, args...)
		return err
	})
}

// Setting is the value of a configuration parameter as the server uses it now, in the form of SHOW.
func (s *Server) Setting(ctx context.Context, name string) (string, error) {
	var v string
	err := s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&v)
	})
	if err != nil {
		return "", fmt.Errorf("read setting %s: %w", name, err)
	}
	return v, nil
}

// Checkpoint runs CHECKPOINT in a session of its own, bounded by ctx alone: it takes as long as
// the disk needs.
func (s *Server) Checkpoint(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, "SET statement_timeout = 0"); err != nil {
		return fmt.Errorf("checkpoint: %w", classify(err))
	}
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("checkpoint: %w", classify(err))
	}
	return nil
}

// Settings are the live values of the named settings, as SHOW prints them. Unknown names are left
// out.
func (s *Server) Settings(ctx context.Context, names []string) (map[string]string, error) {
	out := map[string]string{}
	err := s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, "SELECT n, coalesce(current_setting(n, true), '') FROM unnest($1::text[]) n WHERE current_setting(n, true) IS NOT NULL", names)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name, value string
			if err := rows.Scan(&name, &value); err != nil {
				return err
			}
			out[name] = value
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	return out, nil
}
