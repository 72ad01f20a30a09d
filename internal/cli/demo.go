package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/guardian"
	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/process"
	"github.com/hathi-ha/hathi/internal/supervise"
	"github.com/hathi-ha/hathi/internal/term"
)

// demoCmd is hathi demo and its subcommands.
type demoCmd struct {
	a       *App
	dir     string
	options demo.Options
	detach  bool
	yes     bool

	leads string // the member that was seen to lead last
}

// readyWithin bounds the wait for a demo that accepts writes.
const readyWithin = 90 * time.Second

const demoUsage = `hathi demo [--nodes N] [--dir DIR] [--detach]

Bring up a whole self-healing cluster on this machine: N complete nodes on the loopback address, each
with its own agent, guardian, etcd member and PostgreSQL, and a router in front. The processes are
the real daemons. In the foreground it shows the cluster live, and Ctrl-C stops everything cleanly;
with --detach it returns as soon as the cluster accepts writes.

  hathi demo status  --dir DIR    processes and members
  hathi demo stop    --dir DIR    stop it; the data stays
  hathi demo start   --dir DIR    start it again in the background
  hathi demo destroy --dir DIR    stop it and delete DIR

Example:
  hathi demo --dir /tmp/elephants --detach`

func (a *App) demoCommand() *cobra.Command {
	d := &demoCmd{a: a}
	c := &cobra.Command{Use: "demo", Long: demoUsage, RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("hathi demo: unknown command %q: status, stop, start or destroy; see `hathi demo --help`", args[0])
			}
			return nil
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cmd.Flags().Changed("dir") && d.dir == "": // --dir "$D" where D is not set
				return usagef("--dir is empty: name a directory, or leave the flag out for %s", d.defaultDir())
			case cmd.Flags().Changed("nodes") && d.options.Nodes == 0:
				return usagef("--nodes 0: want 1 to 7")
			case cmd.Flags().Changed("write-port") && d.options.WritePort == 0:
				return usagef("--write-port 0: want 1 to 65535")
			case cmd.Flags().Changed("read-port") && d.options.ReadPort == 0:
				return usagef("--read-port 0: want 1 to 65535")
			case cmd.Flags().Changed("ttl") && d.options.TTL == 0:
				return usagef("--ttl 0: want 3s to 10m")
			}
			return nil
		}}

	f := c.PersistentFlags()
	f.StringVar(&d.dir, "dir", "", "the demo's directory (default "+d.defaultDir()+")")
	f = c.Flags()
	f.IntVar(&d.options.Nodes, "nodes", 0, "how many nodes, 1 to 7 (default 3)")
	f.DurationVar(&d.options.TTL, "ttl", 0, "lease duration: how long the loss of a node goes unnoticed at most (default 6s, at least 3s)")
	f.StringVar(&d.options.Sync, "sync", "", "synchronous commit: quorum, on or off (default quorum from three nodes on)")
	f.IntVar(&d.options.WritePort, "write-port", 0, "the router's port for writes (default 6432)")
	f.IntVar(&d.options.ReadPort, "read-port", 0, "the router's port for reads (default 6433)")
	f.IntVar(&d.options.Offset, "offset", 0, "added to every other port, so that several demos can run side by side")
	f.StringVar(&d.options.BinDir, "bin-dir", "", "directory of PostgreSQL's programs (default: the newest installed)")
	f.BoolVar(&d.detach, "detach", false, "return when the cluster accepts writes and leave it running")
	sub := func(use, long string, run func(context.Context) error) *cobra.Command {
		return &cobra.Command{Use: use, Args: exactly(), Long: "hathi demo " + use + " --dir DIR\n\n" + long,
			RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context()) }}
	}
	destroy := sub("destroy", "Stop the demo and delete its directory with all data. It asks first.", d.destroy)
	destroy.Flags().BoolVar(&d.yes, "yes", false, "do not ask")
	serve := sub("serve", "The supervisor of a demo in the background; hathi demo --detach starts it.", d.serve)
	serve.Hidden = true
	c.AddCommand(sub("status", "Show the demo's processes and members.", d.status), sub("stop", "Stop the demo; its data stays.", d.stop),
		sub("start", "Start a demo again in the background; it finds its data.", d.start), destroy, serve)
	return c
}

// defaultDir lies where the user that runs PostgreSQL can reach it.
func (d *demoCmd) defaultDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/hathi-demo"
	}
	if h := d.a.Env["HOME"]; h != "" {
		return filepath.Join(h, ".local", "share", "hathi-demo")
	}
	return "/tmp/hathi-demo"
}

