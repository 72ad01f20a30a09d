package pgconf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Input is everything that the files depend on.
type Input struct {
	// Settings are the dynamic configuration. Of it TTL, Parameters, PgHBA and PgIdent matter.
	Settings cluster.Settings
	// Parameters are the node's own, by lower-case name; they win over those of Settings, except
	// for the shared ones (Shared), which are ignored here as in Patroni.
	Parameters map[string]string
	// PgHBA and PgIdent are the node's own lines; nil for not stated. Stated ones replace those of
	// Settings. With neither, the lines are made from Access.
	PgHBA, PgIdent []string
	// ServerVersion is server_version_num, such as 150018; from 130000.
	ServerVersion int
	// SyncFS says that the kernel's syncfs reports errors.
	SyncFS bool
	// Base are settings of the file that initdb made (ParseConf reads it). Only what initdb takes
	// from the machine is kept of it: locales, time zones, text search, shared memory type.
	Base map[string]string
	// Include is a configuration file of the user's (custom_conf) that is read first; "" for none.
	Include string
	Node    Node
	// Primary says that the node is, or is about to become, the primary.
	Primary bool
	Standby Standby
	// SynchronousStandbyNames is the value, from quorum.Rule; "" for asynchronous.
	SynchronousStandbyNames string
	// Control are the values in the data directory's control file; zero when there is none yet.
	Control Control
	TLS     TLS
	Access  Access
}

// Node are facts of the node.
type Node struct {
	Scope string
	// Listen are the addresses to listen on, "*" for all; empty for the Unix socket alone.
	Listen []string
	Port   int
	// SocketDir is unix_socket_directories; "" leaves the user's or the server's own.
	SocketDir string
	// HBAFile and IdentFile are the paths at which the caller installs them; "" for the data directory.
	HBAFile, IdentFile string
}

// Standby says what a standby follows. It is not used on a primary.
type Standby struct {
	// Conninfo is the text of primary_conninfo (Conninfo.String); "" to follow the archive alone.
	Conninfo string
	// SlotName is the slot on the server followed; "" for none.
	SlotName string
	// RestoreCommand, ArchiveCleanupCommand and RecoveryMinApplyDelay, when not "", win over the
	// parameters of the same names (standby clusters and recovery_conf state them).
	RestoreCommand, ArchiveCleanupCommand, RecoveryMinApplyDelay string
}

// Control are the settings that WAL replay asks for, as the primary last recorded them.
type Control struct {
	MaxConnections, MaxWorkerProcesses, MaxWALSenders, MaxPreparedTransactions, MaxLocksPerTransaction int
}

// TLS are the server's certificate files; Cert "" for no TLS of hathi's making.
type TLS struct{ Cert, Key, CA string }

// Files are the outcome.
type Files struct {
	// Conf, HBA and Ident are whole files.
	Conf, HBA, Ident []byte
	// CommandLine are settings to give the server as arguments, so that neither a file nor ALTER
	// SYSTEM overrides them.
	CommandLine map[string]string
	// Effective are all settings, those of CommandLine included, by name.
	Effective map[string]string
	// PendingRestart are settings that the configuration lowers but that a standby must keep until
	// its primary has been restarted with the lower value.
	PendingRestart map[string]cluster.PendingReason
	// Warnings are settings that were left out, and why.
	Warnings []string
}

// ErrNode marks facts of the node that no file can be made from.
var ErrNode = errors.New("unusable fact for postgresql.conf")

// onCommandLine are the settings given as arguments (Patroni's CMDLINE_OPTIONS, which people look
// for in the process list, less those that can change by reload).
var onCommandLine = []string{"listen_addresses", "port", "cluster_name", "wal_level", "hot_standby", "max_connections",
	"max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction", "track_commit_timestamp", "max_replication_slots",
	"max_worker_processes", "wal_log_hints"}

// Shared says whether a parameter must be equal on all nodes, so that only the dynamic
// configuration can state it.
func Shared(name string) bool {
	return slices.Contains(onCommandLine, name) || name == "wal_keep_size" || name == "wal_keep_segments"
}

