package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/daemon"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/rest"
	"github.com/hathi-ha/hathi/internal/supervise"
)

// Default bounds of commands.
const (
	readWithin   = 5 * time.Second
	actionWithin = 60 * time.Second
)

// demoConfig is the configuration inside a demo's directory.
const demoConfig = "ctl.yml"

// finder is how a command finds its cluster: the flags that all of them share.
type finder struct {
	app      *App
	config   string
	dir      string
	group    int
	insecure bool
	timeout  seconds
}

// bind declares the flags; within is the default bound of the command, 0 for none.
func (f *finder) bind(c *cobra.Command, within time.Duration) {
	f.timeout = seconds(within)
	fl := c.Flags()
	fl.StringVarP(&f.config, "config", "c", "", "configuration `FILE` of a node or router (default: $HATHI_CONFIG, or PATRONI_* in the environment)")
	fl.StringVar(&f.config, "config-file", "", "the same")
	fl.StringVar(&f.dir, "dir", "", "the directory `DIR` of a demo")
	fl.IntVar(&f.group, "group", -1, "Citus group `N`")
	fl.BoolVarP(&f.insecure, "insecure", "k", false, "do not check the certificates of the members")
	fl.Var(&f.timeout, "timeout", "give up after this `TIME` (30, 30s, 5min)")
	_ = fl.MarkHidden("config-file")
	fl.Lookup("group").DefValue = "0" // not shown
}

// bindEarly declares, out of sight, the flags that patronictl takes before its command.
func (f *finder) bindEarly(root *cobra.Command) {
	fl := root.Flags()
	fl.StringVarP(&f.config, "config", "c", "", "")
	fl.StringVar(&f.config, "config-file", "", "")
	fl.StringVar(&f.dir, "dir", "", "")
	fl.BoolVarP(&f.insecure, "insecure", "k", false, "")
	for _, name := range []string{"config", "config-file", "dir", "insecure"} {
		_ = fl.MarkHidden(name)
	}
}

// seconds is a duration on the command line: a number of seconds, or with ms, s, min, m, h.
type seconds time.Duration

// String is what the help shows.
func (s *seconds) String() string {
	if *s == 0 {
		return "0s"
	}
	return time.Duration(*s).String()
}

// Type names the kind of value in messages.
func (s *seconds) Type() string { return "time" }

// Set reads the text.
func (s *seconds) Set(text string) error {
	d, err := parseSeconds(text)
	if err != nil {
		return err
	}
	*s = seconds(d)
	return nil
}

func parseSeconds(text string) (time.Duration, error) {
	t := strings.TrimSpace(text)
	if t != "" && strings.Trim(t, "0123456789.") == "" {
		t += "s"
	}
	t = strings.TrimSuffix(t, "in") // min
	d, err := time.ParseDuration(t)
	if err != nil || d < 0 || d > 30*24*time.Hour {
		return 0, fmt.Errorf("%q: want a time such as 30, 30s, 5min", text)
	}
	return d, nil
}

// bounded gives ctx the bound of the command.
func (f *finder) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(f.timeout))
}

// target is the cluster that a command works on. Close it after use.
type target struct {
	app    *App
	cfg    *config.Config
	from   string // where the configuration comes from, for messages
	store  dcs.Store
	client *rest.Client
	name   string       // the scope
	demo   *demo.Layout // nil but for a demo
	other  bool         // the name was given as an argument and is not what the configuration says
}

