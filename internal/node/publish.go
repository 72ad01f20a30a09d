package node

import (
	"context"
	"encoding/json"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
)

// Status is what a node publishes after each tick. It is never modified afterwards.
type Status struct {
	At time.Duration
	O  ha.Observation // as seen at the end of the tick
	D  ha.Decision
	Detail
	// LeaseUntil is until when an answer that calls this node the primary is true.
	LeaseUntil time.Duration
	Held       bool
	Failsafe   bool
	Member     cluster.Member
	Progress   string
	StoreAt    time.Duration // last sign of life of the store
	// Behind are the bytes of WAL, over all take-overs of this process, that the former leader had
	// published and this node did not have.
	Behind int64
}

type publication struct {
	status  atomic.Pointer[Status]
	changed atomic.Pointer[chan struct{}]
}

func (p *publication) init() {
	ch := make(chan struct{})
	p.changed.Store(&ch)
	p.status.Store(&Status{})
}

// Status is the latest publication. The returned channel is closed when there is a newer one.
func (n *Node) Status() (*Status, <-chan struct{}) {
	ch := *n.pub.changed.Load()
	return n.pub.status.Load(), ch
}

// memberEvery is how often a member key whose only news is a WAL position is written.
const memberEvery = 2 * time.Second

// publish writes the member key and the status that REST answers from.
func (n *Node) publish(ctx context.Context, o ha.Observation, d ha.Decision) {
	until, held := n.c.Lead.Held()
	m := n.memberOf(o, d, held)
	st := &Status{At: n.c.Now(), O: o, D: d, Detail: n.c.DB.Detail(), LeaseUntil: until, Held: held,
		Failsafe: n.c.Lead.Failsafe(), Member: m, Progress: n.c.DB.Progress(), StoreAt: n.c.Feed.ContactAt(), Behind: n.behind.Load()}
	n.pub.status.Store(st)
	next := make(chan struct{})
	close(*n.pub.changed.Swap(&next))
	n.writeMember(ctx, o, m, d.State == ha.StateStopped)
}

func (n *Node) memberOf(o ha.Observation, d ha.Decision, held bool) cluster.Member {
	m := n.c.Member
	det := n.c.DB.Detail()
	m.Name, m.Tags, m.Instance = n.c.Name, n.Tags().Effective(), n.c.Instance()
	m.Role, m.State = RoleState(o, d, held)
	m.PendingRestart, m.PendingReason = len(det.PendingRestart) > 0, det.PendingRestart
	if o.DB.Phase == ha.Up {
		m.Timeline, m.XLogLocation = o.DB.Timeline, o.DB.LSN
		if !o.DB.Primary {
			m.ReplicationState = det.ReplicationState
			m.ReceiveLSN, m.ReplayLSN = o.DB.LSN, o.DB.Replayed
			m.XLogLocation = o.DB.Replayed
		}
	}
	return m
}

// RoleState is role and state in Patroni's words. A primary is one only within its lease.
func RoleState(o ha.Observation, d ha.Decision, held bool) (cluster.Role, cluster.State) {
	role := cluster.RoleReplica
	if o.DB.Dir == ha.DirEmpty {
		role = cluster.RoleUninitialized
	}
	if held && o.DB.Phase == ha.Up && o.DB.Primary {
		role = cluster.RolePrimary
	}
	switch {
	case d.State == ha.StateBootstrapping:
		return role, cluster.StateInitializing
	case d.State == ha.StateCloning:
		return role, cluster.StateCreatingReplica
	case d.State == ha.StateRewinding:
		return role, cluster.StateRewinding
	case d.State == ha.StateRestarting:
		return role, cluster.StateRestarting
	case d.State == ha.StateStopping && o.DB.Phase != ha.Down, d.State == ha.StateDemoting && o.DB.Phase != ha.Down:
		return role, cluster.StateStopping
	}
	switch o.DB.Phase {
	case ha.Up:
		return role, cluster.StateRunning
	case ha.Starting:
		return role, cluster.StateStarting
	case ha.Mute:
		return role, cluster.StateCrashed
	}
	if o.DB.Failure != "" {
		return role, cluster.StateStartFailed
	}
	return role, cluster.StateStopped
}

// writeMember writes the member key when it says something new.
func (n *Node) writeMember(ctx context.Context, o ha.Observation, m cluster.Member, leaving bool) {
	ctx, cancel := within(ctx, time.Second)
	defer cancel()
	if !o.Store.Reachable {
		return
	}
	if err := n.memberLease(ctx, o.Store.View.Config.TTL); err != nil {
		n.c.Log.Debug("member lease not renewed", "err", err)
		return
	}
	if leaving {
		m.State = cluster.StateStopped
	}
	still := m // all but how far it is
	still.XLogLocation, still.ReceiveLSN, still.ReplayLSN = 0, 0, 0
	now := n.c.Now()
	seen, present := o.Store.View.Member(n.c.Name)
	moved := seen.XLogLocation != m.XLogLocation && now-n.member.at >= memberEvery
	if present && !moved && n.member.written && reflect.DeepEqual(still, n.member.still) {
		return
	}
	full, err := json.Marshal(m)
	if err != nil {
		return
	}
	_, err = n.c.Store.Commit(ctx, dcs.Txn{Then: []dcs.Op{{Key: dcs.MemberKey(n.c.Name), Value: full, Lease: n.member.lease}}})
	if err != nil {
		n.c.Log.Debug("member key not written", "err", err)
		return
	}
	n.member.still, n.member.written, n.member.at = still, true, now
}

// Peer is this node's answer to a probe, looked up now.
func (n *Node) Peer(ctx context.Context) cluster.PeerStatus {
	ctx, cancel := within(ctx, time.Second)
	defer cancel()
	last := n.pub.status.Load()
	o := last.O
	o.Now = n.c.Now()
	o.DB = n.c.DB.Observe(ctx)
	o.Store = n.c.Feed.Get()
	o.Lease = n.c.Lead.Lease(o.Store.View)
	n.reqMu.Lock()
	o.Request = n.request
	n.reqMu.Unlock()
	_, held := n.c.Lead.Held()
	_, state := RoleState(o, last.D, held)
	p := cluster.PeerStatus{Name: n.c.Name, Scope: n.c.Scope, Instance: n.c.Instance(), SystemID: o.DB.SystemID, State: state,
		InRecovery: !o.DB.Primary, Running: o.DB.Phase == ha.Up || o.DB.Phase == ha.Mute && o.DB.Primary,
		Timeline: o.DB.Timeline, LSN: o.DB.LSN, Replayed: o.DB.Replayed,
		OldestLSN: n.c.DB.Detail().OldestLSN, Epoch: o.Store.View.Lock.Epoch, Seq: o.Store.View.Lock.Seq, HoldsLock: held,
		Tags: n.Tags().Effective()}
	if o.DB.Phase == ha.Down {
		p.InRecovery = true // nothing acknowledges writes here
	}
	if o.DB.Replaying || o.DB.Replaced != "" {
		p.LSN = 0 // not known: it may have confirmed commits that it has not replayed again yet, or that are gone
	}
	p.Revoked = n.tell()
	p.Eligible, p.Why = ha.Eligible(o)
	p.CrashLoop = ha.CrashLoop(o)
	return p
}
