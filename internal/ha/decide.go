package ha

import (
	"fmt"
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/quorum"
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
	// peersFresh is how old the answers of peers may be when a choice rests on them, counted from the
	// beginning of the round.
	peersFresh = time.Second
	// crashWindow and crashLimit are the breaker of a crash loop.
	crashWindow = 5 * time.Minute
	crashLimit  = 3
	// retryFailed is the wait after a failed clone, rewind or start before the next try.
	retryFailed = 5 * time.Second
	// retryBroken is the wait between starts where even a new copy did not help.
	retryBroken = time.Minute
	// maxRewinds is how many rewinds may end well without the standby streaming after them.
	maxRewinds = 2
	// idle is how long the next tick may wait when nothing happens.
	idle = time.Second
	// soon is the wait where something is expected to change within moments.
	soon = 100 * time.Millisecond
	// stuckStandby is how long a standby may fail to stream from a working leader before its
	// position in the leader's history is questioned.
	stuckStandby = 5 * time.Second
)

// AskWithin bounds a round of questions to the peers. It ends well within the time for which answers
// count, or one member that is silent would make every round too old before it is over.
const AskWithin = peersFresh / 2

// Decide is the whole of hathi's judgement. See the package comment.
func Decide(o Observation) Decision {
	d := decider{Observation: o, m: o.Memory}
	d.m.Crashes = slices.Clone(o.Memory.Crashes)
	d.deposed()
	d.remember()
	dec := d.answered(d.decide())
	switch {
	case !d.Lease.Held:
		dec.Vouch = 0
	case !d.Lease.GuardianAlive && !d.Store.View.Lock.Paused && dec.Vouch > 0:
		// If this process died too, nobody would end PostgreSQL in time.
		dec.Vouch = 0
		dec.Why += "; the guardian does not answer: the lock is not renewed until it does"
		dec.Wait = min(dec.Wait, soon)
	}
	if dec.State != d.m.State {
		d.m.State, d.m.Since = dec.State, o.Now
	}
	if d.leader() != "" && d.Store.Reachable && !d.Store.View.Lock.Paused && dec.Wait > 0 {
		// Look again at the very instant at which the lock would count as expired.
		dec.Wait = min(dec.Wait, max(d.expiresAt()-d.Now, time.Millisecond))
		if at := d.suspectAt(); at > d.Now {
			dec.Wait = min(dec.Wait, at-d.Now) // or at which it begins to look gone
		}
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

// leader is the member that holds an unexpired lock, this data directory apart; "" for none. It can
// bear this member's own name, when the directory is another.
func (d *decider) leader() string {
	l := d.Store.View.Lock
	if !d.Store.Seen || !l.Held() || d.ours() {
		return ""
	}
	if !d.Store.Reachable || d.Now < d.expiresAt() {
		return l.Node // without news of the store nobody is deposed
	}
	if l.Paused && !d.forced() {
		return l.Node // its fence is down: that it is silent says nothing
	}
	return ""
}

// upstreamLeader is leader as somebody to stream from.
func (d *decider) upstreamLeader() string {
	if l := d.leader(); l != d.Self.Name {
		return l
	}
	return ""
}

// request is the fail-over request that is to be carried out now, or nil.
func (d *decider) request() *cluster.FailoverRequest { return d.Store.View.Failover }

// forced says that an operator ordered this node to lead whatever may be lost.
func (d *decider) forced() bool {
	req := d.request()
	return req != nil && req.Candidate == d.Self.Name && req.Force
}

// deposed drops a hold that the store shows to be over: somebody was made to lead by force.
func (d *decider) deposed() {
	l := d.Store.View.Lock
	if d.Lease.Held && d.Store.Seen && l.Epoch > d.Lease.Epoch && !d.ours() {
		d.Lease.Held, d.Lease.Ready = false, false
		d.Lease.Lost = fmt.Sprintf("%s took the lock for epoch %d", orNobody(l.Node), l.Epoch)
	}
}

// remember keeps the parts of Memory that follow from the observation alone.
func (d *decider) remember() {
	if d.leader() != "" || d.Lease.Held {
		d.m.NoLeaderSince = 0
	} else if d.m.NoLeaderSince == 0 {
		d.m.NoLeaderSince = d.Now
	}
	d.rememberJob()
	switch {
	case d.DB.Phase != Up:
	case d.DB.Primary:
		d.m.Copied, d.m.PromoteFailures = false, 0
	default:
		d.m.Copied = false
		if d.DB.Streaming {
			d.m.RewindFailures, d.m.Rewinds, d.m.CrashClones = 0, 0, 0
		}
	}
	if d.DB.LSN != d.m.StuckAt || d.DB.Phase != Up || d.DB.Streaming {
		d.m.StuckAt, d.m.StuckSince = d.DB.LSN, d.Now
	}
	// A postmaster that ended without being asked to is a crash, counted once.
	wasUp := false
	switch d.m.State {
	case StateLeading, StateRestarting, StateFollowing, StateCandidate, StatePromoting:
		wasUp = true
	}
	if d.DB.Phase == Down && wasUp && !d.DB.Fenced && d.m.StopFor == StopNone && d.DB.PhaseAt > d.m.Since && !d.crashNoted() {
		d.m.Crashes = append(d.m.Crashes, d.DB.PhaseAt)
	}
	d.m.Crashes = slices.DeleteFunc(d.m.Crashes, func(at time.Duration) bool { return d.Now-at > crashWindow })
}

func (d *decider) rememberJob() {
	switch {
	case !d.Job.Done:
	case d.Job.Failure != "":
		d.m.LastFailure, d.m.FailedAt = d.Job.Failure, d.Now
		switch d.Job.Kind {
		case JobRewind:
			if !d.Job.Transient {
				d.m.RewindFailures++
			}
		case JobClone:
			d.m.CloneFailures++
		}
	case d.Job.Kind == JobClone:
		d.m.CloneFailures, d.m.FromLeader, d.m.Copied = 0, false, true
	case d.Job.Kind == JobRewind:
		d.m.RewindFailures, d.m.Copied = 0, true
		d.m.Rewinds++
	}
}

func (d *decider) crashNoted() bool { return slices.Contains(d.m.Crashes, d.DB.PhaseAt) }

func (d *decider) decide() Decision {
	paused := d.Store.Seen && d.settings().Pause
	lead := d.leader()
	switch {
	case d.Request.Shutdown:
		return d.shutdown(paused)
	case d.Lease.Resumable && !d.Lease.Held && d.ours():
		return d.act(StateLeading, 0, 0, "the store still shows the lock as ours and the guardian's deadline has not passed: going on as the leader", ResumeLock{})
	case d.mustDemote(paused):
		return d.demote()
	case d.Job.Running():
		return d.busy()
	case d.Lease.Held && d.Job.Failed(JobBootstrap):
		return d.bootstrapFailed()
	case d.DB.Dir == DirForeign:
		return d.wait(StateBroken, 5*time.Second, "the data directory holds something that is not a PostgreSQL cluster (%s): it is left alone; move it away, and a copy is made here", d.DB.DirWhy)
	case d.Store.View.LockBad:
		return d.wait(d.passiveState(), idle, "the lock in the store cannot be read: nobody may take it; see the problems of the store and repair or delete the key")
	case paused:
		return d.paused()
	case d.Lease.Held:
		return d.lead()
	case d.DB.Dir == DirEmpty && d.DB.Phase != Down:
		const why = "the data directory is gone while PostgreSQL runs"
		return d.act(StateWaiting, 0, soon, why+": ending it", Kill{Why: why})
	case lead == d.Self.Name:
		return d.wait(d.passiveState(), idle, "the lock is held under this member's name with another data directory: either a second member bears the name %s, or the directory was replaced, and the lock has to expire first", lead)
	case lead != "":
		return d.follow(lead)
	case !d.Store.Reachable:
		return d.isolated()
	default:
		return d.candidate()
	}
}

// act is a decision with effects.
func (d *decider) act(s State, vouch, wait time.Duration, why string, effects ...Effect) Decision {
	for _, e := range effects {
		switch e := e.(type) {
		case Stop:
			d.m.StopFor = e.Reason
		case Start:
			d.m.StopFor = StopNone
		case TakeLock:
			// A new epoch: what an earlier one of ours was about is over.
			d.m.StopFor, d.m.Handover, d.m.HandoverStep, d.m.HandoverTo = StopNone, 0, HandoverNone, ""
			d.m.Rules, d.m.Away, d.m.TookFor = quorum.State{}, nil, 0
			if d.request() != nil {
				d.m.TookFor = d.Store.View.FailoverRev
			}
		}
	}
	return Decision{State: s, Why: why, Effects: effects, Vouch: vouch, Wait: wait}
}

// answered adds the answer to a local request that this decision carries out on its way, or that it
// does nothing for: nobody is left to wait for something that may never come.
func (d *decider) answered(dec Decision) Decision {
	done, starts := map[string]bool{}, false
	for _, e := range dec.Effects {
		switch e := e.(type) {
		case Answer:
			done[e.Request] = true
		case Start:
			starts = true
		}
	}
	idles := len(dec.Effects) == 0 && dec.Wait > 0
	add := func(request, outcome string, ok bool) {
		dec.Effects = append(dec.Effects, Answer{Request: request, Outcome: outcome, Done: ok})
	}
	if d.Request.Restart && !done["restart"] {
		switch {
		case starts:
			add("restart", "started", true)
		case idles && d.m.StopFor != StopRestart:
			add("restart", "not now: "+dec.Why, false)
		}
	}
	if d.Request.Reinit && !done["reinit"] {
		switch {
		case d.Lease.Held:
			add("reinit", "I am the leader, can not reinitialize", false)
		case idles && d.m.StopFor != StopReinit:
			add("reinit", "not now: "+dec.Why, false)
		}
	}
	return dec
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

// isolated: the store does not answer and no leader is known. A standby keeps doing what it does; a
// stopped PostgreSQL is started read-only, so that reads go on.
func (d *decider) isolated() Decision {
	why := "the store does not answer"
	if d.Store.WentBack != "" {
		why = d.Store.WentBack
	}
	db := d.DB
	switch {
	case db.Dir == DirEmpty:
		return d.wait(StateWaiting, idle, "%s: nothing can be decided about an empty data directory", why)
	case db.Phase == Up:
		return d.wait(d.passiveState(), idle, "%s: staying as it is", why)
	case db.Phase != Down:
		return d.notUp("while the store does not answer")
	case db.Torn:
		return d.wait(StateWaiting, idle, "%s, and a rewind was interrupted here: waiting for a leader to copy from", why)
	case d.foreign():
		return d.wait(StateBroken, idle, "%s, and the data directory belongs to another cluster: it is left alone", why)
	case d.startFailedLately():
		return d.wait(StateWaiting, idle, "%s, and PostgreSQL could not be started (%s): trying again in a moment", why, db.Failure)
	case d.Store.Seen && !d.failedLately():
		return d.act(StateFollowing, 0, soon, why+": starting PostgreSQL read-only", Start{Upstream: d.lastLeader()})
	}
	return d.wait(StateWaiting, idle, "%s: waiting for it before PostgreSQL is started", why)
}

// lastLeader is the member that held the lock last, this node apart.
func (d *decider) lastLeader() string {
	if n := d.Store.View.Lock.Node; n != d.Self.Name {
		return n
	}
	return ""
}

// foreign says whether the data directory belongs to another cluster.
func (d *decider) foreign() bool {
	known := d.Store.View.Initialize
	return known != "" && d.DB.SystemID != "" && d.DB.SystemID != known
}

// startFailedLately says whether the last start ended badly a moment ago.
func (d *decider) startFailedLately() bool {
	return d.DB.Failure != "" && d.Now-d.DB.PhaseAt < retryFailed
}

func (d *decider) failedLately() bool {
	return d.m.FailedAt != 0 && d.Now-d.m.FailedAt < retryFailed
}
