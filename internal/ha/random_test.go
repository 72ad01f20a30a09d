package ha_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// dice draws observations from small domains, so that facts that matter together meet often.
type dice struct{ *rand.Rand }

func (r dice) yes(percent int) bool { return r.IntN(100) < percent }

func pick[T any](r dice, from ...T) T { return from[r.IntN(len(from))] }

func (r dice) name() string { return pick(r, "a", "b", "c", "d") }

func (r dice) names() []string {
	var out []string
	for _, n := range []string{"a", "b", "c", "d"} {
		if r.yes(40) {
			out = append(out, n)
		}
	}
	return out
}

func (r dice) lsn() cluster.LSN { return cluster.LSN(r.IntN(6)) * 0x100 }
func (r dice) tl() uint32       { return uint32(r.IntN(4)) }

// ago is an instant at or before now.
func (r dice) ago(now time.Duration) time.Duration {
	return now - pick(r, 0, 50*time.Millisecond, 500*time.Millisecond, 2*time.Second, 4*time.Second, 6100*time.Millisecond, 10*time.Second, 40*time.Second, 70*time.Second)
}

func (r dice) tags() cluster.Tags {
	switch r.IntN(8) {
	case 0:
		return cluster.Tags{"nofailover": true}
	case 1:
		return cluster.Tags{"failover_priority": 3}
	case 2:
		return cluster.Tags{"replicatefrom": r.name(), "clonefrom": true}
	case 3:
		return cluster.Tags{"nostream": true}
	}
	return nil
}

func (r dice) rule() quorum.Rule { return quorum.NewRule(r.names(), r.IntN(3), r.yes(50)) }

func (r dice) observation() ha.Observation {
	now := 1000*time.Second + time.Duration(r.IntN(1000))*time.Millisecond
	o := ha.Observation{Now: now, Self: ha.Self{Name: "a", Instance: "disk-a", Tags: r.tags(), Started: r.ago(now), CanClone: r.yes(90)}}
	o.Store = r.store(now)
	o.Lease = ha.Lease{Held: r.yes(40), Epoch: uint64(1 + r.IntN(4)), Ready: r.yes(60), FenceAt: r.ago(now) + 3*time.Second,
		Resumable: r.yes(10), GuardianAlive: r.yes(85)}
	o.DB = r.database(now)
	if r.yes(70) {
		o.Peers = ha.Peers{AskedAt: r.ago(now), Answers: r.answers()}
	}
	if r.yes(30) {
		o.Job = ha.Job{Kind: pick(r, ha.JobBootstrap, ha.JobClone, ha.JobRewind, ha.JobStop, ha.JobPromote, ha.JobCheckpoint, ha.JobKind("other")),
			Began: r.ago(now), Done: r.yes(50)}
		if o.Job.Done && r.yes(50) {
			o.Job.Failure = "it failed"
		}
	}
	o.Request = ha.Request{Shutdown: r.yes(8), Restart: r.yes(12), Reinit: r.yes(12), FromLeader: r.yes(50)}
	o.Memory = r.memory(now)
	switch r.IntN(4) {
	case 0:
		r.election(&o)
	case 1:
		r.leadership(&o)
	}
	return o
}

