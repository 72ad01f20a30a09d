package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"time"

	"github.com/google/uuid"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/guardian"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/health"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/rest"
)

// Bounds of actions.
const (
	failoverWithin = 60 * time.Second
	restartWithin  = 5 * time.Minute
	reinitWithin   = 30 * time.Second
	configWithin   = 10 * time.Second
)

// api answers the REST server from the node.
type api struct {
	a        *Agent
	n        *node.Node
	store    dcs.Store
	client   *rest.Client
	problems *health.Registry
	guard    *guardian.Handle
	log      *slog.Logger

	restarts schedule
}

// Snapshot is the node's latest publication in the form that REST answers from.
func (x *api) Snapshot() *rest.Snapshot {
	st, _ := x.n.Status()
	if st.At == 0 {
		return nil
	}
	o, v := st.O, st.O.Store.View
	role, state := ha2rest(st)
	s := rest.Status{State: state, PostmasterStart: rest.Timestamp{Time: st.StartedAt}, Role: role, ServerVersion: st.Version,
		Timeline: o.DB.Timeline, ReplState: st.ReplicationState, Pause: v.Config.Pause, ClusterUnlocked: !v.Lock.Held(),
		FailsafeActive: st.Failsafe, Tags: st.Member.Tags, SystemID: o.DB.SystemID,
		PendingRestart: st.Member.PendingRestart, PendingReason: st.Member.PendingReason,
		Patroni: rest.Identity{Version: "4.1.0", Scope: x.a.File.Scope, Name: x.a.File.Name},
		Hathi:   &rest.Own{Epoch: v.Lock.Epoch, Instance: o.Self.Instance, HAState: string(st.D.State), Why: st.D.Why, Job: st.Progress}}
	if st.StoreAt != 0 {
		s.DCSLastSeen = time.Now().Add(-(boottime.Now() - st.StoreAt)).Unix()
	}
	if state == cluster.StateRunning {
		s.XLog = rest.XLog{Primary: role == cluster.RolePrimary, Location: o.DB.LSN, Received: o.DB.LSN, Replayed: o.DB.Replayed,
			ReplayedAt: rest.Timestamp{Time: st.ReplayedAt}, Paused: st.Detail.Paused}
	}
	if v.Sync.Has(x.a.File.Name) {
		s.QuorumStandby = v.Config.SynchronousMode == cluster.SyncQuorum
		s.SyncStandby = v.Config.SynchronousMode == cluster.SyncOn
	}
	for _, r := range st.Replication {
		s.Replication = append(s.Replication, rest.Connection{User: r.User, Application: r.Application, ClientAddr: r.ClientAddr, State: r.State, SyncState: r.SyncState, SyncPriority: r.SyncPriority})
	}
	s.Scheduled = x.scheduledView()
	snap := &rest.Snapshot{Status: s, Tags: o.Self.Tags, Ticked: st.At, StoreKnown: o.Store.Seen && o.Store.Reachable, View: v, Problems: x.problems.List()}
	for _, p := range snap.Problems {
		if p.Severity == health.Critical && !p.Explained {
			snap.Status.Hathi.Critical = append(snap.Status.Hathi.Critical, p.Sentence)
		}
	}
	if st.Held {
		snap.LeaseUntil = st.LeaseUntil
	}
	snap.FreshUntil = st.At + max(3*v.Config.LoopWait, 10*time.Second)
	snap.Extra = x.metrics(st)
	return snap
}

func ha2rest(st *node.Status) (cluster.Role, cluster.State) { return st.Member.Role, st.Member.State }

