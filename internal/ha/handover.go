package ha

import (
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// handoverWithin bounds the preparation of a switchover: past it the request is dropped.
const handoverWithin = 2 * time.Minute

// handover carries out a planned switchover (or a fail-over ordered while we still lead): look at
// the candidate, checkpoint, stop cleanly, give the lock to it.
func (d *decider) handover() Decision {
	vouch := d.settings().TTL
	req, rev := *d.request(), d.Store.View.FailoverRev
	drop := func(format string, args ...any) Decision {
		d.m.Handover, d.m.HandoverStep, d.m.HandoverTo, d.m.StopFor = 0, HandoverNone, "", StopNone
		return d.act(StateLeading, vouch, soon, "switchover refused: "+fmt.Sprintf(format, args...), DropRequest{Rev: rev, Outcome: fmt.Sprintf(format, args...)})
	}
	unstopped := d.Job.Failed(JobStop) && d.m.Handover == rev && d.m.HandoverStep == HandoverStop
	if d.m.Handover != rev {
		d.m.Handover, d.m.HandoverStep, d.m.HandoverSince = rev, HandoverNone, d.Now
	}
	switch {
	case req.Leader == "" && req.Candidate == "":
		return drop("it names neither a leader nor a candidate")
	case req.Candidate == d.Self.Name:
		return d.act(StateLeading, vouch, soon, "the candidate of the request leads already", DropRequest{Rev: rev, Outcome: d.Self.Name + " is the leader", Done: true})
	case d.m.TookFor == rev && req.Leader == d.Self.Name:
		return drop("nobody else took the lock, and %s leads again", d.Self.Name)
	case d.m.TookFor == rev && req.Leader != "" && req.Candidate == "":
		return d.act(StateLeading, vouch, soon, "the switchover from "+req.Leader+" is done", DropRequest{Rev: rev, Outcome: d.Self.Name + " leads now", Done: true})
	case unstopped:
		return drop("PostgreSQL on %s did not stop (%s)", d.Self.Name, d.Job.Failure)
	case req.Leader != "" && req.Leader != d.Self.Name:
		return drop("it names %s as the leader, but %s leads", req.Leader, d.Self.Name)
	case d.Now-d.m.HandoverSince > handoverWithin:
		return drop("the preparation took longer than %s", handoverWithin)
	}
	if !d.peersKnown(d.m.HandoverSince) {
		// Answers from before the request may tell of a candidate that was just starting.
		return d.ask(StateHandingOver, vouch, "switchover asked for: looking at the candidates")
	}
	to, why := d.switchTarget(req)
	if to == "" {
		return drop("%s", why)
	}
	if d.m.HandoverStep == HandoverNone {
		d.m.HandoverStep = HandoverCheckpoint
		return d.act(StateHandingOver, vouch, soon, "switchover to "+to+": checkpoint first, so that the stop is short", Checkpoint{})
	}
	d.m.HandoverStep, d.m.HandoverTo = HandoverStop, to
	return d.act(StateHandingOver, vouch, soon, "switchover to "+to+": stopping PostgreSQL cleanly", Stop{Reason: StopHandover})
}

// handoverProof is how long, after a clean stop, the successor may take to show that it has received
// the end of the WAL.
const handoverProof = 3 * time.Second

// handoverDown: PostgreSQL was stopped for a switchover. The lock goes to the successor when that has
// everything; else PostgreSQL is started here again.
func (d *decider) handoverDown() Decision {
	vouch, db := d.settings().TTL, d.DB
	stay := func(format string, args ...any) Decision {
		why := fmt.Sprintf(format, args...)
		effects := []Effect{d.again()} // first: the store may be what is missing
		if d.m.Handover != 0 {
			effects = append(effects, DropRequest{Rev: d.m.Handover, Outcome: why})
		}
		d.m.Handover, d.m.HandoverStep, d.m.HandoverTo = 0, HandoverNone, ""
		return d.act(StateRestarting, vouch, soon, "switchover given up, staying the leader: "+why, effects...)
	}
	if db.Control != ControlShutDown {
		return stay("PostgreSQL on %s could not be stopped cleanly", d.Self.Name)
	}
	to := d.m.HandoverTo
	if d.Store.Reachable && d.peersKnown(db.PhaseAt) {
		if !d.hasAll(to) && (d.request() == nil || d.request().Candidate == "") {
			for _, name := range sortedNames(d.Peers.Answers) {
				if d.hasAll(name) {
					to = name
					break
				}
			}
		}
		if d.hasAll(to) {
			d.m.Handover, d.m.HandoverStep, d.m.HandoverTo = 0, HandoverNone, ""
			return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL stopped cleanly at %s and %s has everything: handing the lock to it", db.ControlCheckpoint, to),
				ReleaseLock{Successor: to, Shutdown: true, Optime: db.ControlCheckpoint, Timeline: db.ControlTimeline})
		}
	}
	switch {
	case d.Now-db.PhaseAt > handoverProof && !d.Store.Reachable:
		return stay("the store does not answer")
	case d.Now-db.PhaseAt > handoverProof:
		return stay("%s did not show in time that it has everything up to %s", orAny(to), db.ControlCheckpoint)
	case !d.peersKnown(db.PhaseAt) || d.Now-d.Peers.AskedAt >= soon/2:
		return d.act(StateHandingOver, vouch, 0, fmt.Sprintf("PostgreSQL stopped cleanly at %s: making sure that %s has everything", db.ControlCheckpoint, orAny(to)), AskPeers{})
	}
	return d.act(StateHandingOver, vouch, soon, fmt.Sprintf("PostgreSQL stopped cleanly at %s: waiting until %s has everything", db.ControlCheckpoint, orAny(to)))
}

