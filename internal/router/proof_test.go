package router_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/router"
)

// holder is what the agent of pg1 says when it is asked.
type holder struct {
	mu    sync.Mutex
	says  cluster.PeerStatus
	err   error
	asked int
	block chan struct{} // not nil: no answer before it is closed, or the time of the asker is up
}

func newHolder() *holder {
	return &holder{says: cluster.PeerStatus{Name: "pg1", Epoch: 1, HoldsLock: true, Running: true}}
}

func (h *holder) confirm(ctx context.Context, _ cluster.Member) (cluster.PeerStatus, error) {
	h.mu.Lock()
	h.asked++
	st, err, block := h.says, h.err, h.block
	h.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return cluster.PeerStatus{}, ctx.Err()
		}
	}
	return st, err
}

func (h *holder) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *holder) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

// silent makes a world with pg1 leading and pg2 replicating in which the lock is not renewed any more
// and newcomers are let in on the holder's word only.
func silent(t *testing.T, h *holder, ttl time.Duration) (w *world, pg1, pg2 *backend) {
	t.Helper()
	w = newWorld(t, func(c *router.Config) { c.Confirm = h.confirm })
	pg1, pg2 = pair(t, w)
	w.edit(func(l *cluster.Lock) { l.TTL = ttl.Milliseconds() })
	w.renew(false)
	eventually(t, "a newcomer makes the router ask the holder", func() (bool, string) {
		c, _ := session(t, w.r.WriteAddr())
		c.Close()
		return h.count() > 0, "not asked"
	})
	return w, pg1, pg2
}

// After a fence without failsafe the old primary is back, read-only, before the router's lease on it has
// passed. Newcomers wait for the next primary, whatever they speak.
func TestRouter_NewcomersAreNotPassedToAStandby(t *testing.T) {
	for _, no := range []struct {
		name string
		says cluster.PeerStatus
	}{
		{"fenced", cluster.PeerStatus{Name: "pg1", Epoch: 1, Running: true, InRecovery: true}},
		{"in recovery", cluster.PeerStatus{Name: "pg1", Epoch: 1, HoldsLock: true, Running: true, InRecovery: true}},
		{"down", cluster.PeerStatus{Name: "pg1", Epoch: 1, HoldsLock: true}},
		{"another epoch", cluster.PeerStatus{Name: "pg1", Epoch: 2, HoldsLock: true, Running: true}},
		{"another member", cluster.PeerStatus{Name: "pg9", Epoch: 1, HoldsLock: true, Running: true}},
	} {
		for _, tls := range []bool{false, true} {
			t.Run(no.name+map[bool]string{false: " in the clear", true: " in TLS"}[tls], func(t *testing.T) {
				t.Parallel()
				h := newHolder()
				w, pg1, pg2 := silent(t, h, 20*time.Second)
				h.set(func() { h.says = no.says })
				pg1.set(func() { pg1.tls = tls })
				pg2.set(func() { pg2.tls = tls })
				c := dial(t, w.r.WriteAddr())
				got := make(chan error, 1)
				go func() {
					var err error
					if tls {
						_, _ = c.Write(request(80877103))
						_, err = c.rd.ReadByte()
					} else {
						_, err = c.login()
					}
					got <- err
				}()
				w.waitFor("held", func(s router.Snapshot) bool { return s.Held == 1 })
				select {
				case err := <-got:
					t.Fatalf("the newcomer was answered (%v) while the holder is no primary", err)
				default:
				}
				w.member(pg2, cluster.RolePrimary, nil)
				w.hold("pg2", 2, lease)
				w.renew(true)
				if err := <-got; err != nil {
					t.Fatalf("with the next primary: %v", err)
				}
				if who, err := c.ask("who"); who != "pg2" || err != nil {
					t.Errorf("got %s %v, want pg2", who, err)
				}
			})
		}
	}
}

// An agent that does not answer for a moment does not close the port while its fence can not have begun;
// later it does, and for a bounded time.
func TestRouter_AnAgentThatDoesNotAnswer(t *testing.T) {
	t.Run("before the fence", func(t *testing.T) {
		t.Parallel()
		h := newHolder()
		w, _, _ := silent(t, h, 20*time.Second)
		h.set(func() { h.err = errors.New("connection refused") })
		if _, who := session(t, w.r.WriteAddr()); who != "pg1" {
			t.Errorf("got %s, want pg1", who)
		}
	})
	t.Run("when the fence may have begun", func(t *testing.T) {
		t.Parallel()
		h := newHolder()
		// With 1.8 s the fence may have begun before the lock counts as silent.
		w := newWorld(t, func(c *router.Config) { c.Confirm, c.Hold = h.confirm, 200*time.Millisecond })
		pair(t, w)
		w.edit(func(l *cluster.Lock) { l.TTL = 1800 })
		w.renew(false)
		h.set(func() { h.err = errors.New("connection refused") })
		eventually(t, "a newcomer is refused", func() (bool, string) {
			c := dial(t, w.r.WriteAddr())
			defer c.Close()
			_, err := c.login()
			if err == nil {
				return false, "let in"
			}
			for _, want := range []string{"57P03", "the agent of pg1 does not answer", "connection refused"} {
				if !strings.Contains(err.Error(), want) {
					return false, err.Error()
				}
			}
			return true, ""
		})
	})
	t.Run("and hangs", func(t *testing.T) {
		t.Parallel()
		h := newHolder()
		w, _, _ := silent(t, h, 20*time.Second)
		block := make(chan struct{})
		h.set(func() { h.block = block })
		defer close(block)
		if _, who := session(t, w.r.WriteAddr()); who != "pg1" { // the question has a bound, and the fence can not have begun
			t.Errorf("got %s, want pg1", who)
		}
	})
}

