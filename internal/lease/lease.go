// Package lease is the arithmetic of the lock: when a holder must stop, when an observer may begin.
//
// It is pure. Instants are durations on CLOCK_BOOTTIME of the one node that reads them; they are
// never compared between nodes. With L the lease duration:
//
//	holder    t0 ── renewal sent ── confirmed        fence begins        everything dead
//	          │                                       │                   │
//	          └───────────── L − Margin(L) ───────────┘                   │
//	          └──────────────────────── < L ──────────────────────────────┘
//	observer        seq seen to change ────────────────────── TakeoverAfter(L) ── may take over
//
// The observer cannot see a change before the holder sent it (t0), and it waits longer than L; so
// the holder is dead before anybody else begins, as long as clocks run within Drift of each other.
// What it does not guarantee: anything about a holder whose kernel does not run the guardian for
// longer than the margin (a frozen machine); there the router's epoch and the synchronous quorum
// are the fence.
package lease

import "time"

// Bounds of the lease duration. Below MinTTL one etcd election could end a healthy leadership.
const (
	MinTTL     = 3 * time.Second
	DefaultTTL = 6 * time.Second
	MaxTTL     = 10 * time.Minute
)

// driftDivisor bounds the difference in clock rates between two nodes at 1 %; kernel clocks
// disciplined by NTP are slewed by at most 0.05 %.
const driftDivisor = 100

// schedulingSlack covers the reading of the clock and the waking of a thread on a loaded machine.
const schedulingSlack = 20 * time.Millisecond

// RenewEvery is how often the holder renews: L/6, and at least every 400 ms so that a second
// without a change means something to an observer.
func RenewEvery(l time.Duration) time.Duration { return min(l/6, 400*time.Millisecond) }

// RenewTimeout bounds one renewal request. A request that is not answered in it has an unknown
// outcome and counts as failed.
func RenewTimeout(l time.Duration) time.Duration { return min(l/4, 2*time.Second) }

// Margin is the time between the beginning of the fence and L: the kill ladder must end in it.
func Margin(l time.Duration) time.Duration {
	return min(max(l/4, 800*time.Millisecond), 4*time.Second)
}

// FenceAt is the instant at which the holder's guardian begins to stop PostgreSQL, when the last
// confirmed renewal was sent at t0.
func FenceAt(t0, l time.Duration) time.Duration { return t0 + l - Margin(l) }

// Ladder are the instants of the kill ladder counted from the beginning of the fence: fast
// shutdown at 0, then Immediate, then Kill. Kill leaves a third of the margin for the kernel to
// tear the processes down.
type Ladder struct{ Immediate, Kill time.Duration }

// LadderFor is the ladder within Margin(l).
func LadderFor(l time.Duration) Ladder {
	m := Margin(l)
	return Ladder{Immediate: m / 3, Kill: m * 2 / 3}
}

// TakeoverAfter is how long an observer waits, from the instant at which it *saw* the lock
// change, before it may take over a lock of duration l.
func TakeoverAfter(l time.Duration) time.Duration { return l + l/driftDivisor + schedulingSlack }

// SilentAfter is how long an observer may see no renewal before a holder in order would have shown
// several.
func SilentAfter(l time.Duration) time.Duration { return 3 * RenewEvery(l) }

// UnfencedUntil is the instant until which a holder, whose renewal an observer saw at seen, can not have
// begun to fence itself: the last renewal that the holder knows to be confirmed may be the one before,
// which was sent one interval and one request earlier. It may lie before seen. A store that applies a
// request long after the holder gave it up is not covered.
func UnfencedUntil(seen, l time.Duration) time.Duration {
	return FenceAt(seen, l) - RenewTimeout(l) - RenewEvery(l)
}

// FailsafeAfter is how long after t0 of its last confirmed renewal a holder turns to its peers.
func FailsafeAfter(l time.Duration) time.Duration { return l / 4 }
