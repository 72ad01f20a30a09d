package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Status is what the server says of itself, all of it from one statement.
type Status struct {
	InRecovery bool
	Version    int // server_version_num
	SystemID   string
	StartedAt  time.Time // pg_postmaster_start_time(), by the wall clock: for people
	// Timeline: on a primary the one it writes; on a standby the highest of the received WAL and
	// of the control file.
	Timeline uint32
	// Written and Flushed are the end of WAL on a primary; zero on a standby.
	Written, Flushed cluster.LSN
	// Received is the end of WAL that a standby has received and flushed; zero when it has not
	// streamed since its start. After it reconnects it may lie below Replayed: use LSN.
	Received, Replayed cluster.LSN
	ReplayPaused       bool
	// ReplayedAt is the commit time of the last replayed transaction, by the primary's wall clock.
	ReplayedAt time.Time
	// Receiver is nil when no WAL receiver is connected. ReceiverRuns is true also while one is on its way
	// to connect, which pg_stat_wal_receiver does not show.
	Receiver     *Receiver
	ReceiverRuns bool
	// WantsWAL says that recovery has replayed all WAL on this disk and waits for more. Until that was so
	// once since the start, LSN may be less than what is on the disk.
	WantsWAL bool
	// WALWaiters counts the clients that wait for WAL to be written, or for those who write it.
	WALWaiters int
	// SynchronousStandbyNames is the live value.
	SynchronousStandbyNames string
	PrimaryConninfoSet      bool
	PendingRestart          []PendingSetting
	Replication             []Replica
	Slots                   []Slot
}

// LSN is the end of WAL that is safely on this node's disk.
func (s Status) LSN() cluster.LSN {
	if s.InRecovery {
		return max(s.Received, s.Replayed)
	}
	return s.Flushed
}

// Receiver is the WAL receiver of a standby (pg_stat_wal_receiver).
type Receiver struct {
	PID      int         `json:"pid"`
	Status   string      `json:"status"`
	Timeline uint32      `json:"received_tli"`
	Flushed  cluster.LSN `json:"-"`
	// SenderHost and SenderPort say whom it follows; Slot is the slot it uses.
	SenderHost string `json:"sender_host"`
	SenderPort int    `json:"sender_port"`
	Slot       string `json:"slot_name"`
	// SilentFor is how long ago the last message came.
	SilentFor time.Duration `json:"-"`
}

// Streaming says whether WAL flows.
func (r *Receiver) Streaming() bool { return r != nil && r.Status == "streaming" }

// PendingSetting is a setting whose new value takes a restart.
type PendingSetting struct {
	Name string `json:"name"`
	Old  string `json:"old"` // in force
	New  string `json:"new"` // in the files; empty when it was removed from them
	Unit string `json:"unit"`
}

// Replica is a row of pg_stat_replication.
type Replica struct {
	PID                        int
	ApplicationName            string
	Username                   string
	ClientAddr                 string
	State                      string // startup, catchup, streaming, backup, stopping
	SyncState                  string // async, potential, sync, quorum
	Sent, Write, Flush, Replay cluster.LSN
}

// Slot is a row of pg_replication_slots.
type Slot struct {
	Name, Type, Plugin, Database string
	Active, Temporary            bool
	ActivePID                    int
	RestartLSN, ConfirmedFlush   cluster.LSN
	// WALStatus is reserved, extended, unreserved or lost.
	WALStatus string
	// Failover and Synced exist from 17 on.
	Failover, Synced bool
}