func (d *demoCmd) resolve() error {
	if d.dir == "" {
		d.dir = d.defaultDir()
	}
	abs, err := filepath.Abs(d.dir)
	if err != nil {
		return fmt.Errorf("--dir %s: %w", d.dir, err)
	}
	if strings.ContainsAny(abs, "'\n\"\\") {
		return usagef("--dir %q: quotation marks, backslashes and line breaks cannot be in the path", abs)
	}
	d.dir = abs
	return nil
}

// find is the layout of the existing demo.
func (d *demoCmd) find() (*demo.Layout, error) {
	if err := d.resolve(); err != nil {
		return nil, err
	}
	l, err := demo.Find(d.dir)
	if errors.Is(err, demo.ErrNone) {
		return nil, fmt.Errorf("there is no demo in %s: make one with `hathi demo --dir %s`", d.dir, shellWord(d.dir))
	}
	return l, err
}

func (d *demoCmd) say(format string, args ...any) {
	fmt.Fprintln(d.a.Stderr, d.a.pasteable(fmt.Sprintf(format, args...)))
}

// prepare finds the demo or makes it, and checks that it can be started.
func (d *demoCmd) prepare() (*demo.Layout, *runAs, error) {
	if err := d.resolve(); err != nil {
		return nil, nil, err
	}
	l, err := demo.Find(d.dir)
	fresh := errors.Is(err, demo.ErrNone)
	if err != nil && !fresh {
		return nil, nil, err
	}
	if _, err := supervise.Dial(context.Background(), filepath.Join(d.dir, "run", "supervise")); !fresh && err == nil {
		return nil, nil, fmt.Errorf("the demo in %s is running already: see `hathi demo status --dir %s`", d.dir, shellWord(d.dir))
	}
	if fresh {
		if l, err = demo.Plan(d.dir, d.options); err != nil {
			return nil, nil, usageError{err}
		}
	} else if err := d.unchanged(l); err != nil {
		return nil, nil, err
	}
	bin := l.BinDir
	if bin == "" {
		if _, err = postgres.FindBinDir(0); err != nil {
			return nil, nil, fmt.Errorf("PostgreSQL 13 to 18 is not installed: there is no server program under /usr/lib/postgresql or on PATH\n  hint: apt-get install postgresql, or name the directory of its programs with --bin-dir")
		}
	} else if _, err := os.Stat(filepath.Join(bin, "postgres")); err != nil {
		return nil, nil, fmt.Errorf("--bin-dir %s holds no program postgres: %w", bin, err)
	}
	taken := l.Taken()
	if !fresh {
		taken = slices.DeleteFunc(taken, func(p demo.Port) bool { return leftRunning(l, p) })
	}
	if len(taken) > 0 {
		return nil, nil, d.takenError(taken, fresh)
	}
	who, err := demoUser()
	if err != nil {
		return nil, nil, err
	}
	if fresh {
		if err := who.reach(d.dir); err != nil {
			return nil, nil, err
		}
		if err := room(d.dir, len(l.Nodes)); err != nil {
			return nil, nil, err
		}
		d.say("making a demo of %s in %s", counted(len(l.Nodes), "node"), d.dir)
		if err := os.MkdirAll(d.dir, 0o755); err != nil {
			return nil, nil, fmt.Errorf("make %s: %w", d.dir, err)
		}
		if err := ownDir(d.dir); err != nil {
			return nil, nil, err
		}
		if err := l.Write(d.program(who), demo.Owner{UID: who.uid(), GID: who.gid()}); err != nil {
			return nil, nil, fmt.Errorf("make the demo in %s: %w", d.dir, err)
		}
	}
	if err := d.installProgram(who); err != nil {
		return nil, nil, err
	}
	return l, who, nil
}

// leftRunning says whether a port is held by a PostgreSQL of this very demo, whose supervisor was
// killed: the agents take it over.
func leftRunning(l *demo.Layout, p demo.Port) bool {
	for _, n := range l.Nodes {
		if n.PostgreSQL == p.Number {
			list, err := process.List(l.DataDir(n.Name), 0)
			return err == nil && len(list) > 0
		}
	}
	return false
}

func orDefault(s string) string {
	if s == "" {
		return "the newest installed PostgreSQL"
	}
	return s
}

