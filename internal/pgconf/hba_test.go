package pgconf_test

import (
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/pgconf"
)

func TestDefaultHBA(t *testing.T) {
	a := pgconf.Access{Superuser: "postgres", Replication: "replicator", Rewind: "rewind_user", Members: []string{"10.0.0.1", "10.0.0.2", "127.0.0.1", "[fd00::3]"}, Allow: []string{"10.9.1.1/16", "10.0.0.2"}}
	got, err := pgconf.DefaultHBA(a, true, false)
	if err != nil {
		t.Fatal(err)
	}
	want := `local all "postgres" peer map=hathi
local replication "replicator" scram-sha-256
host replication "replicator" 127.0.0.1/32 scram-sha-256
host replication "replicator" ::1/128 scram-sha-256
host replication "replicator" samehost scram-sha-256
hostssl replication "replicator" 10.0.0.1/32 scram-sha-256
hostssl replication "replicator" 10.0.0.2/32 scram-sha-256
hostssl replication "replicator" fd00::3/128 scram-sha-256
host postgres "rewind_user" 127.0.0.1/32 scram-sha-256
host postgres "rewind_user" ::1/128 scram-sha-256
host postgres "rewind_user" samehost scram-sha-256
hostssl postgres "rewind_user" 10.0.0.1/32 scram-sha-256
hostssl postgres "rewind_user" 10.0.0.2/32 scram-sha-256
hostssl postgres "rewind_user" fd00::3/128 scram-sha-256
host all "postgres" all reject
host all "replicator" all reject
host all "rewind_user" all reject
local replication all reject
host replication all all reject
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
host all all samehost scram-sha-256
hostssl all all 10.9.0.0/16 scram-sha-256
hostssl all all 10.0.0.2/32 scram-sha-256
hostssl all all 10.0.0.1/32 scram-sha-256
hostssl all all fd00::3/128 scram-sha-256`
	if g := strings.Join(got, "\n"); g != want {
		t.Errorf("got\n%s\nwant\n%s", g, want)
	}
}

func TestHBA_StatedLinesReplaceOurs(t *testing.T) {
	in := input()
	in.Settings.PgHBA = []string{"local all all peer"}
	in.Settings.PgIdent = []string{"m a b"}
	f, _ := build(t, in)
	if got := string(f.HBA); !strings.HasSuffix(got, "\nlocal all all peer\n") || strings.Count(got, "\n") != 2 {
		t.Errorf("got\n%s\nwant the cluster's line alone", got)
	}
	if got := string(f.Ident); !strings.HasSuffix(got, "\nm a b\n") || strings.Contains(got, "root") {
		t.Errorf("got\n%s\nwant the stated line alone", got)
	}
	in.PgHBA = []string{"local all all scram-sha-256"}
	f, _ = build(t, in)
	if got := string(f.HBA); !strings.HasSuffix(got, "\nlocal all all scram-sha-256\n") {
		t.Errorf("got\n%s\nwant the node's own line", got)
	}
}

func TestHBA_SlotSyncAndRewindAsSuperuser(t *testing.T) {
	in := input()
	in.ServerVersion = 170002
	in.Settings.Parameters = map[string]string{"sync_replication_slots": "on"}
	in.Access.Rewind = "postgres"
	f, _ := build(t, in)
	hba := string(f.HBA)
	repl, super, reject := strings.Index(hba, `host postgres "replicator" 10.0.0.2/32`), strings.Index(hba, `host postgres "postgres" 10.0.0.2/32`), strings.Index(hba, `host all "postgres" all reject`)
	if repl < 0 || super < 0 || reject < super {
		t.Errorf("got\n%s\nwant the replication role and the superuser let into postgres from members, before the reject", hba)
	}
	if !strings.Contains(string(f.Ident), `hathi "root" "postgres"`) {
		t.Errorf("ident: got\n%s", f.Ident)
	}
}