// statusSQL is one statement for 13 to 18: columns that not all versions have are taken from the
// row as JSON, where an unknown one is null. Whether the server is in recovery is asked once, so
// that a promotion in the middle cannot mix two answers; the functions that fail in the other role
// stand behind CASE.
const statusSQL = `
WITH r AS MATERIALIZED (SELECT pg_is_in_recovery() AS rec)
SELECT jsonb_build_object(
 'in_recovery', rec,
 'version', current_setting('server_version_num')::int,
 'system_id', (SELECT system_identifier::text FROM pg_control_system()),
 'started_at', extract(epoch FROM pg_postmaster_start_time()),
 'walfile', CASE WHEN NOT rec THEN pg_walfile_name(pg_current_wal_insert_lsn()) END,
 'written', CASE WHEN NOT rec THEN pg_current_wal_lsn() END,
 'flushed', CASE WHEN NOT rec THEN pg_current_wal_flush_lsn() END,
 'checkpoint_tli', (SELECT timeline_id FROM pg_control_checkpoint()),
 'recovery_tli', (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
 'received', CASE WHEN rec THEN pg_last_wal_receive_lsn() END,
 'replayed', CASE WHEN rec THEN pg_last_wal_replay_lsn() END,
 'replayed_at', CASE WHEN rec THEN extract(epoch FROM pg_last_xact_replay_timestamp()) END,
 'paused', CASE WHEN rec AND pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
 'receiver', (SELECT to_jsonb(w) || jsonb_build_object('conninfo', NULL,
     'silent', extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time))
   FROM pg_stat_get_wal_receiver() w WHERE w.pid IS NOT NULL),
 'receiver_runs', rec AND EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver'),
 'wants_wal', rec AND EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup'
     AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')),
 'wal_waiters', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active'
     AND wait_event IN ('WALWrite', 'WALSync', 'WalWrite', 'WalSync', 'WALInsert', 'WALBufMapping')),
 'ssn', current_setting('synchronous_standby_names'),
 'conninfo_set', current_setting('primary_conninfo') <> '',
 'pending', (SELECT jsonb_agg(jsonb_build_object('name', name, 'old', setting, 'unit', unit, 'new',
     (SELECT f.setting FROM pg_file_settings f WHERE lower(f.name) = lower(s.name) ORDER BY f.seqno DESC LIMIT 1)))
   FROM pg_settings s WHERE pending_restart AND (setting IS DISTINCT FROM boot_val
     OR EXISTS (SELECT FROM pg_file_settings f WHERE lower(f.name) = lower(s.name)))),
 'replication', (SELECT jsonb_agg(to_jsonb(p)) FROM pg_stat_replication p),
 'slots', (SELECT jsonb_agg(to_jsonb(p)) FROM pg_replication_slots p)
)::text FROM r`

// lsnText reads a pg_lsn; null and absent are zero.
type lsnText struct{ cluster.LSN }

func (l *lsnText) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return err
	}
	var err error
	l.LSN, err = cluster.ParseLSN(*s)
	return err
}

// statusJSON is the shape of statusSQL's answer.
type statusJSON struct {
	InRecovery  bool     `json:"in_recovery"`
	Version     int      `json:"version"`
	SystemID    string   `json:"system_id"`
	StartedAt   float64  `json:"started_at"`
	WALFile     string   `json:"walfile"`
	Written     lsnText  `json:"written"`
	Flushed     lsnText  `json:"flushed"`
	CheckTLI    uint32   `json:"checkpoint_tli"`
	RecoveryTLI uint32   `json:"recovery_tli"`
	Received    lsnText  `json:"received"`
	Replayed    lsnText  `json:"replayed"`
	ReplayedAt  *float64 `json:"replayed_at"`
	Paused      bool     `json:"paused"`
	Receiver    *struct {
		Receiver
		FlushedLSN lsnText  `json:"flushed_lsn"`
		Silent     *float64 `json:"silent"`
	} `json:"receiver"`
	RcvRuns     bool             `json:"receiver_runs"`
	WantsWAL    bool             `json:"wants_wal"`
	WALWaiters  int              `json:"wal_waiters"`
	SSN         string           `json:"ssn"`
	ConninfoSet bool             `json:"conninfo_set"`
	Pending     []PendingSetting `json:"pending"`
	Replication []struct {
		PID             int     `json:"pid"`
		ApplicationName string  `json:"application_name"`
		Username        string  `json:"usename"`
		ClientAddr      string  `json:"client_addr"`
		State           string  `json:"state"`
		SyncState       string  `json:"sync_state"`
		Sent            lsnText `json:"sent_lsn"`
		Write           lsnText `json:"write_lsn"`
		Flush           lsnText `json:"flush_lsn"`
		Replay          lsnText `json:"replay_lsn"`
	} `json:"replication"`
	Slots []struct {
		Name       string  `json:"slot_name"`
		Type       string  `json:"slot_type"`
		Plugin     string  `json:"plugin"`
		Database   string  `json:"database"`
		Active     bool    `json:"active"`
		Temporary  bool    `json:"temporary"`
		ActivePID  int     `json:"active_pid"`
		RestartLSN lsnText `json:"restart_lsn"`
		Confirmed  lsnText `json:"confirmed_flush_lsn"`
		WALStatus  string  `json:"wal_status"`
		Failover   bool    `json:"failover"`
		Synced     bool    `json:"synced"`
	} `json:"slots"`
}

