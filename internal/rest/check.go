package rest

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// healthPaths are the paths of the health checks, and what each asks.
var healthPaths = map[string]check{
	"/": checkPrimary, "/primary": checkPrimary, "/master": checkPrimary, "/read-write": checkPrimary,
	"/leader":         checkLeader,
	"/standby-leader": checkStandbyLeader, "/standby_leader": checkStandbyLeader,
	"/replica":   checkReplica,
	"/read-only": checkReadOnly,
	"/sync":      checkSync, "/synchronous": checkSync,
	"/read-only-sync": checkReadOnlySync, "/read-only-synchronous": checkReadOnlySync,
	"/quorum": checkQuorum, "/read-only-quorum": checkReadOnlyQuorum,
	"/async": checkAsync, "/asynchronous": checkAsync,
	"/health": checkHealth,
}

type check int

const (
	checkPrimary check = iota
	checkLeader
	checkStandbyLeader
	checkReplica
	checkReadOnly
	checkSync
	checkReadOnlySync
	checkQuorum
	checkReadOnlyQuorum
	checkAsync
	checkHealth
)

// healthCode is the status code of a health check.
func healthCode(s *Snapshot, now time.Duration, c check, q url.Values) int {
	ok, tags := verdict(s, now, c, q)
	if ok && tags && !tagsMatch(s.Tags, q) {
		ok = false
	}
	if ok {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// verdict says whether the check holds, and whether ?tag_... applies to it.
func verdict(s *Snapshot, now time.Duration, c check, q url.Values) (ok, tags bool) {
	leader, primary, standbyLeader := leadership(s, now)
	replica := replicaOK(s, now, q)
	st := s.Status
	switch c {
	case checkPrimary:
		return primary, false
	case checkLeader:
		return leader, false
	case checkStandbyLeader:
		return standbyLeader, false
	case checkReplica:
		return replica, true
	case checkReadOnly:
		return primary || standbyLeader || replica, true
	case checkHealth:
		return s.running(now), true
	}
	if !s.StoreKnown {
		return false, true
	}
	switch c {
	case checkSync:
		ok = st.SyncStandby && replica
	case checkQuorum:
		ok = st.QuorumStandby && replica
	case checkAsync:
		ok = !st.SyncStandby && !st.QuorumStandby && replica
	case checkReadOnlySync:
		ok = primary || standbyLeader || st.SyncStandby && replica
	case checkReadOnlyQuorum:
		ok = primary || standbyLeader || st.QuorumStandby && replica
	}
	return ok, true
}

func leadership(s *Snapshot, now time.Duration) (leader, primary, standbyLeader bool) {
	role := s.Status.Role
	if !s.StoreKnown && s.Status.Pause {
		// Nothing is automatic in pause: without the store the role of PostgreSQL is all there is.
		leader = role == cluster.RolePrimary || role == cluster.RoleStandbyLeader
		return leader && s.running(now), role == cluster.RolePrimary && s.running(now), role == cluster.RoleStandbyLeader && s.running(now)
	}
	if !s.Leads(now) {
		return false, false, false
	}
	if s.standbyCluster() {
		return true, false, (role == cluster.RoleReplica || role == cluster.RoleStandbyLeader) && s.running(now)
	}
	return true, role == cluster.RolePrimary && s.running(now), false
}

func replicaOK(s *Snapshot, now time.Duration, q url.Values) bool {
	st := s.Status
	if s.Tags.NoLoadBalance() || st.Role != cluster.RoleReplica || !s.running(now) {
		return false
	}
	if want := q.Get("replication_state"); want != "" && st.ReplState != want {
		return false
	}
	limit, ok := lagLimit(q)
	return !ok || st.XLog.Replayed.Behind(s.endOfWAL()) <= limit
}

// lagLimit reads ?lag=, a number of bytes or a text with unit. One that cannot be read is no limit
// (as in Patroni).
func lagLimit(q url.Values) (int64, bool) {
	text := strings.TrimSpace(q.Get("lag"))
	if text == "" {
		return math.MaxInt64, false
	}
	if n, ok := cluster.Bytes(text); ok {
		return n, true
	}
	if num, ok := strings.CutSuffix(text, "B"); ok {
		return cluster.Bytes(strings.TrimSpace(num))
	}
	return math.MaxInt64, false
}

func tagsMatch(tags cluster.Tags, q url.Values) bool {
	for key, want := range q {
		name, ok := strings.CutPrefix(key, "tag_")
		if !ok || len(want) == 0 {
			continue
		}
		have, ok := tags[name]
		if !ok || have == nil {
			return false
		}
		text, isText := have.(string)
		if !isText {
			text = strings.ToLower(fmt.Sprint(have))
		}
		if text != want[0] {
			return false
		}
	}
	return true
}

// readiness is nil for a node that is ready to serve, else why it is not (Patroni's _readiness).
func readiness(s *Snapshot, now time.Duration, q url.Values) error {
	if s.Leads(now) {
		return nil
	}
	if !s.running(now) {
		return fmt.Errorf("PostgreSQL is not running")
	}
	if s.Status.ReplState != string(cluster.StateStreaming) {
		return fmt.Errorf("PostgreSQL replication state is not streaming")
	}
	if !s.StoreKnown && s.LatestEndLSN == 0 {
		if s.Status.FailsafeActive {
			return nil
		}
		return fmt.Errorf("DCS is not accessible")
	}
	mode, at := "apply", s.Status.XLog.Replayed
	if q.Get("mode") == "write" {
		mode, at = "write", s.Status.XLog.Received
	}
	limit, ok := lagLimit(q)
	if !ok {
		limit = s.View.Config.MaximumLagOnFailover
	}
	if lag := at.Behind(s.endOfWAL()); lag > limit {
		return fmt.Errorf("replication %s lag %d exceeds maximum allowable %d", mode, lag, limit)
	}
	return nil
}

// alive says whether the HA loop goes round: within ttl on a primary, twice that elsewhere. In
// pause it always is.
func alive(s *Snapshot, now time.Duration) bool {
	limit := s.View.Config.TTL
	if limit <= 0 {
		limit = cluster.DefaultSettings().TTL
	}
	if s.Status.Role != cluster.RolePrimary || s.Status.State != cluster.StateRunning {
		limit *= 2
	}
	return s.Status.Pause || s.Ticked+limit > now
}
