package pgconf

import (
	"math"
	"strconv"
	"strings"
)

// atRestart are the parameters of PostgreSQL 13 to 18 that change at a restart only (context
// postmaster in pg_settings), with the version from which on, and before which, that holds; 0 for
// no limit.
var atRestart = map[string][2]int{
	"archive_mode": {}, "autovacuum_freeze_max_age": {}, "autovacuum_max_workers": {0, 180000},
	"autovacuum_multixact_freeze_max_age": {}, "autovacuum_worker_slots": {}, "bonjour": {}, "bonjour_name": {}, "cluster_name": {},
	"commit_timestamp_buffers": {}, "config_file": {}, "data_directory": {}, "data_sync_retry": {}, "debug_io_direct": {},
	"dynamic_shared_memory_type": {}, "event_source": {}, "external_pid_file": {}, "hba_file": {}, "hot_standby": {}, "huge_page_size": {},
	"huge_pages": {}, "ident_file": {}, "ignore_invalid_pages": {}, "io_max_combine_limit": {}, "io_max_concurrency": {}, "io_method": {},
	"jit_provider": {}, "listen_addresses": {}, "logging_collector": {}, "max_active_replication_origins": {}, "max_connections": {},
	"max_files_per_process": {}, "max_locks_per_transaction": {}, "max_logical_replication_workers": {}, "max_notify_queue_pages": {},
	"max_pred_locks_per_transaction": {}, "max_prepared_transactions": {}, "max_replication_slots": {}, "max_wal_senders": {},
	"max_worker_processes": {}, "min_dynamic_shared_memory": {}, "multixact_member_buffers": {}, "multixact_offset_buffers": {},
	"notify_buffers": {}, "old_snapshot_threshold": {}, "pg_stat_statements.max": {}, "port": {}, "recovery_target": {},
	"recovery_target_action": {}, "recovery_target_inclusive": {}, "recovery_target_lsn": {}, "recovery_target_name": {},
	"recovery_target_time": {}, "recovery_target_timeline": {}, "recovery_target_xid": {}, "reserved_connections": {},
	"restore_command": {0, 140000}, "serializable_buffers": {}, "shared_buffers": {}, "shared_memory_type": {}, "shared_preload_libraries": {},
	"subtransaction_buffers": {}, "superuser_reserved_connections": {}, "trace_connection_negotiation": {}, "track_activity_query_size": {},
	"track_commit_timestamp": {}, "transaction_buffers": {}, "unix_socket_directories": {}, "unix_socket_group": {},
	"unix_socket_permissions": {}, "wal_buffers": {}, "wal_decode_buffer_size": {}, "wal_level": {}, "wal_log_hints": {},
}

// NeedsRestart says whether a change of the parameter takes effect at a restart only, in the given
// version. Of extensions' parameters only a few are known; PostgreSQL's own pending_restart tells
// of all.
func NeedsRestart(name string, version int) bool {
	limits, ok := atRestart[strings.ToLower(name)]
	return ok && version >= limits[0] && (limits[1] == 0 || version < limits[1])
}