// unchanged refuses options that an existing demo does not have.
func (d *demoCmd) unchanged(l *demo.Layout) error {
	o := d.options
	differs := func(flag string, want, have any) error {
		return fmt.Errorf("the demo in %s was made with %s %v, not %v: leave the flag out, or destroy it first (`hathi demo destroy --dir %s`)", d.dir, flag, have, want, shellWord(d.dir))
	}
	offset := 0
	if plain, err := demo.Plan(d.dir, demo.Options{}); err == nil {
		offset = l.Router.Status - plain.Router.Status
	}
	switch {
	case o.Offset != 0 && o.Offset != offset:
		return differs("--offset", o.Offset, offset)
	case o.BinDir != "" && o.BinDir != l.BinDir:
		return differs("--bin-dir", o.BinDir, orDefault(l.BinDir))
	case o.Nodes != 0 && o.Nodes != len(l.Nodes):
		return differs("--nodes", o.Nodes, len(l.Nodes))
	case o.WritePort != 0 && o.WritePort != l.Router.Write:
		return differs("--write-port", o.WritePort, l.Router.Write)
	case o.ReadPort != 0 && o.ReadPort != l.Router.Read:
		return differs("--read-port", o.ReadPort, l.Router.Read)
	case o.TTL != 0 && o.TTL != l.TTL:
		return fmt.Errorf("the demo in %s exists already: change the lease with `hathi edit-config --dir %s -s ttl=%g`", d.dir, shellWord(d.dir), o.TTL.Seconds())
	case o.Sync != "" && o.Sync != l.Sync:
		return fmt.Errorf("the demo in %s exists already: change it with `hathi edit-config --dir %s -s synchronous_mode=%s`", d.dir, shellWord(d.dir), o.Sync)
	}
	return nil
}

// specs are the demo's processes.
func (d *demoCmd) specs(l *demo.Layout, who *runAs) []supervise.Spec {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + who.home()}
	exe := d.program(who)
	spec := func(group int, name string, stop time.Duration, args ...string) supervise.Spec {
		return supervise.Spec{Name: name, Group: group, Argv: append([]string{exe}, args...), Dir: l.Dir(), Env: env, Credential: who.credential(), LogFile: l.LogFile(name), StopWithin: stop}
	}
	var out []supervise.Spec
	for _, n := range l.Nodes {
		out = append(out, spec(0, "etcd-"+n.Name, 10*time.Second, "etcd", l.NodeFile(n.Name)))
	}
	for _, n := range l.Nodes {
		out = append(out, spec(1, "agent-"+n.Name, 60*time.Second, "run", l.NodeFile(n.Name)))
	}
	return append(out, spec(2, "router", 5*time.Second, "router", l.RouterFile()))
}

func (d *demoCmd) superviseDir(l *demo.Layout) string {
	return filepath.Join(l.Dir(), "run", "supervise")
}

// serveUntil runs the demo's processes until ctx ends or somebody asks to stop, then stops them.
func (d *demoCmd) serveUntil(ctx context.Context, l *demo.Layout, who *runAs, log *slog.Logger, started func(*supervise.Supervisor)) error {
	s := supervise.New(supervise.Config{Dir: d.superviseDir(l), Logger: log})
	if err := s.Open(ctx); err != nil {
		if errors.Is(err, supervise.ErrRunning) {
			return fmt.Errorf("the demo in %s is running already: see `hathi demo status --dir %s`", d.dir, shellWord(d.dir))
		}
		return err
	}
	defer s.Close()
	if err := s.Start(ctx, d.specs(l, who)...); err != nil {
		return err
	}
	if started != nil {
		started(s)
	}
	select {
	case <-ctx.Done():
	case <-s.StopRequested():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 90*time.Second)
	defer cancel()
	return s.Stop(stop)
}

// serve is the background supervisor.
func (d *demoCmd) serve(ctx context.Context) error {
	l, err := d.find()
	if err != nil {
		return err
	}
	who, err := demoUser()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	signal.Ignore(syscall.SIGHUP)
	starter := supervise.FindStarter()
	err = d.serveUntil(ctx, l, who, slog.New(slog.NewTextHandler(d.a.Stderr, nil)), func(*supervise.Supervisor) { starter.Ready() })
	if err != nil {
		starter.Failed(err)
	}
	return err
}

