package config

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// decoder fills the structs from nodes by their tags:
//
//	yaml:"key"    the key; ",rest" on a map takes the mappings under unknown keys
//	default:"v"   the value when it is not stated
//	enum:"a,b"    the words allowed
//	min, max      limits, in the field's own notation
type decoder struct {
	problems Problems
	lines    map[string]int
	sources  map[string]string
}

func (d *decoder) report(sev Severity, n *node, path, hint, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	line := 0
	if n != nil {
		line = n.line
		if n.env != "" {
			line = 0
			msg += " (from the environment variable " + n.env + ")"
		}
	}
	d.problems = append(d.problems, Problem{Path: path, Line: line, Severity: sev, Message: msg, Hint: hint})
}

func (d *decoder) bad(n *node, path, hint, format string, args ...any) {
	d.report(Error, n, path, hint, format, args...)
}

func (d *decoder) warn(n *node, path, hint, format string, args ...any) {
	d.report(Warning, n, path, hint, format, args...)
}

// setDefaults fills the defaults of a struct and of the structs in it, but not behind pointers.
func setDefaults(v reflect.Value) {
	for i := range v.NumField() {
		f, t := v.Field(i), v.Type().Field(i)
		if !t.IsExported() {
			continue
		}
		if f.Kind() == reflect.Struct {
			setDefaults(f)
			if user := t.Tag.Get("default-username"); user != "" {
				f.FieldByName("Username").SetString(user)
			}
			continue
		}
		if def := t.Tag.Get("default"); def != "" {
			d := decoder{lines: map[string]int{}}
			d.value(&node{kind: scalar, text: def, tag: "!!str"}, f, t, "default")
			if len(d.problems) > 0 {
				panic("config: bad default of " + t.Name + ": " + d.problems[0].Message)
			}
		}
	}
}

func (d *decoder) structure(n *node, v reflect.Value, path string) {
	switch n.kind {
	case null:
		return
	case mapping:
	default:
		d.bad(n, path, "write the settings below it, indented", "want a section with settings, got %s", n.describe())
		return
	}
	var keys []string
	byKey := map[string]int{}
	rest := -1
	for i := range v.NumField() {
		switch key := v.Type().Field(i).Tag.Get("yaml"); key {
		case "":
		case ",rest":
			rest = i
		default:
			byKey[key] = i
			keys = append(keys, key)
		}
	}
	for _, f := range n.fields {
		at := join(path, f.key)
		d.lines[at] = f.val.line
		if f.line > 0 && f.val.env == "" {
			d.lines[at] = f.line
		}
		if f.val.env != "" {
			d.sources[at] = f.val.env
		}
		i, ok := byKey[f.key]
		switch {
		case ok:
			d.value(f.val, v.Field(i), v.Type().Field(i), at)
		case rest >= 0 && f.val.kind == mapping:
			m := v.Field(rest)
			if m.IsNil() {
				m.Set(reflect.ValueOf(map[string]any{}))
			}
			m.SetMapIndex(reflect.ValueOf(f.key), reflect.ValueOf(d.any(f.val, at)))
		default:
			d.unknown(&node{line: f.line, env: f.val.env}, path, f.key, keys)
		}
	}
}

// dynamicKeys are keys of the dynamic configuration, to tell when one stands in the wrong place.
var dynamicKeys = []string{"failsafe_mode", "ignore_slots", "loop_wait", "master_start_timeout", "master_stop_timeout",
	"max_timelines_history", "maximum_lag_on_failover", "maximum_lag_on_syncnode", "member_slots_ttl", "pause", "postgresql",
	"primary_race_backoff", "primary_start_timeout", "primary_stop_timeout", "retry_timeout", "slots", "standby_cluster",
	"synchronous_mode", "synchronous_mode_strict", "synchronous_node_count", "ttl", "check_timeline"}

func (d *decoder) unknown(n *node, path, key string, known []string) {
	at := join(path, key)
	hint := ""
	if near := nearest(key, known); near != "" {
		hint = fmt.Sprintf("did you mean %s?", join(path, near))
	}
	if path == "" {
		switch {
		case slices.Contains([]string{"consul", "zookeeper", "exhibitor", "kubernetes", "raft"}, key):
			d.bad(n, at, "use etcd3.hosts, or let hathi run etcd (etcd.embedded)", "hathi keeps its state in etcd only")
			return
		case slices.Contains(dynamicKeys, key):
			hint = "it belongs to the dynamic configuration: below bootstrap.dcs, or `hathi edit-config` on a running cluster"
		}
	}
	d.warn(n, at, hint, "unknown setting, ignored")
}

