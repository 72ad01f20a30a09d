package cluster

import (
	"encoding/json"
	"fmt"
	"time"
)

// Status is the value of the key "status", written by the leader.
type Status struct {
	// Optime is the leader's last known write position, in bytes.
	Optime LSN `json:"optime"`
	// Slots are the positions of permanent and member slots, in bytes.
	Slots map[string]LSN `json:"slots,omitempty"`
	// RetainSlots are member slots kept for members that are away.
	RetainSlots []string `json:"retain_slots,omitempty"`
	// Shutdown is set once the leader stopped cleanly: Optime is then where its shutdown checkpoint
	// begins, the last record of all, and a standby that is beyond it has everything. Ours.
	Shutdown bool `json:"shutdown,omitempty"`
	// Timeline is the timeline Optime lies on. Ours.
	Timeline uint32 `json:"timeline,omitempty"`
}

// ParseStatus reads the key. Patroni before 2.1 wrote a bare number.
func ParseStatus(b []byte) (Status, error) {
	var s Status
	var bare LSN
	if json.Unmarshal(b, &bare) == nil {
		return Status{Optime: bare}, nil
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return Status{}, fmt.Errorf("parse status: %w", err)
	}
	return s, nil
}

// FailoverRequest is the value of the key "failover": a planned switchover, or a fail-over that an
// operator ordered. The JSON is Patroni's; the fields after ScheduledAt are ours.
type FailoverRequest struct {
	// Leader is the member that must lead for the request to hold; empty for a manual fail-over.
	Leader string `json:"leader,omitempty"`
	// Candidate is the member to lead next; empty lets the cluster choose (switchover only).
	Candidate string `json:"member,omitempty"`
	// ScheduledAt is ISO 8601 with offset; empty for at once.
	ScheduledAt string `json:"scheduled_at,omitempty"`
	// ID names the request, so that its author can tell its outcome from another's.
	ID string `json:"id,omitempty"`
	// Force lets an operator promote a candidate that may miss acknowledged commits.
	Force bool `json:"force,omitempty"`
}

// Switchover says whether the request is a planned one (it names the leader that hands over).
func (f FailoverRequest) Switchover() bool { return f.Leader != "" }

// scheduleLayouts are the forms of ISO 8601 that Patroni's tools write.
var scheduleLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999Z0700", "2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999Z0700", "2006-01-02T15:04Z07:00", "2006-01-02 15:04Z07:00"}

// ParseSchedule reads the time of a scheduled action. It must carry its offset from UTC.
func ParseSchedule(s string) (time.Time, error) {
	for _, layout := range scheduleLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("parse the time %q: want a form like 2026-01-31T03:00:00+00:00, with the offset from UTC", s)
}

// Outcome is the value of the key "outcome": how the last fail-over request ended. Ours.
type Outcome struct {
	ID   string `json:"id,omitempty"`
	Text string `json:"text"`
	Done bool   `json:"done"` // it was carried out
}