// election makes it likely that o is close to taking the lock.
func (r dice) election(o *ha.Observation) {
	v := &o.Store.View
	o.Store.Reachable, o.Store.Seen, o.Lease.GuardianAlive = true, true, r.yes(95)
	o.Lease.Held, o.Lease.Resumable, o.Job, o.Request.Shutdown = false, false, ha.Job{}, false
	o.Store.LockSeenAt, o.Store.LockAlive = o.Now-pick(r, 5*time.Second, 6100*time.Millisecond, 40*time.Second), true
	v.Config.TTL, v.Lock.TTL, v.LockBad, v.Initialize, v.Config.Pause = 6*time.Second, 0, false, "1", r.yes(10)
	o.DB.Dir, o.DB.SystemID, o.DB.Failure, o.DB.Primary = ha.DirValid, "1", "", r.yes(5)
	o.DB.Phase = pick(r, ha.Up, ha.Up, ha.Down)
	o.Memory.FailedAt, o.Memory.StopFor = 0, ha.StopNone
	if r.yes(80) {
		v.Lock.Timeline = max(v.Lock.Timeline, 1)
		v.Status.Timeline, o.DB.Timeline, o.DB.ControlTimeline = v.Lock.Timeline, v.Lock.Timeline, v.Lock.Timeline
	}
	if r.yes(80) {
		o.Peers = ha.Peers{AskedAt: o.Now - pick(r, 0, 500*time.Millisecond, 1100*time.Millisecond), Answers: r.answers()}
		o.Memory.NoLeaderSince = o.Now - pick(r, 600*time.Millisecond, 5*time.Second)
	}
}

// leadership makes it likely that o leads with a running PostgreSQL, or is about to hand over.
func (r dice) leadership(o *ha.Observation) {
	v := &o.Store.View
	o.Store.Reachable, o.Store.Seen = r.yes(90), true
	v.Lock = cluster.Lock{Node: "a", Instance: "disk-a", Epoch: 4, Timeline: o.DB.Timeline, Ready: true, Paused: r.yes(10)}
	v.LockBad, v.Initialize, v.Config.Pause = false, "1", r.yes(15)
	o.Lease = ha.Lease{Held: true, Epoch: 4, Ready: r.yes(90), FenceAt: o.Now + 3*time.Second, GuardianAlive: r.yes(95)}
	o.DB.Dir, o.DB.SystemID, o.DB.Primary, o.Request.Shutdown = ha.DirValid, "1", r.yes(90), false
	if r.yes(70) {
		o.Job = ha.Job{}
	}
	o.DB.ControlTimeline = o.DB.Timeline
	o.Peers = ha.Peers{AskedAt: r.ago(o.Now), Answers: r.answers()}
	for n, a := range o.Peers.Answers {
		a.Timeline = o.DB.Timeline
		o.Peers.Answers[n] = a
	}
}

func (r dice) store(now time.Duration) ha.Store {
	s := cluster.DefaultSettings()
	s.TTL = pick(r, 3*time.Second, 6*time.Second, 30*time.Second)
	s.SynchronousMode = pick(r, cluster.SyncOff, cluster.SyncOn, cluster.SyncQuorum)
	s.SynchronousStrict, s.SynchronousNodeCount = r.yes(20), 1+r.IntN(2)
	s.FailsafeMode, s.Pause, s.UsePgRewind, s.RemoveDiverged, s.RemoveOnRewindFail = r.yes(30), r.yes(20), r.yes(80), r.yes(80), r.yes(80)
	s.MaximumLagOnFailover = pick(r, int64(0), 0x200, 1<<20)
	s.PrimaryStartTimeout = pick(r, 0, time.Second, 300*time.Second)
	view := cluster.View{Initialize: pick(r, "", "1", "1", "1"), Members: map[string]cluster.Member{}, Config: cluster.Dynamic{Settings: s},
		LockBad: r.yes(4), SyncBad: r.yes(4), StatusBad: r.yes(4), SyncRev: int64(r.IntN(5))}
	if r.yes(85) {
		l := cluster.Lock{Node: pick(r, "", "a", "a", "b", "c"), Epoch: uint64(1 + r.IntN(4)), Timeline: r.tl(), TTL: pick(r, int64(0), 3000, 30000),
			Paused: r.yes(15), Ready: r.yes(60)}
		l.Instance = "disk-" + l.Node
		if l.Node == "a" && r.yes(15) {
			l.Instance = "disk-old"
		}
		if l.Node == "" {
			l.Successor = pick(r, "", "a", "b")
		}
		view.Lock, view.LockRev = l, 7
	}
	if r.yes(60) {
		names := r.names()
		view.Sync = cluster.SyncState{Leader: pick(r, "a", "b", "c", ""), Standbys: names, Quorum: r.IntN(len(names) + 1)}
	}
	view.Status = cluster.Status{Optime: r.lsn(), Timeline: r.tl(), Shutdown: r.yes(40)}
	for tl := uint32(1); tl <= 3; tl++ {
		if r.yes(50) {
			view.History = append(view.History, cluster.HistoryLine{Timeline: tl, LSN: r.lsn()})
		}
	}
	for _, n := range r.names() {
		view.Members[n] = cluster.Member{Name: n, State: pick(r, cluster.StateRunning, cluster.StateStopped), ReplicationState: "streaming", Tags: r.tags(), XLogLocation: r.lsn()}
	}
	if r.yes(30) {
		view.Failover, view.FailoverRev = &cluster.FailoverRequest{Leader: pick(r, "", "a", "b"), Candidate: pick(r, "", "a", "b"), Force: r.yes(30)}, 9
	}
	if r.yes(30) {
		view.Failsafe = map[string]string{pick(r, "a", "b"): "http://x"}
	}
	st := ha.Store{Reachable: r.yes(85), View: view, LockSeenAt: r.ago(now), LockAlive: r.yes(60)}
	st.Seen = st.Reachable || r.yes(60)
	if !st.Seen {
		st.View = cluster.View{Config: cluster.Dynamic{Settings: cluster.DefaultSettings()}}
	}
	if r.yes(10) {
		st.PromisedUntil = now + 2*time.Second
	}
	return st
}

