package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// until repeats check with a deadline.
func until(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("not reached in time: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestFailover_SilentEndpointCostsAtMostOneCommit(t *testing.T) {
	addr, _ := member(t)
	g := newGate(t, addr)
	st := open(t, etcd.Config{
		Endpoints: []string{"http://" + g.addr, "http://" + addr}, Prefix: "/service/t/", RequestTimeout: time.Second,
	})
	until(t, "the first commit", func() bool { _, err := st.Commit(t.Context(), put("k", "0")); return err == nil })
	g.silence()
	failed := 0
	for i := range 20 {
		if _, err := st.Commit(t.Context(), put("k", fmt.Sprint(i))); err != nil {
			failed++
			if errors.Is(err, dcs.ErrUnavailable) {
				t.Errorf("got %v: the request was sent, its outcome is unknown", err)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
			}
		}
	}
	if failed > 1 {
		t.Errorf("got %d failed commits, want at most 1", failed)
	}
	if _, err := st.Load(t.Context()); err != nil {
		t.Errorf("load: %v", err)
	}
}

// A member that vanished while nothing was asked of it must not swallow a request that cannot be
// repeated: a take-over of the lock is one.
func TestFailover_AMemberThatVanishedUnseenSwallowsNoCommit(t *testing.T) {
	addr, _ := member(t)
	g := newGate(t, addr)
	st := open(t, etcd.Config{
		Endpoints: []string{"http://" + g.addr, "http://" + addr}, Prefix: "/service/t/", RequestTimeout: 3 * time.Second,
	})
	until(t, "the first commit", func() bool { _, err := st.Commit(t.Context(), put("k", "0")); return err == nil })
	g.silence()
	<-time.After(1100 * time.Millisecond) // its last answer has to be old, and no probe has missed it yet
	if _, err := st.Commit(t.Context(), put("k", "1")); err != nil {
		t.Errorf("got %v, want a commit through the other member", err)
	}
}

func TestFailover_LoadMovesOnWithinOneCall(t *testing.T) {
	addr, _ := member(t)
	g := newGate(t, addr)
	st := open(t, etcd.Config{
		Endpoints: []string{"http://" + g.addr, "http://" + addr}, Prefix: "/service/t/", RequestTimeout: 4 * time.Second,
	})
	until(t, "the first commit", func() bool { _, err := st.Commit(t.Context(), put("k", "0")); return err == nil })
	g.silence()
	snap, err := st.Load(t.Context())
	if err != nil || string(snap.Entries["k"].Value) != "0" {
		t.Errorf("got %v, %v, want the entry", snap, err)
	}
}

func TestFailover_HealedEndpointIsUsedAgain(t *testing.T) {
	addr, _ := member(t)
	g, other := newGate(t, addr), newGate(t, addr)
	st := open(t, etcd.Config{
		Endpoints: []string{"http://" + g.addr, "http://" + other.addr}, Prefix: "/service/t/", RequestTimeout: time.Second,
	})
	until(t, "the first commit", func() bool { _, err := st.Commit(t.Context(), put("k", "0")); return err == nil })
	g.silence()
	until(t, "a commit past the silent endpoint", func() bool { _, err := st.Commit(t.Context(), put("k", "1")); return err == nil })
	g.heal()
	other.silence()
	until(t, "a commit through the healed endpoint", func() bool { _, err := st.Commit(t.Context(), put("k", "2")); return err == nil })
}

func TestFailover_RefusedEndpointCostsNothing(t *testing.T) {
	addr, _ := member(t)
	st := open(t, etcd.Config{
		Endpoints: []string{"http://" + freeAddr(), "http://" + addr}, Prefix: "/service/t/", RequestTimeout: 10 * time.Second,
	})
	for i := range 5 {
		if _, err := st.Commit(t.Context(), put("k", fmt.Sprint(i))); err != nil {
			t.Errorf("commit %d: %v", i, err)
		}
	}
}

func TestErrors_NobodyThereIsUnavailable(t *testing.T) {
	st := open(t, etcd.Config{Endpoints: []string{freeAddr()}, Prefix: "/service/t/", RequestTimeout: 300 * time.Millisecond})
	_, err := st.Commit(t.Context(), put("k", "v"))
	if !errors.Is(err, dcs.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v and %v", err, dcs.ErrUnavailable, context.DeadlineExceeded)
	}
	if u := <-st.Watch(t.Context(), 1); !errors.Is(u.Err, dcs.ErrUnavailable) {
		t.Errorf("got %+v, want %v", u, dcs.ErrUnavailable)
	}
}

// Something that accepts and never speaks: no HTTP/2 connection comes about, nothing is sent.
func TestErrors_MuteListenerIsUnavailable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st := open(t, etcd.Config{Endpoints: []string{l.Addr().String()}, Prefix: "/service/t/", RequestTimeout: 300 * time.Millisecond})
	if _, err := st.Commit(t.Context(), put("k", "v")); !errors.Is(err, dcs.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, dcs.ErrUnavailable)
	}
}

