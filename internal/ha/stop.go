package ha

import (
	"time"

	"github.com/hathi-ha/hathi/internal/lease"
)

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

// late says whether another leader may exist already, so that there is no time for a fast shutdown.
func (d *decider) late() bool {
	l := d.Store.View.Lock
	return l.Held() && !d.ours() || d.Now >= d.Lease.FenceAt+lease.LadderFor(d.settings().TTL).Immediate
}

// demote: PostgreSQL is a primary here and must not be.
func (d *decider) demote() Decision {
	why := d.Lease.Lost
	if why == "" {
		why = "PostgreSQL runs as a primary here without the lock"
	}
	effects := []Effect{}
	if d.Job.Running() {
		effects = append(effects, CancelJob{Why: why})
	}
	if d.Job.Failed(JobStop) {
		return d.act(StateDemoting, 0, soon, why+", and it did not stop when asked: killing it", append(effects, Kill{Why: why})...)
	}
	return d.act(StateDemoting, 0, soon, why+": stopping PostgreSQL", append(effects, Stop{Immediate: d.late(), Reason: StopDemote})...)
}

// busy: a job runs. What is vouched for is that it is within its bound.
func (d *decider) busy() Decision {
	ran := d.Now - d.Job.Began
	within := func(limit time.Duration) time.Duration {
		if ran < limit {
			return d.settings().TTL
		}
		return 0
	}
	switch d.Job.Kind {
	case JobBootstrap:
		if !d.Lease.Held {
			const why = "the lock was lost while the cluster was being made"
			return d.act(StateBootstrapping, 0, soon, why, CancelJob{Why: why})
		}
		return d.act(StateBootstrapping, within(24*time.Hour), idle, "making a new cluster")
	case JobClone:
		return d.act(StateCloning, 0, idle, "copying the data directory from another member")
	case JobRewind:
		return d.act(StateRewinding, 0, idle, "rewinding the data directory onto the leader's history")
	case JobPromote:
		if !d.Lease.Held {
			// The request to end recovery may be on its way: it must not come true without the lock.
			const why = "the lock was lost during the promotion"
			return d.act(StateDemoting, 0, soon, why+": stopping PostgreSQL", CancelJob{Why: why}, Stop{Immediate: true, Reason: StopDemote})
		}
		if ran >= promoteWithin || d.DB.Phase == Down {
			why := "the promotion takes too long"
			if d.DB.Phase == Down {
				why = "PostgreSQL ended during the promotion"
			}
			return d.act(StatePromoting, d.settings().TTL, soon, why, CancelJob{Why: why})
		}
		return d.act(StatePromoting, within(promoteWithin), soon, "ending recovery")
	case JobCheckpoint:
		if ran >= handoverWithin {
			const why = "the checkpoint before the handover takes too long"
			return d.act(StateHandingOver, d.settings().TTL, soon, why, CancelJob{Why: why})
		}
		return d.act(StateHandingOver, within(handoverWithin), idle, "checkpoint before the handover")
	case JobStop:
		limit := d.settings().PrimaryStopTimeout
		if limit == 0 {
			limit = time.Minute
		}
		return d.act(d.stopState(), within(limit+10*time.Second), soon, "stopping PostgreSQL")
	}
	return d.wait(d.passiveState(), idle, "busy with %s", d.Job.Kind)
}

func (d *decider) stopState() State {
	switch d.m.StopFor {
	case StopHandover, StopHung:
		return StateHandingOver
	case StopDemote, StopRewind:
		return StateDemoting
	case StopRestart:
		return StateRestarting
	}
	return StateStopping
}

// shutdown: the agent was told to end. A leader stops cleanly and gives the lock away; in pause
// PostgreSQL and the lock stay as they are.
func (d *decider) shutdown(paused bool) Decision {
	const why = "the agent is shutting down"
	vouch := d.settings().TTL
	lock := d.Store.View.Lock
	switch {
	case d.Job.Running() && d.Job.Kind != JobStop:
		return d.act(StateStopping, vouch, soon, why, CancelJob{Why: why})
	case d.Job.Running():
		return d.busy()
	case paused && d.DB.Phase != Down && d.Lease.Held && d.DB.Primary && !lock.Paused && d.Store.Reachable:
		return d.act(StateStopping, vouch, soon, why+": putting the fence down first, because the cluster is paused and PostgreSQL keeps running", PauseLock{Paused: true})
	case paused && d.DB.Phase != Down && !d.mustDemote(paused):
		return d.wait(StateStopped, 0, "%s; PostgreSQL keeps running because the cluster is paused", why)
	case paused && d.Lease.Held && lock.Paused:
		return d.wait(StateStopped, 0, "%s; the lock stays as it is because the cluster is paused", why)
	case d.DB.Phase != Down && d.Job.Failed(JobStop):
		return d.act(StateStopping, vouch, soon, why+"; PostgreSQL did not stop when asked", Kill{Why: why})
	case d.DB.Phase != Down:
		return d.act(StateStopping, vouch, soon, why, Stop{Immediate: d.mustDemote(paused) && d.late(), Reason: StopShutdown})
	case d.Lease.Held && d.Store.View.Initialize != "" && d.DB.Control == ControlShutDown && d.DB.ControlTimeline >= lock.Timeline:
		return d.act(StateStopped, vouch, 0, why+": PostgreSQL stopped cleanly, giving the lock back",
			ReleaseLock{Shutdown: true, Optime: d.DB.ControlCheckpoint, Timeline: d.DB.ControlTimeline})
	case d.Lease.Held && lock.Timeline > max(d.DB.ControlTimeline, d.DB.Timeline):
		// Claimed and never written. Released with the claim, the lock could be taken by nobody.
		if d.m.ClaimEpoch == d.Lease.Epoch && lock.Timeline == d.m.Claimed {
			return d.act(StateStopped, vouch, 0, why+": giving the lock back, with the timeline that was claimed and not begun",
				Claim{Timeline: d.m.ClaimedFrom, Sync: d.m.ClaimedSync}, ReleaseLock{})
		}
		return d.wait(StateStopped, 0, "%s; the lock runs out in this member's name, so that it alone can tell that the timeline it claimed was not begun", why)
	case d.Lease.Held:
		return d.act(StateStopped, vouch, 0, why+": giving the lock back", ReleaseLock{Uninitialize: d.Store.View.Initialize == ""})
	}
	return d.wait(StateStopped, 0, "%s", why)
}
