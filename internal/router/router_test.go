package router_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
	"github.com/hathi-ha/hathi/internal/router"
)

// TestMain fails when goroutines are left over (not while fuzzing, whose workers keep some).
func TestMain(m *testing.M) {
	flag.Parse()
	before := runtime.NumGoroutine()
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	tick := time.NewTicker(5 * time.Millisecond)
	for deadline := time.Now().Add(patience); code == 0 && flag.Lookup("test.fuzz").Value.String() == "" && runtime.NumGoroutine() > before; <-tick.C {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "got %d goroutines at the end, want %d:\n%s\n", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			code = 1
		}
	}
	os.Exit(code)
}

const lease = 3 * time.Second

// pair is pg1 leading epoch 1 and pg2 replicating.
func pair(t *testing.T, w *world) (pg1, pg2 *backend) {
	t.Helper()
	pg1, pg2 = newBackend(t, "pg1"), newBackend(t, "pg2")
	w.member(pg1, cluster.RolePrimary, nil)
	w.member(pg2, cluster.RoleReplica, nil)
	w.put(dcs.KeyStatus, cluster.Status{Optime: 5000})
	w.hold("pg1", 1, lease)
	w.waitWrite("pg1")
	return pg1, pg2
}

func TestRouter_WritesGoToTheHolderAndReadsToTheReplica(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	if _, who := session(t, w.r.WriteAddr()); who != "pg1" {
		t.Errorf("write port: got %s, want pg1", who)
	}
	if _, who := session(t, w.r.ReadAddr()); who != "pg2" {
		t.Errorf("read port: got %s, want pg2", who)
	}
}

func TestRouter_EncryptionRefusedByTheBackendGoesOnInTheClear(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	c := dial(t, w.r.WriteAddr())
	for _, code := range []uint32{80877104, 80877103} {
		if _, err := c.Write(request(code)); err != nil {
			t.Fatal(err)
		}
		if b, err := c.rd.ReadByte(); b != 'N' || err != nil {
			t.Fatalf("answer to request %d: got %q %v, want N", code, b, err)
		}
	}
	if key, err := c.login(); err != nil || len(key) != 8 {
		t.Fatalf("login: got key %q, %v", key, err)
	}
}

func TestRouter_NewcomersAreHeldUntilThereIsAPrimary(t *testing.T) {
	w := newWorld(t, nil)
	pg1 := newBackend(t, "pg1")
	w.member(pg1, cluster.RolePrimary, nil)
	c := dial(t, w.r.WriteAddr())
	got := make(chan error, 1)
	go func() { _, err := c.login(); got <- err }()
	w.waitFor("one held", func(s router.Snapshot) bool { return s.Held == 1 })
	w.hold("pg1", 1, lease)
	if err := <-got; err != nil {
		t.Errorf("login after the hold: %v", err)
	}
	w.waitFor("none held", func(s router.Snapshot) bool { return s.Held == 0 && s.HeldTotal == 1 })
}

func TestRouter_AHolderThatIsNotReadyGetsNothing(t *testing.T) {
	w := newWorld(t, nil)
	pg1, _ := pair(t, w)
	w.edit(func(l *cluster.Lock) { l.Ready = false })
	w.waitFor("no write route", func(s router.Snapshot) bool { return !s.CanWrite() })
	c := dial(t, w.r.WriteAddr())
	go func() { _, _ = c.Write(startup("user", "u")) }()
	w.waitFor("held", func(s router.Snapshot) bool { return s.Held == 1 })
	if _, lines := pg1.got(); len(lines) != 0 {
		t.Errorf("got %q at the backend, want nothing", lines)
	}
	w.edit(func(l *cluster.Lock) { l.Ready = true })
	if _, err := c.ready(); err != nil {
		t.Errorf("login after ready: %v", err)
	}
}

