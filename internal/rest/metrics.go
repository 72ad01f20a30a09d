package rest

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/health"
)

// stateIndex are Patroni's numbers of the states of PostgreSQL (PostgresqlState in
// patroni/postgresql/misc.py); states of our own are -1 there.
var stateIndex = map[cluster.State]float64{
	cluster.StateInitializing: 0, cluster.StateInitFailed: 1, "running custom bootstrap script": 2,
	"custom bootstrap failed": 3, cluster.StateCreatingReplica: 4, cluster.StateRunning: 5,
	cluster.StateStarting: 6, "starting after custom bootstrap": 7, cluster.StateStartFailed: 8,
	cluster.StateRestarting: 9, cluster.StateRestartFailed: 10, cluster.StateStopping: 11,
	cluster.StateStopped: 12, cluster.StateStopFailed: 13, cluster.StateCrashed: 14,
}

const stateHelp = "Numeric representation of Postgres state. Values: 0=initdb, 1=initdb_failed, 2=custom_bootstrap, " +
	"3=custom_bootstrap_failed, 4=creating_replica, 5=running, 6=starting, 7=bootstrap_starting, 8=start_failed, " +
	"9=restarting, 10=restart_failed, 11=stopping, 12=stopped, 13=stop_failed, 14=crashed."

// collector makes the metrics from the snapshot at each scrape: Patroni's names (do_GET_metrics in
// patroni/api.py), then hathi's. It describes nothing in advance, since Extra may change.
type collector struct {
	source Source
	now    func() time.Duration
}

func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.source.Snapshot()
	if s == nil {
		return
	}
	now := c.now()
	out := &output{ch: ch, labels: []string{"scope", "name"}, values: []string{s.Status.Patroni.Scope, s.Status.Patroni.Name}}
	patroniMetrics(out, s)
	out.gauge("hathi_leader", "Value is 1 if this node may call itself leader now, 0 otherwise.", flag(s.Leads(now)))
	out.gauge("hathi_lease_remaining_seconds", "Seconds until this node's right to lead ends, 0 if it has none.", max(0, (s.LeaseUntil-now).Seconds()))
	out.gauge("hathi_tick_age_seconds", "Seconds since the HA loop last completed a round.", max(0, (now-s.Ticked).Seconds()))
	out.gauge("hathi_epoch", "Epoch of the lock as this node last saw it.", float64(s.View.Lock.Epoch))
	out.gauge("hathi_members", "Members that the store shows.", float64(len(s.View.Members)))
	counts := map[health.Severity]float64{health.Critical: 0, health.Warning: 0, health.Notice: 0}
	for _, p := range s.Problems {
		counts[p.Severity]++
		out.with("hathi_problem", "Lasting trouble of this node.", prometheus.GaugeValue, 1,
			[]string{"code", "severity"}, []string{p.Code, string(p.Severity)})
	}
	for severity, n := range counts {
		out.with("hathi_problems", "Lasting troubles of this node by severity.", prometheus.GaugeValue, n,
			[]string{"severity"}, []string{string(severity)})
	}
	for _, m := range s.Extra {
		kind := prometheus.GaugeValue
		if m.Counter {
			kind = prometheus.CounterValue
		}
		var names, values []string
		for k, v := range m.Labels {
			names, values = append(names, k), append(values, v)
		}
		out.with(m.Name, m.Help, kind, m.Value, names, values)
	}
}

