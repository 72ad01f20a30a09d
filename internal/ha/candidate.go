package ha

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// candidate: nobody leads. Find out whether this node may, and whether it is the one that should.
func (d *decider) candidate() Decision {
	view, db, lock := d.Store.View, d.DB, d.Store.View.Lock
	switch {
	case view.SyncBad:
		return d.wait(d.passiveState(), idle, "the synchronous state in the store cannot be read: nobody can tell who may lead; repair or delete the key")
	case lock.Paused && !d.ours() && !d.forced():
		return d.wait(d.passiveState(), idle, "%s put its fence down for a pause and has not come back: only an operator can tell whether it is off (failover with force)", lock.Node)
	case !d.Lease.GuardianAlive:
		return d.wait(d.passiveState(), soon, "the guardian does not answer: without it this node does not lead")
	case db.Dir == DirEmpty && view.Initialize == "":
		return d.race()
	case db.Dir == DirEmpty:
		return d.wait(StateWaiting, soon, "waiting for a leader to copy from")
	case d.foreign():
		return d.wait(StateBroken, 5*time.Second, "the data directory belongs to another cluster (system identifier %s, here %s): it is left alone; move it away, and a copy is made here", db.SystemID, view.Initialize)
	}
	switch db.Phase {
	case Down:
		return d.candidateDown()
	case Up:
		return d.elect()
	}
	return d.notUp("without a leader")
}

// race: no cluster exists. Whoever gets the lock first makes it.
func (d *decider) race() Decision {
	view := d.Store.View
	if d.Self.Tags.FailoverPriority() == 0 {
		return d.wait(StateWaiting, idle, "waiting for another member to make the cluster: this one is tagged nofailover")
	}
	if len(view.Config.StandbyCluster) > 0 {
		return d.wait(StateBroken, 5*time.Second, "the configuration makes this a standby cluster, which this release does not run: remove standby_cluster")
	}
	if view.Lock.Timeline > 0 || !view.Sync.Empty() || len(view.History) > 0 {
		return d.wait(StateWaiting, idle, "no cluster is recorded (initialize is missing), but the store remembers one: waiting for a member that has its data; to make a new cluster, remove the keys of the old one")
	}
	for _, name := range slices.Sorted(maps.Keys(view.Members)) {
		if name != d.Self.Name && view.Members[name].XLogLocation > 0 {
			return d.wait(StateWaiting, idle, "no cluster is recorded, but %s has data: waiting for it", name)
		}
	}
	if d.failedLately() {
		return d.wait(StateWaiting, idle, "making the cluster failed here (%s): leaving the others a chance", d.m.LastFailure)
	}
	return d.act(StateBootstrapping, 0, 0, "no cluster exists: racing for the lock to make it",
		TakeLock{Epoch: d.nextEpoch(), LockRev: view.LockRev, SyncRev: view.SyncRev, Bootstrap: true})
}

// candidateDown: PostgreSQL does not run. The last leader starts again as what it was; everybody
// else starts as a standby, to know its position and to serve reads.
func (d *decider) candidateDown() Decision {
	view, db, lock := d.Store.View, d.DB, d.Store.View.Lock
	if db.Torn {
		return d.wait(StateWaiting, idle, "a rewind was interrupted here: waiting for a leader to copy from")
	}
	if d.startFailedLately() {
		return d.wait(StateWaiting, idle, "PostgreSQL could not be started (%s): trying again in a moment", db.Failure)
	}
	last := d.ours() || db.Replaced == "" && lock.Clean() && view.Status.Shutdown && view.Status.Timeline == db.ControlTimeline && db.Control == ControlShutDown && db.ControlCheckpoint >= view.Status.Optime
	entitled := view.Sync.Empty() || view.Sync.Leader == d.Self.Name
	if last && entitled && d.forked() == "" && db.Control.WasPrimary() && !db.Copy && db.ControlTimeline == lock.Timeline && d.Self.Tags.FailoverPriority() > 0 && lock.Successor == "" {
		return d.act(StateRestarting, 0, 0, fmt.Sprintf("this node led last, in epoch %d, and nobody led since: leading again", lock.Epoch),
			Kill{Why: "before the start"}, d.take())
	}
	next := lock.Successor
	if next == d.Self.Name {
		next = ""
	}
	if next != "" && db.Control.WasPrimary() {
		pause := d.grace()
		if db.Control == ControlShutDown {
			// It could start at once, and would only take the machine's time while its successor comes up.
			pause = min(pause, time.Second)
		}
		if d.Now-d.m.NoLeaderSince < pause {
			return d.wait(StateWaiting, soon, "waiting for %s, which was named to lead, to compare histories before PostgreSQL is started", next)
		}
	}
	return d.act(StateFollowing, 0, soon, "nobody leads: starting PostgreSQL read-only to know how far it is", Start{Upstream: next})
}

