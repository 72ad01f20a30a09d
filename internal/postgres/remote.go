package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// checkpointPoll is how often WaitCheckpointed asks.
const checkpointPoll = 100 * time.Millisecond

// checkpointWithin bounds the wait for another server's checkpoint.
const checkpointWithin = 5 * time.Minute

// WaitCheckpointed waits until the control file of another server names timeline tl or a later one:
// until the first checkpoint after a promotion it still names the old one, and pg_rewind before
// release 16 then finds nothing to do. It signs in as the rewind role unless from says otherwise.
func (s *Server) WaitCheckpointed(ctx context.Context, from From, tl uint32) error {
	if from.Username == "" {
		from.Login = s.cfg.Rewind
	}
	ctx, cancel := context.WithTimeout(ctx, checkpointWithin)
	defer cancel()
	what := fmt.Sprintf("wait for the checkpoint of %s:%d on timeline %d", from.Host, from.Port, tl)
	cfg, err := pgx.ParseConfig(Conninfo{
		{"host", from.Host}, {"port", strconv.Itoa(from.Port)}, {"user", from.Username}, {"dbname", "postgres"},
		{"password", from.Password}, {"sslmode", from.SSLMode}, {"sslcert", from.SSLCert}, {"sslkey", from.SSLKey},
		{"sslrootcert", from.SSLRootCert}, {"passfile", "/dev/null"}, {"connect_timeout", "5"},
	}.String())
	if err != nil {
		return fmt.Errorf("%s: %w", what, errors.New("the address, user or TLS files are not usable")) // pgx may quote the password
	}
	cfg.RuntimeParams["application_name"] = applicationName
	cfg.RuntimeParams["statement_timeout"] = "5000"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", what, classify(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(checkpointPoll)
	defer tick.Stop()
	for {
		var got uint32
		if err := conn.QueryRow(ctx, "SELECT timeline_id FROM pg_control_checkpoint()").Scan(&got); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if got >= tl {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: it is still on timeline %d: %w", what, got, context.Cause(ctx))
		}
	}
}