// Build makes the files. An error wraps ErrNode: a fact that hathi itself gave is unusable. What a
// user stated wrongly is left out and reported in Warnings, since a bad word in the configuration
// of a running cluster must not stop a node.
func Build(in Input) (Files, error) {
	b := builder{in: in, out: map[string]string{}}
	if err := b.checkNode(); err != nil {
		return Files{}, err
	}
	for name, v := range in.Base {
		if slices.Contains(fromInitDB, name) {
			b.user(name, v, "the original file")
		}
	}
	for name, v := range Defaults(in.Settings.TTL) {
		b.out[name] = v
	}
	if in.SyncFS && in.ServerVersion >= 140000 {
		// Before crash recovery the server makes every file of the data directory durable. One call for
		// the whole file system takes moments where a thousand files take a second, or many.
		b.out["recovery_init_sync_method"] = "syncfs"
	}
	for _, name := range sorted(in.Settings.Parameters) {
		b.user(name, in.Settings.Parameters[name], "the dynamic configuration")
	}
	for _, name := range sorted(in.Parameters) {
		if lower := strings.ToLower(name); Shared(lower) {
			if _, controlled := cluster.ControlledParameter(lower); !controlled {
				b.warn("%s is ignored in the node's own parameters: it must be equal on all nodes; state it in the dynamic configuration", lower)
				continue
			}
		}
		b.user(name, in.Parameters[name], "the node's own parameters")
	}
	b.control()
	pending := b.atLeastControl()
	hba, ident, err := access(in)
	if err != nil {
		return Files{}, err
	}
	f := Files{HBA: hba, Ident: ident, CommandLine: map[string]string{}, Effective: b.out, PendingRestart: pending, Warnings: b.warnings}
	for _, name := range onCommandLine {
		if v, ok := b.out[name]; ok {
			f.CommandLine[name] = v
		}
	}
	f.Conf, err = FormatConf(in.Include, b.out)
	return f, err
}

// fromInitDB are settings that initdb takes from the machine.
var fromInitDB = []string{"lc_messages", "lc_monetary", "lc_numeric", "lc_time", "timezone", "log_timezone", "datestyle",
	"default_text_search_config", "dynamic_shared_memory_type"}

// Defaults are hathi's own settings of PostgreSQL, where they differ from PostgreSQL's, for a lease
// of length ttl. They hold unless the user states another value.
func Defaults(ttl time.Duration) map[string]string {
	// A connection to a node that vanished is given up about when somebody else takes over. Below
	// five seconds a busy network would cut healthy ones.
	dead := strconv.FormatInt(min(max(ttl, 5*time.Second), time.Minute).Milliseconds(), 10) + "ms"
	return map[string]string{
		"wal_level":                 "replica",
		"wal_log_hints":             "on", // pg_rewind
		"max_connections":           "100",
		"max_wal_senders":           "10",
		"max_replication_slots":     "10",
		"max_worker_processes":      "8",
		"max_prepared_transactions": "0",
		"max_locks_per_transaction": "64",
		"track_commit_timestamp":    "off",
		"wal_keep_size":             "128MB",
		// The slot of a node that is away must not fill the primary's disk.
		"max_slot_wal_keep_size": "10GB",
		// At the server's own 5 s a promotion sleeps for up to that long.
		"wal_retrieve_retry_interval":  "100ms",
		"wal_receiver_status_interval": "1s",
		"wal_receiver_timeout":         dead,
		"wal_sender_timeout":           dead,
		"password_encryption":          "scram-sha-256",
		// A client that vanished gives its connection and its locks back within about a minute.
		"tcp_keepalives_idle":     "30",
		"tcp_keepalives_interval": "10",
		"tcp_keepalives_count":    "3",
		"tcp_user_timeout":        "60000",
		"log_checkpoints":         "on",
		"log_lock_waits":          "on",
		"log_line_prefix":         "%m [%p] %q%u@%d %a %h ",
	}
}

type builder struct {
	in       Input
	out      map[string]string
	warnings []string
}