func TestRouter_TheEndOfTheHoldIsAnError(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.Hold = 50 * time.Millisecond })
	for _, opening := range [][]byte{nil, request(80877103)} {
		c := dial(t, w.r.WriteAddr())
		if opening != nil {
			_, _ = c.Write(opening)
			if b, err := c.rd.ReadByte(); b != 'N' || err != nil {
				t.Fatalf("got %q %v, want N: no backend speaks TLS", b, err)
			}
		}
		_, err := c.login()
		if err == nil {
			t.Fatal("got a login, want an error")
		}
		for _, want := range []string{"FATAL", "57P03", "no primary could be reached within 50ms", "no lock yet", "hathi why"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %q, want it to contain %q", err, want)
			}
		}
		c.cut(t)
	}
}

func TestRouter_ADeadPrimaryIsTriedUntilItComesBack(t *testing.T) {
	w := newWorld(t, nil)
	pg1, _ := pair(t, w)
	addr := pg1.addr()
	pg1.close()
	c := dial(t, w.r.WriteAddr())
	got := make(chan error, 1)
	go func() { _, err := c.login(); got <- err }()
	w.waitFor("a failed attempt", func(s router.Snapshot) bool {
		return len(s.Backends) > 0 && s.Backends[0].Failures > 0
	})
	newBackendAt(t, "pg1", addr)
	if err := <-got; err != nil {
		t.Errorf("login: %v", err)
	}
}

func TestRouter_AMutePrimaryEndsInAnError(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.Hold, c.ConnectTimeout = 100*time.Millisecond, 100*time.Millisecond })
	pg1, _ := pair(t, w)
	pg1.set(func() { pg1.mute = true })
	if _, err := dial(t, w.r.WriteAddr()).login(); err == nil || !strings.Contains(err.Error(), "pg1") || !strings.Contains(err.Error(), "57P03") {
		t.Errorf("got %v, want 57P03 naming pg1", err)
	}
}

func TestRouter_AHeldClientThatLeavesIsForgotten(t *testing.T) {
	w := newWorld(t, nil)
	c := dial(t, w.r.WriteAddr())
	_, _ = c.Write(startup("user", "u"))
	w.waitFor("held", func(s router.Snapshot) bool { return s.Held == 1 })
	c.Close()
	w.waitFor("forgotten", func(s router.Snapshot) bool { return s.Held == 0 })
}

func TestRouter_OnlySoManyAreHeld(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.MaxHeld = 1 })
	first := dial(t, w.r.WriteAddr())
	_, _ = first.Write(startup("user", "u"))
	w.waitFor("held", func(s router.Snapshot) bool { return s.Held == 1 })
	if _, err := dial(t, w.r.WriteAddr()).login(); err == nil || !strings.Contains(err.Error(), "53300") {
		t.Errorf("got %v, want 53300", err)
	}
}

func TestRouter_OnlySoManySessions(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.MaxSessions = 1 })
	pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	second := dial(t, w.r.WriteAddr())
	if _, err := second.ready(); err == nil || !strings.Contains(err.Error(), "53300") {
		t.Errorf("got %v, want 53300", err)
	}
	c.Close()
	eventually(t, "a place is free again", func() (bool, string) {
		_, err := dial(t, w.r.WriteAddr()).login()
		return err == nil, fmt.Sprint(err)
	})
}

func TestRouter_SwitchoverHoldsNewcomersAndLeavesSessionsAlone(t *testing.T) {
	w := newWorld(t, nil)
	pg1, pg2 := pair(t, w)
	old, _ := session(t, w.r.WriteAddr())
	w.put(dcs.KeyFailover, cluster.FailoverRequest{Leader: "pg1", Candidate: "pg2"})
	w.waitFor("hold", func(s router.Snapshot) bool { return s.Hold && s.Write != nil })
	c := dial(t, w.r.WriteAddr())
	go func() { _, _ = c.Write(startup("user", "u")) }()
	w.waitFor("held", func(s router.Snapshot) bool { return s.Held == 1 })
	if who, err := old.ask("x"); who != "pg1" || err != nil {
		t.Errorf("old session: got %s %v, want pg1", who, err)
	}
	w.edit(func(l *cluster.Lock) { l.Node, l.Successor, l.Ready = "", "pg2", false })
	old.cut(t)
	w.drop(dcs.KeyFailover)
	w.member(pg2, cluster.RolePrimary, nil)
	w.member(pg1, cluster.RoleReplica, nil)
	w.hold("pg2", 2, lease)
	if _, err := c.ready(); err != nil {
		t.Fatalf("held login: %v", err)
	}
	if who, err := c.ask("who"); who != "pg2" || err != nil {
		t.Errorf("got %s %v, want pg2", who, err)
	}
}