func patroniMetrics(out *output, s *Snapshot) {
	st := s.Status
	_, failsafeMember := s.View.Failsafe[st.Patroni.Name]
	out.gauge("patroni_version", "Patroni semver without periods.", padded(st.Patroni.Version))
	out.gauge("patroni_postgres_running", "Value is 1 if Postgres is running, 0 otherwise.", flag(st.State == cluster.StateRunning))
	out.gauge("patroni_postmaster_start_time", "Epoch seconds since Postgres started.", epochSeconds(st.PostmasterStart))
	out.gauge("patroni_primary", "Value is 1 if this node is the leader, 0 otherwise.", flag(st.Role == cluster.RolePrimary))
	out.counter("patroni_xlog_location", "Current location of the Postgres transaction log, 0 if this node is not the leader.", float64(st.XLog.Location))
	out.gauge("patroni_standby_leader", "Value is 1 if this node is the standby_leader, 0 otherwise.", flag(st.Role == cluster.RoleStandbyLeader))
	out.gauge("patroni_replica", "Value is 1 if this node is a replica, 0 otherwise.", flag(st.Role == cluster.RoleReplica))
	out.gauge("patroni_sync_standby", "Value is 1 if this node is a sync standby, 0 otherwise.", flag(st.SyncStandby))
	out.gauge("patroni_quorum_standby", "Value is 1 if this node is a quorum standby, 0 otherwise.", flag(st.QuorumStandby))
	out.counter("patroni_xlog_received_location", "Current location of the received Postgres transaction log, 0 if this node is not a replica.", float64(st.XLog.Received))
	out.counter("patroni_xlog_replayed_location", "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.", float64(st.XLog.Replayed))
	out.gauge("patroni_xlog_replayed_timestamp", "Current timestamp of the replayed Postgres transaction log, 0 if null.", epochSeconds(st.XLog.ReplayedAt))
	out.gauge("patroni_xlog_paused", "Value is 1 if the Postgres xlog is paused, 0 otherwise.", flag(st.XLog.Paused))
	out.gauge("patroni_postgres_streaming", "Value is 1 if Postgres is streaming, 0 otherwise.", flag(st.ReplState == "streaming"))
	out.gauge("patroni_postgres_in_archive_recovery", "Value is 1 if Postgres is replicating from archive, 0 otherwise.", flag(st.ReplState == "in archive recovery"))
	out.gauge("patroni_postgres_server_version", "Version of Postgres (if running), 0 otherwise.", float64(st.ServerVersion))
	out.gauge("patroni_cluster_unlocked", "Value is 1 if the cluster is unlocked, 0 if locked.", flag(st.ClusterUnlocked))
	out.gauge("patroni_failsafe_mode_is_active", "Value is 1 if failsafe mode is active, 0 if inactive.", flag(st.FailsafeActive))
	out.gauge("patroni_failsafe_mode_enabled", "Value is 1 if failsafe_mode is enabled, 0 otherwise.", flag(s.View.Config.FailsafeMode))
	out.gauge("patroni_failsafe_member", "Value is 1 if this node is a member of failsafe, 0 otherwise.", flag(failsafeMember))
	out.gauge("patroni_postgres_timeline", "Postgres timeline of this node (if running), 0 otherwise.", float64(st.Timeline))
	out.gauge("patroni_dcs_last_seen", "Epoch timestamp when DCS was last contacted successfully by Patroni.", float64(st.DCSLastSeen))
	out.gauge("patroni_pending_restart", "Value is 1 if the node needs a restart, 0 otherwise.", flag(st.PendingRestart))
	out.gauge("patroni_is_paused", "Value is 1 if auto failover is disabled, 0 otherwise.", flag(st.Pause))
	index, ok := stateIndex[st.State]
	if !ok {
		index = -1
	}
	out.gauge("patroni_postgres_state", stateHelp, index)
	out.gauge("patroni_failover_priority", "Failover priority of this node.", float64(s.Tags.FailoverPriority()))
}

type output struct {
	ch             chan<- prometheus.Metric
	labels, values []string
}

func (o *output) gauge(name, help string, v float64) {
	o.with(name, help, prometheus.GaugeValue, v, nil, nil)
}

func (o *output) counter(name, help string, v float64) {
	o.with(name, help, prometheus.CounterValue, v, nil, nil)
}

// with sends one value; a name or label that Prometheus refuses becomes an error of the scrape, not
// a panic.
func (o *output) with(name, help string, kind prometheus.ValueType, v float64, labels, values []string) {
	desc := prometheus.NewDesc(name, help, append(append([]string{}, o.labels...), labels...), nil)
	m, err := prometheus.NewConstMetric(desc, kind, v, append(append([]string{}, o.values...), values...)...)
	if err != nil {
		m = prometheus.NewInvalidMetric(desc, err)
	}
	o.ch <- m
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func epochSeconds(t Timestamp) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}

// padded is a version as a number, two digits for each part: 4.1.2 is 40102.
func padded(version string) float64 {
	var n float64
	version, _, _ = strings.Cut(version, "-")
	for _, part := range strings.Split(strings.TrimPrefix(version, "v"), ".") {
		var p float64
		for _, c := range part {
			if c < '0' || c > '9' {
				break
			}
			p = p*10 + float64(c-'0')
		}
		n = n*100 + p
	}
	return n
}
