package pgconf_test

import (
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/pgconf"
)

func TestParseConf(t *testing.T) {
	got, err := pgconf.ParseConf("# c\n  Work_Mem = '4MB' # x\nport=5433\nfsync on\n\tx.y 'it''s \\'q\\' \\101\\n\\\\'\ninclude 'a'\nport 1\r\nempty = ''\nn = -1.5e3#c\n")
	want := map[string]string{"work_mem": "4MB", "port": "1", "fsync": "on", "x.y": "it's 'q' A\n\\", "empty": "", "n": "-1.5e3"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"= 1", "a = 'x", "a = 'x' y", "a", "a =", "9a = 1", "a = b c", "a'b'"} {
		if got, err := pgconf.ParseConf("ok = 1\n" + bad); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: got %q, %v; want an error with its line", bad, got, err)
		}
	}
}

func FuzzConf_RoundTrip(f *testing.F) {
	f.Add("work_mem", "4MB")
	f.Add("a.b", `it's \n 'x' \\`)
	f.Add("restore_command", `cp "/x/%f" '%p' # \`)
	f.Fuzz(func(t *testing.T, name, value string) {
		want := map[string]string{"first": "1", name: value, "zz": "2"}
		b, err := pgconf.FormatConf("", want)
		if bad := cluster.CheckParameter(name, value); bad != nil {
			if err == nil {
				t.Fatalf("wrote %q = %q, want a refusal", name, value)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgconf.ParseConf(string(b))
		delete(want, "include")
		delete(want, "include_dir")
		delete(want, "include_if_exists")
		if err != nil || !maps.Equal(got, want) {
			t.Fatalf("got %q, %v; want %q from\n%s", got, err, want, b)
		}
	})
}

func FuzzParseConf(f *testing.F) {
	f.Add("a = 'b' # c\ninclude 'x'")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := pgconf.ParseConf(text)
		if err != nil {
			return
		}
		for name, v := range got {
			if cluster.CheckParameter(name, v) != nil {
				delete(got, name)
			}
		}
		b, err := pgconf.FormatConf("", got)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := pgconf.ParseConf(string(b)); err != nil || !maps.Equal(again, got) {
			t.Fatalf("got %q, %v; want %q", again, err, got)
		}
	})
}

func FuzzBuild(f *testing.F) {
	f.Add("work_mem", "1MB", "10.0.0.0/8", "replicator")
	f.Add("archive_command", "cp '%p' x\\", "host.example", "all")
	f.Fuzz(func(t *testing.T, name, value, addr, role string) {
		in := input()
		in.Settings.Parameters = map[string]string{name: value}
		in.Access.Allow, in.Access.Replication = []string{addr}, role
		files, err := pgconf.Build(in)
		if err != nil {
			return
		}
		got, err := pgconf.ParseConf(string(files.Conf))
		if err != nil || got["port"] != "5432" || got["hot_standby"] != "on" || !maps.Equal(got, files.Effective) {
			t.Fatalf("got %q, %v; want %q", got, err, files.Effective)
		}
		for line := range strings.SplitSeq(string(files.HBA), "\n") {
			if strings.HasSuffix(line, " trust") {
				t.Fatalf("a line trusts: %q", line)
			}
		}
	})
}