func (d *decider) take() TakeLock {
	v := d.Store.View
	return TakeLock{Epoch: d.nextEpoch(), LockRev: v.LockRev, SyncRev: v.SyncRev, Timeline: v.Lock.Timeline, Behind: d.DB.LSN.Behind(v.Status.Optime)}
}

// nextEpoch is above every epoch that was seen, also when the lock was deleted meanwhile: whoever
// remembers the old one takes a lower epoch for a store that went back in time.
func (d *decider) nextEpoch() uint64 { return max(d.Store.View.Lock.Epoch, d.Store.HighestEpoch) + 1 }

// grace is how long a better or preferred candidate may let the others wait.
func (d *decider) grace() time.Duration { return min(d.settings().TTL/2, 3*time.Second) }

// coldWait is how long, after a start of this process, the last leader is waited for in
// asynchronous mode, where only it is known to have everything.
func (d *decider) coldWait() time.Duration {
	return min(max(10*d.settings().TTL, 20*time.Second), 2*time.Minute)
}

// elect: nobody leads and PostgreSQL here is a running standby.
func (d *decider) elect() Decision {
	view, lock := d.Store.View, d.Store.View.Lock
	req := d.request()
	ordered := req != nil && req.Candidate == d.Self.Name
	force := d.forced()
	if d.Now < d.Store.PromisedUntil {
		return d.wait(StateFollowing, d.Store.PromisedUntil-d.Now, "this node promised %s not to lead while the store is away", lock.Node)
	}
	if no := d.unfit(force); no != "" {
		return d.wait(StateFollowing, idle, "not a candidate: %s", no)
	}
	if n := d.m.PromoteFailures; n > 0 && !ordered {
		if pause := min(retryFailed<<min(n-1, 6), crashWindow); d.Now-d.m.FailedAt < pause {
			return d.wait(StateFollowing, idle, "not a candidate for another %s: the last promotion here failed (%s)", (pause - (d.Now - d.m.FailedAt)).Round(time.Second), d.m.LastFailure)
		}
	}
	if d.complete() && lock.Successor == d.Self.Name {
		return d.act(StateCandidate, 0, 0, fmt.Sprintf("the former leader stopped cleanly at %s and named this node, which has everything", view.Status.Optime), d.take())
	}
	if !d.peersKnown(d.m.NoLeaderSince) {
		return d.ask(StateCandidate, 0, "nobody leads: asking the other members how far they are")
	}
	for _, name := range sortedNames(d.Peers.Answers) {
		a := d.Peers.Answers[name]
		if name != d.Self.Name && a.Running && !a.InRecovery {
			return d.wait(StateCandidate, soon, "%s still runs as a primary: waiting for it to end", name)
		}
	}
	if no := d.unsafe(); no != "" && !force {
		return d.wait(StateCandidate, 2*soon, "this node must not lead: %s", no)
	}
	waited := d.Now - d.m.NoLeaderSince
	if !ordered && waited < d.grace() {
		if other := d.preferred(); other != "" {
			return d.wait(StateCandidate, soon, "leaving the lead to %s for up to %s", other, d.grace())
		}
	}
	if cold := d.coldFor(); cold > 0 && !ordered {
		return d.wait(StateCandidate, soon, "the last leader %s may have commits that nobody else has: waiting for it for another %s", lock.Node, cold.Round(time.Second))
	}
	return d.act(StateCandidate, 0, 0, d.because(), d.take())
}

