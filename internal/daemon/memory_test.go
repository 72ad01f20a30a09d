package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
	"github.com/hathi-ha/hathi/internal/health"
	"github.com/hathi-ha/hathi/internal/node"
)

func TestStoreMemory_OutlivesTheAgent(t *testing.T) {
	m := storeMemory{path: filepath.Join(t.TempDir(), "store.json"), prefix: "/service/demo/"}
	if got, err := m.Load(); err != nil || got != (storeMark{}) {
		t.Fatalf("got %+v, %v, want nothing known", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what is known is written at the end
	m.keep(ctx, func() int64 { return 70 }, func() node.Mark { return node.Mark{Epoch: 5, Seq: 9} }, slog.New(slog.DiscardHandler))
	want := storeMark{Prefix: "/service/demo/", Revision: 70, Epoch: 5, Seq: 9}
	if got, err := m.Load(); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	other := m
	other.prefix = "/service/other/"
	if got, err := other.Load(); err != nil || got != (storeMark{}) {
		t.Errorf("another scope: got %+v, %v, want nothing", got, err)
	}
	if err := os.WriteFile(m.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Load(); err == nil || !strings.Contains(err.Error(), m.path) {
		t.Errorf("got %+v, %v, want an error that names the file", got, err)
	}
}

func TestStoreTrouble_IsToldWhenItLasts(t *testing.T) {
	var r health.Registry
	var s storeTrouble
	look := func(at time.Duration, reachable bool, wentBack string) []health.Problem {
		s.tell(time.Hour+at, reachable, wentBack, &r, "/run/store.json")
		return r.List()
	}
	back := "the store went back in time: it shows epoch 4"
	if got := look(0, false, back); len(got) != 0 {
		t.Errorf("got %v at once, want one stale answer passed over", got)
	}
	if got := look(time.Second, true, ""); len(got) != 0 {
		t.Errorf("got %v, want nothing", got)
	}
	look(2*time.Second, false, back)
	got := look(6*time.Second, false, back)
	if len(got) != 1 || got[0].Code != storeWentBack || got[0].Severity != health.Critical || got[0].Since != time.Hour+2*time.Second ||
		!strings.Contains(got[0].Sentence, "epoch 4") || !strings.Contains(got[0].Hint, "/run/store.json") {
		t.Errorf("got %+v, want one problem that names both", got)
	}
	look(7*time.Second, false, "")
	if got := look(11*time.Second, false, ""); len(got) != 1 || got[0].Code != storeSilent {
		t.Errorf("got %+v, want a silent store, which is something else", got)
	}
	if got := look(12*time.Second, true, ""); len(got) != 0 {
		t.Errorf("got %+v, want an end", got)
	}
}

// full is a store that refuses writes for want of space.
type full struct {
	dcs.Store
	is bool
}

func (f *full) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	if f.is {
		return dcs.Result{}, errors.Join(errors.New("commit"), dcs.ErrFull)
	}
	return f.Store.Commit(ctx, t)
}

func TestTellFull_BeginsAndEnds(t *testing.T) {
	var r health.Registry
	under := &full{Store: mem.NewServer(func() time.Duration { return 0 }).Client("a"), is: true}
	s := tellFull{under, &r}
	txn := dcs.Txn{Then: []dcs.Op{{Key: "k", Value: []byte("v")}}}
	if _, err := s.Commit(t.Context(), txn); !errors.Is(err, dcs.ErrFull) {
		t.Errorf("got %v, want %v", err, dcs.ErrFull)
	}
	if got := r.List(); len(got) != 1 || got[0].Code != storeFull || got[0].Hint == "" {
		t.Errorf("got %+v, want a full store told with a hint", got)
	}
	under.is = false
	if _, err := s.Commit(t.Context(), txn); err != nil || r.Has(storeFull) {
		t.Errorf("got %v and %v, want the problem over after a write", err, r.List())
	}
}
