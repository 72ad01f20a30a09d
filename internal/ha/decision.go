package ha

import (
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// State is what the node is doing, in one or two words that the log, the event history and the
// command line show.
type State string

// The states of a node.
const (
	StateStarting      State = "starting"
	StateBroken        State = "needs attention"
	StateWaiting       State = "waiting for the cluster"
	StateBootstrapping State = "bootstrapping"
	StateCloning       State = "cloning"
	StateRewinding     State = "rewinding"
	StateFollowing     State = "following"
	StateCandidate     State = "candidate"
	StatePromoting     State = "promoting"
	StateLeading       State = "leading"
	StateRestarting    State = "restarting"
	StateHandingOver   State = "handing over"
	StateDemoting      State = "demoting"
	StateStopping      State = "stopping"
	StateStopped       State = "stopped"
	StatePaused        State = "paused"
)

// Decision is what to do next.
type Decision struct {
	State State
	// Why is a sentence for the operator: the facts and the rule that decided.
	Why string
	// Effects are to be performed in order; the first failure ends the tick.
	Effects []Effect
	// Vouch is how long from now the lease may go on being renewed on the strength of this
	// observation; 0 lets it run out.
	Vouch time.Duration
	// Wait is how long the next tick may wait when nothing happens. Zero asks for another decision
	// at once, after the effects; where one of them failed, the caller waits a moment first.
	Wait time.Duration
	// Memory is handed back in the next observation.
	Memory Memory
}

// Effect is one thing to do. Every effect is idempotent: the node may die between any two of them
// and starts again by observing.
type Effect interface {
	fmt.Stringer
	effect()
}

// AskPeers asks every other member for its state, in parallel, and gives up on those that have not
// answered within half a second.
type AskPeers struct{}

// Revoke stops receiving WAL from the holder of the lock in Epoch, makes that promise last for as long
// as the lock is at revision LockRev, and asks every other member for the same. Their answers say
// whether they did.
type Revoke struct {
	Epoch   uint64
	LockRev int64
}

// TakeLock takes the lock for epoch Epoch, comparing the revisions of the lock and of /sync (and
// that /initialize is absent, for a bootstrap) with those that the decision rested on.
type TakeLock struct {
	Epoch uint64
	// Behind is how many bytes of WAL before the last position that the former leader published this
	// node ends: what is lost at least, unless that node comes back. Its last moments may add to it.
	Behind    int64
	LockRev   int64
	SyncRev   int64
	Timeline  uint32 // carried over from the lock that is replaced
	Bootstrap bool
}

// ResumeLock goes on holding the lock from before a restart of the agent.
type ResumeLock struct{}

// ReleaseLock gives the lock back. PostgreSQL accepts no writes any more when it is performed.
type ReleaseLock struct {
	Successor string
	// Shutdown says that PostgreSQL stopped cleanly at Optime (where the shutdown checkpoint's
	// record begins) on Timeline. Without it /status must not say so either after the release: it
	// could be left from an earlier epoch.
	Shutdown bool
	Optime   cluster.LSN
	Timeline uint32
	// Uninitialize also removes the empty /initialize of a bootstrap that failed.
	Uninitialize bool
}

// Claim writes, under the lock and before anything can be acknowledged, the timeline that will be
// written and who may lead after us. It also takes a claim back that came to nothing: the timeline
// is written as it stands here, lower or higher.
type Claim struct {
	Timeline uint32
	Sync     cluster.SyncState
}

// MarkReady tells everybody that we accept writes in this epoch and records the history.
type MarkReady struct{ Timeline uint32 }

// PauseLock writes, under the lock, that the fence is put down (or taken up again) for a pause.
type PauseLock struct{ Paused bool }

// Bootstrap makes a new cluster here (a job).
type Bootstrap struct{}

// RecordCluster writes the identity of the cluster, and its first configuration where there is
// none, under the lock.
type RecordCluster struct{ SystemID string }

// Start starts PostgreSQL. Upstream is the member to stream from, "" for none. With Primary the
// synchronous rule that was set last is in force from the first commit on.
type Start struct {
	Primary  bool
	Upstream string
}

// Stop stops PostgreSQL (a job): fast, then along the ladder.
type Stop struct {
	Immediate bool
	Reason    StopReason
}

// Kill ends every process of the data directory at once.
type Kill struct{ Why string }

// Promote ends recovery onto Timeline (a job). PostgreSQL takes the first number for which it finds
// no history file, counted from its own; where that is lower, numbers between were claimed by
// members that are gone, and the executor first puts a history file for each into pg_wal, so that
// no number is used for two histories.
type Promote struct{ Timeline uint32 }

// Checkpoint runs CHECKPOINT (a job).
type Checkpoint struct{}

// Follow changes what a running standby streams from; "" for nothing.
type Follow struct{ Upstream string }

// Clone copies a member into an empty data directory (a job). What a failed or interrupted copy
// leaves behind is the executor's to remove: the directory then counts as empty.
type Clone struct{ From string }

// Rewind brings a diverged, stopped data directory back onto the leader's history (a job).
type Rewind struct{ From string }

// SetAside renames the data directory, so that a clone can take its place.
type SetAside struct{ Reason string }

// SetRule makes PostgreSQL enforce a synchronous rule (synchronous_standby_names).
type SetRule struct{ Rule quorum.Rule }

// WriteSync writes /sync under the lock, comparing its revision with Rev.
type WriteSync struct {
	Sync cluster.SyncState
	Rev  int64
}

// DropRequest removes the fail-over request at revision Rev, with the reason for its author.
type DropRequest struct {
	Rev     int64
	Outcome string
	Done    bool // it was carried out
}

// CancelJob ends the running job.
type CancelJob struct{ Why string }

// Answer tells the author of a local request (restart, reinit) its outcome.
type Answer struct {
	Request string
	Outcome string
	Done    bool
}

func (Revoke) effect()        {}
func (AskPeers) effect()      {}
func (TakeLock) effect()      {}
func (ResumeLock) effect()    {}
func (ReleaseLock) effect()   {}
func (Claim) effect()         {}
func (MarkReady) effect()     {}
func (PauseLock) effect()     {}
func (Bootstrap) effect()     {}
func (RecordCluster) effect() {}
func (Start) effect()         {}
func (Stop) effect()          {}
func (Kill) effect()          {}
func (Promote) effect()       {}
func (Checkpoint) effect()    {}
func (Follow) effect()        {}
func (Clone) effect()         {}
func (Rewind) effect()        {}
func (SetAside) effect()      {}
func (SetRule) effect()       {}
func (WriteSync) effect()     {}
func (DropRequest) effect()   {}
func (CancelJob) effect()     {}
func (Answer) effect()        {}

func (e Revoke) String() string {
	return fmt.Sprintf("stop receiving from the leader of epoch %d while the lock is at revision %d, here and on the other members", e.Epoch, e.LockRev)
}
func (AskPeers) String() string { return "ask the other members" }
func (e TakeLock) String() string {
	s := fmt.Sprintf("take the lock for epoch %d if it is still at revision %d and sync at %d", e.Epoch, e.LockRev, e.SyncRev)
	if e.Bootstrap {
		s += " and no cluster exists"
	}
	return s
}
func (ResumeLock) String() string { return "resume the lock" }
func (e ReleaseLock) String() string {
	s := "release the lock"
	if e.Successor != "" {
		s += " to " + e.Successor
	}
	if e.Shutdown {
		s += fmt.Sprintf(", stopped cleanly at %s on timeline %d", e.Optime, e.Timeline)
	}
	if e.Uninitialize {
		s += ", no cluster made"
	}
	return s
}
func (e Claim) String() string {
	return fmt.Sprintf("claim timeline %d, sync %s", e.Timeline, syncText(e.Sync))
}
func (e MarkReady) String() string { return fmt.Sprintf("announce writes on timeline %d", e.Timeline) }
func (e PauseLock) String() string {
	if e.Paused {
		return "put the fence down for the pause"
	}
	return "take the fence up again"
}
func (Bootstrap) String() string       { return "make a new cluster" }
func (e RecordCluster) String() string { return "record the cluster " + e.SystemID }
func (e Start) String() string {
	switch {
	case e.Primary:
		return "start as primary"
	case e.Upstream == "":
		return "start as standby without upstream"
	}
	return "start as standby of " + e.Upstream
}
func (e Stop) String() string {
	if e.Immediate {
		return "stop immediately (" + string(e.Reason) + ")"
	}
	return "stop (" + string(e.Reason) + ")"
}
func (e Kill) String() string     { return "kill every process of the data directory: " + e.Why }
func (e Promote) String() string  { return fmt.Sprintf("promote onto timeline %d", e.Timeline) }
func (Checkpoint) String() string { return "checkpoint" }
func (e Follow) String() string {
	if e.Upstream == "" {
		return "follow nobody"
	}
	return "follow " + e.Upstream
}
func (e Clone) String() string       { return "clone from " + e.From }
func (e Rewind) String() string      { return "rewind from " + e.From }
func (e SetAside) String() string    { return "set the data directory aside: " + e.Reason }
func (e SetRule) String() string     { return "synchronous rule " + ruleText(e.Rule) }
func (e WriteSync) String() string   { return "write sync " + syncText(e.Sync) }
func (e DropRequest) String() string { return "close the fail-over request: " + e.Outcome }
func (e CancelJob) String() string   { return "cancel the job: " + e.Why }
func (e Answer) String() string      { return "answer " + e.Request + ": " + e.Outcome }

func syncText(s cluster.SyncState) string {
	if s.Empty() {
		return "none"
	}
	return fmt.Sprintf("leader=%s standbys=%v quorum=%d", s.Leader, s.Standbys, s.Quorum)
}

func ruleText(r quorum.Rule) string {
	if r.Num == 0 {
		return "asynchronous"
	}
	return fmt.Sprintf("any %d of %v", r.Num, r.Names)
}
