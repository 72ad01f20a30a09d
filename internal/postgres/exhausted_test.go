package postgres_test

import (
	"fmt"
	"testing"
)

// A standby that was started again tells, until it has replayed the WAL on its disk, a position below
// the one that it confirmed before.
func TestStatus_ARestartedStandbyTellsWhenItsPositionCounts(t *testing.T) {
	dir, cred := base(t)
	a := primary(t, dir, cred)
	b := standby(t, dir, cred, a)
	ctx := within(t)
	if err := b.KillAll(ctx); err != nil {
		t.Fatal(err)
	}
	const late = "recovery_min_apply_delay = '1h'"
	b.start(t, a, late)
	b.streams(t)
	if st := b.ready(t); !st.ReceiverRuns {
		t.Errorf("got no WAL receiver, want one")
	}
	if err := a.Exec(ctx, "CREATE TABLE public.t AS SELECT generate_series(1, 1000) AS i"); err != nil {
		t.Fatal(err)
	}
	end, err := a.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby has confirmed it", func() error {
		st, err := b.Status(ctx)
		if err == nil && st.LSN() < end.Flushed {
			err = fmt.Errorf("it is at %s, and the primary at %s", st.LSN(), end.Flushed)
		}
		return err
	})
	if err := a.KillAll(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.KillAll(ctx); err != nil {
		t.Fatal(err)
	}

	b.start(t, a, late)
	st := b.ready(t)
	if st.LSN() >= end.Flushed {
		t.Fatalf("got the position %s, want one below %s", st.LSN(), end.Flushed)
	}
	if st.WantsWAL || st.ReceiverRuns || st.Received != 0 {
		t.Errorf("got a standby that has replayed everything (wants WAL %t, receiver %t, received %s) at %s of %s", st.WantsWAL, st.ReceiverRuns, st.Received, st.LSN(), end.Flushed)
	}
	if err := b.KillAll(ctx); err != nil {
		t.Fatal(err)
	}

	b.start(t, a)
	eventually(t, "it has replayed everything", func() error {
		st, err := b.Status(ctx)
		if err == nil && !st.WantsWAL {
			err = fmt.Errorf("it is at %s", st.LSN())
		}
		return err
	})
	// Not its position: what the primary had flushed may have ended within a record, which nothing can replay.
	if err := b.Exec(ctx, "SELECT 1 / (count(*) = 1000)::int FROM public.t"); err != nil {
		t.Errorf("the confirmed rows are not there: %v", err)
	}
}