// load finds and reads the configuration. scope, if not empty, overrides the one it states.
func (f *finder) load() (*config.Config, string, error) {
	a := f.app
	if f.config == "" && f.dir == "" {
		f.config, f.dir = a.early.config, a.early.dir
	}
	f.insecure = f.insecure || a.early.insecure
	path, from := f.config, ""
	if path != "" && f.dir != "" {
		return nil, "", usagef("--config and --dir are both given: name one")
	}
	switch {
	case path != "":
		a.pointed = "-c " + shellWord(path)
	case f.dir != "":
		a.pointed = "--dir " + shellWord(f.dir)
		dir, err := filepath.Abs(f.dir) // connection strings hold paths of its files
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", f.dir, err)
		}
		path = filepath.Join(dir, demoConfig)
		if _, err := a.ReadFile(path); err != nil {
			return nil, "", fmt.Errorf("%s is no directory of a demo: %w\nhint: `hathi demo --detach --dir DIR` makes one in a new or empty DIR", f.dir, err)
		}
	case a.Env["HATHI_CONFIG"] != "":
		path = a.Env["HATHI_CONFIG"]
	case a.Env["PATRONICTL_CONFIG_FILE"] != "":
		path = a.Env["PATRONICTL_CONFIG_FILE"]
	default:
		if !slices.ContainsFunc(mapKeys(a.Env), func(k string) bool {
			return strings.HasPrefix(k, "PATRONI_") || strings.HasPrefix(k, "HATHI_ETCD")
		}) {
			return nil, "", usagef("which cluster? name a configuration file with -c FILE or $HATHI_CONFIG, or the directory of a demo with --dir DIR")
		}
		from = "the environment"
	}
	var text []byte
	if path != "" {
		var err error
		if text, err = a.ReadFile(path); err != nil {
			return nil, "", fmt.Errorf("read the configuration: %w", err)
		}
		from = path
	}
	cfg, problems := config.Load(text, a.Env)
	if cfg != nil {
		problems = append(problems, cfg.For(config.RoleCtl)...)
	}
	if err := problems.Err(); err != nil {
		return nil, "", fmt.Errorf("%s: %w", from, err)
	}
	if f.group >= 0 {
		cfg.Citus = &config.Citus{Group: f.group}
	}
	if f.insecure {
		cfg.Ctl.Insecure = true
	}
	return cfg, from, nil
}

func mapKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

// open opens the cluster. args are the positional arguments: as with patronictl the first may be
// the name of the cluster, which is taken off. members says that the others name members; without
// it the one argument that is allowed is the cluster's name.
func (f *finder) open(ctx context.Context, args []string, members bool) (*target, []string, error) {
	cfg, from, err := f.load()
	if err != nil {
		return nil, nil, err
	}
	t := &target{app: f.app, cfg: cfg, from: from, name: cfg.Scope}
	switch {
	case len(args) > 0 && (t.name == "" || !members):
		if err := cluster.CheckName(args[0]); err != nil {
			return nil, nil, usagef("the name of the cluster: %w", err)
		}
		t.other = t.name != "" && t.name != args[0]
		t.name, args = args[0], args[1:]
	case len(args) > 1 && args[0] == t.name:
		args = args[1:]
	}
	if t.name == "" {
		return nil, nil, usagef("%s does not say which cluster: set PATRONI_SCOPE, or name the cluster as the first argument", from)
	}
	if !members && len(args) > 0 {
		return nil, nil, usagef("too many arguments: %q", args)
	}
	scoped := *cfg
	scoped.Scope = t.name
	t.cfg = &scoped
	if filepath.Base(from) == demoConfig {
		if l, err := demo.Find(filepath.Dir(from)); err == nil {
			t.demo = l
		}
	}
	if err := t.connect(ctx, time.Duration(f.timeout)); err != nil {
		return nil, nil, err
	}
	return t, args, nil
}

func (t *target) connect(ctx context.Context, within time.Duration) (err error) {
	quiet := slog.New(slog.DiscardHandler)
	if within == 0 || within > readWithin {
		within = readWithin
	}
	if t.app.OpenStore != nil {
		t.store, err = t.app.OpenStore(ctx, t.cfg)
	} else {
		t.store, err = daemon.OpenStore(ctx, t.cfg, within, quiet)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.from, err)
	}
	if t.client, err = daemon.NewClient(t.cfg, quiet); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", t.from, err), t.store.Close())
	}
	return nil
}

