package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/daemon"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/demo"

	"log/slog"
)

// rig is one cluster under test. It is for one test at a time.
type rig struct {
	t     *testing.T
	l     *demo.Layout
	procs map[string]*proc
	store dcs.Store
	shm   []string
}

// defaultTTL is short, so that a test does not wait long for a lease, and long enough for a machine
// that runs several clusters on two cores.
const defaultTTL = 6 * time.Second

// newCluster writes a cluster's files; nothing runs yet.
func newCluster(t *testing.T, o demo.Options) *rig {
	t.Helper()
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	o.BinDir = world.bin
	dir := filepath.Join(world.dir, strings.ReplaceAll(t.Name(), "/", "-"))
	for i := 2; ; i++ { // a test may have two
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			break
		}
		dir = filepath.Join(world.dir, fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), i))
	}
	c := &rig{t: t, l: plan(t, dir, o), procs: map[string]*proc{}}
	own := demo.Owner{UID: -1, GID: -1}
	if world.cred != nil {
		own = demo.Owner{UID: int(world.cred.UID), GID: int(world.cred.GID)}
	}
	t.Cleanup(c.close)
	if err := c.l.Write(world.exe, own); err != nil {
		t.Fatal(err)
	}
	return c
}

// up makes a cluster and waits until it is whole.
func up(t *testing.T, o demo.Options) *rig {
	t.Helper()
	c := newCluster(t, o)
	c.startAll()
	c.healthy(c.names()...)
	return c
}

func (c *rig) names() []string {
	var out []string
	for _, n := range c.l.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// others are the nodes apart from those.
func (c *rig) others(but ...string) []string {
	return slices.DeleteFunc(c.names(), func(n string) bool { return slices.Contains(but, n) })
}

func (c *rig) node(name string) demo.Node {
	for _, n := range c.l.Nodes {
		if n.Name == name {
			return n
		}
	}
	c.t.Fatalf("no node %q", name)
	return demo.Node{}
}

// start starts one process: etcd-NODE, agent-NODE or router.
func (c *rig) start(names ...string) {
	c.t.Helper()
	for _, name := range names {
		if p := c.procs[name]; p != nil && p.running() {
			c.t.Fatalf("%s runs already", name)
		}
		argv := []string{world.exe, "router", c.l.RouterFile()}
		if kind, node, ok := strings.Cut(name, "-"); ok {
			argv = []string{world.exe, map[string]string{"etcd": "etcd", "agent": "run"}[kind], c.l.NodeFile(node)}
		}
		p, err := launch(name, c.l.LogFile(name), argv...)
		if err != nil {
			c.t.Fatal(err)
		}
		c.procs[name] = p
	}
}

func (c *rig) startNode(names ...string) {
	c.t.Helper()
	for _, n := range names {
		c.start("etcd-"+n, "agent-"+n)
	}
}

func (c *rig) startAll() {
	c.t.Helper()
	c.startNode(c.names()...)
	c.start("router")
}

// kill sends SIGKILL to processes and waits for their end.
func (c *rig) kill(names ...string) {
	c.t.Helper()
	for _, n := range names {
		p := c.procs[n]
		if p == nil || !p.running() {
			c.t.Fatalf("%s does not run", n)
		}
		_ = p.cmd.Process.Kill()
	}
	for _, n := range names {
		<-c.procs[n].done
	}
}

func (c *rig) signal(sig unix.Signal, pids ...int) {
	c.t.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil {
			c.t.Fatalf("send %s to process %d: %v", unix.SignalName(sig), pid, err)
		}
	}
}

// postmaster is the pid of a node's running postmaster.
func (c *rig) postmaster(node string) int {
	c.t.Helper()
	pid := postmaster(c.l.DataDir(node))
	if pid <= 0 || unix.Kill(pid, 0) != nil {
		c.t.Fatalf("PostgreSQL of %s does not run", node)
	}
	return pid
}

// guardian is the pid of a node's guardian.
func (c *rig) guardian(node string) int {
	c.t.Helper()
	pids := guardians(c.l.DataDir(node))
	if len(pids) != 1 {
		c.t.Fatalf("got %d guardians of %s, want 1", len(pids), node)
	}
	return pids[0]
}

// remember notes the shared memory of a PostgreSQL that is about to be killed.
func (c *rig) remember(nodes ...string) {
	for _, n := range nodes {
		if pid := postmaster(c.l.DataDir(n)); pid > 0 {
			c.shm = append(c.shm, segments(pid)...)
		}
	}
}