func (x *api) metrics(st *node.Status) []rest.Metric {
	now := boottime.Now()
	left := 0.0
	if st.Held {
		left = max(0, min((st.LeaseUntil-now).Seconds(), 1e6))
	}
	gauge := func(name, help string, v float64) rest.Metric { return rest.Metric{Name: name, Help: help, Value: v} }
	b := func(v bool) float64 {
		if v {
			return 1
		}
		return 0
	}
	return []rest.Metric{
		gauge("hathi_epoch", "Epoch of the lock as this node last saw it.", float64(st.O.Store.View.Lock.Epoch)),
		gauge("hathi_lease_remaining_seconds", "Time until the guardian fences PostgreSQL unless the lease is renewed; 0 without the lock.", left),
		gauge("hathi_guardian_alive", "Whether the guardian's heartbeat is fresh.", b(x.guard.Alive(now))),
		{Name: "hathi_failover_missing_bytes_total", Help: "WAL that former leaders had published and this node did not have when it took over.", Counter: true, Value: float64(st.Behind)},
		gauge("hathi_store_reachable", "Whether the store answered lately.", b(st.O.Store.Reachable)),
	}
}

// Failover writes the request and waits for its outcome.
func (x *api) Failover(ctx context.Context, r rest.FailoverRequest) rest.Answer {
	ctx, cancel := context.WithTimeout(ctx, failoverWithin)
	defer cancel()
	snap, err := x.store.Load(ctx)
	if err != nil {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "the store does not answer: " + err.Error()}
	}
	v := dcs.Decode(snap)
	action := "failover"
	if r.Switchover {
		action = "switchover"
	}
	if a, no := x.checkFailover(ctx, v, r, action); no {
		return a
	}
	req := cluster.FailoverRequest{Candidate: r.Candidate, ID: uuid.NewString(), Force: r.Force && !r.Switchover}
	if r.Switchover {
		req.Leader = r.Leader
		if req.Leader == "" {
			req.Leader = v.Lock.Node
		}
	}
	if !r.ScheduledAt.IsZero() {
		req.ScheduledAt = r.ScheduledAt.Format(time.RFC3339Nano)
	}
	value, err := json.Marshal(req)
	if err != nil {
		return rest.Answer{Code: http.StatusInternalServerError, Text: err.Error()}
	}
	res, err := x.store.Commit(ctx, dcs.Txn{If: []dcs.Cond{{Key: dcs.KeyFailover, ModRev: v.FailoverRev}}, Then: []dcs.Op{{Key: dcs.KeyFailover, Value: value}}})
	switch {
	case err != nil:
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "failed to write failover key into DCS: " + err.Error()}
	case !res.Succeeded:
		return rest.Answer{Code: http.StatusConflict, Text: "another fail-over request came first"}
	case req.ScheduledAt != "":
		return rest.Answer{Code: http.StatusAccepted, Text: "Switchover scheduled"}
	}
	x.n.Wake()
	return x.awaitFailover(ctx, req, v.Lock, action)
}

// checkFailover refuses what cannot succeed, in Patroni's words.
func (x *api) checkFailover(ctx context.Context, v cluster.View, r rest.FailoverRequest, action string) (rest.Answer, bool) {
	refuse := func(code int, text string) (rest.Answer, bool) { return rest.Answer{Code: code, Text: text}, true }
	lock := v.Lock
	if r.Switchover && r.Leader != "" && r.Leader != lock.Node {
		return refuse(http.StatusPreconditionFailed, "leader name does not match")
	}
	if r.Switchover && !lock.Held() {
		return refuse(http.StatusPreconditionFailed, "switchover is not possible: the cluster has no leader")
	}
	if r.Candidate != "" {
		if r.Candidate == lock.Node {
			return refuse(http.StatusPreconditionFailed, action+" target and source are the same")
		}
		if _, ok := v.Member(r.Candidate); !ok {
			return refuse(http.StatusPreconditionFailed, "candidate does not exists") // Patroni's spelling
		}
	} else if r.Switchover && len(v.Members) < 2 {
		return refuse(http.StatusPreconditionFailed, "switchover is not possible: cluster does not have members except leader")
	}
	if !r.ScheduledAt.IsZero() {
		if v.Config.Pause {
			return refuse(http.StatusBadRequest, "Can't schedule switchover in the paused state")
		}
		return rest.Answer{}, false
	}
	if r.Force {
		return rest.Answer{}, false
	}
	good := false
	for name, m := range v.Members {
		if name == lock.Node || r.Candidate != "" && name != r.Candidate || m.PeerURL == "" {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, peerWithin) // a frozen member must not hold the others up
		st, err := x.client.Peer(ask, m.PeerURL)
		cancel()
		if err == nil && st.Name == name && st.Tags.FailoverPriority() > 0 && st.Running {
			good = true
			break
		}
	}
	if !good {
		return refuse(http.StatusPreconditionFailed, action+" is not possible: no good candidates have been found")
	}
	return rest.Answer{}, false
}

