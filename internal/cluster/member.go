package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Role is a member's role in Patroni's words.
type Role string

// The roles that appear in member keys and in REST answers.
const (
	RolePrimary       Role = "primary"
	RoleReplica       Role = "replica"
	RoleStandbyLeader Role = "standby_leader"
	RoleUninitialized Role = "uninitialized"
)

// State is the state of a member's PostgreSQL in Patroni's words (patroni/postgresql/misc.py).
type State string

// The states that appear in member keys and in REST answers.
const (
	StateRunning         State = "running"
	StateStreaming       State = "streaming" // only in the cluster view; the member key says running
	StateStarting        State = "starting"
	StateStartFailed     State = "start failed"
	StateStopping        State = "stopping"
	StateStopped         State = "stopped"
	StateStopFailed      State = "stop failed"
	StateCrashed         State = "crashed"
	StateRestarting      State = "restarting"
	StateRestartFailed   State = "restart failed"
	StateInitializing    State = "initializing new cluster"
	StateInitFailed      State = "initdb failed"
	StateCreatingReplica State = "creating replica"
	StateRewinding       State = "running pg_rewind"
)

// Member is the value of the key "members/NAME". Its JSON is Patroni's.
type Member struct {
	Name             string                   `json:"-"`
	APIURL           string                   `json:"api_url,omitempty"`
	ConnURL          string                   `json:"conn_url,omitempty"`
	PendingRestart   bool                     `json:"pending_restart,omitempty"`
	PendingReason    map[string]PendingReason `json:"pending_restart_reason,omitempty"`
	ReplicationState string                   `json:"replication_state,omitempty"`
	Role             Role                     `json:"role,omitempty"`
	State            State                    `json:"state,omitempty"`
	Tags             Tags                     `json:"tags,omitempty"`
	Timeline         uint32                   `json:"timeline,omitempty"`
	Version          string                   `json:"version,omitempty"`
	// XLogLocation is the last received or replayed position on a standby, the current write
	// position on a primary, in bytes.
	XLogLocation LSN `json:"xlog_location,omitempty"`
	// ReceiveLSN and ReplayLSN are Patroni 4.1's own fields for standbys, in bytes.
	ReceiveLSN LSN `json:"receive_lsn,omitempty"`
	ReplayLSN  LSN `json:"replay_lsn,omitempty"`
	// Instance is the identity of the data directory; ours. Empty on members run by Patroni.
	Instance string `json:"instance,omitempty"`
	// PeerURL is the small probe endpoint of hathi's own; empty on members run by Patroni.
	PeerURL string `json:"peer_url,omitempty"`
}

// PendingReason says why a setting waits for a restart: the value in force and the one configured.
type PendingReason struct {
	OldValue string `json:"old_value"`
	NewValue string `json:"new_value"`
}

// ParseMember reads a member key.
func ParseMember(name string, b []byte) (Member, error) {
	m := Member{}
	if err := json.Unmarshal(b, &m); err != nil {
		return Member{Name: name}, fmt.Errorf("parse member %s: %w", name, err)
	}
	m.Name = name
	return m, nil
}

// HostPort is the address of the member's PostgreSQL, taken from ConnURL.
func (m Member) HostPort() (host, port string, err error) {
	if m.ConnURL == "" {
		return "", "", fmt.Errorf("member %s publishes no conn_url yet", m.Name)
	}
	u, err := url.Parse(m.ConnURL)
	if err != nil || u.Hostname() == "" {
		return "", "", fmt.Errorf("member %s: conn_url is not a PostgreSQL URL", m.Name)
	}
	port = u.Port()
	if port == "" {
		port = "5432"
	}
	return u.Hostname(), port, nil
}

// SlotName is the replication slot that serves a member: the name in lower case, with every
// character that PostgreSQL refuses in a slot name replaced (patroni/dcs slot_name_from_member_name:
// '-' and '.' become '_', others become u and their code point), cut to 63 bytes.
func SlotName(member string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(member) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_':
			b.WriteRune(r)
		case r == '-' || r == '.':
			b.WriteByte('_')
		default:
			fmt.Fprintf(&b, "u%04d", r)
		}
	}
	s := b.String()
	if len(s) > 63 {
		s = s[:63]
	}
	return s
}

// ErrBadName marks a member, scope or namespace name that cannot be used.
var ErrBadName = errors.New("unusable name")

// reserved are words that synchronous_standby_names and the store give a meaning of their own.
var reserved = map[string]bool{"any": true, "first": true, "*": true, ".": true, "..": true,
	StrictPlaceholder: true, "none": true}

// StrictPlaceholder stands in synchronous_standby_names when strict synchronous mode has no
// standby to name, so that commits wait instead of degrading. The word is Patroni's.
const StrictPlaceholder = "__patroni_strict_sync_replica_placeholder__"

// CheckName says whether s can be a member or scope name: 1 to 63 bytes of letters, digits, dot,
// dash and underscore, beginning with a letter or digit, and none of the words that
// synchronous_standby_names reserves. It wraps ErrBadName.
func CheckName(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("%w %q: want 1 to 63 bytes, got %d", ErrBadName, s, len(s))
	}
	if reserved[strings.ToLower(s)] {
		return fmt.Errorf("%w %q: the word is reserved in synchronous_standby_names; choose another", ErrBadName, s)
	}
	for i, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || i > 0 && (r == '-' || r == '_' || r == '.')
		if !ok {
			return fmt.Errorf("%w %q: character %q at byte %d; want letters, digits, and after the first also . - _", ErrBadName, s, r, i)
		}
	}
	return nil
}
