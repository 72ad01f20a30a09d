package ha_test

import (
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
)

// A lock that is given back with a timeline that was claimed and not begun could be taken by nobody.
func TestShutdown_TakesBackAClaimThatWasNotBegun(t *testing.T) {
	o := ha.Observation{Now: time.Hour, Self: ha.Self{Name: "pg1", Instance: "i1"}, Request: ha.Request{Shutdown: true}}
	o.Store = ha.Store{Reachable: true, Seen: true, View: cluster.View{Initialize: "7", LockRev: 9,
		Lock:   cluster.Lock{Node: "pg1", Instance: "i1", Epoch: 2, Timeline: 2, TTL: 6000},
		Config: cluster.Dynamic{Settings: cluster.DefaultSettings()}}}
	o.Lease = ha.Lease{Held: true, Epoch: 2, GuardianAlive: true, FenceAt: o.Now + 4*time.Second}
	o.DB = ha.Database{Dir: ha.DirValid, SystemID: "7", Phase: ha.Down, Control: ha.ControlShutDownInRecovery, Timeline: 1, ControlTimeline: 1}

	o.Memory = ha.Memory{ClaimEpoch: 2, Claimed: 2, ClaimedFrom: 1}
	d := ha.Decide(o)
	if len(d.Effects) != 2 || d.Effects[0].String() != (ha.Claim{Timeline: 1}).String() {
		t.Fatalf("got effects %v, want the claim of timeline 1 and the release", d.Effects)
	}
	if _, ok := d.Effects[1].(ha.ReleaseLock); !ok {
		t.Errorf("got effect %v, want the release", d.Effects[1])
	}

	o.Memory = ha.Memory{} // claimed by an agent that is gone: only time may free the lock
	if d = ha.Decide(o); len(d.Effects) != 0 || d.State != ha.StateStopped {
		t.Errorf("got %s with effects %v, want %s with none", d.State, d.Effects, ha.StateStopped)
	}
}