func (b *builder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

// checkNode refuses what hathi itself must never pass in.
func (b *builder) checkNode() error {
	in := b.in
	if in.ServerVersion < 130000 || in.ServerVersion > 999999 {
		return fmt.Errorf("%w: server version %d, want 130000 or later", ErrNode, in.ServerVersion)
	}
	if in.Node.Port < 1 || in.Node.Port > 65535 {
		return fmt.Errorf("%w: port %d", ErrNode, in.Node.Port)
	}
	for _, f := range []struct{ what, v string }{{"scope", in.Node.Scope}, {"listen addresses", strings.Join(in.Node.Listen, ",")},
		{"socket directory", in.Node.SocketDir}, {"path of pg_hba.conf", in.Node.HBAFile}, {"path of pg_ident.conf", in.Node.IdentFile},
		{"primary_conninfo", in.Standby.Conninfo}, {"slot name", in.Standby.SlotName}, {"restore_command", in.Standby.RestoreCommand},
		{"archive_cleanup_command", in.Standby.ArchiveCleanupCommand}, {"recovery_min_apply_delay", in.Standby.RecoveryMinApplyDelay},
		{"synchronous_standby_names", in.SynchronousStandbyNames}, {"certificate", in.TLS.Cert + in.TLS.Key + in.TLS.CA}, {"included file", in.Include}} {
		if strings.ContainsAny(f.v, "\n\r\x00") {
			return fmt.Errorf("%w: the %s contains a line break or NUL", ErrNode, f.what)
		}
	}
	return nil
}

// user takes a user's setting, unless it is unknown to the server, malformed, or hathi's own.
func (b *builder) user(name, value, from string) {
	name = strings.ToLower(name)
	if err := cluster.CheckParameter(name, value); err != nil {
		b.warn("%s of %s is left out: %v", strconv.Quote(name), from, err)
		return
	}
	if why, ok := cluster.ControlledParameter(name); ok {
		if name != "hot_standby" || !isOn(value) {
			b.warn("%s of %s is ignored: %s", name, from, why)
		}
		return
	}
	if name == "wal_keep_segments" {
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32)
		if err != nil || n < 0 {
			b.warn("wal_keep_segments of %s is left out: want a whole number", from)
			return
		}
		name, value = "wal_keep_size", strconv.FormatInt(n*16, 10)+"MB"
	}
	if since, until := lifetime(name); b.in.ServerVersion < since || until != 0 && b.in.ServerVersion >= until {
		b.warn("%s of %s is left out: PostgreSQL %d does not know it", name, from, b.in.ServerVersion/10000)
		return
	}
	if name == "wal_level" && (strings.EqualFold(value, "hot_standby") || strings.EqualFold(value, "archive")) {
		value = "replica"
	}
	b.out[name] = value
}

// control sets what hathi controls.
func (b *builder) control() {
	n, s := b.in.Node, b.in.Standby
	set := map[string]string{"listen_addresses": strings.Join(n.Listen, ","), "port": strconv.Itoa(n.Port), "cluster_name": n.Scope,
		"hot_standby": "on", "synchronous_standby_names": b.in.SynchronousStandbyNames,
		"recovery_target_timeline": "latest"} // also on a primary: it was a standby, or will be, and a change takes a restart
	for name, v := range map[string]string{"unix_socket_directories": n.SocketDir, "hba_file": n.HBAFile, "ident_file": n.IdentFile} {
		if v != "" {
			set[name] = v
		}
	}
	if b.in.TLS.Cert != "" {
		for name, v := range map[string]string{"ssl": "on", "ssl_cert_file": b.in.TLS.Cert, "ssl_key_file": b.in.TLS.Key, "ssl_ca_file": b.in.TLS.CA} {
			if _, stated := b.out[name]; !stated && v != "" {
				set[name] = v
			}
		}
	}
	if !b.in.Primary {
		set["primary_conninfo"], set["primary_slot_name"] = s.Conninfo, s.SlotName
		for name, v := range map[string]string{"restore_command": s.RestoreCommand, "archive_cleanup_command": s.ArchiveCleanupCommand,
			"recovery_min_apply_delay": s.RecoveryMinApplyDelay} {
			if v != "" {
				set[name] = v
			}
		}
	}
	maps.Copy(b.out, set)
}

// atLeastControl raises what a standby has too little of for the WAL that it is going to replay:
// with less, hot standby would stop or refuse to start.
func (b *builder) atLeastControl() map[string]cluster.PendingReason {
	if b.in.Primary {
		return nil
	}
	c := b.in.Control
	pending := map[string]cluster.PendingReason{}
	for name, least := range map[string]int{"max_connections": c.MaxConnections, "max_worker_processes": c.MaxWorkerProcesses,
		"max_wal_senders": c.MaxWALSenders, "max_prepared_transactions": c.MaxPreparedTransactions, "max_locks_per_transaction": c.MaxLocksPerTransaction} {
		if have, err := strconv.Atoi(strings.TrimSpace(b.out[name])); err == nil && have < least {
			pending[name] = cluster.PendingReason{OldValue: strconv.Itoa(least), NewValue: b.out[name]}
			b.out[name] = strconv.Itoa(least)
		}
	}
	if len(pending) == 0 {
		return nil
	}
	return pending
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func isOn(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "on", "true", "yes", "1", "t", "y":
		return true
	}
	return false
}
