package ha

import (
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// follow: another member holds the lock. This node has a copy that streams from it, or makes one.
func (d *decider) follow(lead string) Decision {
	db := d.DB
	switch {
	case db.Dir == DirEmpty:
		d.m.StopFor = StopNone
		return d.clone(lead)
	case d.foreign():
		return d.foreignHere()
	case d.m.StopFor == StopReinit && db.Phase == Down || d.Request.Reinit:
		return d.reinit(lead)
	case d.Request.Restart && db.Phase != Down && d.Job.Failed(JobStop):
		d.m.StopFor = StopNone
		return d.act(d.passiveState(), 0, soon, "PostgreSQL did not stop for the restart", Answer{Request: "restart", Outcome: "PostgreSQL did not stop: " + d.Job.Failure})
	case d.Request.Restart && db.Phase != Down:
		return d.act(StateRestarting, 0, soon, "restart asked for by an operator", Stop{Reason: StopRestart})
	case d.m.StopFor == StopRestart && db.Phase == Down && d.isStandby():
		return d.act(StateRestarting, 0, soon, "starting PostgreSQL again, as asked",
			Start{Upstream: d.upstream(lead)}, Answer{Request: "restart", Outcome: "restarted", Done: true})
	case db.Phase == Down:
		return d.rejoin(lead)
	case db.Phase != Up:
		return d.notUp("of " + lead)
	}
	return d.standby(lead)
}

// notUp: a standby that starts, or that does not answer, within its bounds.
func (d *decider) notUp(ofWhom string) Decision {
	took := d.Now - d.DB.PhaseAt
	if d.DB.Phase == Starting {
		if limit := max(d.settings().PrimaryStartTimeout, 5*time.Minute); took > limit {
			return d.act(StateFollowing, 0, soon, fmt.Sprintf("PostgreSQL has been starting for longer than %s: trying again", limit), Kill{Why: "start took too long"})
		}
		return d.wait(StateFollowing, soon, "PostgreSQL is starting as a standby %s", ofWhom)
	}
	if took > 3*hungAlone {
		return d.act(StateFollowing, 0, soon, "the standby has not answered any probe for a minute: starting it again", Kill{Why: "it hangs"})
	}
	return d.wait(StateFollowing, idle, "the standby %s does not answer", ofWhom)
}

// isStandby says whether the stopped data directory is a standby's, which may start as one.
func (d *decider) isStandby() bool {
	c := d.DB.Control
	return !d.DB.Torn && (c == ControlInRecovery || c == ControlShutDownInRecovery || d.DB.Copy || d.m.Copied)
}

// foreignHere: the data belongs to another cluster.
func (d *decider) foreignHere() Decision {
	why := fmt.Sprintf("the data directory belongs to another cluster (system identifier %s, here %s): it is left alone; move it away or reinitialize this member", d.DB.SystemID, d.Store.View.Initialize)
	switch {
	case d.DB.Phase != Down:
		return d.act(StateBroken, 0, idle, why, Stop{Reason: StopDemote})
	case d.Request.Reinit && d.Store.Reachable:
		d.m.FromLeader = d.Request.FromLeader
		return d.act(StateCloning, 0, 0, "reinitialize asked for by an operator: setting the foreign data directory aside",
			SetAside{Reason: "foreign"}, Answer{Request: "reinit", Outcome: "reinitializing", Done: true})
	}
	return d.wait(StateBroken, 5*time.Second, "%s", why)
}

// reinit: the copy is to be made anew, because an operator asked for it or because WAL that it needs
// is gone.
func (d *decider) reinit(lead string) Decision {
	why := fmt.Sprintf("the WAL that this standby needs is gone on %s", lead)
	if d.Request.Reinit {
		why = "reinitialize asked for by an operator"
	}
	switch ready := d.Store.Reachable && d.Store.View.Lock.Ready && d.Self.CanClone; {
	case d.Request.Reinit && d.DB.Phase != Down && d.Job.Failed(JobStop):
		d.m.StopFor = StopNone
		return d.act(d.passiveState(), 0, soon, why+", but PostgreSQL did not stop", Answer{Request: "reinit", Outcome: "PostgreSQL did not stop: " + d.Job.Failure})
	case !ready && d.Request.Reinit:
		d.m.StopFor = StopNone
		outcome := fmt.Sprintf("there is nothing to copy from now: %s does not accept writes, the store does not answer, or no replica method is configured", lead)
		return d.act(d.passiveState(), 0, soon, why+", but "+outcome, Answer{Request: "reinit", Outcome: outcome})
	case d.DB.Phase != Down:
		return d.act(StateStopping, 0, soon, why, Stop{Reason: StopReinit})
	case !ready:
		return d.wait(StateWaiting, idle, "%s: waiting until %s can be copied", why, lead)
	}
	d.m.StopFor, d.m.FromLeader = StopNone, d.Request.FromLeader
	effects := []Effect{SetAside{Reason: "reinit"}}
	if d.Request.Reinit {
		effects = append(effects, Answer{Request: "reinit", Outcome: "reinitializing", Done: true})
	}
	return d.act(StateCloning, 0, 0, why+": setting the old data directory aside", effects...)
}

// upstream is the member to stream from: the one the tag replicatefrom names while it runs, else the
// leader; nobody for a member that follows from the archive alone.
func (d *decider) upstream(lead string) string {
	if d.Self.Tags.NoStream() || d.promised() {
		return ""
	}
	if from := d.Self.Tags.ReplicateFrom(); from != "" && from != d.Self.Name {
		if m, ok := d.Store.View.Member(from); ok && m.State == cluster.StateRunning && !d.circular(from, lead) {
			return from
		}
	}
	return lead
}

// circular says whether following from leads back here, by the tags replicatefrom, instead of to lead.
func (d *decider) circular(from, lead string) bool {
	for range d.Store.View.Members {
		if from == lead || from == "" {
			return false
		}
		if from == d.Self.Name {
			return true
		}
		m, ok := d.Store.View.Member(from)
		if !ok {
			return false
		}
		from = m.Tags.ReplicateFrom()
	}
	return from != lead && from != ""
}

// standby: PostgreSQL runs as a standby; see that it follows the right member on the right history.
func (d *decider) standby(lead string) Decision {
	view, db, lock := d.Store.View, d.DB, d.Store.View.Lock
	if dec, ok := d.depose(); ok {
		if d.m.DeposeSince == 0 {
			d.m.DeposeSince = d.Now
		}
		return dec
	}
	d.m.RevokedAt, d.m.DeposeSince = 0, 0
	want := d.upstream(lead)
	d.m.StopFor = StopNone
	if _, known := view.Member(want); db.Upstream != want && want != "" && !known {
		// Without its address there is only nobody to follow instead, and nothing is gained by that.
		return d.wait(StateFollowing, soon, "waiting until %s publishes its address, to follow it", want)
	}
	if db.Upstream != want {
		return d.act(StateFollowing, 0, soon, "following "+orNobody(want), Follow{Upstream: want})
	}
	if why := d.diverged(); why != "" && d.Store.Reachable {
		return d.act(StateDemoting, 0, soon, why+": stopping to rewind", Stop{Reason: StopRewind})
	}
	if db.Streaming || d.Self.Tags.NoStream() {
		return d.wait(StateFollowing, idle, "following %s on timeline %d", orNobody(want), db.Timeline)
	}
	silent := d.Now - max(db.StreamingLost, db.PhaseAt)
	switch {
	case lock.Paused && d.Now >= d.expiresAt():
		return d.wait(StateFollowing, idle, "%s put its fence down for a pause and is silent: only an operator can tell whether it is off (failover with force)", lead)
	case !d.Store.Reachable:
		return d.wait(StateFollowing, idle, "not streaming from %s, and the store does not answer: staying as it is", orNobody(want))
	case !lock.Ready || silent < stuckStandby:
		return d.wait(StateFollowing, soon, "waiting to stream from %s", orNobody(want))
	}
	if !d.peersKnown(0) {
		return d.ask(StateFollowing, 0, "not streaming from %s for %s: comparing positions", want, silent.Round(time.Second))
	}
	leader, ok := d.Peers.Answers[lead]
	still := d.Now - d.m.StuckSince // it may still read WAL from the archive
	switch {
	case !ok || !leader.Running || leader.InRecovery:
		return d.wait(StateFollowing, idle, "%s does not answer: staying as it is", lead)
	case leader.Timeline == db.Timeline && leader.LSN != 0 && db.LSN > leader.LSN:
		return d.act(StateDemoting, 0, soon, fmt.Sprintf("this standby is at %s, ahead of its leader at %s on the same timeline", db.LSN, leader.LSN), Stop{Reason: StopRewind})
	case db.Timeline < lock.Timeline && still >= stuckStandby && deadBranch(view.History, db.Timeline):
		return d.act(StateDemoting, 0, soon, fmt.Sprintf("this standby is on timeline %d, which is not in the history of %s", db.Timeline, lead), Stop{Reason: StopRewind})
	case leader.OldestLSN != 0 && still >= stuckStandby && db.LSN < leader.OldestLSN:
		return d.act(StateDemoting, 0, soon, fmt.Sprintf("%s no longer has the WAL from %s that this standby needs: copying it anew", lead, db.LSN), Stop{Reason: StopReinit})
	}
	return d.wait(StateFollowing, idle, "not streaming from %s for %s", want, silent.Round(time.Second))
}

// deadBranch says whether the leader's history, as far back as it is kept, passes timeline tl by.
func deadBranch(h cluster.History, tl uint32) bool {
	if len(h) == 0 || h[0].Timeline > tl {
		return false
	}
	_, ok := h.SwitchPoint(tl)
	return !ok
}

func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}