func TestErrors_ConnectionLostInFlightIsNoSuccess(t *testing.T) {
	addr, stop := member(t)
	g := newGate(t, addr)
	st := open(t, etcd.Config{Endpoints: []string{"http://" + g.addr}, Prefix: "/service/t/", RequestTimeout: 20 * time.Second})
	until(t, "the first commit", func() bool { _, err := st.Commit(t.Context(), put("k", "0")); return err == nil })
	g.silence()
	result := make(chan error, 1)
	go func() {
		_, err := st.Commit(t.Context(), put("k", "1"))
		result <- err
	}()
	stop() // closes the connections behind the gate
	<-time.After(50 * time.Millisecond)
	g.heal()
	// Whether the request had left this process is chance; that it succeeded would be a lie.
	if err := <-result; err == nil {
		t.Error("got success from a member that was stopped")
	}
}

func TestWatch_SilentMemberEndsIt(t *testing.T) {
	addr, _ := member(t)
	g := newGate(t, addr)
	st := open(t, etcd.Config{Endpoints: []string{"http://" + g.addr}, Prefix: "/service/t/"})
	snap, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := st.Watch(t.Context(), snap.Revision)
	for u := range w {
		if u.Err != nil {
			t.Fatal(u.Err)
		}
		if u.Progress {
			break
		}
	}
	g.silence()
	var last dcs.Update
	for u := range w {
		last = u
	}
	if last.Err == nil {
		t.Error("got no error at the end of the watch")
	}
}

func TestOpen_RefusesBadConfigurations(t *testing.T) {
	good := etcd.Config{Endpoints: []string{"https://127.0.0.1:2379"}, Prefix: "/service/demo/"}
	for name, change := range map[string]func(*etcd.Config){
		"no endpoints":        func(c *etcd.Config) { c.Endpoints = nil },
		"no port":             func(c *etcd.Config) { c.Endpoints = []string{"https://host"} },
		"a path":              func(c *etcd.Config) { c.Endpoints = []string{"https://host:1/path"} },
		"another scheme":      func(c *etcd.Config) { c.Endpoints = []string{"ftp://host:1"} },
		"twice":               func(c *etcd.Config) { c.Endpoints = []string{"host:1", "host:1"} },
		"prefix":              func(c *etcd.Config) { c.Prefix = "service" },
		"root prefix":         func(c *etcd.Config) { c.Prefix = "/" },
		"password alone":      func(c *etcd.Config) { c.Password = "secret" },
		"credentials in link": func(c *etcd.Config) { c.Endpoints = []string{"https://u:secret@host:1"} },
		"bad link":            func(c *etcd.Config) { c.Endpoints = []string{"https://u:secret@ho st:1"} },
	} {
		c := good
		change(&c)
		st, err := etcd.Open(t.Context(), c)
		if err == nil {
			st.Close()
			t.Errorf("%s: got no error", name)
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
}

// A store in which nothing changes must not look dead.
func TestWatch_IdleStoreShowsProgress(t *testing.T) {
	addr, _ := member(t)
	st := open(t, etcd.Config{Endpoints: []string{"http://" + addr}, Prefix: "/service/t/"})
	snap, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := st.Watch(t.Context(), snap.Revision)
	for range 2 {
		if u := <-w; !u.Progress || u.Revision != snap.Revision {
			t.Fatalf("got %+v, want progress at revision %d", u, snap.Revision)
		}
	}
}

func TestWatch_EndsWhenItsStartWasCompacted(t *testing.T) {
	addr, _ := member(t)
	st := open(t, etcd.Config{Endpoints: []string{addr}, Prefix: "/service/t/"})
	var rev int64
	for range 5 {
		res, err := st.Commit(t.Context(), put("k", "v"))
		if err != nil {
			t.Fatal(err)
		}
		rev = res.Revision
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	if u := <-st.Watch(t.Context(), rev-3); !errors.Is(u.Err, etcd.ErrCompacted) {
		t.Errorf("got %+v, want %v", u, etcd.ErrCompacted)
	}
}

// etcd's own authentication: a right password works, also after the token was lost; a wrong one
// and a missing permission are sure refusals.
func TestAuth(t *testing.T) {
	addr, _ := member(t)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	for _, do := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "hathi", "right"); return err },
		func() error { _, err := c.RoleAdd(ctx, "scope"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "scope", "/service/t/", "/service/t0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserGrantRole(ctx, "hathi", "scope"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	config := etcd.Config{Endpoints: []string{addr}, Prefix: "/service/t/", Username: "hathi", Password: "right", RequestTimeout: 20 * time.Second}
	if _, err := open(t, config).Commit(ctx, put("k", "v")); err != nil {
		t.Errorf("right password: %v", err)
	}
	elsewhere := config
	elsewhere.Prefix = "/service/other/"
	if _, err := open(t, elsewhere).Commit(ctx, put("k", "v")); !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("other scope: got %v, want %v with the reason", err, dcs.ErrUnavailable)
	}
	config.Password, config.RequestTimeout = "wrong", 3*time.Second
	if _, err := open(t, config).Commit(ctx, put("k", "v")); !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("wrong password: got %v, want %v with the reason", err, dcs.ErrUnavailable)
	}
}