// Sessions that are there, and their cancel requests, do not wait for anybody's word.
func TestRouter_OldSessionsAndCancelsNeedNoWord(t *testing.T) {
	h := newHolder()
	w := newWorld(t, func(c *router.Config) { c.Confirm = h.confirm })
	pg1, _ := pair(t, w)
	w.edit(func(l *cluster.Lock) { l.TTL = 20000 })
	c := dial(t, w.r.WriteAddr())
	key, err := c.login()
	if err != nil {
		t.Fatal(err)
	}
	w.renew(false)
	h.set(func() { h.says = cluster.PeerStatus{Name: "pg1", Epoch: 1, Running: true, InRecovery: true} })
	eventually(t, "newcomers are held", func() (bool, string) {
		n := dial(t, w.r.WriteAddr())
		go func() { _, _ = n.login() }()
		s := w.r.Snapshot()
		return s.Held > 0, s.Why
	})
	if who, err := c.ask("still there"); who != "pg1" || err != nil {
		t.Errorf("got %s %v, want pg1", who, err)
	}
	x := dial(t, w.r.WriteAddr())
	_, _ = x.Write(request(80877102, []byte(key)...))
	x.cut(t)
	if got, _ := pg1.got(); len(got) != 1 || got[0] != key {
		t.Errorf("got cancels %q, want %q", got, key)
	}
}

// While the lock is renewed nobody is asked: a login costs the primary one connection and no more.
func TestRouter_ARenewedLockIsWordEnough(t *testing.T) {
	h := newHolder()
	w := newWorld(t, func(c *router.Config) { c.Confirm = h.confirm })
	pair(t, w)
	for range 20 {
		session(t, w.r.WriteAddr())
	}
	if n := h.count(); n != 0 {
		t.Errorf("the holder was asked %d times", n)
	}
}

// Whatever the router believed: a login that can be read does not end on a standby, on the write port.
func TestRouter_AStandbyThatSaysSoIsNotPassedOn(t *testing.T) {
	for _, slow := range []bool{false, true} {
		w := newWorld(t, nil)
		pg1, pg2 := pair(t, w)
		for _, b := range []*backend{pg1, pg2} {
			b.set(func() { b.standby, b.slow = true, slow })
		}
		c := dial(t, w.r.WriteAddr())
		_, err := c.login()
		// A server whose messages arrive in pieces leaves no place for an error of ours.
		told := err != nil && strings.Contains(err.Error(), "57P03") && strings.Contains(err.Error(), "in recovery")
		if !told && !(slow && errors.Is(err, io.ErrUnexpectedEOF) || slow && errors.Is(err, io.EOF)) {
			t.Errorf("write port: got %v, want 57P03 because of the recovery", err)
		}
		c.cut(t)
		if _, who := session(t, w.r.ReadAddr()); who != "pg2" {
			t.Errorf("read port: got %s, want pg2, a standby", who)
		}
		// Without a replica reads fall back to the primary, whatever it says of itself.
		w.drop(dcs.MemberKey("pg2"))
		w.waitFor("fallback", func(s router.Snapshot) bool { return s.ReadFallback })
		if _, who := session(t, w.r.ReadAddr()); who != "pg1" {
			t.Errorf("read port: got %s, want pg1", who)
		}
	}
}

// A server that starts or stops refuses newcomers for a moment; they wait.
func TestRouter_AServerThatTakesNobodyNowIsTriedAgain(t *testing.T) {
	for _, opening := range [][]byte{nil, request(80877103)} {
		w := newWorld(t, nil)
		pg1, _ := pair(t, w)
		pg1.set(func() { pg1.refuse = "57P03" })
		c := dial(t, w.r.WriteAddr())
		if opening != nil {
			_, _ = c.Write(opening)
			if b, err := c.rd.ReadByte(); b != 'N' || err != nil {
				t.Fatalf("got %q %v, want N", b, err)
			}
		}
		got := make(chan error, 1)
		go func() { _, err := c.login(); got <- err }()
		eventually(t, "the server was tried again", func() (bool, string) {
			pg1.mu.Lock()
			defer pg1.mu.Unlock()
			return pg1.refused > 2, fmt.Sprint(pg1.refused)
		})
		pg1.set(func() { pg1.refuse = "" })
		if err := <-got; err != nil {
			t.Fatalf("login: %v", err)
		}
		if who, err := c.ask("who"); who != "pg1" || err != nil {
			t.Errorf("got %s %v, want pg1", who, err)
		}
		c.Close()
		w.waitFor("nothing left", func(s router.Snapshot) bool { return s.Sessions == 0 && s.Held == 0 && s.Backends[0].Sessions == 0 })
	}
}

func TestRouter_OtherRefusalsArePassedOn(t *testing.T) {
	for _, opening := range [][]byte{nil, request(80877103)} {
		w := newWorld(t, nil)
		pg1, _ := pair(t, w)
		pg1.set(func() { pg1.refuse = "28P01" })
		c := dial(t, w.r.WriteAddr())
		if opening != nil {
			_, _ = c.Write(opening)
			_, _ = c.rd.ReadByte()
		}
		if _, err := c.login(); err == nil || !strings.Contains(err.Error(), "28P01 not today") {
			t.Errorf("got %v, want what the server said", err)
		}
		c.cut(t)
	}
}

func TestRouter_AServerThatTakesNobodyEndsInWhatItSaid(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.Hold = 100 * time.Millisecond })
	pg1, _ := pair(t, w)
	pg1.set(func() { pg1.refuse = "57P03" })
	_, err := dial(t, w.r.WriteAddr()).login()
	if err == nil || !strings.Contains(err.Error(), "57P03") || !strings.Contains(err.Error(), "it answers: not today") {
		t.Errorf("got %v, want 57P03 with what the server said", err)
	}
}
