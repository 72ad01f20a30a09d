package ha

import (
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// lead: we hold the lock. Either PostgreSQL accepts writes here, or it is on the way there, or the
// lock goes to somebody who can.
func (d *decider) lead() Decision {
	db := d.DB
	switch {
	case d.Job.Failed(JobBootstrap):
		d.m.LastFailure, d.m.FailedAt = d.Job.Failure, d.Now
		return d.act(StateBroken, 0, retryFailed, "making the new cluster failed ("+d.Job.Failure+"): giving the lock back",
			ReleaseLock{Uninitialize: true})
	case db.Dir == DirEmpty && d.Store.View.Initialize == "":
		return d.act(StateBootstrapping, d.settings().TTL, soon, "the cluster does not exist yet and we hold the lock: making it", Bootstrap{})
	case db.Dir == DirEmpty:
		return d.act(StateBroken, 0, idle, "the data directory is gone: giving the lock back", Kill{Why: "the data directory is gone"}, ReleaseLock{})
	case db.Phase == Down:
		return d.leadDown()
	case db.Phase == Starting:
		return d.leadStarting()
	case db.Phase == Mute:
		return d.leadMute()
	case !db.Primary:
		return d.promote()
	}
	return d.leadUp()
}

// leadDown: we hold the lock and PostgreSQL does not run.
func (d *decider) leadDown() Decision {
	vouch := d.settings().TTL
	handover := d.m.Handover
	switch d.m.StopFor {
	case StopHandover:
		to := ""
		if f := d.Store.View.Failover; f != nil {
			to = f.Candidate
		}
		if to == "" {
			to, _ = d.successor()
		}
		d.m.HandoverStep, d.m.Handover = HandoverNone, 0
		if d.DB.Control == ControlShutDown {
			return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL stopped cleanly at %s: handing the lock to %s", d.DB.ControlCheckpoint, orAny(to)),
				ReleaseLock{Successor: to, Shutdown: true, Optime: d.DB.ControlCheckpoint, Timeline: d.DB.ControlTimeline})
		}
		return d.act(StateRestarting, vouch, soon, "PostgreSQL could not be stopped cleanly for the switchover: staying the leader",
			DropRequest{Rev: handover, Outcome: "PostgreSQL on " + d.Self.Name + " could not be stopped cleanly"}, Start{Primary: true})
	case StopRestart:
		return d.act(StateRestarting, vouch, soon, "starting PostgreSQL again, as asked",
			Start{Primary: true}, Answer{Request: "restart", Outcome: "restarted", Done: true})
	}

	// It ended without being asked, or could not be started.
	crashes := len(d.m.Crashes)
	fails := d.DB.Failure != ""
	sync := !d.Store.View.Sync.Empty() && len(d.Store.View.Sync.Standbys) > 0
	preferPeer := d.Lease.Ready && (sync || crashes >= crashLimit || fails || d.settings().PrimaryStartTimeout == 0)
	if preferPeer {
		if !d.peersKnown(d.DB.PhaseAt) {
			return d.act(StateHandingOver, vouch, 0, "PostgreSQL ended: making sure that nothing of it lives on, and asking the peers how far they are",
				Kill{Why: "the postmaster ended"}, AskPeers{})
		}
		if to, why := d.successor(); to != "" {
			return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL ended here and %s: handing over", why),
				Kill{Why: "handing over"}, ReleaseLock{Successor: to})
		}
	}
	if fails && d.Now-d.DB.PhaseAt < retryFailed {
		return Decision{State: StateRestarting, Vouch: vouch, Wait: soon,
			Why: "PostgreSQL could not be started (" + d.DB.Failure + ") and nobody else can lead: trying again in a moment"}
	}
	why := "starting PostgreSQL as the primary"
	if crashes > 0 {
		why = fmt.Sprintf("PostgreSQL ended unasked (%d times in the last minutes): starting it again here", crashes)
	}
	return d.act(StateRestarting, vouch, soon, why, Kill{Why: "before the start"}, Start{Primary: true})
}

func orAny(name string) string {
	if name == "" {
		return "whoever is caught up"
	}
	return name
}

// leadStarting: crash recovery runs under our lock, within primary_start_timeout.
func (d *decider) leadStarting() Decision {
	vouch := d.settings().TTL
	if d.Now-d.DB.PhaseAt <= d.settings().PrimaryStartTimeout {
		return Decision{State: StateRestarting, Vouch: vouch, Wait: soon, Why: "PostgreSQL is starting"}
	}
	if !d.peersKnown(d.DB.PhaseAt) {
		return d.ask(StateRestarting, vouch, "PostgreSQL has been starting for longer than primary_start_timeout (%s)", d.settings().PrimaryStartTimeout)
	}
	if to, why := d.successor(); to != "" && d.Lease.Ready {
		return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL has been starting for longer than primary_start_timeout and %s: handing over", why),
			Kill{Why: "start took too long"}, ReleaseLock{Successor: to})
	}
	return Decision{State: StateRestarting, Vouch: vouch, Wait: idle,
		Why: "PostgreSQL has been starting for longer than primary_start_timeout, and nobody else can lead"}
}

