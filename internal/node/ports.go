package node

import (
	"context"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// Database is the PostgreSQL of this node. Every call is bounded by its context; those that a job
// runs may be long.
type Database interface {
	// Observe looks at directory, process and SQL. It returns within about a second.
	Observe(ctx context.Context) ha.Database
	// Detail is what people want to know beyond what decisions need, from the last Observe.
	Detail() Detail

	Start(ctx context.Context, s StartSpec) error
	Follow(ctx context.Context, up Upstream) error
	// Hold has a running standby receive nothing any more, and returns when nothing flows and nothing
	// can begin to flow until Follow or Start.
	Hold(ctx context.Context) error
	SetRule(ctx context.Context, r quorum.Rule) error
	// Configure brings files and running settings in line with the dynamic configuration, by reload;
	// what needs a restart shows in Detail.PendingRestart.
	Configure(ctx context.Context, c cluster.Settings, members map[string]cluster.Member) error
	// Slots makes and drops physical slots for members; on a standby it also moves them along.
	Slots(ctx context.Context, p SlotPlan) error
	Kill(ctx context.Context, why string) error
	SetAside(ctx context.Context, reason string) error

	// The jobs.
	Bootstrap(ctx context.Context, c cluster.Settings) error
	Clone(ctx context.Context, from Upstream) error
	Rewind(ctx context.Context, from Upstream, timeline uint32) error
	Stop(ctx context.Context, immediate bool) error
	// Promote ends recovery onto a timeline that is numbered timeline or above: lower numbers may have
	// been used by members that are gone.
	Promote(ctx context.Context, timeline uint32) error
	Checkpoint(ctx context.Context) error
	// Progress is a line about the running job for people; "" for none.
	Progress() string

	// Exited delivers a token when the postmaster ends.
	Exited() <-chan struct{}
}

// StartSpec is how PostgreSQL is started.
type StartSpec struct {
	Primary  bool
	Upstream Upstream
	Settings cluster.Settings
	Members  map[string]cluster.Member
	// Rule is what synchronous_standby_names says from the first moment on.
	Rule quorum.Rule
}

// Upstream is a member to stream or copy from; the zero value is nobody.
type Upstream struct {
	Name, Host, Port string
}

// Detail is the part of the database's state that is shown and published.
type Detail struct {
	Version          int // as server_version_num: 150018
	StartedAt        time.Time
	PendingRestart   map[string]cluster.PendingReason
	ReplicationState string // streaming, in archive recovery, or ""
	Replication      []ReplicationRow
	Paused           bool // replay
	ReplayedAt       time.Time
	Slots            []Slot
	OldestLSN        cluster.LSN
	Asides           []string // directories set aside
}

// ReplicationRow is a row of pg_stat_replication for people.
type ReplicationRow struct {
	Application, ClientAddr, State, SyncState, User string
	SyncPriority                                    int
	Sent, Write, Flush, Replay                      cluster.LSN
}

// Slot is a replication slot.
type Slot struct {
	Name, Type, Plugin, Database, WalStatus string
	Active                                  bool
	RestartLSN                              cluster.LSN
}

// SlotPlan is which physical slots should exist for members.
type SlotPlan struct {
	// Want are slot names with the position they may be moved to (0: leave alone).
	Want map[string]cluster.LSN
	// Drop are slots of members that are gone for good, or lost ones to be made anew.
	Drop []string
}

// Peers asks the other members.
type Peers interface {
	// Ask asks every member but self at once and returns when all have answered, or when only those
	// in unhurried are missing, or at its bound.
	Ask(ctx context.Context, members map[string]cluster.Member, self string, unhurried []string) map[string]cluster.PeerStatus
	// Alive says whether the member's agent, or its PostgreSQL, answers a direct probe.
	Alive(ctx context.Context, m cluster.Member) bool
	// Revoke asks every member but self and the holder, at once, and returns their answers; those that
	// refuse or do not answer are absent.
	Revoke(ctx context.Context, members map[string]cluster.Member, self, holder string, r Revocation) map[string]cluster.PeerStatus
	// Failsafe asks the member at a REST URL to promise, until ttl from now, not to lead while holder
	// does.
	Failsafe(ctx context.Context, url string, p Promise) (accepted bool, err error)
}

// Revocation asks a standby to stop receiving WAL from the holder of the lock in Epoch, and not to begin
// again while the lock is at revision LockRev.
type Revocation struct {
	Scope   string `json:"scope"`
	Name    string `json:"name"` // who asks
	Epoch   uint64 `json:"epoch"`
	LockRev int64  `json:"lock_rev"`
}

// Promises keeps a revocation promise across restarts of this process.
type Promises interface {
	Load() (lockRev int64, err error)
	// Save returns when the promise is on disk.
	Save(lockRev int64) error
}

// Promise is what the holder of the lock asks of the members while the store is away.
type Promise struct {
	Scope string                 `json:"scope,omitempty"`
	Name  string                 `json:"name"`
	Epoch uint64                 `json:"epoch,omitempty"`
	TTL   int64                  `json:"ttl_ms,omitempty"`
	Slots map[string]cluster.LSN `json:"slots,omitempty"`
	// ConnURL and APIURL are Patroni's.
	ConnURL string `json:"conn_url,omitempty"`
	APIURL  string `json:"api_url,omitempty"`
}

// Jobs runs the work that is longer than a tick, one at a time.
type Jobs interface {
	// Start begins a job; false when one runs already.
	Start(kind ha.JobKind, bound time.Duration, work func(context.Context) error) bool
	// Poll is the job under way, or the one that ended since the last Poll.
	Poll() ha.Job
	// Cancel ends the running job and waits for it.
	Cancel(why string)
	// Done delivers a token when a job ends.
	Done() <-chan struct{}
}

// Journal records decisions for people.
type Journal interface {
	Record(e Entry)
}

// Entry is one decision worth telling.
type Entry struct {
	Epoch   uint64
	State   ha.State
	Why     string
	Effects []string
	Facts   map[string]any
	Err     string
}
