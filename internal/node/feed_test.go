package node_test

import (
	"log/slog"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
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
