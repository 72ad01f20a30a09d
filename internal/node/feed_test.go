package node_test

import (
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
)

func TestFeed_ADamagedConfigurationDoesNotReplaceAGoodOne(t *testing.T) {
	for name, damage := range map[string]dcs.Op{
		"junk":             {Key: dcs.KeyConfig, Value: []byte(`[`)},
		"a mode misspelt":  {Key: dcs.KeyConfig, Value: []byte(`{"ttl":6,"synchronous_mode":"qourum"}`)},
		"the key is gone":  {Key: dcs.KeyConfig, Delete: true},
		"another document": {Key: dcs.KeyConfig, Value: []byte(`7`)},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			put := func(ops ...dcs.Op) {
				t.Helper()
				if _, err := b.client.Commit(t.Context(), dcs.Txn{Then: ops}); err != nil {
					t.Fatal(err)
				}
			}
			feed := node.NewFeed(b.client, b.now, slog.New(slog.DiscardHandler))
			look := func(f *node.Feed) cluster.View {
				t.Helper()
				if err := f.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				return f.Get().View
			}
			put(dcs.Op{Key: dcs.KeyInitialize, Value: []byte("7")}, dcs.Op{Key: dcs.KeyConfig, Value: []byte(`{"synchronous_mode":"quorum"}`)})
			look(feed)
			put(damage)
			if v := look(feed); v.Config.SynchronousMode != cluster.SyncQuorum || v.ConfigBad || len(v.Problems) == 0 {
				t.Errorf("got mode %v, bad %t, problems %v, want the good configuration kept and the problem told", v.Config.SynchronousMode, v.ConfigBad, v.Problems)
			}
			// Who has never seen a good one knows that it does not know.
			fresh := node.NewFeed(b.client, b.now, slog.New(slog.DiscardHandler))
			if v := look(fresh); !v.ConfigBad {
				t.Errorf("got a configuration that passes for good, want a bad one")
			}
			put(dcs.Op{Key: dcs.KeyConfig, Value: []byte(`{"synchronous_mode":false}`)})
			if v := look(feed); v.Config.SynchronousMode != cluster.SyncOff || v.ConfigBad {
				t.Errorf("got mode %v, bad %t, want the new configuration in force", v.Config.SynchronousMode, v.ConfigBad)
			}
		})
	}
}

// The record of who leads only ever grows. A store that shows an older one is refused, whatever its
// revisions say (a restore may raise them), until it shows one that is newer than any that was seen.
func TestFeed_AnOlderLockIsRefused(t *testing.T) {
	lock := func(epoch, seq uint64) dcs.Op {
		v, err := json.Marshal(cluster.Lock{Node: "pg1", Instance: "i1", Epoch: epoch, Seq: seq, TTL: 6000})
		if err != nil {
			t.Fatal(err)
		}
		return dcs.Op{Key: dcs.KeyLock, Value: v}
	}
	for name, c := range map[string]struct {
		back        dcs.Op
		refused     bool
		highest     uint64
		shownEpoch  uint64
		freshRefuse bool // by an agent that was restarted and remembers
	}{
		"an earlier epoch":                     {lock(4, 900), true, 5, 5, true},
		"an earlier write of the same epoch":   {lock(5, 6), true, 5, 5, true},
		"the same write":                       {lock(5, 7), false, 5, 5, false},
		"a later one":                          {lock(6, 1), false, 6, 6, false},
		"a deleted lock is a loss, not a past": {dcs.Op{Key: dcs.KeyLock, Delete: true}, false, 5, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			put := func(ops ...dcs.Op) {
				t.Helper()
				if _, err := b.client.Commit(t.Context(), dcs.Txn{Then: ops}); err != nil {
					t.Fatal(err)
				}
			}
			feed := node.NewFeed(b.client, b.now, slog.New(slog.DiscardHandler))
			look := func(f *node.Feed) ha.Store {
				t.Helper()
				if err := f.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				return f.Get()
			}
			put(lock(5, 7))
			if s := look(feed); !s.Reachable || s.HighestEpoch != 5 {
				t.Fatalf("got %+v, want the lock of epoch 5", s)
			}
			put(c.back)
			s := look(feed)
			if s.Reachable == c.refused || (s.WentBack != "") != c.refused || s.HighestEpoch != c.highest || s.View.Lock.Epoch != c.shownEpoch {
				t.Errorf("got reachable %t, went back %q, highest %d, view of epoch %d; want refused %t, %d, %d",
					s.Reachable, s.WentBack, s.HighestEpoch, s.View.Lock.Epoch, c.refused, c.highest, c.shownEpoch)
			}
			again := node.NewFeed(b.client, b.now, slog.New(slog.DiscardHandler))
			again.Remember(node.Mark{Epoch: 5, Seq: 7})
			if s := look(again); (s.WentBack != "") != c.freshRefuse {
				t.Errorf("after a restart: got %q, want refused %t", s.WentBack, c.freshRefuse)
			}
			put(lock(7, 1))
			if s := look(feed); !s.Reachable || s.WentBack != "" || s.View.Lock.Epoch != 7 {
				t.Errorf("got %+v, want a newer lock accepted", s)
			}
		})
	}
}
