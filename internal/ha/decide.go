package ha

import (
	"fmt"
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/lease"
)

// Timings of decisions that no configuration states.
const (
	// hungAfter is how long a live postmaster may leave every probe unanswered before it counts as
	// hung. Probes that are refused for want of connections count as answered.
	hungAfter = 3 * time.Second
	// hungAlone is how long a hung primary is left alone when nobody could take over, before it is
	// killed and started again.
	hungAlone = 20 * time.Second
	// promoteWithin bounds a promotion; past it the lock is given back.
	promoteWithin = 60 * time.Second
	// peersFresh is how old the answers of peers may be when a choice rests on them.
	peersFresh = time.Second
	// crashWindow and crashLimit are the breaker of a crash loop.
	crashWindow = 5 * time.Minute
	crashLimit  = 3
	// retryFailed is the wait after a failed clone, rewind or start before the next try.
	retryFailed = 5 * time.Second
	// idle is how long the next tick may wait when nothing happens.
	idle = time.Second
	// soon is the wait where something is expected to change within moments.
	soon = 100 * time.Millisecond
	// stuckStandby is how long a standby may fail to stream from a working leader before its
	// position in the leader's history is questioned.
	stuckStandby = 5 * time.Second
)

// Decide is the whole of hathi's judgement. See the package comment.
func Decide(o Observation) Decision {
	d := decider{Observation: o, m: o.Memory}
	d.m.Crashes = slices.Clone(o.Memory.Crashes)
	d.remember()
	dec := d.decide()
	if dec.State != d.m.State {
		d.m.State, d.m.Since = dec.State, o.Now
	}
	if d.leader() != "" && d.Store.Reachable && !d.Store.View.Lock.Paused && dec.Wait > 0 {
		// Look again at the very instant at which the lock would count as expired.
		dec.Wait = min(dec.Wait, max(d.expiresAt()-d.Now, time.Millisecond))
	}
	dec.Memory = d.m
	return dec
}

type decider struct {
	Observation
	m Memory
}

func (d *decider) settings() cluster.Settings { return d.Store.View.Config.Settings }

// leaseTTL is the duration an observer has to grant the present holder.
func (d *decider) leaseTTL() time.Duration {
	return max(time.Duration(d.Store.View.Lock.TTL)*time.Millisecond, d.settings().TTL)
}

// ours says whether the lock in the store names this very data directory.
func (d *decider) ours() bool {
	l := d.Store.View.Lock
	return l.Held() && l.Node == d.Self.Name && l.Instance == d.Self.Instance
}

// expiresAt is when this node may regard the lock as expired.
func (d *decider) expiresAt() time.Duration {
	return d.Store.LockSeenAt + lease.TakeoverAfter(d.leaseTTL())
}

// leader is the member that holds an unexpired lock, this node apart; "" for none.
func (d *decider) leader() string {
	l := d.Store.View.Lock
	if !d.Store.Seen || !l.Held() || d.ours() {
		return ""
	}
	if !d.Store.Reachable || l.Paused || d.Now < d.expiresAt() {
		return l.Node // without news of the store nobody is deposed
	}
	return ""
}

// remember keeps the parts of Memory that follow from the observation alone.
func (d *decider) remember() {
	if d.leader() != "" || d.Lease.Held {
		d.m.NoLeaderSince = 0
	} else if d.m.NoLeaderSince == 0 {
		d.m.NoLeaderSince = d.Now
	}
	if d.Job.Done && d.Job.Failure != "" {
		d.m.LastFailure, d.m.FailedAt = d.Job.Failure, d.Now
		switch d.Job.Kind {
		case JobRewind:
			d.m.RewindFailures++
		case JobClone:
			d.m.CloneFailures++
		}
	}
	if d.Job.Finished(JobRewind) || d.DB.Streaming {
		d.m.RewindFailures = 0
	}
	if d.Job.Finished(JobClone) {
		d.m.CloneFailures = 0
	}
	// A postmaster that ended without being asked to is a crash, counted once.
	wasUp := d.m.State == StateLeading || d.m.State == StateRestarting || d.m.State == StateFollowing
	if d.DB.Phase == Down && wasUp && d.m.StopFor == StopNone && d.DB.PhaseAt > d.m.Since && !d.crashNoted() {
		d.m.Crashes = append(d.m.Crashes, d.DB.PhaseAt)
	}
	d.m.Crashes = slices.DeleteFunc(d.m.Crashes, func(at time.Duration) bool { return d.Now-at > crashWindow })
}

