package node_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/node"
)

// fence is a guardian that fences nobody.
type fence struct {
	now      func() time.Duration
	deadline time.Duration
	ladder   lease.Ladder
	armErr   error
}

func (f *fence) Arm(at time.Duration, l lease.Ladder) (int64, error) {
	if f.armErr != nil {
		return 0, f.armErr
	}
	f.deadline, f.ladder = at, l
	return 1, nil
}
func (f *fence) WaitAck(context.Context, int64) error { return nil }
func (f *fence) Extend(at time.Duration) bool {
	if f.deadline <= 0 || f.now() >= f.deadline {
		return false
	}
	f.deadline = max(f.deadline, at)
	return true
}
func (f *fence) Disarm() error                 { f.deadline = 0; return nil }
func (f *fence) Deadline() time.Duration       { return f.deadline }
func (f *fence) Fenced() (time.Duration, bool) { return 0, false }
func (f *fence) Fencing() bool                 { return false }
func (f *fence) Alive(time.Duration) bool      { return true }

// bench is a leadership on a store in memory, with a clock that stands still unless moved.
type bench struct {
	t        *testing.T
	clock    time.Duration
	server   *mem.Server
	client   *mem.Client
	guard    *fence
	lead     *node.Leadership
	instance string
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, clock: time.Hour, instance: "i1"}
	b.server = mem.NewServer(func() time.Duration { return b.clock })
	b.client = b.server.Client("lead")
	b.guard = &fence{now: b.now}
	b.lead = b.another("pg1")
	return b
}

func (b *bench) now() time.Duration { return b.clock }

func (b *bench) another(name string) *node.Leadership {
	return node.NewLeadership(b.client, b.guard, b.now, name, func() string { return b.instance })
}

func (b *bench) view() cluster.View {
	b.t.Helper()
	snap, err := b.server.Client("reader").Load(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return dcs.Decode(snap)
}

func (b *bench) take(ttl time.Duration) {
	b.t.Helper()
	v := b.view()
	err := b.lead.Take(b.t.Context(), ha.TakeLock{Epoch: v.Lock.Epoch + 1, LockRev: v.LockRev, SyncRev: v.SyncRev}, v.InitializeRev, v.Status, ttl, 0)
	if err != nil {
		b.t.Fatalf("got %v, want the lock", err)
	}
}

// renew vouches for the database and renews.
func (b *bench) renew() error {
	b.lead.Vouch(b.clock + time.Minute)
	return b.lead.Renew(b.t.Context())
}

func (b *bench) held(want bool) {
	b.t.Helper()
	if _, got := b.lead.Held(); got != want {
		b.t.Fatalf("got held %t, want %t", got, want)
	}
}

func TestLeadership_ARenewalCountsFromBeforeItWasSent(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	sent := b.clock + time.Second
	b.clock = sent
	b.client.SetFault(func(op string) mem.Fault {
		b.clock += 300 * time.Millisecond // the way there and back
		return mem.FaultNone
	})
	if err := b.renew(); err != nil {
		t.Fatal(err)
	}
	if want := lease.FenceAt(sent, 6*time.Second); b.guard.deadline != want {
		t.Errorf("got a deadline %s after the sending, want %s", b.guard.deadline-sent, want-sent)
	}
}

func TestLeadership_AnUnknownOutcomeLeavesTheDeadline(t *testing.T) {
	for name, fault := range map[string]mem.Fault{"carried out, answer lost": mem.FaultLost, "dropped": mem.FaultDropped,
		"carried out later": mem.FaultDelayed, "refused": mem.FaultUnavailable} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.take(6 * time.Second)
			before := b.guard.deadline
			b.clock += time.Second
			b.client.SetFault(func(string) mem.Fault { return fault })
			if err := b.renew(); err == nil {
				t.Fatal("got no error, want one")
			}
			if b.guard.deadline != before {
				t.Errorf("got a deadline moved by %s, want it where it was", b.guard.deadline-before)
			}
			b.client.SetFault(nil)
			b.server.Flush()
			if err := b.renew(); err != nil {
				t.Fatalf("got %v, want the lease renewed after the fault", err)
			}
			if want := lease.FenceAt(b.clock, 6*time.Second); b.guard.deadline != want {
				t.Errorf("got a deadline at %s, want %s", b.guard.deadline, want)
			}
			b.clock = b.guard.deadline
			b.held(false)
		})
	}
}