// diverged says why this running standby's WAL is not in the leader's history, or "".
func (d *decider) diverged() string {
	lock, db := d.Store.View.Lock, d.DB
	if !lock.Ready || lock.Timeline == 0 || db.Timeline == 0 {
		return ""
	}
	if db.Timeline > lock.Timeline {
		return fmt.Sprintf("this standby is on timeline %d, the leader on %d", db.Timeline, lock.Timeline)
	}
	if why := d.forked(); why != "" {
		return "this standby is not of the leader's history: " + why
	}
	if db.Timeline == lock.Timeline {
		return ""
	}
	if s, ok := d.Store.View.History.SwitchPoint(db.Timeline); ok && db.LSN > s {
		return fmt.Sprintf("this standby is at %s of timeline %d, which ended at %s in the leader's history", db.LSN, db.Timeline, s)
	}
	return ""
}

// rejoin: there is a leader, and PostgreSQL does not run here. Start it as a standby where its WAL
// lies in the leader's past, else rewind it, else set it aside and copy anew.
func (d *decider) rejoin(lead string) Decision {
	view, db, lock := d.Store.View, d.DB, d.Store.View.Lock
	start := func(why string) Decision {
		return d.act(StateFollowing, 0, soon, why, Start{Upstream: d.upstream(lead)})
	}
	aside := func(reason, why string) Decision {
		d.m.StopFor, d.m.RewindFailures, d.m.Rewinds, d.m.FailedAt = StopNone, 0, 0, 0
		return d.act(StateCloning, 0, 0, why+": setting the data directory aside and copying anew", SetAside{Reason: reason})
	}
	switch {
	case d.startFailedLately():
		return d.wait(StateWaiting, idle, "PostgreSQL could not be started (%s): trying again in a moment", db.Failure)
	case d.failedLately() && !(d.Job.Failed(JobRewind) && !d.Job.Transient):
		return d.wait(StateWaiting, idle, "%s; trying again in a moment", d.m.LastFailure)
	case d.isStandby() && d.m.RewindFailures == 0 && d.m.StopFor != StopRewind && (db.ControlTimeline <= max(lock.Timeline, 1) || d.m.Copied || db.Copy) && len(d.m.Crashes) <= 2*crashLimit:
		return start("starting PostgreSQL as a standby")
	case !d.Store.Reachable:
		return d.wait(StateWaiting, idle, "the store does not answer: how this data directory relates to %s cannot be told", lead)
	case !lock.Ready:
		return d.wait(StateWaiting, soon, "waiting until %s accepts writes, to compare histories", lead)
	}

	// From here on the data directory is changed or set aside: only with a leader to copy from.
	if db.Torn && d.m.RewindFailures == 0 {
		d.m.RewindFailures, d.m.LastFailure = 1, "it was interrupted"
	}
	if d.m.RewindFailures > 0 {
		if !d.settings().RemoveOnRewindFail {
			return d.wait(StateBroken, 10*time.Second, "pg_rewind failed (%s) and remove_data_directory_on_rewind_failure is off: reinitialize this member, or switch the setting on", d.m.LastFailure)
		}
		return aside("rewind-failed", "pg_rewind failed ("+d.m.LastFailure+")")
	}
	if n := len(d.m.Crashes); n > 2*crashLimit && d.isStandby() {
		if d.m.CrashClones > 0 {
			if d.Now-db.PhaseAt >= retryBroken {
				return start("PostgreSQL ends or fails to start again and again, even on a new copy: trying once more")
			}
			return d.wait(StateBroken, 5*time.Second, "PostgreSQL ended or failed to start %d times in the last minutes, even on a new copy (%s): this machine needs attention", n, orUnknown(db.Failure))
		}
		d.m.Crashes = nil
		d.m.CrashClones++
		return aside("crash-loop", "this standby ended or failed to start again and again")
	}
	if why := d.forked(); why != "" && db.ControlTimeline == lock.Timeline {
		return aside("forked", fmt.Sprintf("this is timeline %d of another history (%s), and pg_rewind goes by the number", db.ControlTimeline, why))
	}
	if !d.isStandby() && db.ControlTimeline == lock.Timeline {
		return aside("same-timeline", fmt.Sprintf("this was a primary on timeline %d, on which %s leads now: pg_rewind cannot tell the two apart", db.ControlTimeline, lead))
	}
	if db.Control == ControlShutDown {
		if s, ok := view.History.SwitchPoint(db.ControlTimeline); ok && db.ControlCheckpoint < s {
			return start(fmt.Sprintf("this former primary stopped cleanly at %s, before %s left timeline %d at %s: no rewind needed", db.ControlCheckpoint, lead, db.ControlTimeline, s))
		}
	}
	switch {
	case d.settings().UsePgRewind && d.m.Rewinds < maxRewinds:
		d.m.StopFor = StopNone
		return d.act(StateRewinding, 0, soon, fmt.Sprintf("timeline %d here and %d on %s: rewinding", db.ControlTimeline, lock.Timeline, lead), Rewind{From: lead})
	case !d.settings().RemoveDiverged && d.settings().UsePgRewind:
		return d.wait(StateBroken, 10*time.Second, "this member diverged, %d rewinds did not help, and remove_data_directory_on_diverged_timelines is off: reinitialize it", d.m.Rewinds)
	case !d.settings().RemoveDiverged:
		return d.wait(StateBroken, 10*time.Second, "this member diverged, and both use_pg_rewind and remove_data_directory_on_diverged_timelines are off: reinitialize it")
	case d.settings().UsePgRewind:
		return aside("diverged", fmt.Sprintf("this member diverged, and %d rewinds did not help", d.m.Rewinds))
	}
	return aside("diverged", "this member diverged and use_pg_rewind is off")
}

