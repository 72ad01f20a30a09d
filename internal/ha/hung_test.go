package ha_test

import (
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
)

// A postmaster that was to be killed and waits within the kernel can keep its node from handing over,
// but it must not keep the cluster without a leader: the lock is left to run out.
func TestDecide_WhatCannotBeKilledIsNotVouchedFor(t *testing.T) {
	now := time.Hour
	o := ha.Observation{Now: now, Self: ha.Self{Name: "a", Instance: "i"}}
	o.Store = ha.Store{Reachable: true, Seen: true, LockSeenAt: now, LockAlive: true}
	o.Store.View.Config.Settings = cluster.DefaultSettings()
	o.Store.View.Lock = cluster.Lock{Node: "a", Instance: "i", Epoch: 3, Timeline: 2, Ready: true}
	o.Store.View.Initialize = "1"
	o.Lease = ha.Lease{Held: true, Epoch: 3, Ready: true, GuardianAlive: true}
	o.DB = ha.Database{Dir: ha.DirValid, Phase: ha.Mute, PhaseAt: now - 30*time.Second, Primary: true, Timeline: 2, Hang: "no write ends", SystemID: "1"}
	o.Memory.State = ha.StateHandingOver
	o.Peers = ha.Peers{AskedAt: now}

	if d := ha.Decide(o); d.Vouch == 0 {
		t.Errorf("before it was killed: got %q, want the lease kept", d.Why)
	}
	o.Memory.StopFor = ha.StopHung
	if d := ha.Decide(o); d.Vouch != 0 {
		t.Errorf("after it was to be killed: got a lease kept for %v (%s), want none", d.Vouch, d.Why)
	}
}