func (r dice) database(now time.Duration) ha.Database {
	db := ha.Database{Dir: pick(r, ha.DirEmpty, ha.DirValid, ha.DirValid, ha.DirValid, ha.DirValid, ha.DirForeign), SystemID: pick(r, "", "1", "1", "1", "2"),
		Phase: pick(r, ha.Down, ha.Down, ha.Up, ha.Up, ha.Up, ha.Starting, ha.Mute), PhaseAt: r.ago(now), Fenced: r.yes(10), Failure: pick(r, "", "", "no space"),
		Primary: r.yes(45), Timeline: r.tl(), LSN: r.lsn(), NewestTimeline: r.tl(), Streaming: r.yes(40), StreamingLost: r.ago(now), Upstream: pick(r, "", "b", "c"),
		Rule: r.rule(), RuleKnown: r.yes(80), ControlTimeline: r.tl(), ControlCheckpoint: r.lsn(), Copy: r.yes(10), Torn: r.yes(5),
		Control: pick(r, ha.ControlUnknown, ha.ControlShutDown, ha.ControlShutDownInRecovery, ha.ControlInProduction, ha.ControlInRecovery, ha.ControlOther)}
	for _, n := range r.names() {
		db.Replicas = append(db.Replicas, ha.Replica{Name: n, Streaming: r.yes(80), Flushed: r.lsn()})
	}
	return db
}

func (r dice) answers() map[string]cluster.PeerStatus {
	out := map[string]cluster.PeerStatus{}
	for _, n := range r.names() {
		out[n] = cluster.PeerStatus{Name: n, InRecovery: r.yes(85), Running: r.yes(85), Timeline: r.tl(), LSN: r.lsn(), OldestLSN: r.lsn(), Tags: r.tags(), Eligible: r.yes(70)}
	}
	return out
}