func TestLeadership_AnotherHolderBeginsTheFenceAtOnce(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	v := b.view()
	_, err := b.server.Client("other").Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: dcs.KeyLock,
		Value: []byte(`{"node":"pg2","epoch":2,"seq":1,"ttl_ms":6000}`)}}, If: []dcs.Cond{{Key: dcs.KeyLock, ModRev: v.LockRev}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.renew(); !errors.Is(err, node.ErrNotHeld) {
		t.Errorf("got %v, want %v", err, node.ErrNotHeld)
	}
	b.held(false)
	if b.guard.deadline > b.clock {
		t.Errorf("got a fence in %s, want it now", b.guard.deadline-b.clock)
	}
}

func TestLeadership_TakeComparesTheLockAndSync(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	v := b.view()
	other := b.another("pg2")
	for name, e := range map[string]ha.TakeLock{
		"lock renewed since": {Epoch: 2, LockRev: v.LockRev - 1, SyncRev: v.SyncRev},
		"sync written since": {Epoch: 2, LockRev: v.LockRev, SyncRev: v.SyncRev + 1},
	} {
		if err := other.Take(t.Context(), e, 0, v.Status, 6*time.Second, 0); !errors.Is(err, node.ErrConflict) {
			t.Errorf("%s: got %v, want %v", name, err, node.ErrConflict)
		}
	}
	if _, held := other.Held(); held {
		t.Error("got the lock held by two, want one")
	}
}

func TestLeadership_ALostTakeIsNoHold(t *testing.T) {
	b := newBench(t)
	b.client.SetFault(func(string) mem.Fault { return mem.FaultLost })
	err := b.lead.Take(t.Context(), ha.TakeLock{Epoch: 1}, 0, cluster.Status{}, 6*time.Second, 0)
	if err == nil {
		t.Fatal("got no error, want an unknown outcome")
	}
	b.held(false)
	if b.guard.deadline != 0 {
		t.Error("got an armed guardian, want it left alone")
	}
}

// meanwhile is a store that does something else before it carries out a write.
type meanwhile struct {
	dcs.Store
	do func()
}

func (m *meanwhile) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	m.do()
	return m.Store.Commit(ctx, t)
}

// A longer ttl that becomes known while a renewal, or a round of promises, is under way counts from the
// next one on: the others wait for the lease that this one announced.
func TestLeadership_ALongerLeaseCountsOnceItWasAnnounced(t *testing.T) {
	b := newBench(t)
	store := &meanwhile{Store: b.client, do: func() {}}
	b.lead = node.NewLeadership(store, b.guard, b.now, "pg1", func() string { return b.instance })
	b.take(3 * time.Second)
	b.clock += time.Second
	store.do = func() { b.lead.SetTTL(15 * time.Second) }
	if err := b.renew(); err != nil {
		t.Fatal(err)
	}
	if want := lease.FenceAt(b.clock, 3*time.Second); b.guard.deadline != want {
		t.Errorf("renewed: got a deadline at %s, want %s", b.guard.deadline, want)
	}
	b.clock += time.Second
	if !b.lead.Confirm(b.clock, 3*time.Second) {
		t.Fatal("got no lease on the members' promises, want one")
	}
	if want := lease.FenceAt(b.clock, 3*time.Second); b.guard.deadline != want {
		t.Errorf("promised: got a deadline at %s, want %s", b.guard.deadline, want)
	}
	if err := b.renew(); err != nil {
		t.Fatal(err)
	}
	if want := lease.FenceAt(b.clock, 15*time.Second); b.guard.deadline != want || b.view().Lock.TTL != 15_000 {
		t.Errorf("announced: got a deadline at %s under ttl_ms %d, want %s under 15000", b.guard.deadline, b.view().Lock.TTL, want)
	}
}