// unfit says why this node cannot lead whatever the others are, or "".
func (d *decider) unfit(force bool) string {
	view, lock, db := d.Store.View, d.Store.View.Lock, d.DB
	switch {
	case len(view.Config.StandbyCluster) > 0:
		return "the configuration makes this a standby cluster, which this release does not run: remove standby_cluster"
	case d.Self.Tags.FailoverPriority() == 0:
		return "it is tagged nofailover"
	case d.stalled():
		return "the storage of its data directory does not answer"
	case len(view.Failsafe) > 0 && view.Failsafe[d.Self.Name] == "":
		return "it was not a member when the last leader wrote /failsafe, and may not know of it"
	case force:
		return ""
	case lock.Timeline != 0 && db.Timeline < lock.Timeline && !d.ours(): // ours: only this directory could have written it
		return fmt.Sprintf("it is on timeline %d, and timeline %d may hold acknowledged commits", db.Timeline, lock.Timeline)
	case lock.Timeline != 0 && db.Timeline > lock.Timeline:
		return fmt.Sprintf("it is on timeline %d, but the cluster knows none after %d: it was promoted behind the cluster's back", db.Timeline, lock.Timeline)
	}
	return d.forked()
}

// forked says how this node's WAL belongs to another history than the cluster's, whatever number its
// timeline bears, or "": two members that are promoted from one timeline both make the next one.
func (d *decider) forked() string {
	for _, line := range d.DB.History {
		if s, ok := d.Store.View.History.SwitchPoint(line.Timeline); ok && s != line.LSN {
			return fmt.Sprintf("its timeline %d ended at %s, the cluster's at %s: it was promoted behind the cluster's back", line.Timeline, line.LSN, s)
		}
	}
	return ""
}

// stalledFor is how long the storage may make nothing durable before a node is no candidate: it could
// not end recovery.
const stalledFor = 2 * time.Second

func (d *decider) stalled() bool { return d.DB.StalledAt != 0 && d.Now-d.DB.StalledAt >= stalledFor }

// complete says whether this node has everything that the last leader ever wrote.
func (d *decider) complete() bool {
	s, l := d.Store.View.Status, d.Store.View.Lock
	return l.Clean() && s.Shutdown && s.Optime > 0 && s.Timeline == d.DB.Timeline && d.DB.LSN > s.Optime
}

// unsafe says why a commit that must not be lost may be missing here, or "".
func (d *decider) unsafe() string {
	view, db := d.Store.View, d.DB
	if d.complete() {
		return ""
	}
	sync := view.Sync
	switch {
	case !sync.Empty() && db.Replaced != "":
		return fmt.Sprintf("the data directory was replaced (%s): it may miss commits that this member acknowledged", db.Replaced)
	case sync.Leader == d.Self.Name && d.otherDirectory():
		return "it led last with another data directory: commits that it acknowledged may be missing"
	case sync.Leader == d.Self.Name:
		return ""
	case !sync.Empty() && !sync.Has(d.Self.Name):
		return fmt.Sprintf("it may miss commits that %s acknowledged (synchronous standbys: %s)", sync.Leader, orNone(sync.Standbys))
	case !sync.Empty():
		me := cluster.PeerStatus{Name: d.Self.Name, Timeline: db.Timeline, LSN: db.LSN}
		if got := confirmations(sync, me, d.Peers.Answers); got < sync.Quorum {
			return fmt.Sprintf("%d of the synchronous standbys %s must confirm that they are not ahead of %s, and %d did", sync.Quorum, orNone(sync.Standbys), db.LSN, got)
		}
		return ""
	case view.StatusBad:
		return "the last position of the leader cannot be read"
	}
	if lag := db.LSN.Behind(view.Status.Optime); lag > d.settings().MaximumLagOnFailover {
		return fmt.Sprintf("it is %d bytes behind the last known position of the leader, more than maximum_lag_on_failover (%d)", lag, d.settings().MaximumLagOnFailover)
	}
	return ""
}

// otherDirectory says that the lock was held by this member last, with another data directory.
func (d *decider) otherDirectory() bool {
	l := d.Store.View.Lock
	return l.Node == d.Self.Name && l.Instance != "" && l.Instance != d.Self.Instance
}