// hasAll says whether a member can take over after the clean stop here and has all of the WAL.
func (d *decider) hasAll(name string) bool {
	a, ok := d.Peers.Answers[name]
	return ok && name != d.Self.Name && a.MayBeAsked() && a.Running && a.InRecovery && a.Tags.FailoverPriority() > 0 &&
		a.Timeline == d.DB.ControlTimeline && a.LSN > d.DB.ControlCheckpoint
}

func orAny(name string) string {
	if name == "" {
		return "whoever is caught up"
	}
	return name
}

// switchTarget is the member that a planned switchover goes to, or "" and why there is none.
func (d *decider) switchTarget(req cluster.FailoverRequest) (name, why string) {
	best := ""
	var bestLSN cluster.LSN
	reason := "no good candidates have been found"
	for _, r := range d.DB.Replicas {
		if req.Candidate != "" && r.Name != req.Candidate {
			continue
		}
		a, ok := d.Peers.Answers[r.Name]
		behind := r.Flushed.Behind(d.DB.LSN)
		switch {
		case !ok:
			reason = r.Name + " does not answer"
		case !a.MayBeAsked():
			reason = r.Name + " can not lead: " + a.Why
		case a.Tags.FailoverPriority() == 0:
			reason = r.Name + " is tagged nofailover"
		case !r.Streaming:
			reason = r.Name + " is not streaming"
		case a.Timeline != d.DB.Timeline:
			reason = fmt.Sprintf("%s is on timeline %d, not %d", r.Name, a.Timeline, d.DB.Timeline)
		case behind > max(d.settings().MaximumLagOnFailover, 1<<20):
			reason = fmt.Sprintf("%s lags %d bytes behind", r.Name, behind)
		case best == "" || preferTarget(a, r, d.Peers.Answers[best], best, bestLSN):
			best, bestLSN = r.Name, r.Flushed
		}
	}
	if best == "" && req.Candidate != "" && reason == "no good candidates have been found" {
		reason = fmt.Sprintf("%s does not replicate from %s", req.Candidate, d.Self.Name)
	}
	return best, reason
}

// preferTarget says whether a switchover should rather go to a than to best: one that does not crash,
// then failover_priority, then WAL, then the name.
func preferTarget(a cluster.PeerStatus, r Replica, best cluster.PeerStatus, bestName string, bestLSN cluster.LSN) bool {
	if a.Eligible != best.Eligible {
		return a.Eligible
	}
	if p, q := a.Tags.FailoverPriority(), best.Tags.FailoverPriority(); p != q {
		return p > q
	}
	return r.Flushed > bestLSN || r.Flushed == bestLSN && r.Name < bestName
}

// successor is a peer that can lead at once, PostgreSQL here being dead, and that may lack no
// commit that it must have; with the fact that speaks for it.
func (d *decider) successor() (name, why string) {
	view := d.Store.View
	timeline := max(view.Lock.Timeline, d.DB.ControlTimeline, d.DB.Timeline)
	// One whose PostgreSQL has ended unasked again and again is better than one that hangs.
	hung := d.DB.Phase == Mute || d.m.StopFor == StopHung
	var best cluster.PeerStatus
	for n, a := range d.Peers.Answers {
		if n == d.Self.Name || !a.Eligible && !(hung && a.CrashLoop) || a.Tags.FailoverPriority() == 0 || a.Timeline != timeline || !a.InRecovery || !a.Running {
			continue
		}
		if !view.Sync.Empty() {
			if !view.Sync.Has(n) || confirmations(view.Sync, a, d.Peers.Answers) < view.Sync.Quorum {
				continue
			}
		} else if a.LSN.Behind(max(view.Status.Optime, d.DB.LSN)) > d.settings().MaximumLagOnFailover {
			continue
		}
		if best.Name == "" || a.Eligible && !best.Eligible || a.Eligible == best.Eligible && better(a, best) {
			best = a
		}
	}
	if best.Name == "" {
		return "", ""
	}
	if view.Sync.Empty() {
		return best.Name, fmt.Sprintf("%s is at %s, within maximum_lag_on_failover", best.Name, best.LSN)
	}
	return best.Name, fmt.Sprintf("%s (at %s) holds every acknowledged commit", best.Name, best.LSN)
}

// confirmations counts the members of s, c apart, that answered and are not ahead of c. One whose
// PostgreSQL does not run, or that does not know its position, confirms nothing.
func confirmations(s cluster.SyncState, c cluster.PeerStatus, answers map[string]cluster.PeerStatus) int {
	n := 0
	for _, name := range s.Standbys {
		a, ok := answers[name]
		if !ok || name == c.Name || !a.InRecovery || !a.Running || a.Timeline == 0 || a.LSN == 0 {
			continue
		}
		if !ahead(a, c) {
			n++
		}
	}
	return n
}

// ahead: a has WAL that c has not, or could have.
func ahead(a, c cluster.PeerStatus) bool {
	return a.Timeline > c.Timeline || a.Timeline == c.Timeline && a.LSN > c.LSN
}

// better orders candidates: further WAL, then failover_priority, then the name.
func better(a, b cluster.PeerStatus) bool {
	if a.Timeline != b.Timeline {
		return a.Timeline > b.Timeline
	}
	if a.LSN != b.LSN {
		return a.LSN > b.LSN
	}
	if p, q := a.Tags.FailoverPriority(), b.Tags.FailoverPriority(); p != q {
		return p > q
	}
	return a.Name < b.Name
}