// Status asks the server for everything at once, over the reserved connection, bounded by
// SQLTimeout. ErrNotRunning and ErrStarting tell the plain cases of no answer; a deadline means
// that nobody knows.
func (s *Server) Status(ctx context.Context) (Status, error) {
	var text string
	err := s.reserved(ctx, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, statusSQL).Scan(&text)
	})
	if err != nil {
		return Status{}, fmt.Errorf("ask PostgreSQL for its status: %w", err)
	}
	st, err := parseStatus([]byte(text))
	if err != nil {
		return Status{}, fmt.Errorf("ask PostgreSQL for its status: %w", err)
	}
	return st, nil
}

func parseStatus(b []byte) (Status, error) {
	var j statusJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return Status{}, err
	}
	st := Status{InRecovery: j.InRecovery, Version: j.Version, SystemID: j.SystemID,
		StartedAt: epoch(j.StartedAt), Written: j.Written.LSN, Flushed: j.Flushed.LSN,
		Received: j.Received.LSN, Replayed: j.Replayed.LSN, ReplayPaused: j.Paused,
		ReceiverRuns: j.RcvRuns, WantsWAL: j.WantsWAL, WALWaiters: j.WALWaiters, SynchronousStandbyNames: j.SSN, PrimaryConninfoSet: j.ConninfoSet, PendingRestart: j.Pending}
	if j.ReplayedAt != nil {
		st.ReplayedAt = epoch(*j.ReplayedAt)
	}
	if j.InRecovery {
		st.Timeline = max(j.CheckTLI, j.RecoveryTLI)
		if r := j.Receiver; r != nil {
			st.Receiver = &r.Receiver
			r.Receiver.Flushed = r.FlushedLSN.LSN
			if r.Silent != nil {
				r.Receiver.SilentFor = time.Duration(*r.Silent * float64(time.Second))
			}
			if st.Receiver.Flushed != 0 {
				st.Timeline = max(st.Timeline, r.Receiver.Timeline)
			}
		}
	} else {
		// The control file still names the old timeline right after a promotion, until the first
		// checkpoint; the name of the WAL file that is being written does not.
		if len(j.WALFile) < 8 {
			return Status{}, fmt.Errorf("WAL file name %q has no timeline", j.WALFile)
		}
		tl, err := strconv.ParseUint(j.WALFile[:8], 16, 32)
		if err != nil {
			return Status{}, fmt.Errorf("WAL file name %q: %w", j.WALFile, err)
		}
		st.Timeline = uint32(tl)
	}
	for _, r := range j.Replication {
		st.Replication = append(st.Replication, Replica{PID: r.PID, ApplicationName: r.ApplicationName,
			Username: r.Username, ClientAddr: r.ClientAddr, State: r.State, SyncState: r.SyncState,
			Sent: r.Sent.LSN, Write: r.Write.LSN, Flush: r.Flush.LSN, Replay: r.Replay.LSN})
	}
	for _, x := range j.Slots {
		st.Slots = append(st.Slots, Slot{Name: x.Name, Type: x.Type, Plugin: x.Plugin, Database: x.Database,
			Active: x.Active, Temporary: x.Temporary, ActivePID: x.ActivePID, RestartLSN: x.RestartLSN.LSN,
			ConfirmedFlush: x.Confirmed.LSN, WALStatus: x.WALStatus, Failover: x.Failover, Synced: x.Synced})
	}
	// A stable order, so that two answers can be compared.
	slices.SortFunc(st.Replication, func(a, b Replica) int {
		if c := strings.Compare(a.ApplicationName, b.ApplicationName); c != 0 {
			return c
		}
		return a.PID - b.PID
	})
	slices.SortFunc(st.Slots, func(a, b Slot) int { return strings.Compare(a.Name, b.Name) })
	return st, nil
}

func epoch(s float64) time.Time { return time.UnixMicro(int64(s * 1e6)).UTC() }
