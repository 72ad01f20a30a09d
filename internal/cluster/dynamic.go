package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"
)

// Dynamic is the cluster-wide configuration, the value of the key "config": the document verbatim,
// unknown and old key names kept, and the settings read out of it.
type Dynamic struct {
	Doc map[string]any // never modified once parsed
	Settings
	// ModeBad says that synchronous_mode could not be read, and that Settings therefore say off.
	ModeBad bool
}

// Settings is the typed reading of the dynamic configuration. Names are Patroni's
// (docs/dynamic_configuration.rst) in Go spelling.
type Settings struct {
	TTL          time.Duration // the lease duration L; 3 s or more
	LoopWait     time.Duration
	RetryTimeout time.Duration
	// MaximumLagOnFailover is how far, in bytes of WAL, a standby may be behind the last position
	// the leader published and still be promoted in asynchronous mode. Zero allows none.
	MaximumLagOnFailover int64
	// MaximumLagOnSyncnode is how far a synchronous standby may be behind before another is chosen;
	// -1 for never.
	MaximumLagOnSyncnode int64
	PrimaryStartTimeout  time.Duration // crash recovery may take so long before another node takes over; 0: hand over at once
	PrimaryStopTimeout   time.Duration // a stop in synchronous mode may take so long before SIGKILL; 0: no limit of its own
	SynchronousMode      SyncMode
	SynchronousStrict    bool
	SynchronousNodeCount int // 1 or more
	FailsafeMode         bool
	Pause                bool
	MaxTimelinesHistory  int // 0: all
	MemberSlotsTTL       time.Duration
	UsePgRewind          bool
	UseSlots             bool
	RemoveDiverged       bool // remove_data_directory_on_diverged_timelines: re-clone when rewind cannot be used
	RemoveOnRewindFail   bool // remove_data_directory_on_rewind_failure
	Parameters           map[string]string
	PgHBA                []string // nil: not stated
	PgIdent              []string // nil: not stated
	Slots                map[string]any
	IgnoreSlots          []map[string]any
	StandbyCluster       map[string]any
}

// SyncMode is synchronous_mode: off, on (named standbys), or quorum (any k of the standbys).
type SyncMode string

// The synchronous modes.
const (
	SyncOff    SyncMode = "off"
	SyncOn     SyncMode = "on"
	SyncQuorum SyncMode = "quorum"
)

// DefaultSettings are the values of settings that the document does not state. Where they differ
// from Patroni's, a new cluster's document states ours explicitly (NewClusterDoc), so that a
// Patroni file keeps Patroni's meaning.
func DefaultSettings() Settings {
	return Settings{TTL: 30 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second,
		MaximumLagOnFailover: 1 << 20, MaximumLagOnSyncnode: -1, PrimaryStartTimeout: 300 * time.Second,
		SynchronousMode: SyncOff, SynchronousNodeCount: 1, MemberSlotsTTL: 30 * time.Minute,
		UsePgRewind: true, UseSlots: true, RemoveDiverged: true, RemoveOnRewindFail: true,
		Parameters: map[string]string{}}
}

// NewClusterDoc is the dynamic configuration that a new cluster begins with where its file states
// nothing: the safe and fast defaults.
func NewClusterDoc(nodes int) map[string]any {
	doc := map[string]any{"ttl": 6, "loop_wait": 1, "retry_timeout": 2, "maximum_lag_on_failover": 1 << 20,
		"primary_start_timeout": 60, "failsafe_mode": true, "synchronous_mode": false,
		"postgresql": map[string]any{"use_pg_rewind": true, "use_slots": true,
			"remove_data_directory_on_diverged_timelines": true, "remove_data_directory_on_rewind_failure": true,
			"parameters": map[string]any{"max_slot_wal_keep_size": "10GB", "wal_keep_size": "128MB"}}}
	if nodes >= 3 {
		doc["synchronous_mode"] = "quorum"
	}
	return doc
}

// ParseDynamic reads the document. It reports every setting that has an unusable value, each with
// its path; settings that are fine are still filled in, and the others keep their defaults, so that
// a running cluster can go on with what it has.
func ParseDynamic(b []byte) (Dynamic, []error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		return Dynamic{Doc: map[string]any{}, Settings: DefaultSettings(), ModeBad: true}, []error{fmt.Errorf("dynamic configuration: %w", err)}
	}
	return DynamicFrom(doc)
}

