package boottime_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
)

func TestNow_NeverRunsBackwards(t *testing.T) {
	last := boottime.Now()
	for range 1000 {
		now := boottime.Now()
		if now < last {
			t.Fatalf("got %v after %v, want no step back", now, last)
		}
		last = now
	}
}

func TestSleepUntil_ReachesTheInstant(t *testing.T) {
	at := boottime.Now() + 5*time.Millisecond
	if err := boottime.SleepUntil(context.Background(), at); err != nil {
		t.Fatal(err)
	}
	if now := boottime.Now(); now < at {
		t.Fatalf("got %v, want at least %v", now, at)
	}
	at = boottime.Now() + 5*time.Millisecond
	for boottime.Now() < at {
		boottime.NapUntil(at)
	}
}

func TestSleepUntil_EndsWithItsContext(t *testing.T) {
	why := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if err := boottime.SleepUntil(ctx, boottime.Now()+time.Hour); !errors.Is(err, why) {
		t.Fatalf("got %v, want %v", err, why)
	}
}

func TestBootID_IsSet(t *testing.T) {
	id, err := boottime.BootID()
	if err != nil || len(id) != 36 {
		t.Fatalf("got %q, %v, want 36 characters", id, err)
	}
}