func (r dice) memory(now time.Duration) ha.Memory {
	m := ha.Memory{State: pick(r, "", ha.StateLeading, ha.StateFollowing, ha.StateCandidate, ha.StatePromoting, ha.StateRestarting, ha.StateHandingOver, ha.StatePaused),
		Since: r.ago(now), NoLeaderSince: pick(r, 0, r.ago(now)), RewindFailures: pick(r, 0, 0, 1), Rewinds: r.IntN(3),
		StopFor:      pick(r, ha.StopNone, ha.StopNone, ha.StopHandover, ha.StopDemote, ha.StopRestart, ha.StopRewind, ha.StopReinit, ha.StopShutdown, ha.StopHung),
		HandoverStep: ha.HandoverStep(r.IntN(3)), Handover: pick(r, int64(0), 9), HandoverSince: r.ago(now), HandoverTo: pick(r, "", "b"), TookFor: pick(r, int64(0), 9),
		CloneFailures: r.IntN(3), FailedAt: pick(r, 0, r.ago(now)), PromoteFailures: pick(r, 0, 0, 1, 5), Copied: r.yes(10), CrashClones: r.IntN(2),
		ClaimEpoch: uint64(r.IntN(4)), Claimed: r.tl(), ClaimedFrom: r.tl(), StuckAt: r.lsn(), StuckSince: r.ago(now)}
	for range pick(r, 0, 0, 1, 3, 7) {
		m.Crashes = append(m.Crashes, r.ago(now))
	}
	return m
}

// violations names every rule that a decision breaks. They are written down anew here, from the
// design, without the code under test.
func violations(o ha.Observation, d ha.Decision) (bad []string) {
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	if d.State == "" || d.Why == "" {
		say("state %q and why %q must both be told", d.State, d.Why)
	}
	if d.Wait < 0 || d.Vouch < 0 {
		say("negative wait %s or vouch %s", d.Wait, d.Vouch)
	}
	if d.Wait == 0 && len(d.Effects) == 0 && d.State != ha.StateStopped {
		say("neither wait nor effects")
	}
	if d.Vouch > 0 && !o.Lease.Held {
		say("vouches without the lease")
	}
	if d.Vouch > 0 && !o.Lease.GuardianAlive && !o.Store.View.Lock.Paused {
		say("vouches without a guardian")
	}
	if others := o.Store.View.Lock.Node != "" && (o.Store.View.Lock.Node != o.Self.Name || o.Store.View.Lock.Instance != o.Self.Instance); o.DB.Writable() &&
		(!o.Lease.Held && !o.Lease.Resumable || o.Lease.Held && superseded(o)) && o.Store.Seen && (others || !o.Store.View.Config.Pause) {
		ends := o.Job.Running() && o.Job.Kind == ha.JobStop
		for _, e := range d.Effects {
			switch e.(type) {
			case ha.Stop, ha.Kill:
				ends = true
			case ha.CancelJob: // on the way to a stop
				ends = ends || o.Request.Shutdown
			}
		}
		if !ends {
			say("leaves a writable PostgreSQL running without the lease")
		}
	}
	killed := false
	for _, e := range d.Effects {
		needsLease := false
		switch e := e.(type) {
		case ha.Kill:
			killed = true
		case ha.TakeLock:
			for _, v := range takeViolations(o, e) {
				say("%s", v)
			}
		case ha.Promote, ha.Claim, ha.MarkReady, ha.WriteSync, ha.PauseLock, ha.RecordCluster, ha.Bootstrap, ha.SetRule:
			needsLease = true
		case ha.ReleaseLock:
			needsLease = true
			if o.DB.Writable() && !killed {
				say("releases the lock while PostgreSQL is writable")
			}
			if e.Shutdown && (o.DB.Phase != ha.Down || o.DB.Control != ha.ControlShutDown) {
				say("calls a stop clean that was not")
			}
		case ha.Start:
			needsLease = e.Primary
			if o.DB.Phase != ha.Down && !killed {
				say("starts what runs")
			}
			if o.DB.Dir != ha.DirValid || o.DB.Torn {
				say("starts without data")
			}
			if e.Primary && (!o.DB.Control.WasPrimary() || o.DB.Copy) {
				say("starts a standby's data as a primary")
			}
			if e.Upstream == o.Self.Name {
				say("follows itself")
			}
		case ha.Follow:
			if e.Upstream == o.Self.Name {
				say("follows itself")
			}
		case ha.SetAside, ha.Clone, ha.Rewind:
			if o.DB.Phase != ha.Down {
				say("%s while PostgreSQL runs", e)
			}
			if o.Lease.Held && !superseded(o) {
				say("%s while holding the lease", e)
			}
			if c, ok := e.(ha.Clone); ok && (o.DB.Dir != ha.DirEmpty || c.From == o.Self.Name || c.From == "") {
				say("%s into a directory that is not empty, or from oneself", e)
			}
			if _, ok := e.(ha.Clone); !ok && !o.Store.Reachable {
				say("%s on old news", e)
			}
		}
		if needsLease && !o.Lease.Held {
			say("%s without the lease", e)
		}
	}
	return bad
}

