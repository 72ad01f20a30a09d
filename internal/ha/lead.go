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
	db, vouch := d.DB, d.settings().TTL
	fresh := d.Store.View.Initialize == ""
	switch {
	case db.Dir == DirEmpty && fresh && db.Phase != Down:
		return d.act(StateBootstrapping, vouch, soon, "a PostgreSQL without a data directory is in the way of the new cluster: ending it", Kill{Why: "its data directory is gone"})
	case db.Dir == DirEmpty && fresh:
		return d.act(StateBootstrapping, vouch, soon, "the cluster does not exist yet and we hold the lock: making it", Bootstrap{})
	case db.Dir == DirEmpty:
		return d.act(StateBroken, 0, idle, "the data directory is gone: giving the lock back", Kill{Why: "the data directory is gone"}, ReleaseLock{})
	case db.Torn && db.Phase == Down:
		return d.act(StateBroken, 0, idle, "a rewind was interrupted here: giving the lock back", Kill{Why: "the data directory is half rewound"}, ReleaseLock{})
	case db.Replaced != "" && db.Phase == Down:
		return d.act(StateBroken, 0, idle, "the data directory was replaced ("+db.Replaced+"): giving the lock back", Kill{Why: "the data directory was replaced"}, ReleaseLock{})
	case d.Store.View.Lock.Paused && d.Store.Reachable && !d.settings().Pause:
		return d.act(StateLeading, vouch, soon, "the pause is over: taking the fence up again", PauseLock{})
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

// bootstrapFailed: the new cluster could not be made here. Another member may try.
func (d *decider) bootstrapFailed() Decision {
	effects := []Effect{}
	if d.DB.Phase != Down {
		effects = append(effects, Kill{Why: "making the cluster failed"})
	}
	return d.act(StateBroken, 0, retryFailed, "making the new cluster failed ("+d.Job.Failure+"): giving the lock back",
		append(effects, ReleaseLock{Uninitialize: d.Store.View.Initialize == ""})...)
}

// again starts PostgreSQL as what it was when it ended. A standby must not come up as a primary: it
// would write a second history on the timeline that it followed; it is promoted once it runs.
func (d *decider) again() Start { return Start{Primary: d.DB.Control.WasPrimary() && !d.DB.Copy} }

// leadDown: we hold the lock and PostgreSQL does not run.
func (d *decider) leadDown() Decision {
	vouch := d.settings().TTL
	switch d.m.StopFor {
	case StopHandover:
		return d.handoverDown()
	case StopRestart:
		return d.act(StateRestarting, vouch, soon, "starting PostgreSQL again, as asked",
			d.again(), Answer{Request: "restart", Outcome: "restarted", Done: true})
	}

	// It ended without being asked, or could not be started.
	crashes := len(d.m.Crashes)
	fails := d.DB.Failure != ""
	again := d.again()
	sync := len(d.Store.View.Sync.Standbys) > 0
	preferPeer := sync && (d.Lease.Ready || crashes > 0) || crashes >= crashLimit || fails || d.Lease.Ready && d.settings().PrimaryStartTimeout == 0 ||
		d.m.StopFor == StopHung
	if preferPeer && d.Store.Reachable && again.Primary {
		if !d.peersKnown(d.DB.PhaseAt) {
			return d.act(StateHandingOver, vouch, 0, "PostgreSQL ended: making sure that nothing of it lives on, and asking the peers how far they are",
				Kill{Why: "the postmaster ended"}, AskPeers{})
		}
		if to, why := d.successor(); to != "" {
			return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL ended here and %s: handing over", why),
				Kill{Why: "handing over"}, ReleaseLock{Successor: to})
		}
	}
	if !again.Primary && d.Store.Reachable && (fails || d.m.PromoteFailures > 0 || crashes >= crashLimit) {
		return d.giveBack()
	}
	if d.startFailedLately() {
		return Decision{State: StateRestarting, Vouch: vouch, Wait: soon,
			Why: "PostgreSQL could not be started (" + d.DB.Failure + ") and nobody else can lead: trying again in a moment"}
	}
	why := "starting PostgreSQL as the primary"
	switch {
	case !again.Primary:
		why = "PostgreSQL was a standby when it ended: starting it as one, to promote it"
	case crashes > 0:
		why = fmt.Sprintf("PostgreSQL ended unasked (%d times in the last minutes): starting it again here", crashes)
	}
	return d.act(StateRestarting, vouch, soon, why, Kill{Why: "before the start"}, again)
}

