package node_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
)

// standby is a running standby that follows nobody yet. What a test does not expect panics.
type standby struct {
	node.Database
	observing func()
	replaying bool
	followed  []string
}

func (s *standby) Observe(context.Context) ha.Database {
	if f := s.observing; f != nil {
		s.observing = nil
		f()
	}
	return ha.Database{Dir: ha.DirValid, SystemID: "7", Phase: ha.Up, PhaseAt: time.Minute, Timeline: 1, LSN: 100, Replaying: s.replaying}
}
func (s *standby) Follow(_ context.Context, up node.Upstream) error {
	s.followed = append(s.followed, up.Name)
	return nil
}
func (s *standby) Hold(context.Context) error                 { return nil }
func (s *standby) Detail() node.Detail                        { return node.Detail{} }
func (s *standby) Progress() string                           { return "" }
func (s *standby) Slots(context.Context, node.SlotPlan) error { return nil }
func (s *standby) Configure(context.Context, cluster.Settings, map[string]cluster.Member) error {
	return nil
}

// nobody is the other members, none of whom answers.
type nobody struct{ node.Peers }

func (nobody) Alive(context.Context, cluster.Member) bool { return false }

// promises forgets nothing and keeps nothing.
type promises struct{}

func (promises) Load() (int64, error) { return 0, nil }
func (promises) Save(int64) error     { return nil }

func TestNode_APositionBelowWhatWasConfirmedIsNotTold(t *testing.T) {
	b := newBench(t)
	feed := node.NewFeed(b.server.Client("feed"), b.now, slog.New(slog.DiscardHandler))
	db := &standby{}
	n := node.New(node.Config{Name: "pg1", Instance: func() string { return b.instance }, DB: db, Feed: feed, Lead: b.lead, Now: b.now, Log: slog.New(slog.DiscardHandler)})
	for replaying, want := range map[bool]cluster.LSN{false: 100, true: 0} {
		db.replaying = replaying
		if got := n.Peer(t.Context()).LSN; got != want {
			t.Errorf("replaying %t: got %s told to peers, want %s", replaying, got, want)
		}
	}
}

func TestNode_AStaleDecisionDoesNotBreakAPromise(t *testing.T) {
	for name, after := range map[string]cluster.Lock{
		"the lock is where the promise was given": {},
		"another member has taken it since":       {Node: "pg3", Epoch: 6, Seq: 1, Timeline: 1, TTL: 6000, Ready: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			put := func(key string, value any) {
				t.Helper()
				text, err := json.Marshal(value)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.client.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: key, Value: text}}}); err != nil {
					t.Fatal(err)
				}
			}
			put(dcs.MemberKey("pg2"), cluster.Member{ConnURL: "postgres://10.0.0.2:5432/postgres"})
			put(dcs.MemberKey("pg3"), cluster.Member{ConnURL: "postgres://10.0.0.3:5432/postgres"})
			lock := cluster.Lock{Node: "pg2", Instance: "i2", Epoch: 5, Seq: 1, Timeline: 1, TTL: 6000, Ready: true}
			put(dcs.KeyLock, lock)
			feed := node.NewFeed(b.server.Client("feed"), b.now, slog.New(slog.DiscardHandler))
			refresh := func() {
				t.Helper()
				if err := feed.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			refresh()
			db := &standby{}
			n := node.New(node.Config{Name: "pg1", Scope: "c", Instance: func() string { return b.instance }, Store: b.client, DB: db, Guard: b.guard,
				Peers: nobody{}, Jobs: node.NewRunner(b.now), Feed: feed, Lead: b.lead, Now: b.now, Wall: func() time.Time { return time.Unix(0, 0) },
				Log: slog.New(slog.DiscardHandler), Promises: promises{}})
			var at int64
			db.observing = func() { // the tick has its view of the store already
				lock.Seq++
				put(dcs.KeyLock, lock)
				refresh()
				at = b.view().LockRev
				b.clock += time.Second
				refresh()
				b.clock += time.Second
				if _, err := n.Revoke(t.Context(), node.Revocation{Scope: "c", Name: "pg3", Epoch: 5, LockRev: at}); err != nil {
					t.Fatalf("got %v, want the promise", err)
				}
				if after.Held() {
					put(dcs.KeyLock, after)
					refresh()
				}
			}
			n.ProbeLeader(t.Context()) // from here on pg2 is silent
			n.Tick(t.Context())
			if slices.Contains(db.followed, "pg2") {
				t.Errorf("got %v followed, want nothing received from pg2 after the promise at revision %d", db.followed, at)
			}
		})
	}
}

// lonely is the other members, none of whom promises anything; the leader answers probes when it is
// heard.
type lonely struct {
	node.Peers
	heard bool
}

func (l *lonely) Alive(context.Context, cluster.Member) bool { return l.heard }
func (l *lonely) Ask(context.Context, map[string]cluster.Member, string, []string) map[string]cluster.PeerStatus {
	return nil
}
func (l *lonely) Revoke(context.Context, map[string]cluster.Member, string, string, node.Revocation) map[string]cluster.PeerStatus {
	return nil
}

// fenced is a synchronous cluster that pg2 leads, and the standby pg1, which has seen it renew and does
// not hear it.
type fenced struct {
	*bench
	lock  cluster.Lock
	feed  *node.Feed
	db    *standby
	peers *lonely
	node  *node.Node
}