// superseded says that the store shows a later epoch of somebody else.
func superseded(o ha.Observation) bool {
	l := o.Store.View.Lock
	return l.Epoch > o.Lease.Epoch && (l.Node != o.Self.Name || l.Instance != o.Self.Instance)
}

func takeViolations(o ha.Observation, e ha.TakeLock) (bad []string) {
	v := o.Store.View
	l, s := v.Lock, v.Sync
	own := l.Node == o.Self.Name && l.Instance == o.Self.Instance
	req := v.Failover
	forced := req != nil && req.Force && req.Candidate == o.Self.Name
	expired := o.Now >= o.Store.LockSeenAt+lease.TakeoverAfter(max(v.Config.TTL, time.Duration(l.TTL)*time.Millisecond))
	say := func(text string) { bad = append(bad, "takes the lock "+text) }
	switch {
	case !o.Store.Reachable || !o.Store.Seen:
		say("without the store")
	case v.LockBad || v.SyncBad:
		say("on a key that cannot be read")
	case !o.Lease.GuardianAlive:
		say("without a guardian")
	case l.Node != "" && !own && (!expired || l.Paused && !forced):
		say("of another")
	case e.Epoch != l.Epoch+1 || e.LockRev != v.LockRev || e.SyncRev != v.SyncRev || e.Timeline != l.Timeline:
		say("with other facts than those seen")
	case o.Now < o.Store.PromisedUntil && o.DB.Phase == ha.Up:
		say("against a promise")
	case o.Lease.Held && !superseded(o):
		say("while holding it")
	}
	if e.Bootstrap {
		if v.Initialize != "" || o.DB.Dir != ha.DirEmpty || !s.Empty() || l.Timeline > 0 {
			say("to make a cluster where there is one")
		}
		return bad
	}
	tl := o.DB.Timeline
	if o.DB.Phase == ha.Down {
		tl = o.DB.ControlTimeline
	}
	if l.Timeline != 0 && tl < l.Timeline && !forced && !own {
		say("although it may miss a timeline")
	}
	if !forced && !entitled(o, tl) {
		say("without being entitled")
	}
	return bad
}

func entitled(o ha.Observation, tl uint32) bool {
	v := o.Store.View
	s := v.Sync
	if s.Empty() || s.Leader == o.Self.Name {
		return true
	}
	if v.Lock.Node == "" && v.Lock.Epoch > 0 && v.Status.Shutdown && v.Status.Timeline == tl && o.DB.Phase == ha.Up && o.DB.LSN > v.Status.Optime {
		return true // it has all that the last leader wrote before it stopped
	}
	if !slices.Contains(s.Standbys, o.Self.Name) || o.Peers.AskedAt == 0 || o.Now-o.Peers.AskedAt > time.Second {
		return s.Has(o.Self.Name) && s.Quorum == 0
	}
	confirm := 0
	for n, a := range o.Peers.Answers {
		behind := a.Timeline < tl || a.Timeline == tl && a.LSN <= o.DB.LSN
		if n != o.Self.Name && s.Has(n) && a.Running && a.InRecovery && a.LSN > 0 && a.Timeline > 0 && behind {
			confirm++
		}
	}
	return confirm >= s.Quorum
}