// awaitFailover waits until the request is gone and somebody accepts writes.
func (x *api) awaitFailover(ctx context.Context, req cluster.FailoverRequest, before cluster.Lock, action string) rest.Answer {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		snap, err := x.store.Load(ctx)
		if err == nil {
			v := dcs.Decode(snap)
			mine := v.Failover != nil && v.Failover.ID == req.ID
			if !mine {
				var out cluster.Outcome
				if e, ok := snap.Entries[dcs.KeyOutcome]; ok {
					_ = json.Unmarshal(e.Value, &out) // junk reads as no outcome
				}
				switch {
				case out.ID == req.ID && !out.Done:
					return rest.Answer{Code: http.StatusPreconditionFailed, Text: action + " is not possible: " + out.Text}
				case v.Lock.Held() && v.Lock.Ready && (v.Lock.Epoch > before.Epoch || out.ID == req.ID):
					word := map[string]string{"switchover": "Successfully switched over to", "failover": "Successfully failed over to"}[action]
					return rest.Answer{Code: http.StatusOK, Text: fmt.Sprintf("%s %q", word, v.Lock.Node)}
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return rest.Answer{Code: http.StatusServiceUnavailable, Text: action + " did not end in time; it may still be under way: see `hathi list` and `hathi why`"}
		}
	}
}

// CancelSwitchover removes a scheduled switchover.
func (x *api) CancelSwitchover(ctx context.Context) rest.Answer {
	ctx, cancel := context.WithTimeout(ctx, configWithin)
	defer cancel()
	snap, err := x.store.Load(ctx)
	if err != nil {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "the store does not answer: " + err.Error()}
	}
	v := dcs.Decode(snap)
	if v.Failover == nil || v.Failover.ScheduledAt == "" {
		return rest.Answer{Code: http.StatusNotFound, Text: "no switchover is scheduled"}
	}
	res, err := x.store.Commit(ctx, dcs.Txn{If: []dcs.Cond{{Key: dcs.KeyFailover, ModRev: v.FailoverRev}}, Then: []dcs.Op{{Key: dcs.KeyFailover, Delete: true}}})
	if err != nil || !res.Succeeded {
		return rest.Answer{Code: http.StatusConflict, Text: "the request changed meanwhile"}
	}
	return rest.Answer{Code: http.StatusOK, Text: "scheduled switchover deleted"}
}

// Restart restarts PostgreSQL here and answers when it runs again.
func (x *api) Restart(ctx context.Context, r rest.RestartRequest) rest.Answer {
	if !r.Schedule.IsZero() {
		return x.restarts.set(r, func(ctx context.Context, r rest.RestartRequest) {
			st, _ := x.n.Status()
			if why := skipRestart(r, st); why != "" {
				x.log.Info("scheduled restart lapsed", "why", why)
				return
			}
			x.log.Info("scheduled restart", "outcome", x.Restart(ctx, r).Text)
		})
	}
	st, _ := x.n.Status()
	if why := skipRestart(r, st); why != "" {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: why}
	}
	limit := restartWithin
	if r.Timeout > 0 {
		limit = r.Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	before := st.StartedAt
	out, err := x.n.Restart(ctx)
	if err != nil {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "restart failed: " + err.Error()}
	}
	if !out.Done {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "restart failed: " + out.Text}
	}
	if err := x.await(ctx, func(s *node.Status) bool {
		return s.O.DB.Phase == ha.Up && !s.StartedAt.Equal(before) && (!s.Held || s.O.Lease.Ready)
	}); err != nil {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "restart failed: PostgreSQL does not answer yet: " + err.Error()}
	}
	return rest.Answer{Code: http.StatusOK, Text: "restarted successfully"}
}