// leadMute: the postmaster lives and answers nothing, not even a new connection.
func (d *decider) leadMute() Decision {
	vouch := d.settings().TTL
	mute := d.Now - d.DB.PhaseAt
	if mute < hungAfter {
		return Decision{State: StateLeading, Vouch: vouch, Wait: soon, Why: fmt.Sprintf("PostgreSQL has not answered for %s", mute.Round(100*time.Millisecond))}
	}
	if !d.peersKnown(d.DB.PhaseAt) {
		return d.ask(StateLeading, vouch, "PostgreSQL has not answered any probe for %s: asking who could take over", mute.Round(100*time.Millisecond))
	}
	if to, why := d.successor(); to != "" {
		d.m.StopFor = StopHung
		return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL hangs (no probe answered for %s) and %s: handing over", mute.Round(100*time.Millisecond), why),
			Kill{Why: "it hangs"}, ReleaseLock{Successor: to})
	}
	if mute > hungAlone {
		return d.act(StateRestarting, vouch, soon, "PostgreSQL hangs and nobody else can lead: starting it again",
			Kill{Why: "it hangs"}, Start{Primary: true})
	}
	return Decision{State: StateLeading, Vouch: vouch, Wait: idle, Why: "PostgreSQL does not answer, and nobody else can lead"}
}

// promote: we hold the lock and PostgreSQL is a standby that must end recovery.
func (d *decider) promote() Decision {
	vouch := d.settings().TTL
	if d.Job.Failed(JobPromote) || d.m.State == StatePromoting && d.Now-d.m.Since > promoteWithin {
		d.m.FailedAt, d.m.LastFailure = d.Now, "promotion: "+d.Job.Failure
		return d.act(StateDemoting, 0, idle, "the promotion did not succeed ("+d.Job.Failure+"): giving the lock back", ReleaseLock{})
	}
	view := d.Store.View
	next := max(d.DB.NewestTimeline, d.DB.Timeline, view.Lock.Timeline) + 1
	stored := view.Sync
	mode := d.settings().SynchronousMode
	if mode != SyncOffMode && stored.Empty() {
		// The mode was switched on and never took effect: begin with nobody entitled beside us.
		stored = cluster.SyncState{Leader: d.Self.Name}
	}
	sync, rule := quorum.TakeOver(stored, d.Self.Name, d.settings().SynchronousStrict)
	d.m.Rules, d.m.Away = quorum.State{}, nil // begins anew with what is live after the promotion
	return d.act(StatePromoting, vouch, soon, fmt.Sprintf("we hold the lock for epoch %d: ending recovery onto timeline %d", d.Lease.Epoch, next),
		SetRule{Rule: rule}, Claim{Timeline: next, Sync: sync}, Promote{})
}

// SyncOffMode is cluster.SyncOff, under a name that reads well in conditions.
const SyncOffMode = cluster.SyncOff

// leadUp: the normal life of a leader.
func (d *decider) leadUp() Decision {
	vouch := d.settings().TTL
	view := d.Store.View
	d.m.StopFor = StopNone
	if view.Lock.Paused {
		return d.act(StateLeading, vouch, soon, "the pause is over: taking the fence up again", PauseLock{})
	}
	if !d.Lease.Ready {
		if effects, done := d.beforeReady(); !done {
			return d.act(StateLeading, vouch, soon, "preparing to accept writes as the leader", effects...)
		}
		return d.act(StateLeading, vouch, soon, fmt.Sprintf("PostgreSQL accepts writes on timeline %d", d.DB.Timeline), MarkReady{Timeline: d.DB.Timeline})
	}
	if d.Request.Restart {
		return d.act(StateRestarting, vouch, soon, "restart asked for by an operator", Stop{Reason: StopRestart})
	}
	if d.Request.Reinit {
		return d.act(StateLeading, vouch, soon, "leading", Answer{Request: "reinit", Outcome: "I am the leader, can not reinitialize"})
	}
	if view.Failover != nil {
		return d.handover()
	}
	d.m.Handover, d.m.HandoverStep = 0, HandoverNone
	if effects, note := d.syncStep(); len(effects) > 0 {
		return d.act(StateLeading, vouch, soon, "leading; "+note, effects...)
	}
	return Decision{State: StateLeading, Vouch: vouch, Wait: idle, Why: fmt.Sprintf("leading in epoch %d", d.Lease.Epoch)}
}

// beforeReady puts the synchronous record in order before the first tick as a leader that did not
// come by promotion (a restart in place, a bootstrap, an adopted cluster).
func (d *decider) beforeReady() ([]Effect, bool) {
	if d.Store.View.Initialize == "" {
		return []Effect{RecordCluster{SystemID: d.DB.SystemID}}, false
	}
	if d.Store.View.Lock.Timeline < d.DB.Timeline {
		sync := d.Store.View.Sync
		if !sync.Empty() && sync.Leader != d.Self.Name {
			sync = cluster.SyncState{Leader: d.Self.Name}
		}
		return []Effect{Claim{Timeline: d.DB.Timeline, Sync: sync}}, false
	}
	return nil, true
}
