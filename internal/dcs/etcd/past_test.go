package etcd_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
)

// A store restored from an older copy, or founded anew: reads and writes alike are refused by whoever
// saw it further, in this process or (Config.Seen) in one before.
func TestPast_AStoreThatWentBackIsRefused(t *testing.T) {
	addr, _ := member(t)
	first := open(t, etcd.Config{Endpoints: []string{addr}, Prefix: "/service/t/"})
	var last dcs.Result
	for i := range 10 {
		res, err := first.Commit(t.Context(), put("k", fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		last = res
	}
	if got := first.Revision(); got != last.Revision {
		t.Errorf("got revision %d, want that of the last commit, %d", got, last.Revision)
	}
	anew, _ := member(t)
	st := open(t, etcd.Config{Endpoints: []string{anew}, Prefix: "/service/t/", Seen: last.Revision})
	if snap, err := st.Load(t.Context()); !errors.Is(err, dcs.ErrWentBack) {
		t.Errorf("load: got %v, %v, want %v", snap, err, dcs.ErrWentBack)
	}
	// The comparison holds in the new store too (the key does not exist): it must not count.
	txn := put("lock", "x")
	txn.If = []dcs.Cond{{Key: "lock"}}
	if res, err := st.Commit(t.Context(), txn); !errors.Is(err, dcs.ErrWentBack) || errors.Is(err, dcs.ErrUnavailable) {
		t.Errorf("commit: got %v, %v, want %v, its outcome unknown", res, err, dcs.ErrWentBack)
	}
	// A comparison that fails shows values from another past.
	txn.If[0].ModRev = 77
	if res, err := st.Commit(t.Context(), txn); !errors.Is(err, dcs.ErrWentBack) {
		t.Errorf("refused commit: got %v, %v, want %v", res, err, dcs.ErrWentBack)
	}
}

func TestPast_OneStaleMemberIsPassedOver(t *testing.T) {
	addr, _ := member(t)
	good := open(t, etcd.Config{Endpoints: []string{addr}, Prefix: "/service/t/"})
	var last dcs.Result
	for range 10 {
		res, err := good.Commit(t.Context(), put("k", "v"))
		if err != nil {
			t.Fatal(err)
		}
		last = res
	}
	stale, _ := member(t)
	st := open(t, etcd.Config{Endpoints: []string{stale, addr}, Prefix: "/service/t/", Seen: last.Revision, RequestTimeout: 20 * time.Second})
	until(t, "an answer that is not from the past", func() bool {
		snap, err := st.Load(t.Context())
		if err != nil && !errors.Is(err, dcs.ErrWentBack) { // the good one may not be connected yet
			t.Fatal(err)
		}
		return err == nil && snap.Revision >= last.Revision && string(snap.Entries["k"].Value) == "v"
	})
}

// Full is told apart: the operator has to do something else than for a store that is silent.
func TestErrors_AFullStoreIsNamed(t *testing.T) {
	addr, _ := member(t, quota(2<<20))
	st := open(t, etcd.Config{Endpoints: []string{addr}, Prefix: "/service/t/", RequestTimeout: 20 * time.Second})
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = st.Commit(t.Context(), put(fmt.Sprint("k", i), string(make([]byte, 200_000))))
	}
	if !errors.Is(err, dcs.ErrFull) || errors.Is(err, dcs.ErrUnavailable) {
		t.Errorf("got %v, want %v, its outcome unknown", err, dcs.ErrFull)
	}
}