// skipRestart says why the conditions of a restart are not met, in Patroni's words.
func skipRestart(r rest.RestartRequest, st *node.Status) string {
	role := st.Member.Role
	if r.Role != "" && r.Role != role {
		return "Restart is not possible: the node's role is " + string(role)
	}
	if r.Pending && !st.Member.PendingRestart {
		return "pending_restart is not set"
	}
	if r.PostgresVersion != "" && st.Version != 0 && !versionBefore(st.Version, r.PostgresVersion) {
		return "postgres version mismatch"
	}
	return ""
}

func versionBefore(num int, text string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(text, "%d.%d", &major, &minor); n < 1 {
		return true
	}
	return num < major*10000+minor
}

func (x *api) await(ctx context.Context, ok func(*node.Status) bool) error {
	for {
		st, changed := x.n.Status()
		if ok(st) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (x *api) scheduledView() *rest.ScheduledRestart {
	r, ok := x.restarts.pending()
	if !ok {
		return nil
	}
	return &rest.ScheduledRestart{Schedule: r.Schedule.Format(time.RFC3339Nano), Role: string(r.Role), PostgresVersion: r.PostgresVersion,
		Timeout: int(r.Timeout.Seconds()), RestartPending: r.Pending}
}

// CancelRestart forgets the scheduled restart.
func (x *api) CancelRestart(context.Context) rest.Answer {
	if !x.restarts.drop() {
		return rest.Answer{Code: http.StatusNotFound, Text: "no restarts are scheduled"}
	}
	return rest.Answer{Code: http.StatusOK, Text: "scheduled restart deleted"}
}

// Reinitialize copies this node anew.
func (x *api) Reinitialize(ctx context.Context, r rest.ReinitializeRequest) rest.Answer {
	st, _ := x.n.Status()
	if st.Held {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "I am the leader, can not reinitialize"}
	}
	if v := st.O.Store.View; !v.Lock.Held() {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "Cluster has no leader, can not reinitialize"}
	}
	ctx, cancel := context.WithTimeout(ctx, reinitWithin)
	defer cancel()
	out, err := x.n.Reinit(ctx, r.FromLeader)
	switch {
	case err != nil:
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: err.Error()}
	case !out.Done:
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: out.Text}
	}
	return rest.Answer{Code: http.StatusOK, Text: "reinitialize started"}
}

// Reload reads the configuration file again.
func (x *api) Reload(context.Context) rest.Answer {
	x.a.reload(x.n)
	return rest.Answer{Code: http.StatusAccepted, Text: "reload scheduled"}
}

// PatchConfig merges into the dynamic configuration.
func (x *api) PatchConfig(ctx context.Context, patch map[string]any) rest.Answer {
	return x.changeConfig(ctx, func(doc map[string]any) map[string]any {
		next, _ := cluster.MergePatch(doc, patch)
		return next
	}, http.StatusConflict)
}

// PutConfig replaces it.
func (x *api) PutConfig(ctx context.Context, doc map[string]any) rest.Answer {
	return x.changeConfig(ctx, func(map[string]any) map[string]any { return doc }, http.StatusBadGateway)
}