func (d *decider) crashNoted() bool { return slices.Contains(d.m.Crashes, d.DB.PhaseAt) }

func (d *decider) decide() Decision {
	paused := d.Store.Seen && d.settings().Pause
	switch {
	case d.Request.Shutdown:
		return d.shutdown(paused)
	case d.Lease.Resumable:
		return d.act(StateLeading, d.settings().TTL, 0, "the store still shows the lock as ours and the guardian's deadline has not passed: going on as the leader", ResumeLock{})
	case d.mustDemote(paused):
		return d.demote()
	case d.Job.Running():
		return d.busy()
	case d.DB.Dir == DirForeign:
		return d.wait(StateBroken, 5*time.Second, "the data directory holds something that is not a PostgreSQL cluster (%s): it is left alone; move it away, and a copy is made here", d.DB.DirWhy)
	case d.Store.View.LockBad:
		return d.wait(d.passiveState(), idle, "the lock in the store cannot be read: nobody may take it; see the problems of the store and repair or delete the key")
	case paused:
		return d.paused()
	case d.Lease.Held:
		return d.lead()
	case d.leader() != "":
		return d.follow(d.leader())
	case !d.Store.Reachable:
		return d.isolated()
	default:
		return d.candidate()
	}
}

// act is a decision with effects.
func (d *decider) act(s State, vouch, wait time.Duration, why string, effects ...Effect) Decision {
	for _, e := range effects {
		if stop, ok := e.(Stop); ok {
			d.m.StopFor = stop.Reason
		}
		if _, ok := e.(Start); ok {
			d.m.StopFor = StopNone
		}
	}
	return Decision{State: s, Why: why, Effects: effects, Vouch: vouch, Wait: wait}
}

// wait is a decision to do nothing for now.
func (d *decider) wait(s State, wait time.Duration, format string, args ...any) Decision {
	return Decision{State: s, Why: fmt.Sprintf(format, args...), Wait: wait}
}

// ask is a decision to learn the peers' positions first.
func (d *decider) ask(s State, vouch time.Duration, format string, args ...any) Decision {
	return Decision{State: s, Why: fmt.Sprintf(format, args...), Effects: []Effect{AskPeers{}}, Vouch: vouch}
}

// peersKnown says whether the peers answered recently enough, and not before since.
func (d *decider) peersKnown(since time.Duration) bool {
	return d.Peers.AskedAt != 0 && d.Peers.AskedAt >= since && d.Now-d.Peers.AskedAt <= peersFresh
}

// passiveState is the state of a node that only waits, by what its PostgreSQL does.
func (d *decider) passiveState() State {
	if d.DB.Phase == Up && !d.DB.Primary {
		return StateFollowing
	}
	return StateWaiting
}

// mustDemote: a PostgreSQL that could acknowledge writes runs here without the lease.
func (d *decider) mustDemote(paused bool) bool {
	if d.Lease.Held || !d.DB.Writable() {
		return false
	}
	if d.Job.Running() && d.Job.Kind == JobStop {
		return false
	}
	if l := d.Store.View.Lock; paused && !(l.Held() && !d.ours()) {
		// An operator is in charge, and nobody takes a lock that was put down for a pause. Where
		// somebody was made to take it by force, there must still not be two.
		return false
	}
	// After a restart of the agent the store may not have answered yet. The guardian keeps the
	// deadline from before; until it passes there is time to find out whose lock it is.
	if !d.Store.Seen && d.Now < d.Lease.FenceAt {
		return false
	}
	return true
}

