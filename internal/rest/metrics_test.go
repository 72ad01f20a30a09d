package rest_test

import (
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/health"
	"github.com/hathi-ha/hathi/internal/rest"
)

func TestMetrics(t *testing.T) {
	n := &node{}
	s := primary()
	s.Tags = cluster.Tags{"failover_priority": 2}
	s.Problems = []health.Problem{{Code: "disk", Severity: health.Warning}}
	s.Extra = []rest.Metric{{Name: "hathi_elections_total", Help: "Elections.", Counter: true, Value: 3}, {Name: "not a name", Help: "x"}}
	n.snap.Store(s)
	_, url := serve(t, n, nil)
	code, body, _ := call(t, "GET", url+"/metrics", "")
	if code != 200 {
		t.Fatalf("got %d %s", code, body)
	}
	label := `{name="pg1",scope="demo"} `
	for _, want := range []string{"patroni_version" + label + "40100", "patroni_postgres_running" + label + "1", "patroni_primary" + label + "1",
		"patroni_xlog_location" + label + "1000", "patroni_replica" + label + "0", "patroni_postgres_server_version" + label + "150002",
		"patroni_postgres_timeline" + label + "2", "patroni_postgres_state" + label + "5", "patroni_failover_priority" + label + "2",
		"patroni_is_paused" + label + "0", "patroni_postmaster_start_time" + label + "0", "patroni_standby_leader" + label + "0",
		"patroni_sync_standby" + label + "0", "patroni_quorum_standby" + label + "0", "patroni_xlog_received_location" + label + "0",
		"patroni_xlog_replayed_location" + label + "0", "patroni_xlog_replayed_timestamp" + label + "0", "patroni_xlog_paused" + label + "0",
		"patroni_postgres_streaming" + label + "0", "patroni_postgres_in_archive_recovery" + label + "0", "patroni_cluster_unlocked" + label + "0",
		"patroni_failsafe_mode_is_active" + label + "0", "patroni_failsafe_mode_enabled" + label + "0", "patroni_failsafe_member" + label + "0",
		"patroni_dcs_last_seen" + label + "0", "patroni_pending_restart" + label + "0",
		"hathi_leader" + label + "1", "hathi_lease_remaining_seconds" + label + "1", "hathi_elections_total" + label + "3",
		`hathi_problem{code="disk",name="pg1",scope="demo",severity="warning"} 1`, "# TYPE patroni_xlog_location counter"} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("got no line %q", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
	n.snap.Store(nil)
	if code, _, _ := call(t, "GET", url+"/metrics", ""); code != 200 {
		t.Errorf("without a snapshot: got %d, want 200", code)
	}
}