// powerOff kills everything of some nodes at once.
func (c *rig) powerOff(nodes ...string) {
	c.t.Helper()
	c.remember(nodes...)
	var procs []*proc
	for _, n := range nodes {
		for _, pid := range guardians(c.l.DataDir(n)) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for _, name := range []string{"agent-" + n, "etcd-" + n} {
			if p := c.procs[name]; p != nil && p.running() {
				_ = p.cmd.Process.Kill()
				procs = append(procs, p)
			}
		}
		if pid := postmaster(c.l.DataDir(n)); pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	for _, n := range nodes {
		if err := killDir(c.l.DataDir(n)); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, p := range procs {
		<-p.done
	}
}

// close ends everything, looks for what must not be in any log, and removes the directory.
func (c *rig) close() {
	if c.store != nil {
		_ = c.store.Close()
	}
	c.remember(c.names()...)
	for _, kind := range []string{"router", "agent-", "etcd-"} {
		for name, p := range c.procs {
			if strings.HasPrefix(name, kind) {
				p.kill()
			}
		}
		if kind == "agent-" {
			for _, n := range c.names() {
				endNode(c.l, n)
			}
		}
	}
	for _, f := range c.shm {
		_ = os.Remove(f)
	}
	for _, f := range c.logs() {
		b, _ := os.ReadFile(f)
		for _, secret := range c.secrets() {
			if bytes.Contains(b, []byte(secret)) {
				c.t.Errorf("got a password in %s", f)
			}
		}
		for _, bad := range []string{"panic: ", "fatal error: ", "DATA RACE"} {
			if i := bytes.Index(b, []byte(bad)); i >= 0 {
				c.t.Errorf("got a crash in %s: %s", f, b[i:min(i+3000, len(b))])
			}
		}
	}
	if c.t.Failed() {
		c.dump()
	}
	release(c.l)
	if os.Getenv("HATHI_E2E_KEEP") != "" {
		c.t.Logf("kept %s", c.l.Dir())
		return
	}
	_ = os.RemoveAll(c.l.Dir())
}

// logs are the files that people read when something is wrong.
func (c *rig) logs() []string {
	var out []string
	for _, pattern := range []string{"log/*.log", "*/run/*.log", "*/run/decisions.jsonl*", "*/data*/log/*"} {
		files, _ := filepath.Glob(c.l.Path(pattern))
		out = append(out, files...)
	}
	return out
}

// dump logs the ends of all logs.
func (c *rig) dump() {
	var b strings.Builder
	for _, f := range c.logs() {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if i := len(text) - 6000; i > 0 {
			text = text[i:]
		}
		fmt.Fprintf(&b, "==> %s\n%s\n", f, text)
	}
	c.t.Logf("the cluster's logs:\n%s", b.String())
}

// secrets are the passwords of the cluster, from the files that hold them.
func (c *rig) secrets() []string {
	var out []string
	b, _ := os.ReadFile(c.l.Path("app.secret"))
	out = append(out, strings.TrimSpace(string(b)))
	b, _ = os.ReadFile(c.l.NodeFile(c.l.Nodes[0].Name))
	for _, line := range strings.Split(string(b), "\n") {
		if _, secret, ok := strings.Cut(line, "password: "); ok {
			out = append(out, strings.TrimSpace(secret))
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return len(s) < 8 })
}

// result is what a command answered.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
}

// hathi runs a command of the program.
func hathi(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, world.exe, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{out: out.String(), err: errs.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("hathi %s: %v", strings.Join(args, " "), err)
	}
	return r
}

// cli runs a command against the cluster, whatever it answers.
func (c *rig) cli(args ...string) result {
	c.t.Helper()
	return hathi(c.t, append(args, "--dir", c.l.Dir())...)
}

// must runs a command against the cluster that has to succeed.
func (c *rig) must(args ...string) string {
	c.t.Helper()
	r := c.cli(args...)
	if r.code != 0 {
		c.t.Fatalf("hathi %s: %s", strings.Join(args, " "), r)
	}
	return r.out
}

// open connects to the store.
func (c *rig) open() dcs.Store {
	c.t.Helper()
	if c.store != nil {
		return c.store
	}
	b, err := os.ReadFile(c.l.CtlFile())
	if err != nil {
		c.t.Fatal(err)
	}
	f, problems := config.Load(b, nil)
	if f == nil {
		c.t.Fatalf("read %s: %v", c.l.CtlFile(), problems)
	}
	if c.store, err = daemon.OpenStore(context.Background(), f, 2*time.Second, slog.New(slog.DiscardHandler)); err != nil {
		c.t.Fatal(err)
	}
	return c.store
}