// preferred is a member that should lead rather than this one, or "".
func (d *decider) preferred() string {
	lock := d.Store.View.Lock
	if req := d.request(); req != nil && req.Candidate != "" && req.Candidate != d.Self.Name {
		if a, ok := d.Peers.Answers[req.Candidate]; ok && a.MayBeAsked() {
			return req.Candidate
		}
	}
	me := cluster.PeerStatus{Name: d.Self.Name, Timeline: d.DB.Timeline, LSN: d.DB.LSN, Tags: d.Self.Tags}
	if s := lock.Successor; s != "" && s != d.Self.Name {
		// Named on what was known then: one that has less than this node waits for this node.
		if a, ok := d.Peers.Answers[s]; ok && a.MayBeAsked() && !ahead(me, a) {
			return s
		}
	}
	for _, name := range sortedNames(d.Peers.Answers) {
		a := d.Peers.Answers[name]
		if name == d.Self.Name || !a.Eligible || a.Tags.FailoverPriority() == 0 {
			continue
		}
		if lock.Timeline != 0 && a.Timeline != lock.Timeline {
			continue
		}
		if sync := d.Store.View.Sync; !sync.Empty() && !sync.Has(name) && sync.Leader != name {
			continue
		}
		if lock.Successor != d.Self.Name && better(a, me) || a.LSN > me.LSN {
			return name
		}
	}
	return ""
}

// coldFor is how much longer to wait for the last leader after this process started without having
// seen it alive: in asynchronous mode it may have commits that were sent to nobody.
func (d *decider) coldFor() time.Duration {
	view, lock := d.Store.View, d.Store.View.Lock
	if d.Store.LockAlive || !view.Sync.Empty() || d.complete() || d.ours() {
		return 0
	}
	if !lock.Held() && view.LockRev != 0 {
		return 0 // it was given back: its last position is known
	}
	return max(0, d.Self.Started+d.coldWait()-d.Now)
}

func (d *decider) because() string {
	sync := d.Store.View.Sync
	switch {
	case d.forced() && (d.unfit(false) != "" || d.unsafe() != ""):
		return "nobody leads, and an operator ordered this node to lead although commits may be missing here"
	case d.complete():
		return "nobody leads, and this node has everything that the last leader wrote"
	case sync.Leader == d.Self.Name:
		return "nobody leads, and this node led last: it has every acknowledged commit"
	case !sync.Empty() && sync.Quorum == 0:
		return fmt.Sprintf("nobody leads, and each of the synchronous standbys %s has every acknowledged commit; this node is at %s", orNone(sync.Standbys), d.DB.LSN)
	case !sync.Empty():
		return fmt.Sprintf("nobody leads; %d of %s confirm that this node, at %s, has every acknowledged commit", sync.Quorum, orNone(sync.Standbys), d.DB.LSN)
	}
	others := "nobody who answers should lead rather"
	if other := d.preferred(); other != "" {
		others = other + " did not take the lead in time"
	}
	return fmt.Sprintf("nobody leads; this node is at %s, %d bytes behind the last known position of the leader, and %s", d.DB.LSN, d.DB.LSN.Behind(d.Store.View.Status.Optime), others)
}

// Eligible says whether the node could lead if the lock were free, and if not, why; it is what a
// node answers to its peers.
func Eligible(o Observation) (bool, string) {
	if ok, why := sound(o); !ok {
		return false, why
	}
	if n := len(o.Memory.Crashes); n >= crashLimit {
		return false, fmt.Sprintf("its PostgreSQL ended unasked %d times in the last minutes", n)
	}
	return true, ""
}

// CrashLoop says that the node would be eligible, were it not for its breaker: what it does not do by
// itself an operator may ask of it.
func CrashLoop(o Observation) bool {
	ok, _ := sound(o)
	return ok && len(o.Memory.Crashes) >= crashLimit
}

// sound is all of Eligible but the breaker.
func sound(o Observation) (bool, string) {
	d := decider{Observation: o}
	switch {
	case !o.Store.Seen || !o.Store.Reachable:
		return false, "it does not reach the store"
	case !o.Lease.GuardianAlive:
		return false, "its guardian does not answer"
	case o.DB.Dir != DirValid:
		return false, "it has no data"
	case o.DB.Phase != Up:
		return false, "its PostgreSQL is " + o.DB.Phase.String()
	case o.Request.Shutdown:
		return false, "it is shutting down"
	case d.foreign():
		return false, "its data belongs to another cluster"
	case o.Job.Running():
		return false, "it is busy with " + string(o.Job.Kind)
	case d.stalled():
		return false, "its storage does not answer"
	}
	if no := d.unfit(false); no != "" {
		return false, no
	}
	return true, ""
}

func sortedNames(m map[string]cluster.PeerStatus) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