// describe says what kind of value stands there, without the value: it may be a secret.
func (n *node) describe() string {
	switch n.kind {
	case list:
		return "a list"
	case mapping:
		return "a section"
	case null:
		return "nothing"
	}
	return map[string]string{"!!int": "a number", "!!float": "a number", "!!bool": "a boolean"}[n.tag] + map[bool]string{true: "text"}[n.tag == "!!str"]
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
	secretType   = reflect.TypeFor[Secret]()
)

func (d *decoder) value(n *node, v reflect.Value, t reflect.StructField, path string) {
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
		return
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		setDefaults(p.Elem())
		d.structure(n, p.Elem(), path)
		v.Set(p)
		return
	}
	if n.kind == null {
		d.warn(n, path, "remove the line, or give it a value", "has no value; the default is used")
		return
	}
	switch v.Kind() {
	case reflect.Interface:
		if got := d.any(n, path); got != nil {
			v.Set(reflect.ValueOf(got))
		}
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.strings(n, v, path)
	default:
		if n.kind != scalar {
			d.bad(n, path, "", "want one value, got %s", n.describe())
			return
		}
		d.scalar(n, v, t, path)
	}
}

func (d *decoder) any(n *node, path string) any {
	d.record(n, path)
	return n.value(path, func(line int, at, msg string) { d.bad(&node{line: line, env: n.env}, at, "", "%s", msg) })
}

// record notes the lines of everything below n, for problems found later.
func (d *decoder) record(n *node, path string) {
	for _, f := range n.fields {
		d.lines[join(path, f.key)] = f.line
		d.record(f.val, join(path, f.key))
	}
	for i, e := range n.items {
		d.lines[fmt.Sprintf("%s[%d]", path, i)] = e.line
		d.record(e, fmt.Sprintf("%s[%d]", path, i))
	}
}

func (d *decoder) mapping(n *node, v reflect.Value, path string) {
	if n.kind != mapping {
		d.bad(n, path, "write KEY: VALUE lines below it, indented", "want a section with settings, got %s", n.describe())
		return
	}
	for _, f := range n.fields {
		d.lines[join(path, f.key)] = f.line
	}
	if v.Type().Elem().Kind() == reflect.Interface {
		v.Set(reflect.ValueOf(d.any(n, path)))
		return
	}
	out := map[string]string{}
	for _, f := range n.fields {
		if f.val.kind != scalar {
			d.bad(f.val, join(path, f.key), "", "want one value, got %s", f.val.describe())
			continue
		}
		out[f.key] = f.val.text
	}
	v.Set(reflect.ValueOf(out))
}

func (d *decoder) strings(n *node, v reflect.Value, path string) {
	var out []string
	switch {
	case n.kind == scalar:
		// Patroni takes text with commas for hosts and networks; pg_hba lines hold commas themselves.
		if strings.HasSuffix(path, "pg_hba") || strings.HasSuffix(path, "pg_ident") {
			d.bad(n, path, "write one line per entry, each beginning with a dash", "want a list, got %s", n.describe())
			return
		}
		for e := range strings.SplitSeq(n.text, ",") {
			if e = strings.TrimSpace(e); e != "" {
				out = append(out, e)
			}
		}
	case n.kind == list:
		for i, e := range n.items {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.lines[at] = e.line
			if e.kind != scalar {
				d.bad(e, at, "", "want text, got %s", e.describe())
				continue
			}
			out = append(out, e.text)
		}
	default:
		d.bad(n, path, "", "want a list, got %s", n.describe())
		return
	}
	if out == nil {
		out = []string{}
	}
	v.Set(reflect.ValueOf(out))
}

