package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// rewindFunctions are all that pg_rewind calls on its source besides what everybody may (since 11).
var rewindFunctions = []string{
	"pg_catalog.pg_ls_dir(text, boolean, boolean)",
	"pg_catalog.pg_stat_file(text, boolean)",
	"pg_catalog.pg_read_binary_file(text)",
	"pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
}

// EnsureRoles brings the roles of the configuration into being on a primary, with the least they
// need: the replication role may replicate, the rewind role may read files as pg_rewind does.
// Passwords, the superuser's too, are set as verifiers made here, and only when the stored one does
// not match. It returns what it changed, for the log. It may be repeated at any time.
func (s *Server) EnsureRoles(ctx context.Context) (changed []string, err error) {
	err = s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		changed = nil
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			// Two agents never do this at once on one primary, but a person might.
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(7233172)"); err != nil {
				return err
			}
			for _, set := range []string{"log_statement = 'none'", "log_min_duration_statement = -1",
				"log_min_error_statement = 'panic'", "log_duration = off"} {
				if _, err := tx.Exec(ctx, "SET LOCAL "+set); err != nil {
					return err
				}
			}
			done := map[string]bool{}
			for _, r := range []struct {
				login      Login
				attributes string
				missing    string // condition on pg_authid under which the attributes are to be set
				rewind     bool
			}{
				{s.cfg.Superuser, "LOGIN SUPERUSER", "NOT (rolcanlogin AND rolsuper)", false},
				{s.cfg.Replication, "LOGIN REPLICATION", "NOT (rolcanlogin AND rolreplication)", false},
				{s.cfg.Rewind, "LOGIN", "NOT rolcanlogin", true},
			} {
				if r.login.Username == "" {
					continue
				}
				// One role may serve several purposes; its password is then the first one's, as in
				// the password file.
				if done[r.login.Username] {
					r.login.Password = ""
				}
				done[r.login.Username] = true
				did, err := ensureRole(ctx, tx, r.login, r.attributes, r.missing)
				if err != nil {
					return fmt.Errorf("role %q: %w", r.login.Username, err)
				}
				changed = append(changed, did...)
				if !r.rewind {
					continue
				}
				if did, err = ensureRewind(ctx, tx, r.login.Username); err != nil {
					return fmt.Errorf("role %q: %w", r.login.Username, err)
				}
				changed = append(changed, did...)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("bring the roles into being: %w", err)
	}
	return changed, nil
}

func ensureRole(ctx context.Context, tx pgx.Tx, l Login, attributes, missing string) (changed []string, err error) {
	name := pgx.Identifier{l.Username}.Sanitize()
	var verifier string
	var lacks bool
	err = tx.QueryRow(ctx, "SELECT coalesce(rolpassword, ''), "+missing+" FROM pg_authid WHERE rolname = $1", l.Username).Scan(&verifier, &lacks)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		if _, err := tx.Exec(ctx, "CREATE ROLE "+name+" "+attributes); err != nil {
			return nil, err
		}
		changed = append(changed, "created role "+l.Username)
	case err != nil:
		return nil, err
	case lacks:
		if _, err := tx.Exec(ctx, "ALTER ROLE "+name+" "+attributes); err != nil {
			return nil, err
		}
		changed = append(changed, "gave role "+l.Username+" its attributes")
	}
	if l.Password == "" || VerifierMatches(verifier, l.Password) {
		return changed, nil
	}
	fresh, err := SCRAMVerifier(l.Password)
	if err != nil {
		return nil, err
	}
	// A verifier is made of letters, digits and +/=$:-, so it needs no quoting.
	if _, err := tx.Exec(ctx, "ALTER ROLE "+name+" PASSWORD '"+fresh+"'"); err != nil {
		return nil, err
	}
	return append(changed, "set the password of role "+l.Username), nil
}

func ensureRewind(ctx context.Context, tx pgx.Tx, user string) (changed []string, err error) {
	for _, f := range rewindFunctions {
		var has bool
		if err := tx.QueryRow(ctx, "SELECT has_function_privilege($1::name, $2::text, 'EXECUTE')", user, f).Scan(&has); err != nil {
			return nil, err
		}
		if has {
			continue
		}
		if _, err := tx.Exec(ctx, "GRANT EXECUTE ON FUNCTION "+f+" TO "+pgx.Identifier{user}.Sanitize()); err != nil {
			return nil, err
		}
		changed = append(changed, "let role "+user+" call "+f)
	}
	return changed, nil
}
