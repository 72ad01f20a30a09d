package ha_test

import (
	"maps"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
)

// world is a node's observation and the simplest possible executor of its decisions: every effect
// succeeds at once, a job ends when it is told to.
type world struct {
	o     ha.Observation
	peers map[string]cluster.PeerStatus // what the members would answer
	last  ha.Decision
}

func running(name string) cluster.Member {
	return cluster.Member{Name: name, State: cluster.StateRunning}
}

func newWorld() *world {
	w := &world{peers: map[string]cluster.PeerStatus{}}
	s := cluster.DefaultSettings()
	s.TTL = 6 * time.Second
	s.PrimaryStartTimeout = time.Minute
	w.o = ha.Observation{
		Now:  100 * time.Second,
		Self: ha.Self{Name: "a", Instance: "disk-a", CanClone: true},
		Store: ha.Store{Reachable: true, Seen: true, View: cluster.View{
			Initialize: "1", Members: map[string]cluster.Member{"b": running("b"), "c": running("c")}, Config: cluster.Dynamic{Settings: s}}},
		Lease: ha.Lease{GuardianAlive: true},
	}
	return w
}

func (w *world) decide() ha.Decision {
	w.last = ha.Decide(w.o)
	w.o.Memory = w.last.Memory
	if w.o.Job.Done {
		w.o.Job = ha.Job{} // what ended is told once
	}
	return w.last
}

func (w *world) phase(p ha.Phase) {
	if w.o.DB.Phase != p {
		w.o.DB.Phase, w.o.DB.PhaseAt = p, w.o.Now
	}
}

func (w *world) job(k ha.JobKind) { w.o.Job = ha.Job{Kind: k, Began: w.o.Now} }

// ended is a postmaster's end: what it leaves in the control file.
func (w *world) ended(clean bool) {
	db := &w.o.DB
	if db.Phase == ha.Down {
		return
	}
	switch {
	case db.Primary && clean:
		db.Control = ha.ControlShutDown
	case db.Primary:
		db.Control = ha.ControlInProduction
	case clean:
		db.Control = ha.ControlShutDownInRecovery
	default:
		db.Control = ha.ControlInRecovery
	}
	db.ControlTimeline, db.ControlCheckpoint = db.Timeline, db.LSN
	db.Streaming, db.Replicas, db.RuleKnown = false, nil, false
	w.phase(ha.Down)
}

// finish ends the running job; failure "" is success.
func (w *world) finish(failure string) {
	j, db := &w.o.Job, &w.o.DB
	j.Done, j.Failure = true, failure
	if failure != "" {
		return
	}
	switch j.Kind {
	case ha.JobBootstrap:
		db.Dir, db.SystemID, db.Control, db.ControlTimeline = ha.DirValid, "1", ha.ControlShutDown, 1
		db.Timeline, db.LSN, db.ControlCheckpoint = 1, 0x100, 0x100
	case ha.JobClone:
		db.Dir, db.SystemID, db.Copy, db.Control = ha.DirValid, "1", true, ha.ControlInProduction
		db.ControlTimeline = w.o.Store.View.Lock.Timeline
	case ha.JobRewind:
		db.Copy, db.Control, db.ControlTimeline = true, ha.ControlInRecovery, w.o.Store.View.Lock.Timeline
	case ha.JobStop:
		w.ended(true)
	case ha.JobPromote:
		db.Primary, db.Streaming, db.Upstream = true, false, ""
		db.Timeline = w.o.Store.View.Lock.Timeline
	}
}

// perform carries out the effects of the last decision.
func (w *world) perform() {
	for _, e := range w.last.Effects {
		w.effect(e)
	}
}

func (w *world) effect(e ha.Effect) {
	db, view, lease := &w.o.DB, &w.o.Store.View, &w.o.Lease
	switch e := e.(type) {
	case ha.AskPeers:
		w.o.Peers = ha.Peers{AskedAt: w.o.Now, Answers: maps.Clone(w.peers)}
	case ha.TakeLock:
		view.Lock = cluster.Lock{Node: w.o.Self.Name, Instance: w.o.Self.Instance, Epoch: e.Epoch, Timeline: e.Timeline, TTL: view.Config.TTL.Milliseconds()}
		view.LockRev++
		w.o.Store.LockSeenAt = w.o.Now
		*lease = ha.Lease{Held: true, Epoch: e.Epoch, FenceAt: w.o.Now + 4*time.Second, GuardianAlive: lease.GuardianAlive}
	case ha.ResumeLock:
		lease.Held, lease.Epoch, lease.Ready, lease.Resumable = true, view.Lock.Epoch, view.Lock.Ready, false
	case ha.ReleaseLock:
		view.Lock = cluster.Lock{Epoch: view.Lock.Epoch, Timeline: view.Lock.Timeline, Successor: e.Successor}
		view.LockRev++
		view.Status.Shutdown = e.Shutdown
		if e.Shutdown {
			view.Status.Optime, view.Status.Timeline = e.Optime, e.Timeline
		}
		*lease = ha.Lease{GuardianAlive: lease.GuardianAlive}
	case ha.Claim:
		view.Lock.Timeline, view.Sync = e.Timeline, e.Sync
		view.LockRev++
		view.SyncRev++
	case ha.MarkReady:
		view.Lock.Ready, view.Lock.Timeline, lease.Ready = true, e.Timeline, true
		view.LockRev++
	case ha.PauseLock:
		view.Lock.Paused = e.Paused
		view.LockRev++
	case ha.RecordCluster:
		view.Initialize = e.SystemID
	case ha.Bootstrap:
		w.job(ha.JobBootstrap)
	case ha.Clone:
		w.job(ha.JobClone)
	case ha.Rewind:
		w.job(ha.JobRewind)
	case ha.Stop:
		w.job(ha.JobStop)
	case ha.Promote:
		w.job(ha.JobPromote)
	case ha.Checkpoint:
		w.job(ha.JobCheckpoint)
	case ha.Start:
		db.Primary, db.Upstream, db.Failure, db.Copy = e.Primary, e.Upstream, "", false
		w.phase(ha.Starting)
	case ha.Kill:
		w.ended(false)
	case ha.Follow:
		db.Upstream = e.Upstream
	case ha.SetAside:
		*db = ha.Database{Dir: ha.DirEmpty, PhaseAt: w.o.Now}
	case ha.SetRule:
		db.Rule = e.Rule
		db.RuleKnown = true
	case ha.WriteSync:
		view.Sync = e.Sync
		view.SyncRev++
	case ha.DropRequest:
		view.Failover = nil
	case ha.CancelJob:
		if w.o.Job.Running() {
			w.finish("cancelled")
		}
	case ha.Answer:
		if e.Request == "restart" {
			w.o.Request.Restart = false
		} else {
			w.o.Request.Reinit = false
		}
	}
}