func (x *api) changeConfig(ctx context.Context, change func(map[string]any) map[string]any, lost int) rest.Answer {
	ctx, cancel := context.WithTimeout(ctx, configWithin)
	defer cancel()
	snap, err := x.store.Load(ctx)
	if err != nil {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "the store does not answer: " + err.Error()}
	}
	e, ok := snap.Entries[dcs.KeyConfig]
	if !ok {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "the cluster has no configuration yet"}
	}
	before, _ := cluster.ParseDynamic(e.Value)
	next := change(before.Doc)
	if err := config.ValidateDynamic(next).Err(); err != nil {
		return rest.Answer{Code: http.StatusUnprocessableEntity, Text: err.Error()}
	}
	value, err := json.Marshal(next)
	if err != nil {
		return rest.Answer{Code: http.StatusBadRequest, Text: err.Error()}
	}
	res, err := x.store.Commit(ctx, dcs.Txn{If: []dcs.Cond{{Key: dcs.KeyConfig, ModRev: e.ModRev}}, Then: []dcs.Op{{Key: dcs.KeyConfig, Value: value}}})
	if err != nil {
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "the configuration could not be written: " + err.Error()}
	}
	if !res.Succeeded {
		return rest.Answer{Code: lost, Text: "the configuration changed meanwhile: try again"}
	}
	x.n.Wake()
	return rest.Answer{Code: http.StatusOK, Doc: next}
}

// MPP takes events of Citus workers; this node is part of no Citus cluster.
func (x *api) MPP(context.Context, map[string]any) rest.Answer {
	return rest.Answer{Code: http.StatusServiceUnavailable, Text: "this node is not a Citus coordinator"}
}

// Failsafe answers the holder of the lock that cannot reach the store.
func (x *api) Failsafe(_ context.Context, r rest.FailsafeRequest) rest.FailsafeAnswer {
	st, _ := x.n.Status()
	if st.O.Store.Seen && !st.O.Store.View.Config.FailsafeMode {
		return rest.FailsafeAnswer{Disabled: true}
	}
	ok, why := x.n.Promise(node.Promise{Name: r.Name, Epoch: r.Epoch, TTL: r.TTL, Slots: r.Slots, ConnURL: r.ConnURL, APIURL: r.APIURL})
	if !ok {
		return rest.FailsafeAnswer{Why: why}
	}
	return rest.FailsafeAnswer{Accepted: true, LSN: st.O.DB.LSN}
}

var errNoReload = errors.New("this agent cannot read its configuration again")

// reload reads the file again and hands the node what can change while it runs.
func (a *Agent) reload(n *node.Node) {
	if a.Reread == nil {
		a.Log.Warn("reload", "err", errNoReload)
		return
	}
	next, err := a.Reread()
	if err != nil {
		a.Log.Error("the changed configuration is not used; the old one stays in force", "err", err)
		return
	}
	if fixed := changedFixed(a.File, next); len(fixed) > 0 {
		a.Log.Warn("settings that take a restart of the agent were changed, and stay as they were", "settings", fixed)
	}
	a.inst.SetFile(next)
	n.SetTags(cluster.Tags(next.Tags))
	n.Reconfigure()
	a.Log.Info("configuration read again")
}

// changedFixed are the changed settings that only a restart of the agent takes over.
func changedFixed(old, next *config.Config) []string {
	var out []string
	for _, s := range []struct {
		name string
		a, b any
	}{
		{"scope", old.Scope, next.Scope}, {"name", old.Name, next.Name}, {"namespace", old.Namespace, next.Namespace},
		{"postgresql.data_dir", old.PostgreSQL.DataDir, next.PostgreSQL.DataDir}, {"postgresql.listen", old.PostgreSQL.Listen, next.PostgreSQL.Listen},
		{"postgresql.connect_address", old.PostgreSQL.ConnectAddress, next.PostgreSQL.ConnectAddress},
		{"postgresql.authentication", old.PostgreSQL.Authentication, next.PostgreSQL.Authentication},
		{"restapi", old.RestAPI, next.RestAPI}, {"peer", old.Peer, next.Peer}, {"etcd3", old.Etcd3, next.Etcd3}, {"ctl", old.Ctl, next.Ctl},
	} {
		if !reflect.DeepEqual(s.a, s.b) {
			out = append(out, s.name)
		}
	}
	return out
}
