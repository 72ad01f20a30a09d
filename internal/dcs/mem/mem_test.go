package mem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
)

// clock is a hand-turned clock; the tests here use it from one goroutine.
type clock struct{ t time.Duration }

func (c *clock) now() time.Duration { return c.t }

func put(key, value string) dcs.Txn {
	return dcs.Txn{Then: []dcs.Op{{Key: key, Value: []byte(value)}}}
}

func always(f mem.Fault) func(string) mem.Fault {
	return func(string) mem.Fault { return f }
}

func value(t *testing.T, st dcs.Store, key string) string {
	t.Helper()
	snap, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(snap.Entries[key].Value)
}

func TestFault_WhatIsAppliedAndWhatTheCallerLearns(t *testing.T) {
	for _, tt := range []struct {
		name    string
		fault   mem.Fault
		want    error
		applied bool
		flushed bool // applied after Flush
	}{
		{"none", mem.FaultNone, nil, true, true},
		{"unavailable", mem.FaultUnavailable, dcs.ErrUnavailable, false, false},
		{"lost", mem.FaultLost, mem.ErrInjected, true, true},
		{"dropped", mem.FaultDropped, mem.ErrInjected, false, false},
		{"hang", mem.FaultHang, context.DeadlineExceeded, false, false},
		{"delayed", mem.FaultDelayed, mem.ErrInjected, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := mem.NewServer((&clock{}).now)
			a, b := s.Client("a"), s.Client("b")
			a.SetFault(always(tt.fault))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, err := a.Commit(ctx, put("k", "v"))
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if got := errors.Is(err, dcs.ErrUnavailable); got != (tt.fault == mem.FaultUnavailable) {
				t.Errorf("got ErrUnavailable %v: an unknown outcome must not look like a sure one", got)
			}
			if got := value(t, b, "k") == "v"; got != tt.applied {
				t.Errorf("got applied %v, want %v", got, tt.applied)
			}
			s.Flush()
			if got := value(t, b, "k") == "v"; got != tt.flushed {
				t.Errorf("after flush: got applied %v, want %v", got, tt.flushed)
			}
		})
	}
}

func TestFault_DelayedRequestsKeepTheirOrderAndTheirConditions(t *testing.T) {
	s := mem.NewServer((&clock{}).now)
	a, b := s.Client("a"), s.Client("b")
	a.SetFault(always(mem.FaultDelayed))
	value0 := []byte("late")
	create := dcs.Txn{If: []dcs.Cond{{Key: "k"}}, Then: []dcs.Op{{Key: "k", Value: value0}}}
	if _, err := a.Commit(t.Context(), create); err == nil {
		t.Error("got an answer to a delayed request")
	}
	copy(value0, "XXXX") // the caller reuses its buffer
	if _, err := a.Commit(t.Context(), put("other", "1")); err == nil {
		t.Error("got an answer to a delayed request")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.Pending(); got != 2 {
		t.Errorf("got %d pending, want 2", got)
	}
	if _, err := b.Commit(t.Context(), put("k", "first")); err != nil {
		t.Fatal(err)
	}
	if !s.FlushOne() || value(t, b, "k") != "first" {
		t.Errorf("got %q: a late request must not pass its condition", value(t, b, "k"))
	}
	if !s.FlushOne() || value(t, b, "other") != "1" || s.FlushOne() {
		t.Error("the second request was not applied, or there was a third")
	}
}

func TestServer_LeasesEndByTheInjectedClockAlone(t *testing.T) {
	c := &clock{}
	s := mem.NewServer(c.now)
	a := s.Client("a")
	id, err := a.Grant(t.Context(), 1500*time.Millisecond) // rounded up to 2 s
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: "k", Value: []byte("v"), Lease: id}}}); err != nil {
		t.Fatal(err)
	}
	w := a.Watch(t.Context(), s.Revision())
	c.t = 2*time.Second - 1
	if got := s.Expire(); got != 0 {
		t.Errorf("got %d leases ended a nanosecond early, want 0", got)
	}
	c.t = 2 * time.Second
	if got := s.Expire(); got != 1 {
		t.Errorf("got %d leases ended, want 1", got)
	}
	u := <-w
	if len(u.Changes) != 1 || !u.Changes[0].Deleted || u.Changes[0].Key != "k" {
		t.Errorf("got %+v, want the deletion of k", u)
	}
	if err := a.KeepAlive(t.Context(), id); !errors.Is(err, dcs.ErrLeaseGone) {
		t.Errorf("got %v, want %v", err, dcs.ErrLeaseGone)
	}
}

func TestWatch_EndsWhenItsStartWasCompacted(t *testing.T) {
	s := mem.NewServer((&clock{}).now)
	a := s.Client("a")
	for range 5 {
		if _, err := a.Commit(t.Context(), put("k", "v")); err != nil {
			t.Fatal(err)
		}
	}
	s.Compact(5)
	u := <-a.Watch(t.Context(), 2)
	if !errors.Is(u.Err, mem.ErrCompacted) {
		t.Errorf("got %+v, want %v", u, mem.ErrCompacted)
	}
	if u := <-a.Watch(t.Context(), 5); u.Err != nil || u.Revision != 6 {
		t.Errorf("got %+v, want revision 6", u)
	}
}

func TestWatch_SlowReaderIsEndedNotGapped(t *testing.T) {
	s := mem.NewServer((&clock{}).now)
	a := s.Client("a")
	w := a.Watch(t.Context(), 1)
	for range 5000 {
		if _, err := a.Commit(t.Context(), put("k", "v")); err != nil {
			t.Fatal(err)
		}
	}
	want := int64(2)
	for u := range w {
		if u.Err != nil {
			if !errors.Is(u.Err, mem.ErrOverrun) {
				t.Errorf("got %v, want %v", u.Err, mem.ErrOverrun)
			}
			return
		}
		if u.Revision != want {
			t.Fatalf("got revision %d, want %d", u.Revision, want)
		}
		want++
	}
	t.Error("the watch closed without an error")
}

func TestWatch_FaultsEndOrSilenceIt(t *testing.T) {
	s := mem.NewServer((&clock{}).now)
	a, b := s.Client("a"), s.Client("b")
	ended, silenced := a.Watch(t.Context(), 1), b.Watch(t.Context(), 1)
	a.SetFault(always(mem.FaultLost))
	b.SetFault(always(mem.FaultHang))
	if _, err := s.Client("c").Commit(t.Context(), put("k", "v")); err != nil {
		t.Fatal(err)
	}
	if u := <-ended; u.Err == nil {
		t.Errorf("got %+v, want an error", u)
	}
	b.SetFault(nil)
	s.Progress()
	select {
	case u := <-silenced:
		t.Errorf("got %+v from a silenced watch: that would be a gap", u)
	default:
	}
	b.EndWatches(dcs.ErrUnavailable)
	if u := <-silenced; !errors.Is(u.Err, dcs.ErrUnavailable) {
		t.Errorf("got %+v, want %v", u, dcs.ErrUnavailable)
	}
}
