package ha_test

import (
	"slices"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
)

// deposing is a synchronous standby b whose leader a is silent, and which has stopped receiving from it.
func deposing() ha.Observation {
	const now = time.Hour
	o := ha.Observation{Now: now, Self: ha.Self{Name: "b", Instance: "i"}}
	o.Store = ha.Store{Reachable: true, Seen: true, LockSeenAt: now - 2*time.Second, LockAlive: true, LeaderAnsweredAt: now - 2*time.Second, RevokedRev: 9}
	v := &o.Store.View
	v.Config.Settings = cluster.DefaultSettings()
	v.Config.SynchronousMode = cluster.SyncOn
	v.Lock, v.LockRev = cluster.Lock{Node: "a", Instance: "j", Epoch: 3, Timeline: 2, TTL: 6000, Ready: true}, 9
	v.Initialize, v.Sync = "1", cluster.SyncState{Leader: "a", Standbys: []string{"b"}}
	v.Members = map[string]cluster.Member{"a": {Name: "a"}, "b": {Name: "b"}}
	o.Lease = ha.Lease{GuardianAlive: true}
	o.DB = ha.Database{Dir: ha.DirValid, Phase: ha.Up, PhaseAt: time.Minute, Timeline: 2, LSN: 500, SystemID: "1"}
	o.Memory = ha.Memory{State: ha.StateCandidate, RevokedAt: now - 100*time.Millisecond, DeposeSince: now - 100*time.Millisecond}
	o.Peers = ha.Peers{AskedAt: now - 100*time.Millisecond}
	return o
}

func takes(d ha.Decision) bool {
	return slices.ContainsFunc(d.Effects, func(e ha.Effect) bool { _, ok := e.(ha.TakeLock); return ok })
}

func TestDepose_WhoHasStoppedReceivingTakesTheLock(t *testing.T) {
	if d := ha.Decide(deposing()); !takes(d) {
		t.Errorf("got %q, want the lock taken", d.Why)
	}
}

// What was put in the place of the directory does not have what the member confirmed.
func TestDepose_AReplacedDirectoryDeposesNobody(t *testing.T) {
	o := deposing()
	o.DB.Replaced = "an older control file"
	d := ha.Decide(o)
	for _, e := range d.Effects {
		switch e.(type) {
		case ha.TakeLock, ha.Revoke:
			t.Errorf("got %q with %v, want no part in the fence", d.Why, e)
		}
	}
}

// A round of promises that takes long must be judged before the next is begun.
func TestDepose_ASlowRoundOfPromisesCounts(t *testing.T) {
	o := deposing()
	o.Memory.RevokedAt = o.Now - 1500*time.Millisecond // it took as long as that
	o.Peers.AskedAt = o.Now - 10*time.Millisecond      // and ended just now
	if d := ha.Decide(o); !takes(d) {
		t.Errorf("got %q with %v, want the lock taken", d.Why, d.Effects)
	}
}
