package rest_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/rest"
)

func TestHealthChecks(t *testing.T) {
	with := func(s *rest.Snapshot, change func(*rest.Snapshot)) *rest.Snapshot {
		change(s)
		return s
	}
	standbyLeader := with(primary(), func(s *rest.Snapshot) {
		s.Status.Role = cluster.RoleStandbyLeader
		s.View.Config.StandbyCluster = map[string]any{"host": "x"}
	})
	sync := with(replica(), func(s *rest.Snapshot) { s.Status.SyncStandby = true })
	quorum := with(replica(), func(s *rest.Snapshot) { s.Status.QuorumStandby = true })
	end := func(s *rest.Snapshot) { s.LeaseUntil = now }
	expired := with(primary(), end)
	starting := with(primary(), func(s *rest.Snapshot) { s.Status.State = cluster.StateStarting })
	tests := []struct {
		name string
		snap *rest.Snapshot
		ok   []string
		no   []string
	}{
		{"primary", primary(),
			[]string{"/", "/primary", "/master", "/read-write", "/leader", "/read-only", "/read-only-sync", "/read-only-quorum", "/health", "/readiness", "/liveness", "/primary/", "/primary?tag_x=y"},
			[]string{"/replica", "/standby-leader", "/standby_leader", "/sync", "/async", "/quorum", "/read-only?tag_x=y"}},
		{"primary whose lease has ended", expired,
			[]string{"/health", "/liveness"},
			[]string{"/", "/primary", "/leader", "/read-write", "/read-only", "/replica", "/readiness"}},
		{"leader whose PostgreSQL is starting", starting,
			[]string{"/leader"},
			[]string{"/primary", "/health", "/read-only"}},
		{"replica", replica(),
			[]string{"/replica", "/read-only", "/async", "/asynchronous", "/health", "/readiness", "/replica?lag=100", "/replica?lag=100B", "/replica?lag=1kB", "/replica?lag=junk",
				"/replica?replication_state=streaming", "/readiness?lag=50&mode=write", "/readiness?lag=1MB"},
			[]string{"/", "/primary", "/leader", "/sync", "/quorum", "/read-only-sync", "/read-only-quorum", "/replica?lag=99", "/async?lag=10", "/replica?replication_state=x",
				"/replica?tag_zone=a", "/readiness?lag=50", "/readiness?lag=49&mode=write"}},
		{"replica with tags", with(replica(), func(s *rest.Snapshot) { s.Tags = cluster.Tags{"zone": "a", "fast": true, "n": 3} }),
			[]string{"/replica?tag_zone=a", "/replica?tag_fast=true&tag_n=3", "/health?tag_zone=a"},
			[]string{"/replica?tag_zone=b", "/replica?tag_fast=True", "/replica?tag_none=1"}},
		{"replica without load balancing", with(replica(), func(s *rest.Snapshot) { s.Tags = cluster.Tags{"noloadbalance": true} }),
			[]string{"/health"}, []string{"/replica", "/read-only", "/async"}},
		{"synchronous standby", sync,
			[]string{"/sync", "/synchronous", "/read-only-sync", "/replica"}, []string{"/async", "/quorum", "/read-only-quorum"}},
		{"quorum standby", quorum,
			[]string{"/quorum", "/read-only-quorum", "/replica"}, []string{"/async", "/sync", "/read-only-sync"}},
		{"standby leader", standbyLeader,
			[]string{"/standby-leader", "/standby_leader", "/leader", "/read-only"}, []string{"/primary", "/", "/replica"}},
		{"replica without the store", with(replica(), func(s *rest.Snapshot) { s.StoreKnown = false; s.LatestEndLSN = 900 }),
			[]string{"/replica", "/read-only", "/readiness"}, []string{"/async", "/sync"}},
		{"replica of a stuck node", with(replica(), func(s *rest.Snapshot) { s.FreshUntil = now; s.Ticked = now - 61*time.Second }),
			nil, []string{"/replica", "/health", "/read-only", "/liveness", "/readiness"}},
		{"paused primary without the store", with(primary(), func(s *rest.Snapshot) { end(s); s.StoreKnown, s.Status.Pause = false, true }),
			[]string{"/primary", "/leader"}, []string{"/standby-leader"}},
		{"nothing known yet", nil, nil, []string{"/", "/replica", "/health", "/readiness"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &node{}
			n.snap.Store(tt.snap)
			_, url := serve(t, n, nil)
			for code, paths := range map[int][]string{http.StatusOK: tt.ok, http.StatusServiceUnavailable: tt.no} {
				for _, p := range paths {
					for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodHead} {
						got, body, _ := call(t, method, url+p, "")
						if got != code {
							t.Errorf("%s %s: got %d, want %d", method, p, got, code)
						}
						if method != http.MethodGet && body != "" {
							t.Errorf("%s %s: got body %q, want none", method, p, body)
						}
					}
				}
			}
		})
	}
}