// lifetimes are parameters that not all versions from 13 to 18 know: the first version with it, and
// the first without it again.
var lifetimes = map[string][2]int{
	"operator_precedence_warning": {0, 140000}, "vacuum_cleanup_index_scale_factor": {0, 140000}, "stats_temp_directory": {0, 150000},
	"vacuum_defer_cleanup_age": {0, 160000}, "force_parallel_mode": {0, 160000}, "promote_trigger_file": {0, 160000}, "lc_collate": {0, 160000}, "lc_ctype": {0, 160000},
	"old_snapshot_threshold": {0, 170000}, "db_user_namespace": {0, 170000}, "trace_recovery_messages": {0, 170000},
	"huge_page_size": {140000, 0}, "min_dynamic_shared_memory": {140000, 0}, "client_connection_check_interval": {140000, 0}, "compute_query_id": {140000, 0},
	"idle_session_timeout": {140000, 0}, "log_recovery_conflict_waits": {140000, 0}, "recovery_init_sync_method": {140000, 0},
	"ssl_crl_dir": {140000, 0}, "track_wal_io_timing": {140000, 0}, "vacuum_failsafe_age": {140000, 0}, "vacuum_multixact_failsafe_age": {140000, 0},
	"default_toast_compression": {140000, 0}, "enable_async_append": {140000, 0}, "enable_memoize": {140000, 0}, "remove_temp_files_after_crash": {140000, 0},
	"archive_library": {150000, 0}, "log_startup_progress_interval": {150000, 0}, "recovery_prefetch": {150000, 0}, "wal_decode_buffer_size": {150000, 0},
	"stats_fetch_consistency": {150000, 0}, "allow_in_place_tablespaces": {150000, 0}, "enable_group_by_reordering": {170000, 0},
	"reserved_connections": {160000, 0}, "vacuum_buffer_usage_limit": {160000, 0}, "scram_iterations": {160000, 0}, "createrole_self_grant": {160000, 0},
	"debug_parallel_query": {160000, 0}, "send_abort_for_crash": {160000, 0}, "send_abort_for_kill": {160000, 0}, "gss_accept_delegation": {160000, 0},
	"icu_validation_level": {160000, 0}, "max_parallel_apply_workers_per_subscription": {160000, 0}, "enable_presorted_aggregate": {160000, 0}, "debug_io_direct": {160000, 0},
	"allow_alter_system": {170000, 0}, "commit_timestamp_buffers": {170000, 0}, "event_triggers": {170000, 0}, "huge_pages_status": {170000, 0},
	"io_combine_limit": {170000, 0}, "max_notify_queue_pages": {170000, 0}, "multixact_member_buffers": {170000, 0}, "multixact_offset_buffers": {170000, 0},
	"notify_buffers": {170000, 0}, "serializable_buffers": {170000, 0}, "subtransaction_buffers": {170000, 0}, "summarize_wal": {170000, 0},
	"sync_replication_slots": {170000, 0}, "synchronized_standby_slots": {170000, 0}, "trace_connection_negotiation": {170000, 0},
	"transaction_buffers": {170000, 0}, "transaction_timeout": {170000, 0}, "wal_summary_keep_time": {170000, 0},
	"autovacuum_vacuum_max_threshold": {180000, 0}, "autovacuum_worker_slots": {180000, 0}, "enable_distinct_reordering": {180000, 0},
	"enable_self_join_elimination": {180000, 0}, "extension_control_path": {180000, 0}, "file_copy_method": {180000, 0},
	"idle_replication_slot_timeout": {180000, 0}, "io_max_combine_limit": {180000, 0}, "io_max_concurrency": {180000, 0}, "io_method": {180000, 0},
	"io_workers": {180000, 0}, "log_lock_failures": {180000, 0}, "max_active_replication_origins": {180000, 0}, "md5_password_warnings": {180000, 0},
	"oauth_validator_libraries": {180000, 0}, "ssl_groups": {180000, 0}, "ssl_tls13_ciphers": {180000, 0}, "track_cost_delay_timing": {180000, 0},
	"vacuum_max_eager_freeze_failure_rate": {180000, 0}, "vacuum_truncate": {180000, 0},
}

// lifetime is the first version that knows a parameter, and the first that does not any more (0: none).
func lifetime(name string) (since, until int) { l := lifetimes[name]; return l[0], l[1] }

// Changes are the parameters that differ between two sets of settings, sorted.
type Changes struct {
	Restart []string // these wait for a restart
	Reload  []string // these take effect at a reload
}

// Diff compares the settings that a server was started or last reloaded with to wanted ones.
// Different spellings of one value (1GB and 1024MB, on and true) are no difference.
func Diff(old, wanted map[string]string, version int) Changes {
	var c Changes
	names := map[string]bool{}
	for n := range old {
		names[n] = true
	}
	for n := range wanted {
		names[n] = true
	}
	for _, n := range sorted(names) {
		a, hadA := old[n]
		b, hadB := wanted[n]
		if hadA == hadB && SameValue(a, b) {
			continue
		}
		if NeedsRestart(n, version) {
			c.Restart = append(c.Restart, n)
		} else {
			c.Reload = append(c.Reload, n)
		}
	}
	return c
}

// SameValue says whether two texts are surely the same value: equal, equal but for case and words
// for booleans, or equal numbers with a unit. A number without a unit depends on the parameter, so it
// is the same as another number only, and texts with commas or blanks are compared as they are.
func SameValue(a, b string) bool {
	if a == b {
		return true
	}
	x, okX := quantity(a)
	y, okY := quantity(b)
	if okX || okY {
		return okX && okY && x == y
	}
	p, okP := boolean(a)
	q, okQ := boolean(b)
	return okP && okQ && p == q
}

func boolean(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "on", "true", "yes":
		return true, true
	case "off", "false", "no":
		return false, true
	}
	return false, false
}

type amount struct {
	kind  byte // 'b' bytes, 't' microseconds, '#' bare
	value float64
}

var units = map[string]amount{"": {'#', 1}, "B": {'b', 1}, "kB": {'b', 1 << 10}, "MB": {'b', 1 << 20}, "GB": {'b', 1 << 30}, "TB": {'b', 1 << 40},
	"us": {'t', 1}, "ms": {'t', 1e3}, "s": {'t', 1e6}, "min": {'t', 60e6}, "h": {'t', 3600e6}, "d": {'t', 86400e6}}

func quantity(s string) (amount, bool) {
	s = strings.TrimSpace(s)
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.' || i == 0 && (s[i] == '-' || s[i] == '+')) {
		i++
	}
	u, ok := units[strings.TrimSpace(s[i:])]
	f, err := strconv.ParseFloat(s[:i], 64)
	if !ok || err != nil || math.IsInf(f, 0) {
		return amount{}, false
	}
	return amount{u.kind, f * u.value}, true
}
