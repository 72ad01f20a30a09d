package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/daemon"
	"github.com/hathi-ha/hathi/internal/guardian"
	"github.com/hathi-ha/hathi/internal/resident"
	"github.com/hathi-ha/hathi/internal/spool"
)

// stopSignals end a daemon in order.
var stopSignals = []os.Signal{syscall.SIGTERM, syscall.SIGINT}

// logWaiting bounds the log that waits to be written, in bytes; logFlush the wait for it at the end.
const (
	logWaiting = 1 << 20
	logFlush   = 2 * time.Second
)

// serve reads the configuration for a use and runs work until it ends or a signal comes.
func (a *App) serve(ctx context.Context, path string, use config.Use, work func(context.Context, *config.Config, *slog.Logger) error) error {
	var warnings []config.Problem
	cfg, err := a.load(path, use, func(p config.Problem) { warnings = append(warnings, p) })
	if err != nil {
		return err
	}
	to := io.Writer(a.Stderr)
	if use != config.RoleEtcd {
		// What the log is written to may stand still; these daemons must not. A member of the store stands
		// still with its disk anyhow, and etcd ends its process at once when it cannot go on: its last words
		// would be lost.
		out := spool.New(func(p []byte) error { _, err := a.Stderr.Write(p); return err }, logWaiting)
		defer func() { _ = out.Close(logFlush) }()
		to = out
	}
	log := a.logger(cfg.Log, to)
	for _, p := range warnings {
		log.Warn("configuration", "path", p.Path, "line", p.Line, "problem", p.Message, "hint", p.Hint)
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	// A small heap is worth more here than throughput: several of these processes share a machine. Half
	// of etcd's is buffers that are filled only when members are far apart, and makes no garbage.
	percent := 50
	if use == config.RoleEtcd {
		percent = 25
	}
	debug.SetGCPercent(percent)
	trimming, stopTrimming := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := resident.Keep(trimming); err != nil {
			log.Debug("resident memory stays as it is", "err", err)
		}
	})
	defer wg.Wait()
	defer stopTrimming()
	return work(ctx, cfg, log)
}

func (a *App) runCommand() *cobra.Command {
	var nodes int
	c := &cobra.Command{Use: "run CONFIG", Args: exactly("CONFIG"), Long: `hathi run CONFIG

Run the agent of one node: it makes, starts, follows, promotes and fences PostgreSQL here, together
with the agents of the other nodes. CONFIG is Patroni's YAML with hathi's own sections; see
"hathi validate CONFIG". SIGTERM stops PostgreSQL cleanly and hands the leadership over; PostgreSQL
itself lives on when the agent dies, and the next agent takes it over.

Example:
  hathi run /etc/hathi/node.yml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.serve(cmd.Context(), args[0], config.RoleAgent, func(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
				if os.Geteuid() == 0 {
					return fmt.Errorf("the agent does not run as root, because PostgreSQL does not: run it as the user that owns %s, such as postgres", cfg.PostgreSQL.DataDir)
				}
				agent := daemon.Agent{File: cfg, Version: a.Version, Exe: a.Exe, Log: log, Nodes: nodes, Reread: func() (*config.Config, error) {
					return a.load(args[0], config.RoleAgent, func(p config.Problem) {
						log.Warn("configuration", "path", p.Path, "line", p.Line, "problem", p.Message)
					})
				}}
				return agent.Run(ctx)
			})
		}}
	c.Flags().IntVar(&nodes, "nodes", 0, "how many data nodes a new cluster will have (synchronous mode is on from three; 0: as the configuration says)")
	return c
}

func (a *App) etcdCommand() *cobra.Command {
	return &cobra.Command{Use: "etcd CONFIG", Args: exactly("CONFIG"), Long: `hathi etcd CONFIG

Run the embedded etcd member that the section etcd.embedded of CONFIG describes. It compacts and
defragments itself and clears a full database.

Example:
  hathi etcd /etc/hathi/node.yml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.serve(cmd.Context(), args[0], config.RoleEtcd, daemon.Etcd)
		}}
}

func (a *App) routerCommand() *cobra.Command {
	return &cobra.Command{Use: "router CONFIG", Args: exactly("CONFIG"), Long: `hathi router CONFIG

Run the router that the section router of CONFIG describes: a port that always leads to the primary,
and one that spreads reads over the replicas.

Example:
  hathi router /etc/hathi/router.yml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.serve(cmd.Context(), args[0], config.RoleRouter, daemon.Router)
		}}
}

func (a *App) guardianCommand() *cobra.Command {
	var state string
	c := &cobra.Command{Use: "guardian --state FILE", Hidden: true, Args: exactly(), Long: `hathi guardian --state FILE

The fencing process of one node; the agent starts it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if state == "" {
				return usagef("guardian: --state FILE is missing")
			}
			// It goes on through the signals that end other processes: the state file tells it when
			// it is no longer needed.
			signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer stop()
			return guardian.Run(ctx, state, a.logger(config.Log{}, a.Stderr))
		}}
	c.Flags().StringVar(&state, "state", "", "the state file shared with the agent")
	return c
}

func (a *App) validateCommand() *cobra.Command {
	return &cobra.Command{Use: "validate CONFIG", Args: exactly("CONFIG"), Long: `hathi validate CONFIG

Report every problem of a configuration file at once, each with its place. Warnings are habits that
hathi would not recommend; errors keep it from starting (exit code 1).

Example:
  hathi validate /etc/patroni/patroni.yml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the configuration: %w", err)
			}
			cfg, problems := config.Load(text, a.Env)
			// What is missing counts only in a file that could be read: otherwise all of it is.
			unread := slices.ContainsFunc(problems.Errors(), func(p config.Problem) bool { return p.Path == "" })
			if cfg != nil && !unread {
				use := config.RoleAgent
				switch {
				case cfg.PostgreSQL.DataDir == "" && cfg.Router != nil:
					use = config.RoleRouter
				case cfg.PostgreSQL.DataDir == "" && cfg.Etcd.Embedded != nil:
					use = config.RoleEtcd
				}
				problems = append(problems, cfg.For(use)...)
			}
			for _, p := range problems {
				fmt.Fprintf(a.Stdout, "%s: %s\n", p.Severity, p)
				if p.Hint != "" {
					fmt.Fprintf(a.Stdout, "  hint: %s\n", a.pasteable(p.Hint))
				}
			}
			errs, warns := len(problems.Errors()), len(problems.Warnings())
			if errs > 0 {
				fmt.Fprintf(a.Stdout, "%s: cannot be used: %s, %s\n", args[0], counted(errs, "error"), counted(warns, "warning"))
				return silentError{1}
			}
			fmt.Fprintf(a.Stdout, "%s: can be used, %s\n", args[0], counted(warns, "warning"))
			return nil
		}}
}

func (a *App) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Args: exactly(), Long: "hathi version\n\nPrint the version of this program.",
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintln(a.Stdout, "hathi", a.Version)
			return nil
		}}
}

// counted is "no warnings", "1 warning", "2 warnings".
func counted(n int, what string) string {
	switch n {
	case 0:
		return "no " + what + "s"
	case 1:
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
