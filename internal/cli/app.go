package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/dcs"
)

// App is the program's surroundings. Tests bring their own.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Env            map[string]string
	Version        string
	// Exe is the path of this program, for the processes that it starts.
	Exe string
	// Called is the program as the user typed it; empty for its name.
	Called   string
	ReadFile func(string) ([]byte, error)
	// OpenStore opens the store of a cluster for the commands; nil for the real one.
	OpenStore func(context.Context, *config.Config) (dcs.Store, error)
	// Interactive says whether somebody can be asked; nil: whether Stdin is a terminal.
	Interactive func() bool

	early   finder // flags before the command, as in patronictl -c FILE list
	pointed string // the flag that named the cluster, for commands to paste
}

// NewApp is the surroundings of the running process.
func NewApp(version string) (*App, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own file: %w", err)
	}
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return &App{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: env, Version: version, Exe: exe, Called: calledAs(os.Args[0], exe), ReadFile: os.ReadFile}, nil
}

// usageError is a command line that cannot be understood: exit code 2.
type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

// usagef makes a usage error.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// silentError has been said already: only its exit code counts.
type silentError struct{ code int }

func (s silentError) Error() string { return fmt.Sprintf("exit %d", s.code) }

// Main runs the command line and returns the exit code.
func (a *App) Main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var silent silentError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &usage):
		fmt.Fprintf(a.Stderr, "hathi: %s\n", a.pasteable(err.Error()))
		return 2
	}
	fmt.Fprintf(a.Stderr, "hathi: %s\n", a.pasteable(err.Error()))
	return 1
}

const usage = `hathi runs and operates highly available PostgreSQL.

Try it here, with three nodes on this machine:
  hathi demo                       bring up a cluster and watch it
  hathi demo --detach --dir DIR    the same in the background

Look at a cluster (-c CONFIG, --dir DIR of a demo, or $HATHI_CONFIG):
  hathi list                       members, roles, lag         (-w to watch, --json)
  hathi topology                   the same as a tree of replication
  hathi history                    fail-overs so far
  hathi why                        the last decisions, by whom, on which facts
  hathi dsn                        connection strings
  hathi query -- SQL               run SQL on a member

Change it:
  hathi switchover [--to MEMBER]   move the leadership, planned
  hathi failover --to MEMBER       move it although the leader is gone
  hathi restart|reinit MEMBER      restart PostgreSQL, or copy a member anew
  hathi pause, hathi resume        hands off, hands on
  hathi show-config, edit-config   the cluster-wide configuration
  hathi reload                     have members read their files again
  hathi flush switchover|restart   take back what was scheduled

Run the parts (service managers do this):
  hathi run CONFIG                 the agent of one node
  hathi etcd CONFIG                the embedded etcd member
  hathi router CONFIG              the write and read ports for clients
  hathi validate CONFIG            report every problem of a configuration

Exit codes: 0 done, 1 failed or refused, 2 used wrongly. "hathi COMMAND --help" tells more.
`

func (a *App) root() *cobra.Command {
	root := &cobra.Command{Use: "hathi", SilenceUsage: true, SilenceErrors: true, Args: cobra.ArbitraryArgs,
		Long: strings.TrimSpace(usage),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: see `hathi --help`", args[0])
			}
			fmt.Fprint(a.Stdout, a.help(usage))
			return nil
		}}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		text := err.Error()
		if better, ok := flagValue(err); ok {
			text = better
		}
		return usagef("%s: %s: see `%s --help`", c.CommandPath(), text, c.CommandPath())
	})
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		if c == root {
			fmt.Fprint(a.Stdout, a.help(usage))
			return
		}
		fmt.Fprintln(a.Stdout, a.help(strings.TrimSpace(c.Long)))
		if c.HasAvailableLocalFlags() {
			fmt.Fprintf(a.Stdout, "\nFlags:\n%s", c.LocalFlags().FlagUsages())
		}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.TraverseChildren = true
	a.early.bindEarly(root)
	root.AddCommand(a.runCommand(), a.etcdCommand(), a.routerCommand(), a.guardianCommand(), a.validateCommand(), a.versionCommand())
	root.AddCommand(a.demoCommand(), a.demoAppCommand())
	root.AddCommand(a.clusterCommands()...)
	return root
}

// exactly refuses any other number of arguments, naming them.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 {
			return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args)
		}
		return usagef("%s takes %s: see `%s --help`", cmd.CommandPath(), strings.Join(names, " "), cmd.CommandPath())
	}
}

// load reads a configuration file; warnings go to the log, errors are returned all at once.
func (a *App) load(path string, use config.Use, warn func(config.Problem)) (*config.Config, error) {
	text, err := a.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	cfg, problems := config.Load(text, a.Env)
	if cfg != nil {
		problems = append(problems, cfg.For(use)...)
	}
	for _, p := range problems.Warnings() {
		warn(p)
	}
	if err := problems.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// logger is the log of a daemon, written to to.
func (a *App) logger(l config.Log, to io.Writer) *slog.Logger {
	level := slog.LevelInfo
	switch strings.ToUpper(l.Level) {
	case "DEBUG":
		level = slog.LevelDebug
	case "WARN", "WARNING":
		level = slog.LevelWarn
	case "ERROR", "CRITICAL", "FATAL":
		level = slog.LevelError
	}
	opts := &slog.HandlerOptions{Level: level}
	if l.Type == "json" {
		return slog.New(slog.NewJSONHandler(to, opts))
	}
	return slog.New(slog.NewTextHandler(to, opts))
}