func TestRouter_AForgottenSwitchoverDoesNotCloseThePort(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.Hold = 100 * time.Millisecond })
	pair(t, w)
	w.put(dcs.KeyFailover, cluster.FailoverRequest{Leader: "pg1", Candidate: "pg2"})
	if _, who := session(t, w.r.WriteAddr()); who != "pg1" {
		t.Errorf("got %s, want pg1", who)
	}
}

func TestRouter_ANewEpochCutsTheOldSessions(t *testing.T) {
	w := newWorld(t, nil)
	pg1, _ := pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	onCandidate, who := session(t, w.r.ReadAddr())
	if who != "pg2" {
		t.Fatalf("got %s, want pg2", who)
	}
	w.hold("pg2", 2, lease)
	c.cut(t)
	onCandidate.cut(t) // promoted
	w.waitWrite("pg2")
	if s := w.r.Snapshot(); s.Cut["deposed"] != 1 || s.Cut["role"] != 1 {
		t.Errorf("got cuts %v, want one deposed and one role", s.Cut)
	}
	// The same node in a later epoch is another primary too.
	c, _ = session(t, w.r.WriteAddr())
	w.hold("pg2", 3, lease)
	c.cut(t)
	eventually(t, "nothing is left on pg1", func() (bool, string) {
		pg1.mu.Lock()
		defer pg1.mu.Unlock()
		return len(pg1.conns) == 0, fmt.Sprint(len(pg1.conns))
	})
}

func TestRouter_AnExpiredViewCutsAndForwardsNothing(t *testing.T) {
	w := newWorld(t, nil)
	pg1, _ := pair(t, w)
	w.edit(func(l *cluster.Lock) { l.TTL = 1000 })
	c, _ := session(t, w.r.WriteAddr())
	w.renew(false)
	c.cut(t)
	if _, err := c.Write([]byte("late\n")); err == nil {
		_, _ = c.Write([]byte("late\n"))
	}
	w.waitFor("cut by expiry", func(s router.Snapshot) bool { return s.Cut["expired"] == 1 && s.Write == nil })
	if _, lines := pg1.got(); strings.Contains(strings.Join(lines, ""), "late") {
		t.Error("a byte was forwarded after the lease")
	}
	// Reads live on.
	if _, who := session(t, w.r.ReadAddr()); who != "pg2" {
		t.Errorf("read port: got %s, want pg2", who)
	}
	w.renew(true)
	w.waitWrite("pg1")
	if _, who := session(t, w.r.WriteAddr()); who != "pg1" {
		t.Errorf("after the next renewal: got %s, want pg1", who)
	}
}

// freeze moves the router's clock while the store refuses it, so that what comes next is what a
// router finds that was stopped.
func (w *world) freeze(d time.Duration) {
	w.store.SetFault(func(op string) mem.Fault {
		if op == mem.OpLoad {
			return mem.FaultUnavailable
		}
		return mem.FaultNone
	})
	w.clock.advance(d)
}

func TestRouter_AFrozenRouterRevalidatesBeforeItMovesAByte(t *testing.T) {
	w := newWorld(t, nil)
	pg1, _ := pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	w.freeze(10 * time.Second)
	// The store cannot be read, and the watch goes on to deliver renewals whose age nobody knows.
	if _, err := c.Write([]byte("stalled\n")); err != nil {
		t.Fatal(err)
	}
	w.waitFor("no route", func(s router.Snapshot) bool { return !s.CanWrite() && s.StoreError != "" })
	if _, lines := pg1.got(); strings.Contains(strings.Join(lines, ""), "stalled") {
		t.Fatal("a byte moved before the epoch was confirmed")
	}
	w.store.SetFault(nil)
	if got, err := c.rd.ReadString('\n'); err != nil || got != "pg1 stalled\n" {
		t.Errorf("after revalidation: got %q %v, want the answer of pg1", got, err)
	}
}