// giveBack: we hold the lock, and the standby here could not be made a primary. What was claimed for
// this epoch was never written, as the control file shows, and is taken back together with the
// entitlement: otherwise nobody else who has everything would be allowed to lead.
func (d *decider) giveBack() Decision {
	view := d.Store.View
	effects := []Effect{Kill{Why: "before the lock is given back"}}
	if d.m.ClaimEpoch != d.Lease.Epoch && view.Lock.Timeline > max(d.DB.ControlTimeline, d.DB.Timeline) {
		// Claimed before this process began, perhaps by us. A lock that expires in our name can be
		// taken by us again; one that is released with this timeline by nobody.
		return d.wait(StateDemoting, idle, "PostgreSQL could not be promoted here: letting the lock run out")
	}
	if d.m.Claimed != 0 && d.m.ClaimEpoch == d.Lease.Epoch && view.Lock.Timeline == d.m.Claimed && d.DB.ControlTimeline < d.m.Claimed {
		effects = append(effects, Claim{Timeline: d.m.ClaimedFrom, Sync: d.m.ClaimedSync})
	}
	d.m.ClaimEpoch, d.m.Claimed, d.m.ClaimedFrom = 0, 0, 0
	d.m.FailedAt = d.Now
	d.m.PromoteFailures = max(d.m.PromoteFailures, 1)
	return d.act(StateDemoting, d.settings().TTL, soon, "PostgreSQL could not be promoted here: giving the lock back", append(effects, ReleaseLock{})...)
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
	if to, why := d.successor(); to != "" && d.Store.Reachable {
		d.m.StopFor = StopHung
		return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL has been starting for longer than primary_start_timeout and %s: handing over", why),
			Kill{Why: "start took too long"}, ReleaseLock{Successor: to})
	}
	return Decision{State: StateRestarting, Vouch: vouch, Wait: idle,
		Why: "PostgreSQL has been starting for longer than primary_start_timeout, and nobody else can lead"}
}

// leadMute: the postmaster lives and answers nothing, or no new connection, or no write.
func (d *decider) leadMute() Decision {
	vouch := d.settings().TTL
	mute := d.Now - d.DB.PhaseAt
	text := d.hang(mute)
	if d.Request.Restart {
		return d.act(StateRestarting, vouch, soon, "restart asked for by an operator", Stop{Reason: StopRestart})
	}
	if mute < hungAfter {
		return Decision{State: StateLeading, Vouch: vouch, Wait: soon, Why: text}
	}
	if d.m.StopFor == StopHung && mute > hungAlone {
		// It was to be killed and lives on: within the kernel, where nothing reaches it. Whoever else leads
		// has to wait for the lease.
		return d.act(StateHandingOver, 0, idle, text+", and it could not be killed: letting the lock run out", Kill{Why: "it hangs"})
	}
	if !d.peersKnown(d.DB.PhaseAt) {
		return d.ask(StateLeading, vouch, "%s: asking who could take over", text)
	}
	if to, why := d.successor(); to != "" && d.Store.Reachable {
		// To whom is decided once it is dead: until then it may send more to one than to another.
		d.m.StopFor = StopHung
		return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("%s, and %s: ending it, to hand over", text, why), Kill{Why: "it hangs"})
	}
	if mute > hungAlone {
		d.m.StopFor = StopHung
		return d.act(StateRestarting, vouch, soon, text+", and nobody else can lead: ending it, to start it again", Kill{Why: "it hangs"})
	}
	return Decision{State: StateLeading, Vouch: vouch, Wait: idle, Why: text + ", and nobody else can lead"}
}

// hang says how a mute server hangs.
func (d *decider) hang(mute time.Duration) string {
	if d.DB.Hang != "" {
		return fmt.Sprintf("PostgreSQL hangs (for %s: %s)", mute.Round(100*time.Millisecond), d.DB.Hang)
	}
	return fmt.Sprintf("PostgreSQL has not answered any probe for %s", mute.Round(100*time.Millisecond))
}

