// Package dcstest is the conformance suite of dcs.Store: what any store must do for hathi to be
// safe on it. It runs against dcs/mem and against etcd, so that the fake cannot drift from the
// real one.
package dcstest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
)

// patience bounds every wait of the suite; it is generous because machines are shared.
const patience = 20 * time.Second

// Open makes two handles to one empty scope. They are closed with t.Cleanup at the latest. advance
// lets the store's time pass: a fake turns its clock, a real one waits.
type Open func(t *testing.T) (a, b dcs.Store, advance func(time.Duration))

// Run runs the whole suite; open is called once for each test.
func Run(t *testing.T, open Open) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"LoadOfAnEmptyScope", testLoadEmpty},
		{"CommitConditions", testConditions},
		{"CommitIsAllOrNothing", testAllOrNothing},
		{"CommitWithoutChange", testNoChange},
		{"CommitRefusesAKeyTwice", testKeyTwice},
		{"CommitLargeValues", testLargeValues},
		{"LoadSeesWhatWasAcknowledged", testLoadAfterCommit},
		{"CallersKeepTheirBytes", testBytes},
		{"ConcurrentCounterLosesNothing", testCounter},
		{"HistoryIsLinearizable", testLinearizable},
		{"WatchOrderWithoutGaps", testWatchOrder},
		{"WatchFromThePast", testWatchResume},
		{"WatchEndsWithItsContext", testWatchContext},
		{"WatchEndsWithTheStore", testWatchClose},
		{"WatchAbandonedDoesNotBlockClose", testWatchAbandoned},
		{"LeaseExpires", testLeaseExpires},
		{"LeaseLivesByKeepAlive", testLeaseKeepAlive},
		{"LeaseRevoked", testLeaseRevoke},
		{"LeaseGone", testLeaseGone},
		{"LeaseBindsOnlyTheLastPut", testLeaseRebind},
		{"CancelledContext", testCancelled},
		{"Closed", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open) })
	}
}

func bound(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func load(t *testing.T, st dcs.Store) dcs.Snapshot {
	t.Helper()
	snap, err := st.Load(bound(t))
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return snap
}

func commit(t *testing.T, st dcs.Store, txn dcs.Txn) dcs.Result {
	t.Helper()
	res, err := st.Commit(bound(t), txn)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return res
}

// must commits a transaction whose conditions hold and returns its revision.
func must(t *testing.T, st dcs.Store, txn dcs.Txn) int64 {
	t.Helper()
	res := commit(t, st, txn)
	if !res.Succeeded {
		t.Fatalf("commit %+v: got conditions failed with %+v, want success", txn, res.Found)
	}
	return res.Revision
}

func put(key, value string) dcs.Op { return dcs.Op{Key: key, Value: []byte(value)} }

func puts(ops ...dcs.Op) dcs.Txn { return dcs.Txn{Then: ops} }

// wantEntries compares the values of a snapshot with want.
func wantEntries(t *testing.T, snap dcs.Snapshot, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for k, e := range snap.Entries {
		got[k] = string(e.Value)
		if e.ModRev < 1 || e.ModRev > snap.Revision {
			t.Errorf("key %q: got revision %d, want it within 1..%d", k, e.ModRev, snap.Revision)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// eventually lets time pass in steps until check returns "", and reports what it last returned.
func eventually(t *testing.T, advance func(time.Duration), check func() string) {
	t.Helper()
	last := ""
	for range 200 {
		if last = check(); last == "" {
			return
		}
		advance(100 * time.Millisecond)
	}
	t.Fatalf("not reached in %v: %s", patience, last)
}

func testCancelled(t *testing.T, open Open) {
	a, b, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.Load(ctx)
	wantError(t, "load", err, context.Canceled)
	_, err = a.Commit(ctx, puts(put("k", "v")))
	wantError(t, "commit", err, context.Canceled)
	_, err = a.Grant(ctx, time.Minute)
	wantError(t, "grant", err, context.Canceled)
	wantError(t, "keepalive", a.KeepAlive(ctx, 1), context.Canceled)
	wantError(t, "revoke", a.Revoke(ctx, 1), context.Canceled)
	wantEntries(t, load(t, b), map[string]string{})
	must(t, a, puts(put("k", "v"))) // the handle goes on working
}

func testClosed(t *testing.T, open Open) {
	a, b, _ := open(t)
	must(t, a, puts(put("k", "v")))
	for range 2 {
		if err := a.Close(); err != nil {
			t.Errorf("close: got %v, want nil", err)
		}
	}
	ctx := bound(t)
	_, err := a.Load(ctx)
	wantError(t, "load", err, dcs.ErrClosed)
	_, err = a.Commit(ctx, puts(put("k", "w")))
	wantError(t, "commit", err, dcs.ErrClosed)
	_, err = a.Grant(ctx, time.Minute)
	wantError(t, "grant", err, dcs.ErrClosed)
	wantError(t, "keepalive", a.KeepAlive(ctx, 1), dcs.ErrClosed)
	wantError(t, "revoke", a.Revoke(ctx, 1), dcs.ErrClosed)
	wantEntries(t, load(t, b), map[string]string{"k": "v"})
}