func TestRouter_AFrozenRouterCutsWhenItMissedAFailover(t *testing.T) {
	w := newWorld(t, nil)
	pg1, _ := pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	w.renew(false)
	w.freeze(10 * time.Second)
	if _, err := c.Write([]byte("lost\n")); err != nil {
		t.Fatal(err)
	}
	w.hold("pg2", 2, lease)
	w.renew(true)
	w.store.SetFault(nil)
	c.cut(t)
	w.waitWrite("pg2")
	if _, lines := pg1.got(); strings.Contains(strings.Join(lines, ""), "lost") {
		t.Error("a byte went to the deposed primary")
	}
}

func TestRouter_AFrozenRouterThatCannotRevalidateCuts(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	w.freeze(10 * time.Second)
	c.cut(t)
}

func TestRouter_WatchLossIsNoticedAndRepaired(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	for range 3 {
		w.store.EndWatches(fmt.Errorf("connection lost"))
		if who, err := c.ask("x"); who != "pg1" || err != nil {
			t.Fatalf("got %s %v, want pg1", who, err)
		}
	}
	w.waitFor("the store is followed again", func(s router.Snapshot) bool { return s.StoreError == "" })
	w.hold("pg2", 2, lease)
	c.cut(t)
}

func TestRouter_JunkInTheStoreStopsNewcomersOnly(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	w.renew(false)
	if _, err := w.admin.Commit(context.Background(), dcs.Txn{Then: []dcs.Op{
		{Key: dcs.KeyLock, Value: []byte(`{"epoch":9223372036854775808}`)},
		{Key: dcs.KeyStatus, Value: []byte("junk")}, {Key: dcs.KeyFailover, Value: []byte("[")},
		{Key: "members/x", Value: []byte("\xff")}}}); err != nil {
		t.Fatal(err)
	}
	w.waitFor("no route", func(s router.Snapshot) bool { return !s.CanWrite() && strings.Contains(s.Why, "cannot be read") })
	if who, err := c.ask("x"); who != "pg1" || err != nil {
		t.Errorf("within the lease: got %s %v, want pg1", who, err)
	}
	c.cut(t) // the lease passes
}

func TestRouter_TheHolderItselfCanConfirm(t *testing.T) {
	var mu sync.Mutex
	holds := true
	w := newWorld(t, func(c *router.Config) {
		c.Confirm = func(_ context.Context, m cluster.Member) (cluster.PeerStatus, error) {
			mu.Lock()
			defer mu.Unlock()
			return cluster.PeerStatus{Name: m.Name, Epoch: 1, HoldsLock: holds, Running: true}, nil
		}
	})
	pair(t, w)
	w.edit(func(l *cluster.Lock) { l.TTL = 600 })
	c, _ := session(t, w.r.WriteAddr())
	w.renew(false)
	end := time.Now().Add(1500 * time.Millisecond)
	for time.Now().Before(end) {
		if who, err := c.ask("x"); who != "pg1" || err != nil {
			t.Fatalf("while the holder says it holds: got %s %v, want pg1", who, err)
		}
	}
	mu.Lock()
	holds = false
	mu.Unlock()
	c.cut(t)
	// It was slow to answer, no more: its word opens the port again, though the store still shows nothing.
	mu.Lock()
	holds = true
	mu.Unlock()
	w.waitFor("the primary again", func(s router.Snapshot) bool { return s.Write != nil })
}

func TestRouter_ReadsAreSpread(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	pg3 := newBackend(t, "pg3")
	w.member(pg3, cluster.RoleReplica, nil)
	w.waitFor("two replicas", func(s router.Snapshot) bool { return len(s.Read) == 2 })
	byName := map[string][]*client{}
	for range 10 {
		c, who := session(t, w.r.ReadAddr())
		byName[who] = append(byName[who], c)
	}
	if len(byName["pg2"]) != 5 || len(byName["pg3"]) != 5 {
		t.Errorf("got %d on pg2 and %d on pg3, want 5 each", len(byName["pg2"]), len(byName["pg3"]))
	}
	for _, c := range byName["pg3"][:3] {
		c.Close()
	}
	w.waitFor("three left", func(s router.Snapshot) bool { return s.Sessions == 7 })
	for range 3 {
		if _, who := session(t, w.r.ReadAddr()); who != "pg3" {
			t.Errorf("got %s, want pg3, which has fewer sessions", who)
		}
	}
}

