package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// CommandSettings are PostgreSQL parameters that run a command, load code or name a place that code
// is loaded from or written to. Whoever sets one runs programs as the user of PostgreSQL, so they
// are refused when they come over the network; the local file and commands with access to the
// store may set them. Who may sign in (pg_hba, pg_ident) is treated alike, see commandSections.
var CommandSettings = map[string]bool{
	"archive_command": true, "archive_library": true, "archive_cleanup_command": true, "restore_command": true,
	"recovery_end_command": true, "ssl_passphrase_command": true, "ssl_passphrase_command_supports_reload": true,
	"shared_preload_libraries": true, "session_preload_libraries": true, "local_preload_libraries": true,
	"dynamic_library_path": true, "extension_control_path": true, "jit_provider": true, "krb_server_keyfile": true,
	"log_directory": true, "log_filename": true, "external_pid_file": true, "unix_socket_directories": true,
	"data_directory": true, "config_file": true, "hba_file": true, "ident_file": true, "allow_system_table_mods": true,
	"ssl_ca_file": true, "ssl_cert_file": true, "ssl_key_file": true, "ssl_crl_file": true, "ssl_crl_dir": true, "ssl_dh_params_file": true,
	"oauth_validator_libraries": true, "stats_temp_directory": true, "basic_archive.archive_directory": true,
	"plperl.on_init": true, "plperl.on_plperl_init": true, "plperl.on_plperlu_init": true, "pltcl.start_proc": true, "pltclu.start_proc": true, "include": true, "include_dir": true, "include_if_exists": true,
}

// ErrCommandSetting marks a change that may not come over the network.
type ErrCommandSetting struct{ Path string }

// Error says what to do instead.
func (e ErrCommandSetting) Error() string {
	return fmt.Sprintf("%s: runs programs or chooses files as the user of PostgreSQL, or says who may sign in, so it cannot be set over the network; "+
		"set it in the configuration file or with `hathi edit-config` on a node", e.Path)
}

// CheckRemotePatch returns an ErrCommandSetting for every command setting that a change of the
// dynamic configuration states, wherever in the change it stands. Removing one (null) is allowed.
func CheckRemotePatch(patch map[string]any) []error {
	var errs []error
	var walk func(m map[string]any, path string)
	visit := func(v any, at string) {
		switch v := v.(type) {
		case map[string]any:
			walk(v, at)
		case []any:
			for i, e := range v {
				if m, ok := e.(map[string]any); ok {
					walk(m, fmt.Sprintf("%s[%d]", at, i))
				}
			}
		}
	}
	walk = func(m map[string]any, path string) {
		for _, name := range sortedKeys(m) {
			at := join(path, name)
			lower := strings.ToLower(strings.TrimSpace(name))
			if m[name] != nil && (CommandSettings[lower] || commandSections[lower]) {
				errs = append(errs, ErrCommandSetting{Path: at})
				continue
			}
			visit(m[name], at)
		}
	}
	walk(patch, "")
	return errs
}

// commandSections are keys of the postgresql section whose values are commands or paths, or say who may
// sign in without a password: a superuser runs programs.
var commandSections = map[string]bool{"pg_hba": true, "pg_ident": true, "callbacks": true, "pre_promote": true, "before_stop": true, "create_replica_methods": true,
	"bin_dir": true, "bin_name": true, "custom_conf": true, "command": true, "recovery_conf": true}

// BootstrapDynamic is the dynamic configuration that a new cluster of so many nodes begins with:
// the file's bootstrap.dcs as it stands, with bootstrap.pg_hba moved in, or hathi's own defaults
// when the file states none. The result is the caller's own.
func (c *Config) BootstrapDynamic(nodes int) map[string]any {
	if c.Bootstrap.DCS == nil {
		doc := cluster.NewClusterDoc(nodes)
		c.moveHBA(doc)
		return doc
	}
	doc := deepCopy(c.Bootstrap.DCS).(map[string]any)
	c.moveHBA(doc)
	if _, ok := doc["synchronous_mode"]; !ok && c.Citus != nil {
		doc["synchronous_mode"] = "quorum" // as in Patroni
	}
	return doc
}

func (c *Config) moveHBA(doc map[string]any) {
	if c.Bootstrap.PgHBA == nil {
		return
	}
	pg, _ := doc["postgresql"].(map[string]any)
	if pg == nil {
		pg = map[string]any{}
		doc["postgresql"] = pg
	}
	if _, ok := pg["pg_hba"]; !ok {
		lines := make([]any, len(c.Bootstrap.PgHBA))
		for i, l := range c.Bootstrap.PgHBA {
			lines[i] = l
		}
		pg["pg_hba"] = lines
	}
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = deepCopy(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = deepCopy(e)
		}
		return out
	}
	return v
}

// dynamicPostgreSQL are the keys of the dynamic configuration's postgresql section.
var dynamicPostgreSQL = []string{"authentication", "basebackup", "before_stop", "callbacks", "connect_address", "create_replica_methods",
	"custom_conf", "parameters", "parameters_primary", "parameters_replica", "parameters_standby_leader", "pg_ctl_timeout", "pg_hba",
	"pg_ident", "pre_promote", "recovery_conf", "remove_data_directory_on_diverged_timelines", "remove_data_directory_on_rewind_failure",
	"rewind", "use_pg_rewind", "use_slots"}

// oldNames are keys that were renamed.
var oldNames = map[string]string{"master_start_timeout": "primary_start_timeout", "master_stop_timeout": "primary_stop_timeout"}

// ValidateDynamic checks a document of the dynamic configuration, for edit-config and the REST
// API. Paths are those of the document. Unknown keys are warnings: the document is kept verbatim.
func ValidateDynamic(doc map[string]any) Problems {
	var out Problems
	add := func(sev Severity, path, hint, format string, args ...any) {
		out = append(out, Problem{Path: path, Severity: sev, Hint: hint, Message: fmt.Sprintf(format, args...)})
	}
	dyn, errs := cluster.DynamicFrom(doc)
	for _, err := range errs {
		path, msg, ok := strings.Cut(err.Error(), ": ")
		if !ok {
			path, msg = "", err.Error()
		}
		add(Error, path, "", "%s", msg)
	}
	for _, name := range sortedKeys(doc) {
		if now := oldNames[name]; now != "" {
			add(Warning, name, "rename it to "+now, "is the old name of %s", now)
		} else if !slices.Contains(dynamicKeys, name) {
			hint := ""
			if near := nearest(name, dynamicKeys); near != "" {
				hint = "did you mean " + near + "?"
			}
			add(Warning, name, hint, "unknown setting, kept and ignored")
		}
	}
	if len(dyn.StandbyCluster) > 0 {
		add(Error, "standby_cluster", "remove the section, or keep running this cluster with Patroni", "this release does not follow another cluster: its nodes would not lead")
	}
	for _, name := range sortedKeys(dyn.Slots) {
		if m, ok := dyn.Slots[name].(map[string]any); ok && m["type"] == "logical" {
			add(Warning, "slots."+name, "on PostgreSQL 17 and later create it with failover = true and set sync_replication_slots", "this release keeps physical slots only; a logical slot is left as it is and does not survive a fail-over by itself")
		}
	}
	pg, _ := doc["postgresql"].(map[string]any)
	for _, name := range sortedKeys(pg) {
		if !slices.Contains(dynamicPostgreSQL, name) {
			hint := ""
			if near := nearest(name, dynamicPostgreSQL); near != "" {
				hint = "did you mean postgresql." + near + "?"
			}
			add(Warning, "postgresql."+name, hint, "unknown setting, kept and ignored")
		}
	}
	dynamicLines(pg, add)
	for _, name := range []string{"parameters", "parameters_primary", "parameters_replica", "parameters_standby_leader"} {
		params, _ := pg[name].(map[string]any)
		dynamicParameters("postgresql."+name, params, add)
	}
	if _, adjusted := AdjustTimeouts(dyn.Settings); adjusted != "" {
		add(Warning, "retry_timeout", "change one of the three", "%s", adjusted)
	}
	combinations(dyn.Settings, add)
	return out
}

type adder func(sev Severity, path, hint, format string, args ...any)

func dynamicLines(pg map[string]any, add adder) {
	lines, _ := pg["pg_hba"].([]any)
	for i, l := range lines {
		if s, ok := l.(string); ok {
			if _, _, err := parseHBA(s); err != nil {
				add(Error, fmt.Sprintf("postgresql.pg_hba[%d]", i), "PostgreSQL would refuse the whole file", "%v", err)
			}
		}
	}
}

func dynamicParameters(at string, params map[string]any, add adder) {
	for _, name := range sortedKeys(params) {
		lower := strings.ToLower(name)
		text, ok := cluster.ParameterText(params[name])
		if params[name] == nil || !ok {
			continue // DynamicFrom said so
		}
		if err := cluster.CheckParameter(lower, text); err != nil {
			add(Error, at+"."+name, "", "%v", err)
			continue
		}
		if why, ok := cluster.ControlledParameter(name); ok {
			sev := Error
			if slices.Contains([]string{"listen_addresses", "port", "cluster_name", "hot_standby"}, lower) {
				sev = Warning // Patroni ignores these too
			}
			add(sev, at+"."+name, "remove it", "cannot be set: %s", why)
			continue
		}
		if least, ok := leastValues[lower]; ok {
			if n, isNumber := cluster.Bytes(params[name]); !isNumber || n < least {
				add(Error, at+"."+name, "", "want a whole number of at least %d, got %v", least, params[name])
			}
		}
		if lower == "wal_level" && !slices.Contains([]string{"replica", "logical", "hot_standby", "archive"}, strings.ToLower(text)) {
			add(Error, at+"."+name, "", "want replica or logical: standbys cannot follow %q", text)
		}
		if lower == "wal_keep_segments" {
			add(Warning, at+"."+name, "use wal_keep_size", "is the name before PostgreSQL 13; it is read as that many times 16 MB")
		}
	}
}

// leastValues are Patroni's lower limits (CMDLINE_OPTIONS).
var leastValues = map[string]int64{"max_connections": 25, "max_wal_senders": 3, "max_prepared_transactions": 0,
	"max_locks_per_transaction": 32, "max_replication_slots": 4, "max_worker_processes": 2, "wal_keep_segments": 1}

// combinations refuses settings that are each fine and together are not.
func combinations(s cluster.Settings, add adder) {
	const at = "postgresql.parameters."
	get := func(name string, def int64) int64 {
		if n, ok := cluster.Bytes(s.Parameters[name]); ok {
			return n
		}
		return def
	}
	conns, super, reserved := get("max_connections", 100), get("superuser_reserved_connections", 3), get("reserved_connections", 0)
	if super+reserved >= conns {
		add(Error, at+"max_connections", "raise max_connections", "superuser_reserved_connections + reserved_connections = %d + %d = %d leaves none of max_connections = %d", super, reserved, super+reserved, conns)
	}
	if s.SynchronousMode != cluster.SyncOff {
		if v := strings.ToLower(s.Parameters["synchronous_commit"]); v == "off" || v == "local" || v == "false" || v == "no" || v == "0" {
			add(Error, at+"synchronous_commit", "remove it, or switch synchronous_mode off",
				"%s acknowledges commits that no standby has, which synchronous_mode = %s promises not to do", v, s.SynchronousMode)
		}
	} else if s.SynchronousStrict {
		add(Warning, "synchronous_mode_strict", "switch synchronous_mode on", "has no effect while synchronous_mode is off")
	}
	for _, name := range []string{"fsync", "full_page_writes"} {
		if v := strings.ToLower(s.Parameters[name]); v == "off" || v == "false" || v == "no" || v == "0" {
			add(Warning, at+name, "remove it", "off loses or corrupts data at a power cut")
		}
	}
}

// AdjustTimeouts applies Patroni's rule loop_wait + 2 × retry_timeout ≤ ttl the way Patroni does:
// loop_wait is lowered first, then retry_timeout. It says what it did; "" for nothing. Seconds are
// whole.
func AdjustTimeouts(s cluster.Settings) (cluster.Settings, string) {
	const least = time.Second
	loop, retry := s.LoopWait, s.RetryTimeout
	if loop+2*retry <= s.TTL {
		return s, ""
	}
	rule := fmt.Sprintf("loop_wait + 2 × retry_timeout = %v + 2 × %v = %v is more than ttl = %v; ", loop, retry, loop+2*retry, s.TTL)
	if least+2*retry > s.TTL {
		s.LoopWait, s.RetryTimeout = least, max(((s.TTL-least)/2).Truncate(time.Second), time.Second)
		return s, rule + fmt.Sprintf("loop_wait = %v and retry_timeout = %v are used", s.LoopWait, s.RetryTimeout)
	}
	s.LoopWait = s.TTL - 2*retry
	return s, rule + fmt.Sprintf("loop_wait = %v is used", s.LoopWait)
}

// dynamic checks bootstrap.dcs. What a running cluster would refuse but Patroni takes is a warning
// here, so that an existing file starts.
func (k *checker) dynamic() {
	for _, p := range ValidateDynamic(k.c.Bootstrap.DCS) {
		at := join("bootstrap.dcs", p.Path)
		if name, ok := strings.CutPrefix(p.Path, "postgresql.parameters."); ok && p.Severity == Error {
			if _, controlled := cluster.ControlledParameter(name); controlled {
				p.Severity = Warning
			}
		}
		k.add(p.Severity, at, p.Hint, "%s", p.Message)
	}
	if pg, ok := k.c.Bootstrap.DCS["postgresql"].(map[string]any); ok {
		var rules []string
		lines, _ := pg["pg_hba"].([]any)
		for _, l := range lines {
			s, _ := l.(string)
			if _, _, err := parseHBA(s); err != nil {
				s = "" // said above
			}
			rules = append(rules, s)
		}
		k.hba("bootstrap.dcs.postgresql.pg_hba", rules)
	}
	if _, err := json.Marshal(k.c.Bootstrap.DCS); err != nil {
		k.bad("bootstrap.dcs", "", "cannot be written as JSON: %v", err)
	}
}

// dynamicParams are the parameters of bootstrap.dcs by lower-case name, as text.
func (c *Config) dynamicParams() map[string]string {
	dyn, _ := cluster.DynamicFrom(c.Bootstrap.DCS)
	return maps.Clone(dyn.Parameters)
}