// run is hathi demo.
func (d *demoCmd) run(ctx context.Context) error {
	l, who, err := d.prepare()
	if err != nil {
		return err
	}
	if d.detach {
		return d.background(ctx, l)
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	ended := make(chan error, 1)
	log, err := os.OpenFile(l.LogFile("supervisor"), os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		ended <- d.serveUntil(run, l, who, slog.New(slog.NewTextHandler(log, nil)), nil)
		cancel(errEnded)
	}()
	if err := d.waitReady(run, l); err != nil {
		if ctx.Err() == nil && !errors.Is(context.Cause(run), errEnded) {
			d.say("%v", err)
		}
		cancel(err)
		return errors.Join(<-ended, ignoreCancel(err, ctx))
	}
	d.introduce(l)
	d.watch(run, l)
	d.say("stopping ...")
	err = <-ended
	if err == nil {
		d.say("stopped; the data is kept: `hathi demo --dir %s` starts it again", shellWord(d.dir))
	}
	return err
}

var errEnded = errors.New("the supervisor ended")

func ignoreCancel(err error, ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// background starts the supervisor in a session of its own and waits until the cluster accepts
// writes.
func (d *demoCmd) background(ctx context.Context, l *demo.Layout) error {
	pid, err := supervise.Daemonize(ctx, supervise.DaemonOptions{Argv: []string{d.a.Exe, "demo", "serve", "--dir", d.dir}, LogFile: l.LogFile("supervisor")})
	if err != nil {
		return fmt.Errorf("start the demo in the background: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	if err := d.waitReady(ctx, l); err != nil {
		return fmt.Errorf("%w\n  hint: the demo goes on in the background (process %d); its logs are in %s", err, pid, l.Path("log"))
	}
	d.introduce(l)
	return nil
}

func (d *demoCmd) start(ctx context.Context) error {
	if _, err := d.find(); err != nil {
		return err
	}
	l, _, err := d.prepare()
	if err != nil {
		return err
	}
	return d.background(ctx, l)
}

func (d *demoCmd) stop(ctx context.Context) error {
	l, err := d.find()
	if err != nil {
		return err
	}
	if err := d.halt(ctx, l); err != nil {
		if errors.Is(err, supervise.ErrNotRunning) {
			for _, n := range l.Nodes {
				if list, lerr := process.List(l.DataDir(n.Name), 0); lerr == nil && len(list) > 0 {
					return fmt.Errorf("the supervisor of the demo in %s is gone, but PostgreSQL of %s still runs: `hathi demo start --dir %s` takes it over, and `hathi demo stop --dir %s` then stops it", d.dir, n.Name, shellWord(d.dir), shellWord(d.dir))
				}
			}
			d.say("the demo in %s is not running", d.dir)
			return nil
		}
		return err
	}
	d.say("stopped; the data is kept: `hathi demo start --dir %s` starts it again", shellWord(d.dir))
	return nil
}

// halt asks the supervisor to stop and waits for it.
func (d *demoCmd) halt(ctx context.Context, l *demo.Layout) error {
	c, err := supervise.Dial(ctx, d.superviseDir(l))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	d.say("stopping the demo in %s ...", d.dir)
	return c.Stop(ctx)
}

func (d *demoCmd) destroy(ctx context.Context) error {
	if err := d.resolve(); err != nil {
		return err
	}
	l, err := demo.Find(d.dir)
	switch {
	case errors.Is(err, demo.ErrNone):
		d.say("there is no demo in %s", d.dir)
		return nil
	case err != nil:
		return err
	}
	if !d.yes && !d.confirm(fmt.Sprintf("Delete the demo in %s with all its data?", d.dir)) {
		return fmt.Errorf("nothing was deleted: say yes, or use --yes")
	}
	if err := d.halt(ctx, l); err != nil && !errors.Is(err, supervise.ErrNotRunning) {
		return err
	}
	if err := d.endLeftovers(ctx, l); err != nil {
		return err
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return fmt.Errorf("delete %s: %w", d.dir, err)
	}
	d.say("deleted %s", d.dir)
	return nil
}

// endLeftovers ends what a killed demo left running in its data directories.
func (d *demoCmd) endLeftovers(ctx context.Context, l *demo.Layout) error {
	who, err := demoUser()
	if err != nil {
		return err
	}
	uid := who.uid()
	if uid < 0 {
		uid = os.Geteuid()
	}
	for _, n := range l.Nodes {
		// A guardian leaves when its state file is gone and it is not armed.
		state := guardian.StatePathOf(uid, l.DataDir(n.Name))
		defer os.Remove(state)
		defer os.Remove(state + ".lock")
		s := postgres.New(postgres.Config{DataDir: l.DataDir(n.Name), Logger: slog.New(slog.DiscardHandler)})
		kctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := s.KillAll(kctx)
		cancel()
		_ = s.Close()
		if err != nil {
			return fmt.Errorf("end PostgreSQL of %s: %w", n.Name, err)
		}
	}
	return nil
}

func (d *demoCmd) confirm(question string) bool {
	if !term.IsTerminal(d.a.Stdin) {
		return false
	}
	fmt.Fprintf(d.a.Stderr, "%s [y/N]: ", question)
	b := make([]byte, 16)
	n, err := d.a.Stdin.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	answer := strings.ToLower(strings.TrimSpace(string(b[:n])))
	return answer == "y" || answer == "yes"
}

func (d *demoCmd) takenError(taken []demo.Port, fresh bool) error {
	var b strings.Builder
	for _, p := range taken {
		fmt.Fprintf(&b, "\n  port %d (%s) is in use", p.Number, p.What)
		if who := demo.Listener(p.Number); who != "" {
			b.WriteString(" by " + who)
		}
	}
	hint := "stop what uses them, or choose others with --offset N (and --write-port, --read-port)"
	if !fresh {
		hint = "stop what uses them; this demo has its ports for good"
	}
	return fmt.Errorf("the demo cannot listen on its ports:%s\n  hint: %s", b.String(), hint)
}