func TestRouter_ADeadReplicaIsPassedOver(t *testing.T) {
	w := newWorld(t, nil)
	_, pg2 := pair(t, w)
	pg3 := newBackend(t, "pg3")
	w.member(pg3, cluster.RoleReplica, nil)
	w.waitFor("two replicas", func(s router.Snapshot) bool { return len(s.Read) == 2 })
	pg2.close()
	for range 6 {
		if _, who := session(t, w.r.ReadAddr()); who != "pg3" {
			t.Errorf("got %s, want pg3", who)
		}
	}
}

func TestRouter_LagEndsNewSessionsNotOldOnes(t *testing.T) {
	w := newWorld(t, nil)
	_, pg2 := pair(t, w)
	old, _ := session(t, w.r.ReadAddr())
	w.put(dcs.KeyStatus, cluster.Status{Optime: 6001})
	w.waitFor("fallback", func(s router.Snapshot) bool { return s.ReadFallback })
	atPrimary, who := session(t, w.r.ReadAddr())
	if who != "pg1" {
		t.Errorf("got %s, want the primary", who)
	}
	if who, err := old.ask("x"); who != "pg2" || err != nil {
		t.Errorf("old session: got %s %v, want pg2", who, err)
	}
	w.drop(dcs.MemberKey(pg2.name)) // its lease in the store has expired
	old.cut(t)
	w.edit(func(l *cluster.Lock) { l.Node, l.Ready = "", false })
	atPrimary.cut(t)
}

func TestRouter_ReplicationIsRefusedOnTheReadPortOnly(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	for value, refused := range map[string]bool{"true": true, "database": true, "1": true, "off": false, "false": false} {
		c := dial(t, w.r.ReadAddr())
		_, _ = c.Write(startup("user", "u", "replication", value))
		_, err := c.ready()
		if got := err != nil && strings.Contains(err.Error(), "08P01"); got != refused {
			t.Errorf("replication=%s on the read port: got %v, want refused %v", value, err, refused)
		}
	}
	c := dial(t, w.r.WriteAddr())
	_, _ = c.Write(startup("user", "u", "replication", "true"))
	if _, err := c.ready(); err != nil {
		t.Errorf("replication on the write port: %v", err)
	}
}

func TestRouter_CancelReachesTheBackendOfItsSession(t *testing.T) {
	w := newWorld(t, nil)
	pg1, pg2 := pair(t, w)
	c := dial(t, w.r.ReadAddr())
	key, err := c.login()
	if err != nil {
		t.Fatal(err)
	}
	if _, who := session(t, w.r.WriteAddr()); who != "pg1" {
		t.Fatal("want a session on pg1 too")
	}
	x := dial(t, w.r.WriteAddr()) // whichever port it comes to
	_, _ = x.Write(request(80877102, []byte(key)...))
	x.cut(t)
	if got, _ := pg2.got(); len(got) != 1 || got[0] != key {
		t.Errorf("got cancels %q at pg2, want %q", got, key)
	}
	wrong := dial(t, w.r.WriteAddr())
	_, _ = wrong.Write(request(80877102, []byte("\x00\x00\x00\x09oops")...))
	wrong.cut(t)
	if got, _ := pg1.got(); len(got) != 0 {
		t.Errorf("got cancels %q at pg1, want none: all sessions show their keys", got)
	}
	if s := w.r.Snapshot(); s.Cancels != 2 || s.CancelsDropped != 1 {
		t.Errorf("got %d cancels, %d dropped, want 2 and 1", s.Cancels, s.CancelsDropped)
	}
	// With its session the key is forgotten.
	c.Close()
	w.waitFor("session over", func(s router.Snapshot) bool { return s.Sessions == 1 })
	again := dial(t, w.r.ReadAddr())
	_, _ = again.Write(request(80877102, []byte(key)...))
	again.cut(t)
	if got, _ := pg2.got(); len(got) != 1 {
		t.Errorf("got cancels %q at pg2 after the session, want one", got)
	}
}