func (d *decoder) scalar(n *node, v reflect.Value, t reflect.StructField, path string) {
	lo, hi := t.Tag.Get("min"), t.Tag.Get("max")
	switch {
	case v.Type() == durationType:
		got, ok := duration(n.text)
		least, _ := duration(lo)
		most, bounded := duration(hi)
		if !ok || got < least || bounded && got > most {
			d.bad(n, path, "", "want a duration such as 10s%s, got %s", limits(lo, hi), quote(n))
			return
		}
		v.SetInt(int64(got))
	case v.Type() == sizeType:
		got, ok := cluster.Bytes(n.text)
		least, _ := cluster.Bytes(lo)
		most, bounded := cluster.Bytes(hi)
		if !ok || got < least || bounded && got > most {
			d.bad(n, path, "", "want a size in bytes or with kB, MB, GB%s, got %s", limits(lo, hi), quote(n))
			return
		}
		v.SetInt(got)
	case v.Kind() == reflect.Int || v.Kind() == reflect.Int64:
		got, ok := number(n)
		least, lerr := strconv.ParseInt(lo, 10, 64)
		most, merr := strconv.ParseInt(hi, 10, 64)
		if !ok || lerr == nil && got < least || merr == nil && got > most {
			d.bad(n, path, "", "want a whole number%s, got %s", limits(lo, hi), quote(n))
			return
		}
		v.SetInt(got)
	case v.Kind() == reflect.Bool:
		b, ok := truth(n.text)
		if !ok {
			d.bad(n, path, "", "want true or false, got %s", quote(n))
			return
		}
		v.SetBool(b)
	case v.Kind() == reflect.String:
		d.text(n, v, t, path)
	}
}

func (d *decoder) text(n *node, v reflect.Value, t reflect.StructField, path string) {
	text := n.text
	if v.Type() == secretType {
		if n.tag != "!!str" {
			d.warn(n, path, "put it in quotes", "looks like %s; it is read as written", n.describe())
		}
		if strings.ContainsAny(text, "\n\r\x00") {
			d.bad(n, path, "", "contains a line break or NUL, which a password file cannot hold")
			return
		}
		v.SetString(text)
		return
	}
	if strings.ContainsAny(text, "\x00\n\r") {
		d.bad(n, path, "", "contains a line break or NUL")
		return
	}
	if enum := t.Tag.Get("enum"); enum != "" {
		words := strings.Split(enum, ",")
		// `mode: off` is the boolean false in YAML.
		if b, isBool := truth(text); n.tag == "!!bool" && isBool && !b && slices.Contains(words, "off") {
			text = "off"
		}
		i := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, text) })
		if i < 0 {
			hint := ""
			if near := nearest(text, words); near != "" {
				hint = "did you mean " + near + "?"
			}
			d.bad(n, path, hint, "want one of %s, got %s", strings.Join(words, ", "), quote(n))
			return
		}
		text = words[i]
	}
	v.SetString(text)
}

// quote shows a value in a message. Only fields that hold no secret come here.
func quote(n *node) string {
	s := n.text
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return strconv.Quote(s)
}

func limits(lo, hi string) string {
	switch {
	case lo != "" && hi != "":
		return " from " + lo + " to " + hi
	case lo != "":
		return " of at least " + lo
	}
	return ""
}

func number(n *node) (int64, bool) {
	if n.tag == "!!int" {
		v, ok := n.scalarValue("", func(int, string, string) {}).(int64)
		return v, ok
	}
	i, err := strconv.ParseInt(strings.TrimSpace(n.text), 10, 64)
	return i, err == nil
}

func duration(s string) (time.Duration, bool) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if f < 0 || f > 1e9 || f != f {
			return 0, false
		}
		return time.Duration(f * float64(time.Second)), true
	}
	v, err := time.ParseDuration(s)
	return v, err == nil && v >= 0
}

func optionText(v any) string {
	if v == nil {
		return ""
	}
	if b, ok := v.(bool); ok {
		return strconv.FormatBool(b)
	}
	return fmt.Sprint(v)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// nearest is the known word closest to s, when one is close enough to be what was meant.
func nearest(s string, known []string) string {
	best, at := "", 1+len(s)/3
	if at > 3 {
		at = 3
	}
	for _, k := range known {
		if d := distance(strings.ToLower(s), k, at); d <= at && (best == "" || d < at) {
			best, at = k, d
		}
	}
	return best
}

// distance is the number of letters to change, add or drop between a and b (Levenshtein), given up
// above limit.
func distance(a, b string, limit int) int {
	if len(a) > 80 || len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