func TestDecide_RandomObservationsNeverBreakTheRules(t *testing.T) {
	const seed, n = 20240607, 240_000
	r := dice{rand.New(rand.NewPCG(seed, 1))}
	states, effects := map[ha.State]int{}, map[string]int{}
	for i := range n {
		o := r.observation()
		d := ha.Decide(o)
		if bad := violations(o, d); len(bad) > 0 {
			t.Fatalf("observation %d of seed %d: %s\ndecision %s: %s %v\n%+v", i, seed, strings.Join(bad, "; "), d.State, d.Why, d.Effects, o)
		}
		ha.Eligible(o)
		states[d.State]++
		for _, e := range d.Effects {
			effects[strings.TrimPrefix(fmt.Sprintf("%T", e), "ha.")]++
		}
	}
	// A rule that is never tried proves nothing.
	for _, want := range []string{"AskPeers", "TakeLock", "ResumeLock", "ReleaseLock", "Claim", "MarkReady", "PauseLock", "Bootstrap", "RecordCluster", "Start", "Stop", "Kill",
		"Promote", "Checkpoint", "Follow", "Clone", "Rewind", "SetAside", "SetRule", "WriteSync", "DropRequest", "CancelJob", "Answer"} {
		if effects[want] == 0 {
			t.Errorf("effect %s was never decided in %d observations: %v", want, n, effects)
		}
	}
	t.Logf("states %v, effects %v", states, effects)
}

// A node that starts anywhere and whose effects succeed never decides without pause for ever, and
// when the world around it is healthy it ends up leading or following.
func TestDecide_RandomWorldsComeToRest(t *testing.T) {
	const seed, n = 7, 3_000
	r := dice{rand.New(rand.NewPCG(seed, 2))}
	for i := range n {
		w := &world{o: r.observation(), peers: r.answers()}
		w.o.Request.Shutdown = false
		var log []string
		fail := func(format string, args ...any) {
			t.Fatalf("world %d of seed %d: %s\n%s\n%+v", i, seed, fmt.Sprintf(format, args...), strings.Join(log[max(0, len(log)-60):], "\n"), w.o)
		}
		busy := 0
		for range 200 {
			o := w.o
			d := w.decide()
			log = append(log, fmt.Sprintf("%s %s: %s %v wait %s", o.Now, d.State, d.Why, d.Effects, d.Wait))
			if bad := violations(o, d); len(bad) > 0 {
				fail("%s", strings.Join(bad, "; "))
			}
			w.perform()
			busy++
			if d.Wait > 0 {
				busy = 0
				w.o.Now += d.Wait
				w.live(r, true)
			}
			if busy > 8 {
				fail("decides without pause")
			}
		}
		for step := 0; w.restless() != ""; step++ {
			if step > 5000 {
				fail("%s", w.restless())
			}
			d := w.decide()
			log = append(log, fmt.Sprintf("%s %s: %s %v wait %s", w.o.Now, d.State, d.Why, d.Effects, d.Wait))
			w.perform()
			w.o.Now += d.Wait
			w.live(r, false)
		}
	}
}

// live lets the world go on: with trouble jobs and starts fail now and then; without it everything
// is healthy, and another member leads where this one does not.
func (w *world) live(r dice, trouble bool) {
	o, db, view := &w.o, &w.o.DB, &w.o.Store.View
	if o.Job.Running() && r.yes(50) {
		if trouble && r.yes(30) {
			w.finish("it failed")
		} else {
			w.finish("")
		}
	}
	if db.Phase == ha.Starting && !o.Job.Running() {
		if trouble && r.yes(20) {
			w.ended(false)
			db.Failure = "it did not start"
		} else {
			w.phase(ha.Up)
			if db.Primary {
				db.Timeline = db.ControlTimeline
			}
			db.RuleKnown = true
		}
	}
	if trouble {
		switch r.IntN(40) {
		case 0:
			w.ended(false)
		case 1:
			o.Store.Reachable = !o.Store.Reachable
			o.Store.Seen = o.Store.Seen || o.Store.Reachable
		case 2:
			o.Lease.Held, o.Lease.Lost = false, "not renewed in time"
		case 3:
			if db.Phase == ha.Up {
				w.phase(ha.Mute)
			}
		case 4:
			o.Request.Restart = true
		case 5:
			o.Request.Reinit = true
		case 6:
			view.Failover, view.FailoverRev = &cluster.FailoverRequest{Leader: pick(r, "", "a", "b"), Candidate: pick(r, "", "a", "b")}, view.FailoverRev+1
		}
		return
	}
	w.heal()
}

