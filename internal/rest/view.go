package rest

import (
	"maps"
	"slices"
	"strconv"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// clusterJSON is the body of GET /cluster (cluster_as_json in patroni/utils.py).
func clusterJSON(v cluster.View, scope string) map[string]any {
	set := v.Config.Settings
	standbyCluster := len(v.Config.StandbyCluster) > 0
	members := make([]map[string]any, 0, len(v.Members))
	for _, name := range slices.Sorted(maps.Keys(v.Members)) {
		members = append(members, memberJSON(v, v.Members[name], name, set, standbyCluster))
	}
	out := map[string]any{"members": members, "scope": scope}
	if set.Pause {
		out["pause"] = true
	}
	if f := v.Failover; f != nil && f.ScheduledAt != "" {
		s := map[string]any{"at": f.ScheduledAt}
		if f.Leader != "" {
			s["from"] = f.Leader
		}
		if f.Candidate != "" {
			s["to"] = f.Candidate
		}
		out["scheduled_switchover"] = s
	}
	return out
}

func memberJSON(v cluster.View, m cluster.Member, name string, set cluster.Settings, standbyCluster bool) map[string]any {
	role := "replica"
	switch {
	case name == v.Leader && standbyCluster:
		role = "standby_leader"
	case name == v.Leader:
		role = "leader"
	case set.SynchronousMode == cluster.SyncQuorum && v.Sync.Has(name):
		role = "quorum_standby"
	case set.SynchronousMode == cluster.SyncOn && v.Sync.Has(name):
		role = "sync_standby"
	}
	state := string(m.State)
	if role != "leader" && m.ReplicationState != "" {
		state = m.ReplicationState
	}
	j := map[string]any{"name": name, "role": role, "state": state, "api_url": m.APIURL}
	if host, port, err := m.HostPort(); err == nil {
		j["host"] = host
		if n, err := strconv.Atoi(port); err == nil {
			j["port"] = n
		}
	}
	if m.Timeline != 0 {
		j["timeline"] = m.Timeline
	}
	if m.PendingRestart {
		j["pending_restart"] = true
	}
	if len(m.PendingReason) > 0 {
		j["pending_restart_reason"] = m.PendingReason
	}
	if len(m.Tags) > 0 {
		j["tags"] = m.Tags
	}
	if name != v.Leader {
		position(j, "receive_", m.ReceiveLSN, v.Status.Optime)
		position(j, "replay_", m.ReplayLSN, v.Status.Optime)
		position(j, "", m.XLogLocation, v.Status.Optime)
	}
	return j
}

func position(j map[string]any, prefix string, at, end cluster.LSN) {
	if at == 0 {
		j[prefix+"lsn"], j[prefix+"lag"] = "unknown", "unknown"
		return
	}
	j[prefix+"lsn"], j[prefix+"lag"] = at.String(), at.Behind(end)
}