func newFenced(t *testing.T) *fenced {
	f := &fenced{bench: newBench(t), db: &standby{}, peers: &lonely{},
		lock: cluster.Lock{Node: "pg2", Instance: "i2", Epoch: 5, Seq: 1, Timeline: 1, TTL: 6000, Ready: true}}
	for _, name := range []string{"1", "2", "3"} {
		f.put(dcs.MemberKey("pg"+name), cluster.Member{ConnURL: "postgres://10.0.0." + name + ":5432/postgres"})
	}
	f.put(dcs.KeyConfig, map[string]any{"ttl": 6, "synchronous_mode": "quorum"})
	f.put(dcs.KeySync, cluster.SyncState{Leader: "pg2", Standbys: []string{"pg1", "pg3"}, Quorum: 1})
	f.put(dcs.KeyInitialize, 7)
	f.put(dcs.KeyLock, f.lock)
	f.feed = node.NewFeed(f.server.Client("feed"), f.now, slog.New(slog.DiscardHandler))
	f.refresh()
	f.renewed()
	f.node = node.New(node.Config{Name: "pg1", Scope: "c", Instance: func() string { return f.instance }, Store: f.client, DB: f.db, Guard: f.guard,
		Peers: f.peers, Jobs: node.NewRunner(f.now), Feed: f.feed, Lead: f.lead, Now: f.now, Wall: func() time.Time { return time.Unix(0, 0) },
		Log: slog.New(slog.DiscardHandler), Promises: promises{}})
	f.node.ProbeLeader(t.Context())
	return f
}

func (f *fenced) put(key string, value any) {
	f.t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.client.Commit(f.t.Context(), dcs.Txn{Then: []dcs.Op{{Key: key, Value: text}}}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fenced) refresh() {
	f.t.Helper()
	if err := f.feed.Refresh(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// renewed is a renewal of the lock that this node sees.
func (f *fenced) renewed() {
	f.t.Helper()
	f.lock.Seq++
	f.put(dcs.KeyLock, f.lock)
	f.refresh()
}

// A standby that does not hear the leader, and whom nobody joins, must not be kept from the leader by a
// promise that is of no use to anybody.
func TestNode_APromiseThatNobodyWasToldOfIsTakenBack(t *testing.T) {
	f := newFenced(t)
	f.clock += 2 * time.Second
	if d := f.node.Tick(t.Context()); d.State != ha.StateCandidate {
		t.Fatalf("got %s (%s), want a candidate that asks for promises", d.State, d.Why)
	}
	f.peers.heard = true
	f.node.ProbeLeader(t.Context())
	f.node.Tick(t.Context())
	if !slices.Contains(f.db.followed, "pg2") {
		t.Errorf("got %v followed, want the leader, which answers again", f.db.followed)
	}
}

// A decision on a view that is past must not put its promise in the place of a newer one, on which
// another member may count.
func TestNode_AStalePromiseDoesNotReplaceANewerOne(t *testing.T) {
	f := newFenced(t)
	var at int64
	f.clock += 1500 * time.Millisecond
	f.db.observing = func() { // the tick has its view of the store already
		f.renewed()
		at = f.view().LockRev
		f.clock += time.Second
		f.refresh()
		if _, err := f.node.Revoke(t.Context(), node.Revocation{Scope: "c", Name: "pg3", Epoch: 5, LockRev: at}); err != nil {
			t.Fatalf("got %v, want the promise", err)
		}
	}
	f.node.Tick(t.Context())
	if got := f.node.Peer(t.Context()).Revoked; got != at {
		t.Errorf("got the promise for revision %d, want the one for %d that was given", got, at)
	}
}

// The holder that could not reach the store for a moment got a promise; when it then gives the lock back,
// its successor must not wait for the promise to end.
func TestNode_APromiseEndsWhenTheHolderGivesTheLockBack(t *testing.T) {
	f := newFenced(t)
	if ok, why := f.node.Promise(node.Promise{Scope: "c", Name: "pg2", Epoch: 5, TTL: 6000}); !ok {
		t.Fatalf("got no promise: %s", why)
	}
	f.clock += 100 * time.Millisecond
	released := f.lock
	released.Node, released.Instance, released.Ready, released.Successor = "", "", false, "pg1"
	f.put(dcs.KeyLock, released)
	f.refresh()
	if d := f.node.Tick(t.Context()); d.State != ha.StateCandidate {
		t.Errorf("released: got %s (%s), want a candidate", d.State, d.Why)
	}
	// One that is gone, or of an earlier epoch, proves nothing.
	for name, change := range map[string]func(*fenced){
		"of an earlier epoch": func(f *fenced) { released.Epoch = 4; f.put(dcs.KeyLock, released) },
		"removed": func(f *fenced) {
			if _, err := f.client.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: dcs.KeyLock, Delete: true}}}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		f := newFenced(t)
		if ok, why := f.node.Promise(node.Promise{Scope: "c", Name: "pg2", Epoch: 5, TTL: 6000}); !ok {
			t.Fatalf("got no promise: %s", why)
		}
		f.clock += 100 * time.Millisecond
		change(f)
		f.refresh()
		if d := f.node.Tick(t.Context()); d.State == ha.StateCandidate {
			t.Errorf("%s: got a candidate (%s), want the promise kept", name, d.Why)
		}
	}
}