func orUnknown(reason string) string {
	if reason == "" {
		return "reason unknown"
	}
	return reason
}

// clone: there is no data here and a cluster to copy from.
func (d *decider) clone(lead string) Decision {
	view := d.Store.View
	switch {
	case view.Initialize == "":
		return d.wait(StateWaiting, soon, "%s is making the cluster", lead)
	case !view.Lock.Ready:
		return d.wait(StateWaiting, soon, "waiting until %s accepts writes, to copy from it", lead)
	case !d.Self.CanClone:
		return d.wait(StateBroken, 5*time.Second, "no way to make a replica is configured (postgresql.create_replica_methods)")
	}
	if n := d.m.CloneFailures; n > 0 {
		pause := min(retryFailed<<min(n-1, 6), 5*time.Minute)
		if d.Now-d.m.FailedAt < pause {
			return d.wait(StateWaiting, idle, "the copy failed (%s): trying again in %s", d.m.LastFailure, (pause - (d.Now - d.m.FailedAt)).Round(time.Second))
		}
	}
	from := lead
	if d.m.CloneFailures%2 == 0 && !d.m.FromLeader {
		for name, m := range view.Members {
			if m.Tags.CloneFrom() && name != d.Self.Name && name != lead && m.State == cluster.StateRunning && m.ReplicationState == "streaming" && (from == lead || name < from) {
				from = name
			}
		}
	}
	return d.act(StateCloning, 0, soon, "copying the data directory from "+from, Clone{From: from})
}