// DynamicFrom reads an already decoded document (from JSON with or without json.Number, or YAML).
func DynamicFrom(doc map[string]any) (Dynamic, []error) {
	if doc == nil {
		doc = map[string]any{}
	}
	s := DefaultSettings()
	r := reader{}
	r.seconds(doc, "ttl", &s.TTL, 3, 600)
	r.seconds(doc, "loop_wait", &s.LoopWait, 1, 300)
	r.seconds(doc, "retry_timeout", &s.RetryTimeout, 1, 300)
	r.bytes(doc, "maximum_lag_on_failover", &s.MaximumLagOnFailover, 0)
	r.bytes(doc, "maximum_lag_on_syncnode", &s.MaximumLagOnSyncnode, -1)
	r.seconds(doc, either(doc, "primary_start_timeout", "master_start_timeout"), &s.PrimaryStartTimeout, 0, 86400)
	r.seconds(doc, either(doc, "primary_stop_timeout", "master_stop_timeout"), &s.PrimaryStopTimeout, 0, 86400)
	errs := len(r.errs)
	r.syncMode(doc, &s.SynchronousMode)
	modeBad := len(r.errs) > errs
	r.boolean(doc, "synchronous_mode_strict", &s.SynchronousStrict)
	r.integer(doc, "synchronous_node_count", &s.SynchronousNodeCount, 1, 100)
	r.boolean(doc, "failsafe_mode", &s.FailsafeMode)
	r.boolean(doc, "pause", &s.Pause)
	r.integer(doc, "max_timelines_history", &s.MaxTimelinesHistory, 0, math.MaxInt32)
	r.seconds(doc, "member_slots_ttl", &s.MemberSlotsTTL, 0, 30*86400)
	s.Slots = r.object(doc, "", "slots")
	s.StandbyCluster = r.object(doc, "", "standby_cluster")
	if v, ok := doc["ignore_slots"].([]any); ok {
		for _, e := range v {
			if m, ok := e.(map[string]any); ok {
				s.IgnoreSlots = append(s.IgnoreSlots, m)
			}
		}
	}
	if pg := r.object(doc, "", "postgresql"); pg != nil {
		r.path = "postgresql."
		r.boolean(pg, "use_pg_rewind", &s.UsePgRewind)
		r.boolean(pg, "use_slots", &s.UseSlots)
		r.boolean(pg, "remove_data_directory_on_diverged_timelines", &s.RemoveDiverged)
		r.boolean(pg, "remove_data_directory_on_rewind_failure", &s.RemoveOnRewindFail)
		s.PgHBA = r.lines(pg, "pg_hba")
		s.PgIdent = r.lines(pg, "pg_ident")
		for k, v := range r.object(pg, "postgresql.", "parameters") {
			text, ok := ParameterText(v)
			if !ok {
				r.bad("parameters."+k, "want a text, number or boolean, got %T", v)
				continue
			}
			s.Parameters[strings.ToLower(k)] = text
		}
	}
	return Dynamic{Doc: doc, Settings: s, ModeBad: modeBad}, r.errs
}

func either(doc map[string]any, names ...string) string {
	for _, n := range names {
		if _, ok := doc[n]; ok {
			return n
		}
	}
	return names[0]
}

// ParameterText is a PostgreSQL setting's value as the text that postgresql.conf takes: booleans
// become on and off, numbers keep their digits.
func ParameterText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		if v {
			return "on", true
		}
		return "off", true
	case json.Number:
		return v.String(), true
	case int:
		return strconv.Itoa(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}

type reader struct {
	path string
	errs []error
}

func (r *reader) bad(key, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s%s: %s", r.path, key, fmt.Sprintf(format, args...)))
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	case string:
		f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		return f, err == nil
	}
	return 0, false
}

func (r *reader) seconds(doc map[string]any, key string, into *time.Duration, lo, hi float64) {
	v, ok := doc[key]
	if !ok || v == nil {
		return
	}
	f, ok := number(v)
	if text, isText := v.(string); !ok && isText {
		if d, err := time.ParseDuration(text); err == nil {
			f, ok = d.Seconds(), true
		}
	}
	if !ok || math.IsNaN(f) || f < lo || f > hi {
		r.bad(key, "want %g to %g seconds, got %v", lo, hi, v)
		return
	}
	*into = time.Duration(f * float64(time.Second))
}

