package ha

import (
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// Observation is everything a node knows at one instant. Instants are durations on this node's
// CLOCK_BOOTTIME.
type Observation struct {
	Now     time.Duration
	Self    Self
	Store   Store
	Lease   Lease
	DB      Database
	Peers   Peers
	Job     Job
	Request Request
	Memory  Memory
}

// Self is who this node is, from its file.
type Self struct {
	Name     string
	Instance string // identity of the data directory; "" before there is one
	Tags     cluster.Tags
	Started  time.Duration // when this process began to observe
	// CanClone says that a replica can be made (replica methods other than none are configured).
	CanClone bool
}

// Store is what is known of the distributed store.
type Store struct {
	// Reachable is false when the last attempt to read it failed or its answer is too old.
	Reachable bool
	// WentBack says how the store went back in time; "" when it did not. Its answers are refused, so it
	// is not Reachable and View is the last one from before.
	WentBack string
	// HighestEpoch is the highest epoch of the lock that this node has ever seen, deleted ones included.
	HighestEpoch uint64
	// Seen says that View holds an answer at all, possibly an old one.
	Seen bool
	// View.Failover is absent until the time that a scheduled request states: the observer has a wall
	// clock.
	View cluster.View
	// LockSeenAt is when this node saw the lock's revision change last (or first saw it).
	LockSeenAt time.Duration
	// LockAlive says that this process has seen the present holder renew at least once.
	LockAlive bool
	// LeaderAnsweredAt is when a direct probe of the present holder of the lock, or of its
	// PostgreSQL, was last sent that was answered; where none was yet, since when it is probed. 0
	// when it is not probed.
	LeaderAnsweredAt time.Duration
	// RevokedRev is the revision of the lock at which this node promised to receive nothing from its
	// holder; 0: none.
	RevokedRev int64
	// PromisedUntil is when this node's failsafe promise to the holder ends: until then it takes no
	// lock. Zero: none.
	PromisedUntil time.Duration
}

// Lease is this node's hold on the lock.
type Lease struct {
	Held    bool
	Epoch   uint64
	Ready   bool          // the lock says that we accept writes
	FenceAt time.Duration // when the guardian acts unless the lease is renewed
	// Lost is why the last hold ended; "" when it ended as planned or there was none.
	Lost string
	// Resumable says that the store shows the lock as ours, of this very data directory, and that
	// the guardian's deadline from before our restart has not passed.
	Resumable bool
	// GuardianAlive says that the guardian's heartbeat is fresh. Without it the lock is not taken.
	GuardianAlive bool
}

// DirState is the state of the data directory.
type DirState int

// The states of a data directory.
const (
	DirEmpty   DirState = iota // absent, or empty
	DirValid                   // a PostgreSQL cluster
	DirForeign                 // something else, or half made: left alone
)

// Phase is the state of the postmaster.
type Phase int

// The phases of a postmaster.
const (
	Down     Phase = iota // no process
	Starting              // a process that has not answered SQL yet
	Up                    // answers SQL
	Mute                  // a process that answered and does not any more
)

func (p Phase) String() string { return [...]string{"down", "starting", "up", "mute"}[p] }

// ControlState is the state in pg_control of a stopped cluster.
type ControlState string

// The control states that decisions distinguish (src/bin/pg_controldata/pg_controldata.c).
const (
	ControlUnknown            ControlState = ""
	ControlShutDown           ControlState = "shut down"
	ControlShutDownInRecovery ControlState = "shut down in recovery"
	ControlInProduction       ControlState = "in production"
	ControlInRecovery         ControlState = "in archive recovery"
	ControlOther              ControlState = "other"
)

// WasPrimary says whether the cluster was a primary when it ended.
func (c ControlState) WasPrimary() bool {
	return c == ControlShutDown || c == ControlInProduction || c == ControlOther
}

// Database is this node's PostgreSQL.
type Database struct {
	Dir      DirState
	DirWhy   string // for DirForeign: what was found
	Torn     bool   // a rewind was interrupted: the directory must not be started
	SystemID string
	// Replaced is why the directory is not the one that this member had: somebody put another in its
	// place. What it acknowledged may be missing. "" when it is the one.
	Replaced string

	Phase   Phase
	PhaseAt time.Duration // since when
	Hang    string        // for Mute: how it shows, where old connections are still answered
	// StalledAt is since when the storage of the data directory has made nothing durable; 0: it does.
	StalledAt time.Duration
	// Fenced says that the guardian ended the last postmaster.
	Fenced bool
	// Failure is what the last start reported when it ended without having answered; for people.
	Failure string

	Primary  bool // not in recovery; from the last answer
	Timeline uint32
	LSN      cluster.LSN // the end of WAL on this disk: flushed, received or replayed, whichever is furthest
	Replayed cluster.LSN
	// Replaying says that a standby has not come to the end of the WAL on its disk since it was started:
	// LSN is then less than what it has, and what it may have confirmed.
	Replaying bool
	// MovedAt is when LSN was last seen to grow; 0: not yet.
	MovedAt time.Duration
	// NewestTimeline is the highest timeline of which a history file is on this disk, or Timeline.
	NewestTimeline uint32
	History        cluster.History // of Timeline

	Streaming     bool
	StreamingLost time.Duration // when it was last seen to stream; 0: never since the start
	Upstream      string        // the member it is configured to follow; "" for none
	Replicas      []Replica     // of a primary, from pg_stat_replication

	Rule      quorum.Rule // what the live synchronous_standby_names enforces
	RuleKnown bool

	// Of a stopped cluster, from pg_control:
	Control ControlState
	// ControlTimeline is the higher of the last checkpoint's timeline and of the one of the minimum
	// recovery point: after a promotion the first lags until a checkpoint ends.
	ControlTimeline uint32
	// ControlCheckpoint is where the last checkpoint's record begins; who has anything after it has
	// the record.
	ControlCheckpoint cluster.LSN
	// Copy says that the stopped directory is a copy that was never started since it was made (its
	// backup_label is there): its control file is that of the member it was copied from.
	Copy bool
}

// Writable says whether clients could have commits acknowledged here.
func (d Database) Writable() bool { return d.Phase != Down && d.Primary }

// Replica is a row of pg_stat_replication that belongs to a member.
type Replica struct {
	Name      string
	Streaming bool
	Flushed   cluster.LSN
}

// Peers are the live answers of the other members.
type Peers struct {
	// AskedAt is when the last round of questions began; 0: never asked. Answers older than
	// a second are asked for again, so a round must end well within it.
	AskedAt time.Duration
	Answers map[string]cluster.PeerStatus
}

// JobKind names the work that is longer than a tick.
type JobKind string

// The jobs.
const (
	JobNone       JobKind = ""
	JobBootstrap  JobKind = "bootstrap"
	JobClone      JobKind = "clone"
	JobRewind     JobKind = "rewind"
	JobStop       JobKind = "stop"
	JobPromote    JobKind = "promote"
	JobCheckpoint JobKind = "checkpoint"
)

// Job is the work under way or the work that ended since the last decision.
type Job struct {
	Kind    JobKind
	Began   time.Duration
	Done    bool
	Failure string // Done and failed: why
	// Transient says that the failure lies outside and trying again can help: the member to copy
	// from does not answer.
	Transient bool
}

// Running says that a job is under way.
func (j Job) Running() bool { return j.Kind != JobNone && !j.Done }

// Failed says that a job of this kind ended badly since the last decision.
func (j Job) Failed(k JobKind) bool { return j.Kind == k && j.Done && j.Failure != "" }

// Finished says that a job of this kind ended well since the last decision.
func (j Job) Finished(k JobKind) bool { return j.Kind == k && j.Done && j.Failure == "" }

// Request is what an operator asked of this very node.
type Request struct {
	Shutdown bool // stop PostgreSQL, give the lock back, end
	Restart  bool
	Reinit   bool
	// FromLeader makes Reinit copy from the leader even where a member is tagged clonefrom.
	FromLeader bool
}

// Memory is what a decision wants to know again at the next one. It does not survive the process:
// nothing in it is needed for safety.
type Memory struct {
	State   State
	Since   time.Duration // when State began
	Crashes []time.Duration
	// NoLeaderSince is when this node first saw that nobody leads; 0 while somebody does.
	NoLeaderSince time.Duration
	// RewindFailures counts failed rewinds since this node streamed last, Rewinds the others.
	RewindFailures int
	Rewinds        int
	// Handover is the request being carried out, by revision; 0: none.
	Handover      int64
	HandoverStep  HandoverStep
	HandoverSince time.Duration
	HandoverTo    string // the member that the switchover stops PostgreSQL for
	// TookFor is the revision of the fail-over request that stood when this node took the lock.
	TookFor int64
	// ClaimEpoch is the epoch in which this node claimed timeline Claimed, in place of ClaimedFrom.
	ClaimEpoch           uint64
	Claimed, ClaimedFrom uint32
	// ClaimedSync is the synchronous record that the claim replaced.
	ClaimedSync cluster.SyncState
	// PromoteFailures counts failed promotions since PostgreSQL was a primary here.
	PromoteFailures int
	// StopFor is why PostgreSQL is being stopped, and what comes after.
	StopFor StopReason
	// Rules are the synchronous rules under which a commit may have been acknowledged that no later
	// rule is known to cover.
	Rules quorum.State
	// RevokedAt is when promises not to receive from the leader were asked for last, DeposeSince when
	// first in a row.
	RevokedAt, DeposeSince time.Duration
	// Away is when each standby was last seen streaming, to ride out blips.
	Away map[string]time.Duration
	// CloneFailures counts failed clones in a row.
	CloneFailures int
	// FromLeader keeps the wish of a reinit until the copy is made.
	FromLeader bool
	// Copied says that a copy or a rewind ended well and PostgreSQL has not answered since.
	Copied bool
	// CrashClones counts the copies made because of a crash loop since this node streamed last.
	CrashClones int
	// StuckAt is the position at which a standby stands still, StuckSince since when.
	StuckAt     cluster.LSN
	StuckSince  time.Duration
	LastFailure string
	FailedAt    time.Duration
}

// HandoverStep is how far a planned switchover has come.
type HandoverStep int

// The steps of a planned switchover.
const (
	HandoverNone HandoverStep = iota
	HandoverCheckpoint
	HandoverStop
)

// StopReason is what follows a stop.
type StopReason string

// The reasons to stop PostgreSQL.
const (
	StopNone     StopReason = ""
	StopHandover StopReason = "handover"
	StopDemote   StopReason = "demote"
	StopRestart  StopReason = "restart"
	StopRewind   StopReason = "rewind"
	StopReinit   StopReason = "reinit"
	StopShutdown StopReason = "shutdown"
	StopHung     StopReason = "hung"
)