func (d *decider) demote() Decision {
	why := d.Lease.Lost
	if why == "" {
		why = "PostgreSQL runs as a primary here without the lock"
	}
	effects := []Effect{}
	if d.Job.Running() {
		effects = append(effects, CancelJob{Why: why})
	}
	// Where another leader may exist already there is no time for a fast shutdown.
	l := d.Store.View.Lock
	late := l.Held() && !d.ours() || d.Now >= d.Lease.FenceAt+lease.LadderFor(d.settings().TTL).Immediate
	return d.act(StateDemoting, 0, soon, why+": stopping PostgreSQL", append(effects, Stop{Immediate: late, Reason: StopDemote})...)
}

// busy: a job runs. What is vouched for is that it is within its bound.
func (d *decider) busy() Decision {
	ran := d.Now - d.Job.Began
	within := func(limit time.Duration) time.Duration {
		if d.Lease.Held && ran < limit {
			return d.settings().TTL
		}
		return 0
	}
	switch d.Job.Kind {
	case JobBootstrap:
		return d.act(StateBootstrapping, within(24*time.Hour), idle, "making a new cluster")
	case JobClone:
		return d.act(StateCloning, 0, idle, "copying the data directory from another member")
	case JobRewind:
		return d.act(StateRewinding, 0, idle, "rewinding the data directory onto the leader's history")
	case JobPromote:
		return d.act(StatePromoting, within(promoteWithin), soon, "ending recovery")
	case JobCheckpoint:
		return d.act(d.m.State, within(10*time.Minute), idle, "checkpoint before the handover")
	case JobStop:
		limit := d.settings().PrimaryStopTimeout
		if limit == 0 {
			limit = time.Minute
		}
		return d.act(d.stopState(), within(limit+10*time.Second), soon, "stopping PostgreSQL")
	}
	return d.wait(d.m.State, idle, "busy with %s", d.Job.Kind)
}

func (d *decider) stopState() State {
	switch d.m.StopFor {
	case StopHandover, StopHung:
		return StateHandingOver
	case StopDemote:
		return StateDemoting
	case StopRestart:
		return StateRestarting
	}
	return StateStopping
}

// shutdown: the agent was told to end. A leader stops cleanly and gives the lock away; in pause
// PostgreSQL and the lock stay as they are.
func (d *decider) shutdown(paused bool) Decision {
	why := "the agent is shutting down"
	switch {
	case paused && d.DB.Phase != Down:
		return d.wait(StateStopped, 0, "%s; PostgreSQL keeps running because the cluster is paused", why)
	case d.Job.Running() && d.Job.Kind != JobStop:
		return d.act(StateStopping, d.settings().TTL, soon, why, CancelJob{Why: why})
	case d.Job.Running():
		return d.busy()
	case d.DB.Phase != Down && d.m.StopFor == StopShutdown && d.Job.Failed(JobStop):
		return d.act(StateStopping, d.settings().TTL, soon, why+"; PostgreSQL did not stop when asked", Kill{Why: why})
	case d.DB.Phase != Down:
		return d.act(StateStopping, d.settings().TTL, soon, why, Stop{Reason: StopShutdown})
	case d.Lease.Held && d.Lease.Ready && d.DB.Control == ControlShutDown:
		return d.act(StateStopped, d.settings().TTL, 0, why+": PostgreSQL stopped cleanly, giving the lock back",
			ReleaseLock{Shutdown: true, Optime: d.DB.ControlCheckpoint, Timeline: d.DB.ControlTimeline})
	case d.Lease.Held:
		return d.act(StateStopped, d.settings().TTL, 0, why+": giving the lock back", ReleaseLock{Uninitialize: d.Store.View.Initialize == ""})
	}
	return d.wait(StateStopped, 0, "%s", why)
}