func (r *reader) integer(doc map[string]any, key string, into *int, lo, hi int) {
	v, ok := doc[key]
	if !ok || v == nil {
		return
	}
	f, ok := number(v)
	if !ok || f != math.Trunc(f) || f < float64(lo) || f > float64(hi) {
		r.bad(key, "want a whole number from %d to %d, got %v", lo, hi, v)
		return
	}
	*into = int(f)
}

func (r *reader) bytes(doc map[string]any, key string, into *int64, lo int64) {
	v, ok := doc[key]
	if !ok || v == nil {
		return
	}
	n, ok := Bytes(v)
	if !ok || n < lo {
		r.bad(key, "want a size in bytes or with kB, MB, GB, TB, at least %d, got %v", lo, v)
		return
	}
	*into = n
}

// Bytes reads a size: a whole number of bytes, or a text with a unit of 1024 (kB, MB, GB, TB).
func Bytes(v any) (int64, bool) {
	if f, ok := number(v); ok {
		if f != math.Trunc(f) || math.Abs(f) > 1<<60 {
			return 0, false
		}
		return int64(f), true
	}
	s, ok := v.(string)
	if !ok {
		return 0, false
	}
	s = strings.TrimSpace(s)
	for unit, mult := range map[string]int64{"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40} {
		if num, ok := strings.CutSuffix(strings.ToLower(s), unit); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
			if err != nil || n > (1<<60)/mult || n < 0 {
				return 0, false
			}
			return n * mult, true
		}
	}
	return 0, false
}

func truth(v any) (value, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		switch strings.ToLower(v) {
		case "on", "true", "yes", "1":
			return true, true
		case "off", "false", "no", "0":
			return false, true
		}
	case json.Number, int, float64, int64:
		f, ok := number(v)
		return f != 0, ok
	}
	return false, false
}

func (r *reader) boolean(doc map[string]any, key string, into *bool) {
	v, ok := doc[key]
	if !ok || v == nil {
		return
	}
	b, ok := truth(v)
	if !ok {
		r.bad(key, "want true or false, got %v", v)
		return
	}
	*into = b
}

func (r *reader) syncMode(doc map[string]any, into *SyncMode) {
	v, ok := doc["synchronous_mode"]
	if !ok || v == nil {
		return
	}
	if s, isText := v.(string); isText && strings.EqualFold(s, "quorum") {
		*into = SyncQuorum
		return
	}
	on, ok := truth(v)
	switch {
	case !ok:
		r.bad("synchronous_mode", "want true, false or quorum, got %v", v)
	case on:
		*into = SyncOn
	default:
		*into = SyncOff
	}
}

func (r *reader) object(doc map[string]any, path, key string) map[string]any {
	v, ok := doc[key]
	if !ok || v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		r.errs = append(r.errs, fmt.Errorf("%s%s: want a mapping, got %T", path, key, v))
	}
	return m
}

func (r *reader) lines(doc map[string]any, key string) []string {
	v, ok := doc[key]
	if !ok || v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		r.bad(key, "want a list of lines, got %T", v)
		return nil
	}
	out := make([]string, 0, len(list))
	for i, e := range list {
		s, ok := e.(string)
		if !ok || strings.ContainsAny(s, "\n\r") {
			r.bad(fmt.Sprintf("%s[%d]", key, i), "want one line of text, got %v", e)
			continue
		}
		out = append(out, s)
	}
	return out
}

// MergePatch applies a change to the document, as JSON merge patch (RFC 7396) with Patroni's one
// difference: an object under a key that did not exist before is stored as given, nulls included
// (patroni/config.py patch_config). It returns a new document and whether anything changed.
func MergePatch(doc, patch map[string]any) (map[string]any, bool) {
	out := maps.Clone(doc)
	if out == nil {
		out = map[string]any{}
	}
	changed := false
	for k, v := range patch {
		old, had := out[k]
		switch {
		case v == nil:
			if had {
				delete(out, k)
				changed = true
			}
		case had && isObject(old) && isObject(v):
			merged, c := MergePatch(old.(map[string]any), v.(map[string]any))
			out[k] = merged
			changed = changed || c
		case !had || !sameJSON(old, v):
			out[k] = v
			changed = true
		}
	}
	return out, changed
}

func isObject(v any) bool { _, ok := v.(map[string]any); return ok }

func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