// heal makes everything around the node healthy. What only a person can mend is mended.
func (w *world) heal() {
	o, db, view := &w.o, &w.o.DB, &w.o.Store.View
	o.Store.Reachable, o.Store.Seen, o.Lease.GuardianAlive, o.Self.CanClone, o.Self.Tags = true, true, true, true, nil
	view.LockBad, view.SyncBad, view.StatusBad, view.Config.Pause, view.Failover, o.Store.PromisedUntil = false, false, false, false, nil, 0
	view.Config.UsePgRewind, view.Config.RemoveDiverged, view.Config.RemoveOnRewindFail, view.Config.FailsafeMode = true, true, true, false
	view.Config.TTL, view.Config.PrimaryStartTimeout = 6*time.Second, 300*time.Second
	view.Initialize, view.Config.SynchronousMode = "1", cluster.SyncOff
	if db.Dir == ha.DirForeign || db.Dir == ha.DirValid && db.SystemID != "1" {
		if db.Phase == ha.Down {
			*db = ha.Database{Dir: ha.DirEmpty, PhaseAt: o.Now}
		} else {
			db.Dir, db.SystemID = ha.DirValid, "1"
		}
	}
	db.Torn = db.Torn && db.Phase == ha.Down
	if db.Phase == ha.Mute {
		w.phase(ha.Up)
	}
	db.Timeline, db.ControlTimeline = max(db.Timeline, 1), max(db.ControlTimeline, 1)
	w.peers = map[string]cluster.PeerStatus{}
	o.Lease.Resumable = o.Lease.Resumable && view.Lock.Node == o.Self.Name && view.Lock.Instance == o.Self.Instance
	if !o.Lease.Held && !o.Lease.Resumable {
		// b leads, on a timeline of its own.
		if view.Lock.Node != "b" || view.Lock.Paused || !view.Lock.Ready || view.Lock.Timeline != 9 {
			view.Lock = cluster.Lock{Node: "b", Instance: "disk-b", Epoch: max(view.Lock.Epoch, o.Lease.Epoch) + 1, Timeline: 9, Ready: true}
			view.LockRev++
			view.History = cluster.History{{Timeline: 1, LSN: 0x80}, {Timeline: 8, LSN: 0x80}}
			view.Members = map[string]cluster.Member{"b": running("b")}
		}
		o.Store.LockSeenAt, o.Store.LockAlive = o.Now, true
		w.peers["b"] = cluster.PeerStatus{Name: "b", Running: true, Timeline: 9, LSN: 0x10000, OldestLSN: 0x40}
		if db.Phase == ha.Up && !db.Primary && db.Upstream == "b" && (db.Timeline == 9 || w.o.Memory.Copied) {
			db.Timeline, db.LSN, db.Streaming = 9, 0x10000, true
		}
		if db.Phase == ha.Up && !db.Primary && db.ControlTimeline == 9 {
			db.Timeline = 9 // it runs on what was copied or rewound
		}
	} else if view.Lock.Node != o.Self.Name {
		view.Lock = cluster.Lock{Node: o.Self.Name, Instance: o.Self.Instance, Epoch: o.Lease.Epoch, Timeline: view.Lock.Timeline}
	}
}

func (w *world) restless() string {
	s := w.last.State
	switch {
	case w.o.Lease.Held && s == ha.StateLeading && w.o.Lease.Ready:
	case !w.o.Lease.Held && s == ha.StateFollowing && w.o.DB.Streaming:
	default:
		return fmt.Sprintf("ends in state %q, neither leading nor streaming", s)
	}
	if w.o.Request.Restart || w.o.Request.Reinit {
		return "a request was never answered"
	}
	return ""
}
