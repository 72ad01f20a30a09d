package rest

import (
	"context"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Answer is what an action says: a status code and a sentence. Doc, when set, is written as JSON in
// place of the sentence.
type Answer struct {
	Code int
	Text string
	Doc  any
}

// Actions are the things a node can be asked to do. Requests are checked for form before; whether
// they are possible is for the node to say, with Patroni's codes and texts. The context ends at a
// deadline and when the server closes, but not when the asker hangs up.
type Actions interface {
	// Restart restarts PostgreSQL, or schedules it: 200 done, 202 "Restart scheduled", 409 "Another
	// restart is already scheduled", 503 could not.
	Restart(ctx context.Context, r RestartRequest) Answer
	// CancelRestart: 200 "scheduled restart deleted", 404 "no restarts are scheduled".
	CancelRestart(ctx context.Context) Answer
	// Reload reads the configuration file again: 202 "reload scheduled".
	Reload(ctx context.Context) Answer
	// Reinitialize clones the node anew: 200 "reinitialize started", 503 and why not.
	Reinitialize(ctx context.Context, r ReinitializeRequest) Answer
	// Failover moves the leadership: 200 done, 202 scheduled, 412 not possible, 503 failed.
	Failover(ctx context.Context, r FailoverRequest) Answer
	// CancelSwitchover: 200 "scheduled switchover deleted", 404 "no switchover is scheduled", 409.
	CancelSwitchover(ctx context.Context) Answer
	// PatchConfig merges into the dynamic configuration: 200 with Doc the new one, 409 when it
	// changed meanwhile, 503 when there is none.
	PatchConfig(ctx context.Context, patch map[string]any) Answer
	// PutConfig replaces the dynamic configuration: 200 with Doc, 502 when it could not.
	PutConfig(ctx context.Context, doc map[string]any) Answer
	// MPP takes an event of a Citus worker: 200 "OK".
	MPP(ctx context.Context, event map[string]any) Answer
	Failsafer
}

// Failsafer answers a primary that cannot reach the store and asks whether it may stay.
type Failsafer interface {
	Failsafe(ctx context.Context, r FailsafeRequest) FailsafeAnswer
}

// RestartRequest is the body of POST /restart.
type RestartRequest struct {
	Schedule        time.Time    // zero: now
	Role            cluster.Role // only if the node has this role; empty: any
	PostgresVersion string       // only if PostgreSQL is older
	Timeout         time.Duration
	Pending         bool // only if a restart is pending
}

// ReinitializeRequest is the body of POST /reinitialize.
type ReinitializeRequest struct {
	Force      bool // even if another job is running
	FromLeader bool // take the base backup from the leader
}

// FailoverRequest is the body of POST /switchover and POST /failover.
type FailoverRequest struct {
	Switchover  bool
	Leader      string
	Candidate   string
	ScheduledAt time.Time // zero: now
	// Force lets the candidate lead though it may miss acknowledged commits. Ours; fail-over only.
	Force bool
}

// FailsafeRequest is the body of POST /failsafe.
type FailsafeRequest struct {
	Name    string                 `json:"name"`
	ConnURL string                 `json:"conn_url,omitempty"`
	APIURL  string                 `json:"api_url,omitempty"`
	Slots   map[string]cluster.LSN `json:"slots,omitempty"`
	// Epoch and TTL (milliseconds) are ours: the lock as the asker holds it.
	Epoch uint64 `json:"epoch,omitempty"`
	TTL   int64  `json:"ttl_ms,omitempty"`
}

// FailsafeAnswer is the answer to it. Disabled: failsafe_mode is off here. LSN, when not zero, is
// what this node has received or replayed.
type FailsafeAnswer struct {
	Accepted bool
	Why      string // when not accepted, as in "Running as a leader"
	Disabled bool
	LSN      cluster.LSN
}
