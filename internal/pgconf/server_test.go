package pgconf_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hathi-ha/hathi/internal/pgconf"
)

// TestServerAcceptsTheFiles has a real PostgreSQL read what Build makes.
func TestServerAcceptsTheFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("runs PostgreSQL")
	}
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(bins) == 0 {
		t.Skip("no PostgreSQL in /usr/lib/postgresql")
	}
	bin := filepath.Dir(bins[len(bins)-1])
	major, err := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	if err != nil || major < 15 {
		t.Skip("needs PostgreSQL 15 or later for pg_ident_file_mappings")
	}
	dir, err := os.MkdirTemp("", "pgconf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("run as root, and there is no user postgres to run PostgreSQL as")
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	run := func(stdin, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr, cmd.Stdin = "/", attr, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("", "initdb", "-D", data, "-A", "scram-sha-256", "-U", "postgres", "-N", "--pwfile", "/proc/version")
	original, err := os.ReadFile(filepath.Join(data, "postgresql.conf"))
	if err != nil {
		t.Fatal(err)
	}
	in := input()
	in.ServerVersion, in.Primary = major*10000+1, true
	in.Base, err = pgconf.ParseConf(string(original))
	if err != nil {
		t.Fatalf("initdb's own file: %v", err)
	}
	awkward := `cp "%p" 'a\b''c' # $x`
	in.Settings.Parameters = map[string]string{"archive_command": awkward, "archive_mode": "on", "wal_keep_segments": "10", "my.own": "x"}
	in.SynchronousStandbyNames = `ANY 1 ("pg-1","pg2")`
	f, err := pgconf.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"postgresql.conf": f.Conf, "pg_hba.conf": f.HBA, "pg_ident.conf": f.Ident} {
		if err := os.WriteFile(filepath.Join(data, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"--single", "-D", data}
	for name, v := range f.CommandLine {
		args = append(args, "-c", name+"="+v)
	}
	for _, q := range []struct{ sql, want string }{
		{"SELECT 'V<'||current_setting('archive_command')||'>V' AS v", "V<" + awkward + ">V"},
		{"SELECT 'V<'||current_setting('wal_keep_size')||current_setting('synchronous_standby_names')||current_setting('my.own')||'>V' AS v", `V<160MBANY 1 ("pg-1","pg2")x>V`},
		{"SELECT 'V<'||count(*)||coalesce(string_agg(error, ';'),'')||'>V' AS v FROM pg_file_settings WHERE error IS NOT NULL", "V<0>V"},
		{"SELECT 'V<'||count(*) FILTER (WHERE auth_method IS NULL)||coalesce(string_agg(error, ';'),'')||(count(*)>15)||'>V' AS v FROM pg_hba_file_rules", "V<0true>V"},
		{"SELECT 'V<'||count(*)||coalesce(string_agg(error, ';'),'')||'>V' AS v FROM pg_ident_file_mappings", "V<2>V"},
	} {
		if out := run(q.sql+"\n", "postgres", append(args, "postgres")...); !strings.Contains(out, q.want) {
			t.Errorf("%s: got\n%s\nwant %s", q.sql, out, q.want)
		}
	}
	// The table of restart parameters against the server's own.
	out := run("SELECT 'V<'||name||'>V' AS v FROM pg_settings WHERE context = 'postmaster'\n", "postgres", append(args, "postgres")...)
	for _, part := range strings.Split(out, "V<")[1:] {
		name, _, _ := strings.Cut(part, ">V")
		if !pgconf.NeedsRestart(name, in.ServerVersion) {
			t.Errorf("%s needs a restart in PostgreSQL %d; NeedsRestart says no", name, major)
		}
	}
	out = run("SELECT 'V<'||name||'>V' AS v FROM pg_settings WHERE context <> 'postmaster'\n", "postgres", append(args, "postgres")...)
	for _, part := range strings.Split(out, "V<")[1:] {
		name, _, _ := strings.Cut(part, ">V")
		if pgconf.NeedsRestart(name, in.ServerVersion) {
			t.Errorf("%s needs no restart in PostgreSQL %d; NeedsRestart says yes", name, major)
		}
	}
}
