package ha

import (
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// follow: another member holds the lock. This node has a copy that streams from it, or makes one.
func (d *decider) follow(lead string) Decision {
	view, db := d.Store.View, d.DB
	switch {
	case d.m.StopFor == StopReinit && db.Phase == Down && db.Dir == DirValid:
		d.m.StopFor = StopNone
		return d.act(StateCloning, 0, 0, "reinitialize asked for by an operator: setting the old data directory aside",
			SetAside{Reason: "reinit"}, Answer{Request: "reinit", Outcome: "reinitializing", Done: true})
	case db.Dir == DirEmpty:
		return d.clone(lead)
	case view.Initialize != "" && db.SystemID != "" && db.SystemID != view.Initialize:
		why := fmt.Sprintf("the data directory belongs to another cluster (system identifier %s, here %s): it is left alone; move it away or reinitialize this member", db.SystemID, view.Initialize)
		if db.Phase != Down {
			return d.act(StateBroken, 0, idle, why, Stop{Reason: StopDemote})
		}
		if d.Request.Reinit {
			return d.act(StateCloning, 0, 0, "reinitialize asked for by an operator: setting the foreign data directory aside",
				SetAside{Reason: "foreign"}, Answer{Request: "reinit", Outcome: "reinitializing", Done: true})
		}
		return d.wait(StateBroken, 5*time.Second, "%s", why)
	case d.Request.Reinit && db.Phase != Down:
		return d.act(StateStopping, 0, soon, "reinitialize asked for by an operator", Stop{Reason: StopReinit})
	case d.Request.Reinit:
		return d.act(StateCloning, 0, 0, "reinitialize asked for by an operator: setting the old data directory aside",
			SetAside{Reason: "reinit"}, Answer{Request: "reinit", Outcome: "reinitializing", Done: true})
	case d.Request.Restart && db.Phase != Down && d.m.StopFor != StopRestart:
		return d.act(StateRestarting, 0, soon, "restart asked for by an operator", Stop{Reason: StopRestart})
	case d.m.StopFor == StopRestart && db.Phase == Down:
		return d.act(StateRestarting, 0, soon, "starting PostgreSQL again, as asked",
			Start{Upstream: d.upstream(lead)}, Answer{Request: "restart", Outcome: "restarted", Done: true})
	case db.Phase == Down:
		return d.rejoin(lead)
	case db.Phase == Starting:
		if limit := max(d.settings().PrimaryStartTimeout, 5*time.Minute); d.Now-db.PhaseAt > limit {
			return d.act(StateFollowing, 0, soon, fmt.Sprintf("PostgreSQL has been starting for longer than %s: trying again", limit), Kill{Why: "start took too long"})
		}
		return d.wait(StateFollowing, soon, "PostgreSQL is starting as a standby of %s", lead)
	case db.Phase == Mute:
		if d.Now-db.PhaseAt > 3*hungAlone {
			return d.act(StateFollowing, 0, soon, "the standby has not answered any probe for a minute: starting it again", Kill{Why: "it hangs"})
		}
		return d.wait(StateFollowing, idle, "the standby does not answer")
	}
	return d.standby(lead)
}

// upstream is the member to stream from: the one the tag replicatefrom names while it runs, else the
// leader; nobody for a member that follows from the archive alone.
func (d *decider) upstream(lead string) string {
	if d.Self.Tags.NoStream() {
		return ""
	}
	if from := d.Self.Tags.ReplicateFrom(); from != "" && from != d.Self.Name {
		if m, ok := d.Store.View.Member(from); ok && m.State == cluster.StateRunning {
			return from
		}
	}
	return lead
}

// standby: PostgreSQL runs as a standby; see that it follows the right member on the right history.
func (d *decider) standby(lead string) Decision {
	view, db := d.Store.View, d.DB
	want := d.upstream(lead)
	if db.Upstream != want {
		return d.act(StateFollowing, 0, soon, "following "+orNobody(want), Follow{Upstream: want})
	}
	if why := d.diverged(); why != "" {
		return d.act(StateDemoting, 0, soon, why+": stopping to rewind", Stop{Reason: StopRewind})
	}
	if db.Streaming || d.Self.Tags.NoStream() {
		return d.wait(StateFollowing, idle, "following %s on timeline %d", orNobody(want), db.Timeline)
	}
	silent := d.Now - max(db.StreamingLost, db.PhaseAt)
	if !view.Lock.Ready || silent < stuckStandby {
		return d.wait(StateFollowing, soon, "waiting to stream from %s", orNobody(want))
	}
	if !d.peersKnown(0) {
		return d.ask(StateFollowing, 0, "not streaming from %s for %s: comparing positions", want, silent.Round(time.Second))
	}
	leader, ok := d.Peers.Answers[lead]
	switch {
	case !ok || !leader.Running || leader.InRecovery:
		return d.wait(StateFollowing, idle, "%s does not answer: staying as it is", lead)
	case leader.Timeline == db.Timeline && db.LSN > leader.LSN+recordSlack:
		return d.act(StateDemoting, 0, soon, fmt.Sprintf("this standby is at %s, ahead of its leader at %s on the same timeline", db.LSN, leader.LSN), Stop{Reason: StopRewind})
	case leader.OldestLSN != 0 && db.LSN < leader.OldestLSN:
		return d.act(StateDemoting, 0, soon, fmt.Sprintf("%s no longer has the WAL from %s that this standby needs: copying it anew", lead, db.LSN), Stop{Reason: StopReinit})
	}
	return d.wait(StateFollowing, idle, "not streaming from %s for %s", want, silent.Round(time.Second))
}

// recordSlack covers the time between two probes of a busy leader.
const recordSlack = 64 << 20

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
	if d.failedLately() && !d.Job.Failed(JobRewind) {
		return d.wait(StateWaiting, idle, "%s; trying again in a moment", d.m.LastFailure)
	}
	if d.m.RewindFailures > 0 {
		if !d.settings().RemoveOnRewindFail {
			return d.wait(StateBroken, 10*time.Second, "pg_rewind failed (%s) and remove_data_directory_on_rewind_failure is off: reinitialize this member, or switch the setting on", d.m.LastFailure)
		}
		d.m.RewindFailures, d.m.FailedAt = 0, 0
		return d.act(StateCloning, 0, 0, "pg_rewind failed ("+d.m.LastFailure+"): setting the data directory aside and copying anew", SetAside{Reason: "rewind-failed"})
	}
	start := func(why string) Decision {
		return d.act(StateFollowing, 0, soon, why, Start{Upstream: d.upstream(lead)})
	}
	standby := db.Control == ControlInRecovery || db.Control == ControlShutDownInRecovery
	if db.Failure != "" && d.Now-db.PhaseAt < retryFailed {
		return d.wait(StateWaiting, idle, "PostgreSQL could not be started (%s): trying again in a moment", db.Failure)
	}
	if len(d.m.Crashes) > 2*crashLimit {
		d.m.Crashes = nil
		return d.act(StateCloning, 0, 0, "this standby ended or failed to start again and again: setting it aside and copying anew", SetAside{Reason: "crash-loop"})
	}
	if standby && d.m.StopFor != StopRewind && db.ControlTimeline <= max(lock.Timeline, 1) {
		return start("starting PostgreSQL as a standby")
	}
	if !lock.Ready {
		return d.wait(StateWaiting, soon, "waiting until %s accepts writes, to compare histories", lead)
	}
	if !standby && db.ControlTimeline == lock.Timeline {
		return d.act(StateCloning, 0, 0, fmt.Sprintf("this was a primary on timeline %d, on which %s leads now: the two can not be told apart by pg_rewind; setting it aside and copying anew", db.ControlTimeline, lead), SetAside{Reason: "same-timeline"})
	}
	if db.Control == ControlShutDown {
		if s, ok := view.History.SwitchPoint(db.ControlTimeline); ok && db.ControlCheckpoint < s {
			return start(fmt.Sprintf("this former primary stopped cleanly at %s, before %s left timeline %d at %s: no rewind needed", db.ControlCheckpoint, lead, db.ControlTimeline, s))
		}
	}
	if !d.settings().UsePgRewind {
		if !d.settings().RemoveDiverged {
			return d.wait(StateBroken, 10*time.Second, "this member diverged, and both use_pg_rewind and remove_data_directory_on_diverged_timelines are off: reinitialize it")
		}
		return d.act(StateCloning, 0, 0, "this member diverged and use_pg_rewind is off: setting it aside and copying anew", SetAside{Reason: "diverged"})
	}
	d.m.StopFor = StopNone
	return d.act(StateRewinding, 0, soon, fmt.Sprintf("timeline %d here and %d on %s: rewinding", db.ControlTimeline, lock.Timeline, lead), Rewind{From: lead})
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
	if d.m.CloneFailures%2 == 0 && !d.Request.FromLeader {
		for name, m := range view.Members {
			if m.Tags.CloneFrom() && name != d.Self.Name && name != lead && m.State == cluster.StateRunning && m.ReplicationState == "streaming" && (from == lead || name < from) {
				from = name
			}
		}
	}
	return d.act(StateCloning, 0, soon, "copying the data directory from "+from, Clone{From: from})
}