// promote: we hold the lock and PostgreSQL is a standby that must end recovery.
func (d *decider) promote() Decision {
	vouch := d.settings().TTL
	late := d.m.State == StatePromoting && d.Now-d.m.Since > promoteWithin
	if d.Job.Failed(JobPromote) || late {
		what := d.Job.Failure
		if what == "" {
			what = fmt.Sprintf("it took longer than %s", promoteWithin)
		}
		d.m.FailedAt, d.m.LastFailure = d.Now, "promotion: "+what
		d.m.PromoteFailures++
		d.m.StopFor = StopDemote
		// The request to end recovery may still come true, so the lock is given back only when
		// PostgreSQL has ended and its control file shows that it did not.
		return d.act(StateDemoting, vouch, soon, "the promotion did not succeed ("+what+"): ending PostgreSQL before the lock is given back", Kill{Why: "the promotion failed"})
	}
	view := d.Store.View
	if d.m.ClaimEpoch != d.Lease.Epoch {
		d.m.ClaimEpoch, d.m.ClaimedFrom, d.m.ClaimedSync = d.Lease.Epoch, view.Lock.Timeline, view.Sync
		d.m.Claimed = view.Lock.Timeline + 1
	}
	// Repeated until recovery has ended, always with the same number.
	d.m.Claimed = max(d.m.Claimed, d.DB.NewestTimeline+1, d.DB.Timeline+1)
	next := d.m.Claimed
	stored := view.Sync
	if d.settings().SynchronousMode != cluster.SyncOff && stored.Empty() {
		// The mode was switched on and never took effect: begin with nobody entitled beside us.
		stored = cluster.SyncState{Leader: d.Self.Name}
	}
	sync, rule := quorum.TakeOver(stored, d.Self.Name, d.settings().SynchronousStrict)
	d.m.Rules, d.m.Away = quorum.State{}, nil // begins anew with what is live after the promotion
	return d.act(StatePromoting, vouch, soon, fmt.Sprintf("we hold the lock for epoch %d: ending recovery onto timeline %d", d.Lease.Epoch, next),
		SetRule{Rule: rule}, Claim{Timeline: next, Sync: sync}, Promote{Timeline: next})
}

// leadUp: the normal life of a leader.
func (d *decider) leadUp() Decision {
	vouch := d.settings().TTL
	view := d.Store.View
	stopFailed := d.Job.Failed(JobStop) && d.m.StopFor == StopRestart
	d.m.StopFor = StopNone
	if view.Initialize == "" && d.DB.SystemID == "" {
		return Decision{State: StateLeading, Vouch: vouch, Wait: soon, Why: "preparing to accept writes as the leader: waiting for PostgreSQL to tell its system identifier"}
	}
	if !d.Lease.Ready {
		if effects, done := d.beforeReady(); !done {
			return d.act(StateLeading, vouch, 0, "preparing to accept writes as the leader", effects...)
		}
		return d.act(StateLeading, vouch, soon, fmt.Sprintf("PostgreSQL accepts writes on timeline %d", d.DB.Timeline), MarkReady{Timeline: d.DB.Timeline})
	}
	if d.Request.Restart && stopFailed {
		return d.act(StateLeading, vouch, soon, "leading; PostgreSQL did not stop for the restart", Answer{Request: "restart", Outcome: "PostgreSQL did not stop: " + d.Job.Failure})
	}
	if d.Request.Restart {
		return d.act(StateRestarting, vouch, soon, "restart asked for by an operator", Stop{Reason: StopRestart})
	}
	if d.request() != nil && d.Store.Reachable {
		return d.handover()
	}
	d.m.Handover, d.m.HandoverStep, d.m.HandoverTo = 0, HandoverNone, ""
	effects, note, wait := d.syncStep()
	if len(effects) > 0 {
		return d.act(StateLeading, vouch, soon, "leading; "+note, effects...)
	}
	return Decision{State: StateLeading, Vouch: vouch, Wait: wait, Why: fmt.Sprintf("leading in epoch %d", d.Lease.Epoch)}
}

// beforeReady puts the synchronous record in order before the first tick as a leader that did not
// come by promotion (a restart in place, a bootstrap, an adopted cluster).
func (d *decider) beforeReady() ([]Effect, bool) {
	if d.Store.View.Initialize == "" {
		return []Effect{RecordCluster{SystemID: d.DB.SystemID}}, false
	}
	if d.Store.View.Lock.Timeline != d.DB.Timeline {
		// A higher one was claimed and never used here: left as it is, it would pass for the
		// timeline of commits, and a member of a dead branch that bears it for one that has them.
		sync := d.Store.View.Sync
		if !sync.Empty() && sync.Leader != d.Self.Name {
			sync = cluster.SyncState{Leader: d.Self.Name}
		}
		return []Effect{Claim{Timeline: d.DB.Timeline, Sync: sync}}, false
	}
	return nil, true
}
