package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Status is the body of GET / and GET /patroni. Its JSON is Patroni's (get_postgresql_status and
// _write_status_response in patroni/api.py); Hathi is ours.
type Status struct {
	State           cluster.State                    `json:"state"`
	PostmasterStart Timestamp                        `json:"postmaster_start_time,omitzero"`
	Role            cluster.Role                     `json:"role"`
	ServerVersion   int                              `json:"server_version,omitempty"` // as in 150002
	XLog            XLog                             `json:"xlog,omitzero"`
	SyncStandby     bool                             `json:"sync_standby,omitempty"`
	QuorumStandby   bool                             `json:"quorum_standby,omitempty"`
	Timeline        uint32                           `json:"timeline,omitempty"`
	ReplState       string                           `json:"replication_state,omitempty"` // streaming, in archive recovery
	Replication     []Connection                     `json:"replication,omitempty"`
	Pause           bool                             `json:"pause,omitempty"`
	ClusterUnlocked bool                             `json:"cluster_unlocked,omitempty"`
	FailsafeActive  bool                             `json:"failsafe_mode_is_active,omitempty"`
	DCSLastSeen     int64                            `json:"dcs_last_seen"` // seconds since 1970
	Tags            cluster.Tags                     `json:"tags,omitempty"`
	SystemID        string                           `json:"database_system_identifier,omitempty"`
	PendingRestart  bool                             `json:"pending_restart,omitempty"`
	PendingReason   map[string]cluster.PendingReason `json:"pending_restart_reason,omitempty"`
	Patroni         Identity                         `json:"patroni"`
	Scheduled       *ScheduledRestart                `json:"scheduled_restart,omitempty"`
	WatchdogFailed  bool                             `json:"watchdog_failed,omitempty"`
	Hathi           *Own                             `json:"hathi,omitempty"`
}

// Identity says who answers.
type Identity struct {
	Version string `json:"version"`
	Scope   string `json:"scope"`
	Name    string `json:"name"`
}

// Own is what Patroni has no word for.
type Own struct {
	Epoch    uint64 `json:"epoch,omitempty"`
	Instance string `json:"instance,omitempty"`
	HAState  string `json:"ha_state,omitempty"`
	Why      string `json:"why,omitempty"` // the sentence of the last decision
	Job      string `json:"job,omitempty"` // what takes longer, with its progress
	// Critical are the sentences of the health list's critical problems, those that another explains
	// apart; GET /problems has all, with hints.
	Critical []string `json:"critical,omitempty"`
}

// Connection is one row of pg_stat_replication.
type Connection struct {
	User         string `json:"usename"`
	Application  string `json:"application_name"`
	ClientAddr   string `json:"client_addr,omitempty"`
	State        string `json:"state"`
	SyncState    string `json:"sync_state"`
	SyncPriority int    `json:"sync_priority"`
}

// ScheduledRestart is a restart that waits for its time.
type ScheduledRestart struct {
	Schedule        string `json:"schedule"`
	Role            string `json:"role,omitempty"`
	PostgresVersion string `json:"postgres_version,omitempty"`
	Timeout         int    `json:"timeout,omitempty"`
	RestartPending  bool   `json:"restart_pending,omitempty"`
}

// XLog are WAL positions in bytes: of a primary Location alone, of a standby the others.
type XLog struct {
	Primary    bool
	Location   cluster.LSN
	Received   cluster.LSN
	Replayed   cluster.LSN
	ReplayedAt Timestamp // commit time of the last replayed transaction, zero for none
	Paused     bool
}

type xlogPrimary struct {
	Location cluster.LSN `json:"location"`
}

type xlogStandby struct {
	Received   cluster.LSN `json:"received_location"`
	Replayed   cluster.LSN `json:"replayed_location"`
	ReplayedAt Timestamp   `json:"replayed_timestamp"`
	Paused     bool        `json:"paused"`
}

// MarshalJSON writes the form of the role.
func (x XLog) MarshalJSON() ([]byte, error) {
	if x.Primary {
		return json.Marshal(xlogPrimary{x.Location})
	}
	return json.Marshal(xlogStandby{x.Received, x.Replayed, x.ReplayedAt, x.Paused})
}

// UnmarshalJSON reads either form.
func (x *XLog) UnmarshalJSON(b []byte) error {
	var j struct {
		Location *cluster.LSN `json:"location"`
		xlogStandby
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*x = XLog{Received: j.Received, Replayed: j.Replayed, ReplayedAt: j.ReplayedAt, Paused: j.Paused}
	if j.Location != nil {
		x.Primary, x.Location = true, *j.Location
	}
	return nil
}

// Timestamp is a wall time for people, written as Python's str(datetime) writes it; null when zero.
type Timestamp struct{ time.Time }

const timestampLayout = "2006-01-02 15:04:05.999999-07:00"

// MarshalJSON writes the text, or null.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.Format(timestampLayout))
}

// UnmarshalJSON reads the text or null. A text of another form is taken for no time.
func (t *Timestamp) UnmarshalJSON(b []byte) error {
	*t = Timestamp{}
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("parse time: %w", err)
	}
	for _, layout := range []string{timestampLayout, time.RFC3339Nano} {
		if at, err := time.Parse(layout, s); err == nil {
			t.Time = at
			return nil
		}
	}
	return nil
}