func TestRouter_CancelForAnEncryptedSessionGoesWhereTheClientIs(t *testing.T) {
	w := newWorld(t, nil)
	pg1, pg2 := pair(t, w)
	pg2.set(func() { pg2.tls = true })
	c := dial(t, w.r.ReadAddr())
	_, _ = c.Write(request(80877103))
	if b, err := c.rd.ReadByte(); b != 'S' || err != nil {
		t.Fatalf("got %q %v, want S", b, err)
	}
	if who, err := c.ask("as if encrypted"); who != "pg2" || err != nil {
		t.Fatalf("got %s %v, want pg2", who, err)
	}
	session(t, w.r.WriteAddr()) // in the clear: not a place to look
	x := dial(t, w.r.WriteAddr())
	_, _ = x.Write(request(80877102, []byte("\x00\x00\x00\x05abcd")...))
	x.cut(t)
	if got, _ := pg2.got(); len(got) != 1 {
		t.Errorf("got cancels %q at pg2, want one", got)
	}
	if got, _ := pg1.got(); len(got) != 0 {
		t.Errorf("got cancels %q at pg1, want none", got)
	}
	// Guesses are limited.
	for range 60 {
		g := dial(t, w.r.WriteAddr())
		_, _ = g.Write(request(80877102, []byte("\x00\x00\x00\x06abcd")...))
		g.cut(t)
	}
	if s := w.r.Snapshot(); s.CancelsDropped == 0 {
		t.Errorf("got no dropped cancels of %d, want a limit", s.Cancels)
	}
}

func TestRouter_HalfCloseStillDeliversTheAnswer(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	big := strings.Repeat("x", 1<<20)
	go func() {
		_, _ = c.Write([]byte(big + "\n"))
		_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c.rd)
	if err != nil || string(got) != "pg1 "+big+"\n" {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(big)+5)
	}
	w.waitFor("session over", func(s router.Snapshot) bool { return s.Sessions == 0 })
}

func TestRouter_DrainLetsSessionsEnd(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.Drain = patience })
	pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	addr := w.r.StatusAddr()
	closed := make(chan error, 1)
	go func() { closed <- w.r.Close() }()
	eventually(t, "the status port is shut", func() (bool, string) {
		res, err := http.Get("http://" + addr.String() + "/")
		if err == nil {
			res.Body.Close() // or the connection outlives the test
		}
		return err != nil, "still open"
	})
	if who, err := c.ask("x"); who != "pg1" || err != nil {
		t.Errorf("while draining: got %s %v, want pg1", who, err)
	}
	c.Close()
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestRouter_Status(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t, func(c *router.Config) { c.Registerer = reg })
	get := func(path string) (int, string) {
		t.Helper()
		res, err := http.Get("http://" + w.r.StatusAddr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	defer http.DefaultClient.CloseIdleConnections()
	if code, _ := get("/write"); code != 503 {
		t.Errorf("/write without a primary: got %d, want 503", code)
	}
	pair(t, w)
	session(t, w.r.WriteAddr())
	for path, want := range map[string]int{"/": 200, "/health": 200, "/write": 200, "/read": 200, "/nothing": 404} {
		if code, body := get(path); code != want {
			t.Errorf("%s: got %d, want %d: %s", path, code, want, body)
		}
	}
	_, body := get("/")
	var s router.Snapshot
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Write == nil || s.Write.Name != "pg1" || s.Sessions != 1 || s.ConfirmedMS <= 0 {
		t.Errorf("got %s, %v", body, err)
	}
	_, body = get("/metrics")
	for _, want := range []string{`hathi_router_sessions{backend="pg1"} 1`, "hathi_router_epoch 1", "hathi_router_write_available 1"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %q:\n%s", want, body)
		}
	}
	w.store.SetFault(func(string) mem.Fault { return mem.FaultUnavailable })
	w.store.EndWatches(fmt.Errorf("gone"))
	w.waitFor("store error", func(s router.Snapshot) bool { return s.StoreError != "" })
	if code, _ := get("/health"); code != 503 {
		t.Errorf("/health without the store: got %d, want 503", code)
	}
}