// hasty is a store that swallows every request, and notes how long it was given.
type hasty struct {
	dcs.Store
	given []time.Duration
}

func (h *hasty) Commit(ctx context.Context, _ dcs.Txn) (dcs.Result, error) {
	deadline, _ := ctx.Deadline()
	h.given = append(h.given, time.Until(deadline))
	return dcs.Result{}, context.DeadlineExceeded
}

// A store that elects its leader may swallow the first try, and meanwhile another member may lead; a
// slow store must be given enough in the end.
func TestLeadership_TriesToTakeGetLongerFromShort(t *testing.T) {
	b := newBench(t)
	store := &hasty{Store: b.client}
	lead := node.NewLeadership(store, b.guard, b.now, "pg1", func() string { return b.instance })
	for range 5 {
		if err := lead.Take(t.Context(), ha.TakeLock{Epoch: 1}, 0, cluster.Status{}, 6*time.Second, 0); err == nil {
			t.Fatal("got no error, want an unknown outcome")
		}
	}
	if first := store.given[0]; first > lease.RenewTimeout(6*time.Second)/2 {
		t.Errorf("got %v for the first try, want at most half of what a renewal gets", first)
	}
	last := store.given[len(store.given)-1]
	if want := lease.RenewTimeout(6 * time.Second); last > want || last < want/2 {
		t.Errorf("got %v for the last try, want about %v", last, want)
	}
}

func TestLeadership_AShorterLeaseWaitsForItsFence(t *testing.T) {
	b := newBench(t)
	b.take(30 * time.Second)
	long := b.guard.deadline
	b.lead.SetTTL(6 * time.Second)
	for b.clock < long {
		if err := b.renew(); err != nil {
			t.Fatal(err)
		}
		announced := time.Duration(b.view().Lock.TTL) * time.Millisecond
		if end := b.guard.deadline + lease.Margin(announced); end > b.clock+announced {
			t.Fatalf("got a lock of %s under a fence that ends in %s", announced, end-b.clock)
		}
		if b.guard.ladder.Kill > lease.LadderFor(announced).Kill {
			t.Fatalf("got a ladder that kills after %s under a lock of %s, want %s", b.guard.ladder.Kill, announced, lease.LadderFor(announced).Kill)
		}
		b.clock += 400 * time.Millisecond
	}
	if got := b.view().Lock.TTL; got != 6000 {
		t.Errorf("got a lock of %d ms at the end, want 6000", got)
	}
}

func TestLeadership_ABootstrapsLockGetsItsInstance(t *testing.T) {
	b := newBench(t)
	b.instance = ""
	b.take(6 * time.Second)
	b.instance = "i1"
	b.client.SetFault(func(string) mem.Fault { return mem.FaultLost })
	_ = b.renew() // it is carried out, and the answer is lost
	b.client.SetFault(nil)
	if err := b.renew(); err != nil {
		t.Fatalf("got %v, want the lease renewed", err)
	}
	if got := b.view().Lock.Instance; got != "i1" {
		t.Errorf("got instance %q, want i1", got)
	}
	again := b.another("pg1")
	if !again.Lease(b.view()).Resumable {
		t.Error("got a lock that a new agent cannot resume, want one that it can")
	}
	if err := again.Resume(t.Context(), b.view()); err != nil {
		t.Errorf("got %v, want the lock resumed", err)
	}
}

