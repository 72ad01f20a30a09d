package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/demo"
)

// demoArgs make a rig for a demo that the program itself runs.
func demoRig(t *testing.T) (*rig, []string) {
	t.Helper()
	dir := filepath.Join(world.dir, fmt.Sprintf("%s-%d", t.Name(), time.Now().UnixNano()))
	l := plan(t, dir, demo.Options{TTL: defaultTTL})
	c := &rig{t: t, l: l, procs: map[string]*proc{}}
	t.Cleanup(func() {
		hathi(t, "demo", "stop", "--dir", dir)
		c.close()
	})
	return c, []string{"--offset", fmt.Sprint(l.Router.Write - 6432), "--write-port", fmt.Sprint(l.Router.Write), "--read-port", fmt.Sprint(l.Router.Read), "--ttl", defaultTTL.String()}
}

// ok runs hathi demo, which has to succeed.
func (c *rig) demo(args ...string) result {
	c.t.Helper()
	r := c.cli(append([]string{"demo"}, args...)...)
	if r.code != 0 {
		c.t.Fatalf("hathi demo %s: %s", strings.Join(args, " "), r)
	}
	return r
}

// TestDemo_KeepsItsData: up, stop, start, destroy; and another one beside it.
func TestDemo_KeepsItsData(t *testing.T) {
	need(t, false)
	a, argsA := demoRig(t)
	b, argsB := demoRig(t)
	a.demo(append(argsA, "--detach")...)
	b.demo(append(argsB, "--detach")...)
	for i, c := range []*rig{a, b} {
		if _, err := c.exec(c.l.WriteURI(), fmt.Sprintf("create table who as select %d as n", i)); err != nil {
			t.Fatal(err)
		}
		c.healthy(c.names()...)
	}
	if x, y := a.view().Initialize, b.view().Initialize; x == y {
		t.Errorf("got the same system identifier %s in both clusters", x)
	}
	if out := a.demo("status").out; !strings.Contains(out, "agent-pg1") || !strings.Contains(out, "Leader") {
		t.Errorf("got status\n%s, want processes and members", out)
	}
	if r := a.cli("demo", "--detach"); r.code == 0 || !strings.Contains(r.err, "running already") {
		t.Errorf("a second start: got %s, want a refusal", r)
	}
	// The deaths of one do not move the other.
	still := b.sameLock()
	a.kill9(a.leader())
	a.demo("stop")
	for _, n := range a.names() {
		if pid := postmaster(a.l.DataDir(n)); pid != 0 && postgresLives(pid) {
			t.Errorf("got PostgreSQL of %s running after the stop", n)
		}
		if g := guardians(a.l.DataDir(n)); len(g) > 0 {
			t.Errorf("got guardians %v of %s after the stop", g, n)
		}
	}
	if err := still(); err != nil {
		t.Errorf("the demo beside it: %v", err)
	}
	a.store.Close()
	a.store = nil
	a.demo("start")
	a.healthy(a.names()...)
	for i, c := range []*rig{a, b} {
		if got, err := c.exec(c.l.MultiHostURI(), "select n from who"); err != nil || got != fmt.Sprint(i) {
			t.Errorf("got %q (%v), want %d: each cluster its own data", got, err, i)
		}
	}
	b.secretsNowhere()
	b.store.Close()
	b.store = nil
	b.demo("destroy", "--yes")
	if _, err := os.Stat(b.l.Dir()); !os.IsNotExist(err) {
		t.Errorf("got %v after destroy, want no directory", err)
	}
}

// TestDemo_Refusals: a clear sentence for what cannot be started.
func TestDemo_Refusals(t *testing.T) {
	need(t, true)
	dir := filepath.Join(world.dir, t.Name())
	sub := func(name string) string {
		d := filepath.Join(dir, name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		return d
	}
	l := plan(t, filepath.Join(dir, "ports"), demo.Options{})
	defer release(l)
	offset := fmt.Sprint(l.Router.Write - 6432)
	ports := []string{"--offset", offset, "--write-port", fmt.Sprint(l.Router.Write), "--read-port", fmt.Sprint(l.Router.Read)}
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", l.Nodes[1].PostgreSQL))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	foreign := sub("foreign")
	if err := os.WriteFile(filepath.Join(foreign, "precious"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	unfinished := sub("unfinished")
	if err := demoHalf(unfinished); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name, dir string
		args      []string
		say       []string
	}{
		{"taken port", filepath.Join(dir, "ports"), ports, []string{fmt.Sprint(l.Nodes[1].PostgreSQL), "in use", "--offset"}},
		{"foreign directory", foreign, ports, []string{foreign, "precious"}},
		{"unfinished directory", unfinished, ports, []string{unfinished}},
		{"impossible size", filepath.Join(dir, "big"), []string{"--nodes", "9"}, []string{"1 to 7"}},
		{"impossible lease", filepath.Join(dir, "short"), []string{"--ttl", "1s"}, []string{"3s"}},
		{"unknown mode", filepath.Join(dir, "mode"), []string{"--sync", "perhaps"}, []string{"quorum"}},
		{"status of nothing", filepath.Join(dir, "none"), []string{"status"}, []string{"no demo"}},
	} {
		r := hathi(t, append(append([]string{"demo", "--dir", x.dir}, x.args...), map[bool][]string{true: nil, false: {"--detach"}}[x.args[0] == "status"]...)...)
		if r.code == 0 {
			t.Errorf("%s: got %s, want a refusal", x.name, r)
		}
		for _, want := range x.say {
			if !strings.Contains(r.err, want) {
				t.Errorf("%s: got %s, want %q in it", x.name, r, want)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(foreign, "precious")); err != nil || string(b) != "data" {
		t.Errorf("got %q, %v in the foreign directory, want it untouched", b, err)
	}
}

// demoHalf is what a demo leaves that was killed while it was made: everything but its manifest.
func demoHalf(dir string) error {
	l, err := demo.Plan(dir, demo.Options{})
	if err != nil {
		return err
	}
	if err := l.Write(world.exe, demo.Owner{UID: -1, GID: -1}); err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, "demo.json"))
}
