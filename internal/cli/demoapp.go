package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/postgres"
)

// demoAppCommand makes the role and the database that a demo's connection strings name. It is the
// demo's post_bootstrap: SECRET is a file with the role's password, CONNINFO is appended by the
// agent.
func (a *App) demoAppCommand() *cobra.Command {
	return &cobra.Command{Use: "demo-app SECRET CONNINFO", Hidden: true, Args: exactly("SECRET", "CONNINFO"), Long: "hathi demo-app SECRET CONNINFO\n\nMake the role and database app of a demo.",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the password of app: %w", err)
			}
			verifier, err := postgres.SCRAMVerifier(strings.TrimSpace(string(b)))
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			c, err := pgx.Connect(ctx, args[1])
			if err != nil {
				return fmt.Errorf("connect to make the role app: %w", err)
			}
			defer c.Close(context.WithoutCancel(ctx))
			for _, sql := range []string{
				"CREATE ROLE app LOGIN PASSWORD '" + verifier + "'",
				"CREATE DATABASE app OWNER app",
			} {
				if _, err := c.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					return fmt.Errorf("make the role and database app: %w", err)
				}
			}
			return nil
		}}
}