func TestLeadership_NobodyVouchesNobodyRenews(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	b.lead.Unvouch()
	b.clock += time.Second
	before := b.view().Lock.Seq
	if err := b.lead.Renew(t.Context()); !errors.Is(err, node.ErrNotVouched) {
		t.Errorf("got %v, want %v", err, node.ErrNotVouched)
	}
	if got := b.view().Lock.Seq; got != before {
		t.Errorf("got seq %d, want %d", got, before)
	}
}

func TestLeadership_NoGuardianNoHold(t *testing.T) {
	b := newBench(t)
	b.guard.armErr = errors.New("it is fencing")
	if err := b.lead.Take(t.Context(), ha.TakeLock{Epoch: 1}, 0, cluster.Status{}, 6*time.Second, 0); err == nil {
		t.Error("got no error, want one")
	}
	b.held(false)
}

func TestLeadership_ReleaseNamesTheSuccessor(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	b.client.SetFault(func(string) mem.Fault { return mem.FaultLost })
	_ = b.renew() // the store is one write ahead of us
	b.client.SetFault(nil)
	if err := b.lead.Release(t.Context(), ha.ReleaseLock{Successor: "pg2", Shutdown: true, Optime: 77, Timeline: 1}, 0); err != nil {
		t.Fatal(err)
	}
	v := b.view()
	if v.Lock.Held() || v.Lock.Successor != "pg2" || v.Lock.Epoch != 1 {
		t.Errorf("got lock %+v, want it free in epoch 1 for pg2", v.Lock)
	}
	if !v.Status.Shutdown || v.Status.Optime != 77 {
		t.Errorf("got status %+v, want a clean shutdown at 77", v.Status)
	}
	if b.guard.deadline != 0 {
		t.Error("got an armed guardian, want it disarmed")
	}
	b.held(false)
}

func TestLeadership_PromisesExtendTheLease(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	b.clock += 2 * time.Second
	b.lead.Vouch(b.clock + time.Minute)
	if !b.lead.Confirm(b.clock, 6*time.Second) || !b.lead.Failsafe() {
		t.Fatal("got no lease on the members' promises, want one")
	}
	if want := lease.FenceAt(b.clock, 6*time.Second); b.guard.deadline != want {
		t.Errorf("got a deadline at %s, want %s", b.guard.deadline, want)
	}
	b.clock = b.guard.deadline
	if b.lead.Confirm(b.clock, 6*time.Second) {
		t.Error("got a lease after its deadline, want none")
	}
}

// The store came back from a copy in which this node led already, in this epoch or in an earlier
// one: going on would be going on with the record of the synchronous set of then.
func TestLeadership_AnOlderLockOfItsOwnIsNotTakenUpAgain(t *testing.T) {
	for name, older := range map[string]string{
		"an earlier write":  `{"node":"pg1","instance":"i1","epoch":5,"seq":2,"ttl_ms":6000}`,
		"an earlier epoch":  `{"node":"pg1","instance":"i1","epoch":4,"seq":99,"ttl_ms":6000}`,
		"another's earlier": `{"node":"pg2","instance":"i2","epoch":4,"seq":99,"ttl_ms":6000}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if err := b.lead.Take(t.Context(), ha.TakeLock{Epoch: 5}, 0, cluster.Status{}, 6*time.Second, 0); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := b.renew(); err != nil {
					t.Fatal(err)
				}
			}
			before := b.guard.deadline
			if _, err := b.client.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: dcs.KeyLock, Value: []byte(older)}}}); err != nil {
				t.Fatal(err)
			}
			b.clock += time.Second
			for range 2 {
				if err := b.renew(); !errors.Is(err, dcs.ErrWentBack) {
					t.Errorf("got %v, want %v", err, dcs.ErrWentBack)
				}
			}
			if got := b.view().Lock.Seq; got > 99 || b.guard.deadline != before {
				t.Errorf("got write %d and a deadline moved by %s, want the old lock left alone", got, b.guard.deadline-before)
			}
			b.clock = before
			b.held(false)
		})
	}
}