// Close ends the connections.
func (t *target) Close() error {
	return errors.Join(t.client.Close(), t.store.Close())
}

// errNoCluster marks a store that holds nothing of the cluster.
var errNoCluster = errors.New("no such cluster in the store")

// view reads the cluster.
func (t *target) view(ctx context.Context) (cluster.View, error) {
	v, _, err := t.load(ctx)
	return v, err
}

func (t *target) load(ctx context.Context) (cluster.View, dcs.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	s, err := t.store.Load(ctx)
	if err != nil {
		return cluster.View{}, s, t.unreachable("read", err)
	}
	if len(s.Entries) == 0 {
		hint := fmt.Sprintf("check scope and namespace in %s, and whether the cluster was ever started", t.from)
		if t.other {
			hint = fmt.Sprintf("the argument %s was taken as the name of a cluster; --help tells how a member is named", t.name)
		}
		return cluster.View{}, s, fmt.Errorf("%w: %s holds no key below %s\nhint: %s", errNoCluster, t.where(), t.cfg.Prefix(), hint)
	}
	return dcs.Decode(s), s, nil
}

func (t *target) where() string {
	e := t.cfg.Store().Endpoints
	if len(e) == 0 {
		return "the store"
	}
	return "the store at " + strings.Join(e, ", ")
}

// unreachable words an error of the store for an operator.
func (t *target) unreachable(what string, err error) error {
	if t.demo != nil {
		dir := t.demo.Dir()
		if _, e := supervise.Dial(context.Background(), filepath.Join(dir, "run", "supervise")); errors.Is(e, supervise.ErrNotRunning) {
			return fmt.Errorf("%s cluster %s: the demo in %s is not running: `hathi demo start --dir %s` starts it", what, t.name, dir, shellWord(dir))
		}
	}
	return fmt.Errorf("%s cluster %s: %s does not answer as it should:\n  %w\nhint: look whether etcd runs there and more than half of its members are up, and whether the addresses and certificates in %s are right",
		what, t.name, t.where(), err, t.from)
}

// known are the members whose REST addresses are known without the store: those of a demo, or this
// node's own.
func (t *target) known() map[string]cluster.Member {
	out := map[string]cluster.Member{}
	add := func(name, url string) { out[name] = cluster.Member{Name: name, APIURL: url + "/patroni"} }
	switch {
	case t.demo != nil:
		for _, n := range t.demo.Nodes {
			add(n.Name, "https://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(n.Rest)))
		}
	case t.cfg.Name != "" && t.cfg.RestAPI.ConnectAddress != "":
		add(t.cfg.Name, t.cfg.RestAPI.URL())
	}
	return out
}

// leaderOf is the member that leads by the lock, or by the leader key where there is no lock
// (members run by Patroni); "" for nobody.
func leaderOf(v cluster.View) string {
	if v.LockRev == 0 {
		return v.Leader
	}
	return v.Lock.Node
}

// member looks a member up by name, with a message that lists the others.
func (t *target) member(v cluster.View, name string) (cluster.Member, error) {
	m, ok := v.Member(name)
	if !ok {
		return m, fmt.Errorf("%s is not a member of cluster %s (members: %s)", printable(name), t.name, orNone(memberNames(v)))
	}
	return m, nil
}

func memberNames(v cluster.View) []string {
	out := make([]string, 0, len(v.Members))
	for n := range v.Members {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// leaderFirst are the members with a REST API, the leader first.
func leaderFirst(v cluster.View) []cluster.Member {
	var out []cluster.Member
	for _, n := range memberNames(v) {
		if m := v.Members[n]; m.APIURL != "" {
			if n == leaderOf(v) {
				out = append([]cluster.Member{m}, out...)
			} else {
				out = append(out, m)
			}
		}
	}
	return out
}

// printable replaces control characters, so that what others wrote cannot drive the terminal.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if isControl(r) {
			fmt.Fprintf(&b, "\\x%02X", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isControl(r rune) bool { return r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }
