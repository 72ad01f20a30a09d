package pgconf_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/pgconf"
)

func input() pgconf.Input {
	s := cluster.DefaultSettings()
	s.TTL = 6 * time.Second
	return pgconf.Input{Settings: s, ServerVersion: 150018,
		Node: pgconf.Node{Scope: "orders", Listen: []string{"10.0.0.1", "127.0.0.1"}, Port: 5432, SocketDir: "/run/h"},
		Standby: pgconf.Standby{SlotName: "pg2", Conninfo: pgconf.Conninfo{Host: "10.0.0.2", Port: 5432, User: "replicator",
			ApplicationName: "pg2", PassFile: "/run/h/it's"}.String()},
		Access: pgconf.Access{Superuser: "postgres", Replication: "replicator", Rewind: "rewind_user", OSUsers: []string{"postgres", "root"},
			Members: []string{"10.0.0.1", "10.0.0.2", "db3.example.org"}}}
}

func build(t *testing.T, in pgconf.Input) (pgconf.Files, map[string]string) {
	t.Helper()
	f, err := pgconf.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgconf.ParseConf(string(f.Conf))
	if err != nil {
		t.Fatalf("our own file does not parse: %v\n%s", err, f.Conf)
	}
	if !reflect.DeepEqual(got, f.Effective) {
		t.Fatalf("read back: got %v, want %v", got, f.Effective)
	}
	return f, got
}

func want(t *testing.T, got map[string]string, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if v, ok := got[pairs[i]]; v != pairs[i+1] || !ok {
			t.Errorf("%s: got %q (stated: %v), want %q", pairs[i], v, ok, pairs[i+1])
		}
	}
}

func TestBuild_SafeDefaults(t *testing.T) {
	f, got := build(t, input())
	want(t, got, "wal_level", "replica", "hot_standby", "on", "wal_log_hints", "on", "max_wal_senders", "10", "max_replication_slots", "10",
		"wal_keep_size", "128MB", "max_slot_wal_keep_size", "10GB", "wal_retrieve_retry_interval", "100ms", "wal_receiver_status_interval", "1s",
		"wal_receiver_timeout", "6000ms", "wal_sender_timeout", "6000ms", "password_encryption", "scram-sha-256", "listen_addresses", "10.0.0.1,127.0.0.1",
		"port", "5432", "cluster_name", "orders", "synchronous_standby_names", "", "recovery_target_timeline", "latest", "primary_slot_name", "pg2")
	if _, ok := got["hot_standby_feedback"]; ok {
		t.Error("hot_standby_feedback: want PostgreSQL's own")
	}
	if !strings.HasPrefix(string(f.Conf), "# Written by hathi") {
		t.Errorf("got no header:\n%s", f.Conf)
	}
	for _, name := range []string{"listen_addresses", "port", "cluster_name", "wal_level", "hot_standby", "max_connections", "max_wal_senders",
		"max_prepared_transactions", "max_locks_per_transaction", "max_replication_slots", "max_worker_processes", "track_commit_timestamp", "wal_log_hints"} {
		if f.CommandLine[name] != got[name] {
			t.Errorf("command line, %s: got %q, want %q", name, f.CommandLine[name], got[name])
		}
	}
	if _, ok := f.CommandLine["synchronous_standby_names"]; ok {
		t.Error("synchronous_standby_names stands on the command line; it could not change by reload")
	}
}

func TestBuild_SyncsTheFileSystemAtOnceWhereErrorsShow(t *testing.T) {
	const name = "recovery_init_sync_method"
	for _, c := range []struct {
		version int
		tells   bool
		stated  string
		want    string
	}{{150018, true, "", "syncfs"}, {150018, false, "", ""}, {130020, true, "", ""}, {170004, true, "fsync", "fsync"}} {
		in := input()
		in.ServerVersion, in.SyncFS = c.version, c.tells
		if c.stated != "" {
			in.Parameters = map[string]string{name: c.stated}
		}
		_, got := build(t, in)
		if got := got[name]; got != c.want {
			t.Errorf("%+v: got %q, want %q", c, got, c.want)
		}
	}
}

func TestBuild_LeaseBoundsWalTimeouts(t *testing.T) {
	for ttl, text := range map[time.Duration]string{3 * time.Second: "5000ms", 6 * time.Second: "6000ms", 30 * time.Second: "30000ms", 10 * time.Minute: "60000ms"} {
		if got := pgconf.Defaults(ttl)["wal_sender_timeout"]; got != text {
			t.Errorf("ttl %v: got %s, want %s", ttl, got, text)
		}
	}
}

func TestBuild_Precedence(t *testing.T) {
	in := input()
	in.Base = map[string]string{"lc_messages": "de_DE", "shared_buffers": "1MB", "timezone": "Europe/Berlin"}
	in.Settings.Parameters = map[string]string{"work_mem": "8MB", "max_connections": "300", "timezone": "UTC", "synchronous_standby_names": "*",
		"listen_addresses": "*", "hot_standby": "off", "log_line_prefix": "%m "}
	in.Parameters = map[string]string{"work_mem": "16MB", "max_connections": "10", "port": "1", "SHARED_BUFFERS": "2GB"}
	in.SynchronousStandbyNames = `ANY 1 ("pg1","pg3")`
	f, got := build(t, in)
	want(t, got, "lc_messages", "de_DE", "timezone", "UTC", "work_mem", "16MB", "max_connections", "300", "port", "5432", "shared_buffers", "2GB",
		"synchronous_standby_names", `ANY 1 ("pg1","pg3")`, "listen_addresses", "10.0.0.1,127.0.0.1", "hot_standby", "on", "log_line_prefix", "%m ")
	for _, word := range []string{"synchronous_standby_names of the dynamic", "listen_addresses of the dynamic", "hot_standby of the dynamic", "max_connections is ignored", "port of the node's own"} {
		if !strings.Contains(strings.Join(f.Warnings, "\n"), word) {
			t.Errorf("no warning with %q in %q", word, f.Warnings)
		}
	}
}

func TestBuild_VersionsAndOldNames(t *testing.T) {
	in := input()
	in.Settings.Parameters = map[string]string{"wal_keep_segments": "100", "wal_level": "hot_standby", "io_method": "worker", "stats_temp_directory": "/x", "a.b": "c",
		"bad name": "x", "evil": "1\nfsync = off"}
	f, got := build(t, in)
	want(t, got, "wal_keep_size", "1600MB", "wal_level", "replica", "a.b", "c")
	for _, name := range []string{"wal_keep_segments", "io_method", "stats_temp_directory", "bad name", "evil", "fsync"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is in the file", name)
		}
	}
	if len(f.Warnings) != 4 {
		t.Errorf("got %d warnings, want 4: %q", len(f.Warnings), f.Warnings)
	}
}

func TestBuild_StandbyKeepsWhatItsWALAsksFor(t *testing.T) {
	in := input()
	in.Settings.Parameters = map[string]string{"max_connections": "50", "max_worker_processes": "20"}
	in.Control = pgconf.Control{MaxConnections: 200, MaxWorkerProcesses: 8, MaxWALSenders: 10}
	f, got := build(t, in)
	want(t, got, "max_connections", "200", "max_worker_processes", "20")
	want(t, f.CommandLine, "max_connections", "200")
	if !reflect.DeepEqual(f.PendingRestart, map[string]cluster.PendingReason{"max_connections": {OldValue: "200", NewValue: "50"}}) {
		t.Errorf("pending restart: got %v", f.PendingRestart)
	}
	in.Primary = true
	f, got = build(t, in)
	want(t, got, "max_connections", "50")
	if f.PendingRestart != nil {
		t.Errorf("primary: got %v pending, want none", f.PendingRestart)
	}
	want(t, got, "recovery_target_timeline", "latest") // a change of it would take a restart after each promotion
	for _, name := range []string{"primary_conninfo", "primary_slot_name"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s stands in a primary's file", name)
		}
	}
}

func TestBuild_StandbyCommandsWin(t *testing.T) {
	in := input()
	in.Settings.Parameters = map[string]string{"restore_command": "cp a", "archive_cleanup_command": "rm b"}
	in.Standby.RestoreCommand = `cp "/x/%f" '%p' \`
	_, got := build(t, in)
	want(t, got, "restore_command", `cp "/x/%f" '%p' \`, "archive_cleanup_command", "rm b")
}

func TestBuild_TLS(t *testing.T) {
	in := input()
	in.TLS = pgconf.TLS{Cert: "/c", Key: "/k", CA: "/a"}
	in.Parameters = map[string]string{"ssl_ca_file": "/own"}
	f, got := build(t, in)
	want(t, got, "ssl", "on", "ssl_cert_file", "/c", "ssl_key_file", "/k", "ssl_ca_file", "/own")
	for line := range strings.SplitSeq(string(f.HBA), "\n") {
		if strings.HasPrefix(line, "host ") && strings.Contains(line, "10.0.0.2") {
			t.Errorf("a member may come unencrypted: %s", line)
		}
	}
}

func TestBuild_UnusableFacts(t *testing.T) {
	for name, change := range map[string]func(*pgconf.Input){
		"version":  func(i *pgconf.Input) { i.ServerVersion = 15 },
		"port":     func(i *pgconf.Input) { i.Node.Port = 0 },
		"scope":    func(i *pgconf.Input) { i.Node.Scope = "a\nb" },
		"conninfo": func(i *pgconf.Input) { i.Standby.Conninfo = "host=x\nfsync=off" },
		"ssn":      func(i *pgconf.Input) { i.SynchronousStandbyNames = "a\nb" },
		"role":     func(i *pgconf.Input) { i.Access.Replication = `a" all` },
		"group":    func(i *pgconf.Input) { i.Access.Superuser = "+admins" },
		"member":   func(i *pgconf.Input) { i.Access.Members = []string{"a b"} },
		"os user":  func(i *pgconf.Input) { i.Access.OSUsers = []string{"/^.*$"} },
		"hba":      func(i *pgconf.Input) { i.PgHBA = []string{"local all all peer\nhost all all all trust"} },
	} {
		in := input()
		change(&in)
		if _, err := pgconf.Build(in); !errors.Is(err, pgconf.ErrNode) {
			t.Errorf("%s: got %v, want ErrNode", name, err)
		}
	}
}

func TestConninfo_Quoting(t *testing.T) {
	c := pgconf.Conninfo{Host: "::1", Port: 5433, User: `o'b\r`, Database: "postgres", ApplicationName: "pg-1", PassFile: "/a b/p", SSLMode: "verify-full", Timeout: 6 * time.Second}
	want := `host='::1' port='5433' user='o\'b\\r' dbname='postgres' passfile='/a b/p' application_name='pg-1' sslmode='verify-full'` +
		` connect_timeout='3' keepalives_idle='2' keepalives_interval='1' keepalives_count='3' tcp_user_timeout='6000'`
	if got := c.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDiff(t *testing.T) {
	old := map[string]string{"max_connections": "100", "work_mem": "4MB", "shared_buffers": "1GB", "ssl": "on", "restore_command": "a", "gone": "1", "fsync": "on", "autovacuum_max_workers": "3"}
	now := map[string]string{"max_connections": "200", "work_mem": "8MB", "shared_buffers": "1024MB", "ssl": "true", "restore_command": "b", "fsync": "on", "autovacuum_max_workers": "4"}
	for version, want := range map[int]pgconf.Changes{
		130000: {Restart: []string{"autovacuum_max_workers", "max_connections", "restore_command"}, Reload: []string{"gone", "work_mem"}},
		150018: {Restart: []string{"autovacuum_max_workers", "max_connections"}, Reload: []string{"gone", "restore_command", "work_mem"}},
		180001: {Restart: []string{"max_connections"}, Reload: []string{"autovacuum_max_workers", "gone", "restore_command", "work_mem"}},
	} {
		if got := pgconf.Diff(old, now, version); !reflect.DeepEqual(got, want) {
			t.Errorf("%d: got %+v, want %+v", version, got, want)
		}
	}
	for _, same := range [][2]string{{"1GB", "1024MB"}, {"on", "TRUE"}, {"1min", "60s"}, {"0.9", "0.90"}, {"10", "10 "}} {
		if !pgconf.SameValue(same[0], same[1]) {
			t.Errorf("%v: got different, want the same", same)
		}
	}
	for _, other := range [][2]string{{"1GB", "1"}, {"1", "on"}, {"a", "A"}, {"60", "1min"}, {"", "0"}} {
		if pgconf.SameValue(other[0], other[1]) {
			t.Errorf("%v: got the same, want different", other)
		}
	}
}
