package lease_test

import (
	"testing"
	"testing/quick"
	"time"

	"github.com/hathi-ha/hathi/internal/lease"
)

// spread makes a lease duration within the bounds out of any number.
func spread(n uint64) time.Duration {
	return lease.MinTTL + time.Duration(n%uint64(lease.MaxTTL-lease.MinTTL+1))
}

func check(t *testing.T, what string, property func(n uint64) bool) {
	t.Helper()
	for _, l := range []time.Duration{lease.MinTTL, lease.DefaultTTL, 20 * time.Second, 30 * time.Second, lease.MaxTTL} {
		if !property(uint64(l - lease.MinTTL)) {
			t.Errorf("%s: does not hold for L = %v", what, l)
		}
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 5000}); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestLadder_EndsBeforeTheLease(t *testing.T) {
	check(t, "fence, immediate, kill, L in this order, with a third of the margin left", func(n uint64) bool {
		l := spread(n)
		fence, ladder := lease.FenceAt(0, l), lease.LadderFor(l)
		kill := fence + ladder.Kill
		return 0 < fence && 0 < ladder.Immediate && ladder.Immediate < ladder.Kill && kill < l && l-kill >= lease.Margin(l)/3
	})
}

func TestTakeover_BeginsAfterTheHolderIsDead(t *testing.T) {
	// The observer saw the change when it was sent at the earliest, and its clock runs up to one
	// percent faster than the holder's.
	check(t, "an observer with a fast clock waits for the holder's whole lease", func(n uint64) bool {
		l := spread(n)
		return lease.TakeoverAfter(l) >= l+l/100
	})
}

func TestRenewal_HasSeveralTriesBeforeTheFence(t *testing.T) {
	check(t, "one lost renewal does not cost the lease", func(n uint64) bool {
		l := spread(n)
		every, timeout := lease.RenewEvery(l), lease.RenewTimeout(l)
		// A renewal that times out, and another that answers just in time.
		return 0 < every && every <= 400*time.Millisecond && every <= l/6 && 0 < timeout && every+timeout+every+timeout <= lease.FenceAt(0, l)+every
	})
}

func TestFailsafe_BeginsWellBeforeTheFence(t *testing.T) {
	check(t, "peers are asked before the fence", func(n uint64) bool {
		l := spread(n)
		return lease.RenewEvery(l) < lease.FailsafeAfter(l) && lease.FailsafeAfter(l) < lease.FenceAt(0, l)/2
	})
}

func TestFence_CountsFromWhenTheRenewalWasSent(t *testing.T) {
	if got, want := lease.FenceAt(100*time.Second, 6*time.Second), 104500*time.Millisecond; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	for l, want := range map[time.Duration]time.Duration{3 * time.Second: 800 * time.Millisecond, 6 * time.Second: 1500 * time.Millisecond, 30 * time.Second: 4 * time.Second} {
		if got := lease.Margin(l); got != want {
			t.Errorf("margin of %v: got %v, want %v", l, got, want)
		}
	}
}

// The holder sends a renewal at most one interval after the one it knows to be confirmed, and gives it up
// after the time of a request: what an observer sees before is no older than that.
func TestUnfenced_EndsBeforeTheFenceCanBegin(t *testing.T) {
	check(t, "the fence of the last confirmed renewal begins later, however late the next one was seen in its time", func(n uint64) bool {
		l := spread(n)
		confirmed := 100 * time.Second
		seen := confirmed + lease.RenewEvery(l) + lease.RenewTimeout(l)
		return lease.UnfencedUntil(seen, l) <= lease.FenceAt(confirmed, l)
	})
}

func TestSilent_IsMoreThanTwoRenewals(t *testing.T) {
	check(t, "one renewal that is late is not silence", func(n uint64) bool {
		l := spread(n)
		return lease.SilentAfter(l) > 2*lease.RenewEvery(l) && lease.SilentAfter(l) < lease.FenceAt(0, l)
	})
}