// isolated: the store does not answer and no leader is known. A standby keeps doing what it does; a
// stopped PostgreSQL is started read-only, so that reads go on.
func (d *decider) isolated() Decision {
	const why = "the store does not answer"
	switch {
	case d.DB.Dir == DirEmpty:
		return d.wait(StateWaiting, idle, "%s: nothing can be decided about an empty data directory", why)
	case d.DB.Phase == Down && d.Store.Seen && !d.failedLately():
		return d.act(StateFollowing, 0, soon, why+": starting PostgreSQL read-only", Start{Upstream: d.lastLeader()})
	case d.DB.Phase == Down:
		return d.wait(StateWaiting, idle, "%s: waiting for it before PostgreSQL is started", why)
	}
	return d.wait(d.passiveState(), idle, "%s: staying as it is", why)
}

// lastLeader is the member that held the lock last, this node apart.
func (d *decider) lastLeader() string {
	if n := d.Store.View.Lock.Node; n != d.Self.Name {
		return n
	}
	return ""
}

func (d *decider) failedLately() bool {
	return d.m.FailedAt != 0 && d.Now-d.m.FailedAt < retryFailed
}

// paused: a human is in charge. Nothing is started, stopped, promoted or demoted except on request.
func (d *decider) paused() Decision {
	const why = "the cluster is paused"
	vouch := d.settings().TTL
	if d.Lease.Held && !d.Store.View.Lock.Paused && d.DB.Phase == Up && d.DB.Primary {
		return d.act(StatePaused, vouch, soon, why+": putting the fence down until it is resumed", PauseLock{Paused: true})
	}
	if d.Lease.Held && d.DB.Phase == Down && d.m.StopFor == StopRestart {
		return d.act(StateRestarting, vouch, soon, "restart asked for by an operator", Start{Primary: true}, Answer{Request: "restart", Outcome: "restarted", Done: true})
	}
	if !d.Lease.Held && d.DB.Phase == Down && d.m.StopFor == StopRestart {
		return d.act(StateRestarting, 0, soon, "restart asked for by an operator", Start{Upstream: d.leader()}, Answer{Request: "restart", Outcome: "restarted", Done: true})
	}
	if d.Request.Restart {
		if d.DB.Phase == Down {
			return d.act(StateRestarting, vouch, soon, "start asked for by an operator", Start{Primary: d.Lease.Held, Upstream: d.leader()}, Answer{Request: "restart", Outcome: "started", Done: true})
		}
		return d.act(StateRestarting, vouch, soon, "restart asked for by an operator", Stop{Reason: StopRestart})
	}
	if d.Lease.Held && d.DB.Phase == Up && d.DB.Primary {
		if d.Store.View.Failover != nil {
			return d.handover()
		}
		if !d.Lease.Ready {
			return d.act(StatePaused, vouch, soon, why, MarkReady{Timeline: d.DB.Timeline})
		}
		if effects, note := d.syncStep(); len(effects) > 0 {
			return d.act(StatePaused, vouch, soon, why+"; "+note, effects...)
		}
	}
	if d.m.StopFor == StopHandover || d.m.HandoverStep != HandoverNone {
		if d.Lease.Held && d.DB.Phase == Down {
			return d.leadDown()
		}
	}
	l := d.Store.View.Lock
	if l.Clean() && l.Successor == d.Self.Name || d.Lease.Held && !d.DB.Primary && d.DB.Phase == Up {
		// A switchover was asked for during the pause and the former leader has stopped for it.
		if d.Lease.Held {
			return d.lead()
		}
		return d.candidate()
	}
	if d.Lease.Held {
		return Decision{State: StatePaused, Why: why, Vouch: vouch, Wait: idle}
	}
	if d.DB.Phase == Down && d.m.StopFor == StopHandover {
		if lead := d.leader(); lead != "" {
			return d.follow(lead)
		}
	}
	if d.DB.Phase == Up && !d.DB.Primary {
		if lead := d.leader(); lead != "" && d.DB.Upstream != d.upstream(lead) {
			return d.act(StatePaused, 0, soon, why+"; the leader changed", Follow{Upstream: d.upstream(lead)})
		}
	}
	return d.wait(StatePaused, idle, why)
}
