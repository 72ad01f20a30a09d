package cluster

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Tags are a member's tags as they stand in its file. Values are published unchanged (strings stay
// strings); the accessors read them the way Patroni does (patroni/tags.py).
type Tags map[string]any

// Bool reads a tag as a boolean: true, "true", "on", "yes", "1" and non-zero numbers.
func (t Tags) Bool(name string) bool {
	switch v := t[name].(type) {
	case bool:
		return v
	case string:
		switch strings.ToLower(v) {
		case "on", "true", "yes", "1":
			return true
		}
	case float64:
		return v != 0
	case int:
		return v != 0
	case json.Number:
		f, _ := v.Float64()
		return f != 0
	}
	return false
}

// String reads a tag as text; "" when it is absent or not text.
func (t Tags) String(name string) string { s, _ := t[name].(string); return s }

func (t Tags) number(name string) (int, bool) {
	switch v := t[name].(type) {
	case float64:
		return int(v), true
	case int:
		return v, true
	case json.Number:
		i, err := v.Int64()
		return int(i), err == nil
	case string:
		i, err := strconv.Atoi(strings.TrimSpace(v))
		return i, err == nil
	}
	return 0, false
}

// FailoverPriority is 0 for a member that must never lead, else at least 1. nofailover wins over
// failover_priority where both are set (as in Patroni).
func (t Tags) FailoverPriority() int { return t.priority("nofailover", "failover_priority") }

// SyncPriority is 0 for a member that must never be a synchronous standby, else at least 1.
func (t Tags) SyncPriority() int { return t.priority("nosync", "sync_priority") }

func (t Tags) priority(no, prio string) int {
	if _, set := t[no]; set {
		if t.Bool(no) {
			return 0
		}
		if n, ok := t.number(prio); ok && n > 0 {
			return n
		}
		return 1
	}
	if n, ok := t.number(prio); ok {
		return max(n, 0)
	}
	return 1
}

// NoLoadBalance keeps the member out of the router's read pool and of the read health checks.
func (t Tags) NoLoadBalance() bool { return t.Bool("noloadbalance") }

// CloneFrom prefers the member as the source of base backups.
func (t Tags) CloneFrom() bool { return t.Bool("clonefrom") }

// NoStream makes the member follow from the archive alone.
func (t Tags) NoStream() bool { return t.Bool("nostream") }

// ReplicateFrom is the member to stream from instead of the primary; "" for the primary.
func (t Tags) ReplicateFrom() string { return t.String("replicatefrom") }

// Effective are the tags worth publishing: known tags with a false value are left out, except
// nofailover and nosync where the matching priority tag exists (as in Patroni).
func (t Tags) Effective() Tags {
	known := map[string]string{"nofailover": "failover_priority", "nosync": "sync_priority",
		"noloadbalance": "", "clonefrom": "", "nostream": "", "replicatefrom": ""}
	out := Tags{}
	for k, v := range t {
		if partner, ok := known[k]; ok {
			s, isText := v.(string)
			off := v == nil || isText && (s == "" || strings.EqualFold(s, "false")) || !isText && !t.Bool(k)
			if off && (partner == "" || t[partner] == nil) {
				continue
			}
		}
		out[k] = v
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
