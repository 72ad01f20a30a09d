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
