package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// ControlState is "Database cluster state" of pg_controldata
// (src/bin/pg_controldata/pg_controldata.c, dbState).
type ControlState string

// The states of a data directory. A crash leaves the state it happened in.
const (
	ControlStartingUp         ControlState = "starting up"
	ControlShutDown           ControlState = "shut down"
	ControlShutDownInRecovery ControlState = "shut down in recovery"
	ControlShuttingDown       ControlState = "shutting down"
	ControlInCrashRecovery    ControlState = "in crash recovery"
	ControlInArchiveRecovery  ControlState = "in archive recovery"
	ControlInProduction       ControlState = "in production"
	ControlUnrecognized       ControlState = "unrecognized status code"
)

var controlStates = map[ControlState]bool{ControlStartingUp: true, ControlShutDown: true,
	ControlShutDownInRecovery: true, ControlShuttingDown: true, ControlInCrashRecovery: true,
	ControlInArchiveRecovery: true, ControlInProduction: true, ControlUnrecognized: true}

// ControlData is the part of global/pg_control that hathi uses.
type ControlData struct {
	SystemID string
	State    ControlState
	// Checkpoint is where the latest checkpoint record begins, Redo where a recovery from it
	// starts, Timeline its timeline. On a stopped primary (ControlShutDown) Checkpoint is the
	// shutdown checkpoint.
	Checkpoint, Redo       cluster.LSN
	Timeline, PrevTimeline uint32
	// MinRecoveryEnd is how far a standby must replay before it is consistent, on
	// MinRecoveryTimeline; zero on a primary.
	MinRecoveryEnd      cluster.LSN
	MinRecoveryTimeline uint32
	// ChecksumVersion is 0 without data checksums.
	ChecksumVersion int
	WALLogHints     bool
	WALSegmentSize  int64
	// The settings that a standby must not undercut.
	WALLevel                                                                             string
	MaxConnections, MaxWorkerProcesses, MaxWALSenders, MaxPreparedXacts, MaxLocksPerXact int
	// Values are all lines, by their label, for people.
	Values map[string]string
}

// CleanlyStopped says that the server wrote a shutdown checkpoint or restartpoint.
func (c ControlData) CleanlyStopped() bool {
	return c.State == ControlShutDown || c.State == ControlShutDownInRecovery
}

// CanRewind says whether pg_rewind accepts the directory: checksums, or wal_log_hints.
func (c ControlData) CanRewind() bool { return c.ChecksumVersion != 0 || c.WALLogHints }

// Control runs pg_controldata. The data directory may be in use.
func (s *Server) Control(ctx context.Context) (ControlData, error) {
	out, err := s.output(ctx, "pg_controldata", "-D", s.cfg.DataDir)
	if err != nil {
		return ControlData{}, fmt.Errorf("read the control file of %s: %w", s.cfg.DataDir, err)
	}
	c, err := ParseControlData(out)
	if err != nil {
		return ControlData{}, fmt.Errorf("read the control file of %s: %w", s.cfg.DataDir, err)
	}
	return c, nil
}

// ParseControlData reads what pg_controldata prints under LC_ALL=C, versions 13 to 18. The system
// identifier, the state, the checkpoint and its timeline must be there; the rest is zero when it
// is not.
func ParseControlData(text string) (ControlData, error) {
	c := ControlData{Values: map[string]string{}}
	for line := range strings.Lines(text) {
		label, value, ok := strings.Cut(line, ":")
		if ok {
			c.Values[strings.TrimSpace(label)] = strings.TrimSpace(value)
		}
	}
	var errs []error
	note := func(label string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", label, err))
		}
	}
	must := func(label string) string {
		if c.Values[label] == "" {
			note(label, errors.New("missing"))
		}
		return c.Values[label]
	}
	lsn := func(label string, into *cluster.LSN) {
		if v := c.Values[label]; v != "" {
			var err error
			*into, err = cluster.ParseLSN(v)
			note(label, err)
		}
	}
	number := func(label string) int64 {
		v := c.Values[label]
		if v == "" {
			return 0
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil && n < 0 {
			err = fmt.Errorf("%d is negative", n)
		}
		note(label, err)
		return n
	}
	timeline := func(label string) uint32 {
		n := number(label)
		if n > 1<<32-1 {
			note(label, fmt.Errorf("timeline %d is out of range", n))
		}
		return uint32(n)
	}

	c.SystemID = must("Database system identifier")
	if _, err := strconv.ParseUint(c.SystemID, 10, 64); c.SystemID != "" {
		note("Database system identifier", err)
	}
	c.State = ControlState(must("Database cluster state"))
	if c.State != "" && !controlStates[c.State] {
		note("Database cluster state", fmt.Errorf("unknown state %q", string(c.State)))
	}
	must("Latest checkpoint location")
	lsn("Latest checkpoint location", &c.Checkpoint)
	lsn("Latest checkpoint's REDO location", &c.Redo)
	must("Latest checkpoint's TimeLineID")
	c.Timeline = timeline("Latest checkpoint's TimeLineID")
	c.PrevTimeline = timeline("Latest checkpoint's PrevTimeLineID")
	lsn("Minimum recovery ending location", &c.MinRecoveryEnd)
	c.MinRecoveryTimeline = timeline("Min recovery ending loc's timeline")
	c.ChecksumVersion = int(number("Data page checksum version"))
	c.WALLogHints = c.Values["wal_log_hints setting"] == "on"
	c.WALSegmentSize = number("Bytes per WAL segment")
	c.WALLevel = c.Values["wal_level setting"]
	c.MaxConnections = int(number("max_connections setting"))
	c.MaxWorkerProcesses = int(number("max_worker_processes setting"))
	c.MaxWALSenders = int(number("max_wal_senders setting"))
	c.MaxPreparedXacts = int(number("max_prepared_xacts setting"))
	c.MaxLocksPerXact = int(number("max_locks_per_xact setting"))
	if len(errs) > 0 {
		return ControlData{}, fmt.Errorf("parse pg_controldata: %w", errors.Join(errs...))
	}
	return c, nil
}
