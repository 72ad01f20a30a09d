package rest

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// furthest is how far ahead something may be scheduled.
const furthest = 10 * 366 * 24 * time.Hour

var (
	zoned = []string{"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04:05.999999999Z0700", "2006-01-02T15:04:05.999999999Z07",
		"2006-01-02T15:04Z07:00", "2006-01-02T15:04Z0700", "2006-01-02T15:04Z07"}
	unzoned = []string{"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"}
)

// parseSchedule reads a time in ISO 8601 with offset, as Patroni's parse_schedule; action is the
// word for its messages.
func parseSchedule(v any, action string, now time.Time) (time.Time, *refusal) {
	s, ok := v.(string)
	if !ok || len(s) > 64 {
		return time.Time{}, unparsable
	}
	s = strings.TrimSpace(s)
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	if rest, ok := strings.CutSuffix(s, " UTC"); ok {
		s = rest + "Z"
	}
	s = strings.ReplaceAll(s, " ", "")
	for _, layout := range zoned {
		at, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if at.Before(now) {
			return time.Time{}, &refusal{code: http.StatusUnprocessableEntity, text: fmt.Sprintf("Cannot schedule %s in the past", action)}
		}
		if at.Sub(now) > furthest {
			return time.Time{}, &refusal{code: http.StatusUnprocessableEntity, text: fmt.Sprintf("Cannot schedule %s more than ten years ahead", action)}
		}
		return at, nil
	}
	for _, layout := range unzoned {
		if _, err := time.Parse(layout, s); err == nil {
			return time.Time{}, &refusal{code: http.StatusBadRequest, text: "Timezone information is mandatory for the scheduled " + action}
		}
	}
	return time.Time{}, unparsable
}

var unparsable = &refusal{code: http.StatusUnprocessableEntity,
	text: "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601"}

var versionForm = regexp.MustCompile(`^[0-9]{1,4}(\.[0-9]{1,4}){1,2}$`)

// restartRequest reads the body of POST /restart, with Patroni's codes and texts.
func restartRequest(obj map[string]any, paused bool, now time.Time) (RestartRequest, *refusal) {
	var r RestartRequest
	bad := func(format string, args ...any) (RestartRequest, *refusal) {
		return r, &refusal{code: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
	}
	if _, scheduled := obj["schedule"]; scheduled && paused {
		return r, &refusal{code: http.StatusInternalServerError, text: "Can't schedule restart in the paused state"}
	}
	for k, v := range obj {
		switch k {
		case "schedule":
			at, ref := parseSchedule(v, "restart", now)
			if ref != nil {
				return r, ref
			}
			r.Schedule = at
		case "role":
			switch role, _ := v.(string); cluster.Role(role) {
			case cluster.RolePrimary, cluster.RoleStandbyLeader, cluster.RoleReplica:
				r.Role = cluster.Role(role)
			case "master":
				r.Role = cluster.RolePrimary
			default:
				return bad("PostgreSQL role should be either primary, standby_leader, or replica")
			}
		case "postgres_version":
			text := fmt.Sprint(v)
			if !versionForm.MatchString(text) {
				return bad("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: %s", clip(text))
			}
			r.PostgresVersion = text
		case "timeout":
			d, ok := seconds(v)
			if !ok || d <= 0 {
				return bad("Timeout should be a positive number of seconds")
			}
			r.Timeout = d
		case "restart_pending":
			r.Pending = truth(v)
		default:
			return bad("Unknown filter for the scheduled restart: %s", clip(k))
		}
	}
	return r, nil
}

// failoverRequest reads the body of POST /switchover or /failover, with Patroni's codes and texts.
func failoverRequest(obj map[string]any, switchover, paused bool, now time.Time) (FailoverRequest, *refusal) {
	r := FailoverRequest{Switchover: switchover, Force: truth(obj["force"])}
	bad := func(text string) (FailoverRequest, *refusal) {
		return r, &refusal{code: http.StatusBadRequest, text: text}
	}
	var ok [3]bool
	var member string
	r.Leader, ok[0] = word(obj, "leader")
	r.Candidate, ok[1] = word(obj, "candidate")
	member, ok[2] = word(obj, "member")
	if ok != [3]bool{true, true, true} {
		return bad("leader and candidate should be names of members")
	}
	if r.Candidate == "" {
		r.Candidate = member
	}
	if !switchover && r.Candidate == "" {
		return bad("Failover could be performed only to a specific candidate")
	}
	if switchover && r.Leader == "" {
		return bad("Switchover could be performed only from a specific leader")
	}
	if at := obj["scheduled_at"]; at != nil && at != "" {
		if !switchover {
			return bad("Failover can't be scheduled")
		}
		if paused {
			return bad("Can't schedule switchover in the paused state")
		}
		var ref *refusal
		if r.ScheduledAt, ref = parseSchedule(at, "switchover", now); ref != nil {
			return r, ref
		}
	}
	if paused && r.Candidate == "" {
		return bad("Switchover is possible only to a specific candidate in a paused state")
	}
	if r.Leader != "" {
		r.Switchover = true // as Patroni: a fail-over that names the leader is a switchover
	}
	if r.Leader == r.Candidate {
		return bad("Switchover target and source are the same")
	}
	return r, nil
}

func word(obj map[string]any, key string) (string, bool) {
	v, has := obj[key]
	if !has || v == nil {
		return "", true
	}
	s, ok := v.(string)
	return s, ok && len(s) <= 255
}

// truth reads true and false the way Patroni's parse_bool does.
func truth(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case string:
		switch strings.ToLower(v) {
		case "on", "true", "yes", "1":
			return true
		}
	case json.Number:
		return v.String() == "1"
	}
	return false
}

// seconds reads a whole number of seconds, or a text with unit (ms, s, min, h, d).
func seconds(v any) (time.Duration, bool) {
	text := strings.TrimSpace(fmt.Sprint(v))
	unit := time.Second
	for _, u := range []struct {
		suffix string
		unit   time.Duration
	}{{"ms", time.Millisecond}, {"min", time.Minute}, {"s", time.Second}, {"h", time.Hour}, {"d", 24 * time.Hour}} {
		if num, ok := strings.CutSuffix(text, u.suffix); ok {
			text, unit = strings.TrimSpace(num), u.unit
			break
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.Abs(n*float64(unit)) > float64(30*24*time.Hour) {
		return 0, false
	}
	return time.Duration(n * float64(unit)).Round(time.Second), true
}

func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
