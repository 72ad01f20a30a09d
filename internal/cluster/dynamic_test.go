package cluster_test

import (
	"encoding/json"
	"maps"
	"math"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

func TestParseDynamic_EmptyIsDefaults(t *testing.T) {
	for _, text := range []string{`{}`, `null`, `{"ttl":null,"postgresql":null}`} {
		d, errs := cluster.ParseDynamic([]byte(text))
		if len(errs) != 0 || !reflect.DeepEqual(d.Settings, cluster.DefaultSettings()) {
			t.Errorf("%s: got %+v, %v; want the defaults", text, d.Settings, errs)
		}
	}
}

func TestParseDynamic_PatroniDocument(t *testing.T) {
	d, errs := cluster.ParseDynamic([]byte(`{"ttl":20,"loop_wait":"2","retry_timeout":3.0,"maximum_lag_on_failover":"1MB","maximum_lag_on_syncnode":15000000,
		"master_start_timeout":0,"primary_stop_timeout":"1m","synchronous_mode":"on","synchronous_mode_strict":true,"synchronous_node_count":2,
		"failsafe_mode":"yes","pause":true,"max_timelines_history":5,"member_slots_ttl":"30min","slots":{"a":null},"ignore_slots":[{"name":"b"},7],
		"postgresql":{"use_slots":false,"use_pg_rewind":"off","pg_hba":["local all all peer"],"parameters":{"Max_Connections":"101","hot_standby":true,
		"checkpoint_completion_target":0.9,"superuser_reserved_connections":6}}}`))
	if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "member_slots_ttl: ") {
		t.Fatalf("got %v, want a complaint about member_slots_ttl alone", errs)
	}
	s := d.Settings
	want := cluster.DefaultSettings()
	want.TTL, want.LoopWait, want.RetryTimeout = 20*time.Second, 2*time.Second, 3*time.Second
	want.MaximumLagOnFailover, want.MaximumLagOnSyncnode = 1<<20, 15000000
	want.PrimaryStartTimeout, want.PrimaryStopTimeout = 0, time.Minute
	want.SynchronousMode, want.SynchronousStrict, want.SynchronousNodeCount = cluster.SyncOn, true, 2
	want.FailsafeMode, want.Pause, want.MaxTimelinesHistory = true, true, 5
	want.UseSlots, want.UsePgRewind = false, false
	want.PgHBA = []string{"local all all peer"}
	want.Slots, want.IgnoreSlots = map[string]any{"a": nil}, []map[string]any{{"name": "b"}}
	want.Parameters = map[string]string{"max_connections": "101", "hot_standby": "on", "checkpoint_completion_target": "0.9", "superuser_reserved_connections": "6"}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	if _, ok := d.Doc["master_start_timeout"]; !ok {
		t.Error("the document lost the old key name")
	}
}

func TestParseDynamic_BadValuesKeepDefaults(t *testing.T) {
	for text, path := range map[string]string{
		`{"ttl":2}`:                                  "ttl",
		`{"ttl":-1}`:                                 "ttl",
		`{"ttl":1e309}`:                              "ttl",
		`{"ttl":"nan"}`:                              "ttl",
		`{"ttl":true}`:                               "ttl",
		`{"loop_wait":[]}`:                           "loop_wait",
		`{"maximum_lag_on_failover":-1}`:             "maximum_lag_on_failover",
		`{"maximum_lag_on_failover":"1 parsec"}`:     "maximum_lag_on_failover",
		`{"maximum_lag_on_failover":1.5}`:            "maximum_lag_on_failover",
		`{"maximum_lag_on_failover":"9999999999TB"}`: "maximum_lag_on_failover",
		`{"synchronous_mode":"sometimes"}`:           "synchronous_mode",
		`{"synchronous_node_count":0}`:               "synchronous_node_count",
		`{"failsafe_mode":"maybe"}`:                  "failsafe_mode",
		`{"slots":[]}`:                               "slots",
		`{"postgresql":7}`:                           "postgresql",
		`{"postgresql":{"parameters":[]}}`:           "postgresql.parameters",
		`{"postgresql":{"parameters":{"a":[]}}}`:     "postgresql.parameters.a",
		`{"postgresql":{"pg_hba":"x"}}`:              "postgresql.pg_hba",
		`{"postgresql":{"pg_hba":["a\nb"]}}`:         "postgresql.pg_hba[0]",
		`{"postgresql":{"use_slots":"perhaps"}}`:     "postgresql.use_slots",
		`[`:                                          "dynamic configuration",
	} {
		d, errs := cluster.ParseDynamic([]byte(text))
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), path+": ") {
			t.Errorf("%s: got %v, want one complaint about %s", text, errs, path)
		}
		if d.TTL != 30*time.Second || d.MaximumLagOnFailover != 1<<20 || d.SynchronousMode != cluster.SyncOff {
			t.Errorf("%s: got %+v, want the defaults kept", text, d.Settings)
		}
	}
}

func TestNewClusterDoc(t *testing.T) {
	for nodes, mode := range map[int]cluster.SyncMode{1: cluster.SyncOff, 2: cluster.SyncOff, 3: cluster.SyncQuorum, 5: cluster.SyncQuorum} {
		d, errs := cluster.DynamicFrom(cluster.NewClusterDoc(nodes))
		if len(errs) != 0 || d.SynchronousMode != mode || d.TTL != 6*time.Second || !d.FailsafeMode || d.Parameters["max_slot_wal_keep_size"] == "" {
			t.Errorf("%d nodes: got %+v, %v", nodes, d.Settings, errs)
		}
		if d.LoopWait+2*d.RetryTimeout > d.TTL {
			t.Errorf("%d nodes: loop_wait %v + 2 × retry_timeout %v is more than ttl %v", nodes, d.LoopWait, d.RetryTimeout, d.TTL)
		}
	}
}

func TestBytes(t *testing.T) {
	for _, tc := range []struct {
		in   any
		want int64
		ok   bool
	}{{1048576, 1 << 20, true}, {"1MB", 1 << 20, true}, {" 16 mb ", 16 << 20, true}, {"10GB", 10 << 30, true}, {"2TB", 2 << 40, true}, {"8kB", 8192, true},
		{json.Number("5"), 5, true}, {"-1", -1, true}, {"", 0, false}, {"MB", 0, false}, {"-1MB", 0, false}, {"1.5GB", 0, false}, {math.Inf(1), 0, false},
		{math.NaN(), 0, false}, {"99999999999GB", 0, false}, {nil, 0, false}, {true, 0, false}} {
		got, ok := cluster.Bytes(tc.in)
		if got != tc.want || ok != tc.ok {
			t.Errorf("%v: got %d, %v; want %d, %v", tc.in, got, ok, tc.want, tc.ok)
		}
	}
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMergePatch(t *testing.T) {
	for _, tc := range []struct {
		doc, patch, want string
		changed          bool
	}{
		{`{"ttl":30}`, `{"ttl":20}`, `{"ttl":20}`, true},
		{`{"ttl":30}`, `{"ttl":30}`, `{"ttl":30}`, false},
		{`{"ttl":30}`, `{"ttl":null}`, `{}`, true},
		{`{"ttl":30}`, `{"loop_wait":null}`, `{"ttl":30}`, false},
		// Patroni stores a new object as given, nulls included: this makes a permanent physical slot.
		{`{}`, `{"slots":{"s":null}}`, `{"slots":{"s":null}}`, true},
		{`{"slots":{"a":0}}`, `{"slots":{"a":null,"b":{"type":"physical"}}}`, `{"slots":{"b":{"type":"physical"}}}`, true},
		{`{"a":{"b":{"c":1,"d":2}}}`, `{"a":{"b":{"c":null}}}`, `{"a":{"b":{"d":2}}}`, true},
		{`{"a":{"b":1}}`, `{"a":7}`, `{"a":7}`, true},
		{`{"a":7}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`, true},
		{`{"a":{"b":1}}`, `{"a":{}}`, `{"a":{"b":1}}`, false},
		{`{"a":[1,2]}`, `{"a":[1]}`, `{"a":[1]}`, true},
		{`{"a":6}`, `{"a":"6"}`, `{"a":"6"}`, true},
	} {
		doc := decode(t, tc.doc)
		got, changed := cluster.MergePatch(doc, decode(t, tc.patch))
		if !reflect.DeepEqual(got, decode(t, tc.want)) || changed != tc.changed {
			t.Errorf("%s with %s: got %v, changed %v; want %s, %v", tc.doc, tc.patch, got, changed, tc.want, tc.changed)
		}
		if !reflect.DeepEqual(doc, decode(t, tc.doc)) {
			t.Errorf("%s with %s: the old document was modified: %v", tc.doc, tc.patch, doc)
		}
	}
}

// object makes random documents over few keys, so that patches meet what they change.
func object(r *rand.Rand, depth int) map[string]any {
	m := map[string]any{}
	for range r.Intn(4) {
		key := string(rune('a' + r.Intn(4)))
		switch n := r.Intn(5); {
		case n == 0:
			m[key] = nil
		case n < 3 && depth > 0:
			m[key] = object(r, depth-1)
		default:
			m[key] = float64(r.Intn(3))
		}
	}
	return m
}

func withoutNulls(m map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		if o, ok := v.(map[string]any); ok {
			v = withoutNulls(o)
		}
		if v != nil {
			out[k] = v
		}
	}
	return out
}

func TestMergePatch_Properties(t *testing.T) {
	property := func(seed int64) bool {
		r := rand.New(rand.NewSource(seed))
		doc, patch := object(r, 3), withoutNulls(object(r, 3))
		before, _ := json.Marshal(doc)
		once, changed := cluster.MergePatch(doc, patch)
		after, _ := json.Marshal(doc)
		twice, again := cluster.MergePatch(once, patch)
		same := reflect.DeepEqual(doc, once)
		// The old document stays; a patch applied again changes nothing; changed tells the truth;
		// and an empty patch is nothing.
		empty, emptyChanged := cluster.MergePatch(doc, nil)
		return string(before) == string(after) && !again && reflect.DeepEqual(once, twice) && changed == !same &&
			!emptyChanged && maps.EqualFunc(empty, doc, func(a, b any) bool { return reflect.DeepEqual(a, b) })
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

func TestParameterText(t *testing.T) {
	for _, tc := range []struct {
		in   any
		want string
		ok   bool
	}{{"a", "a", true}, {true, "on", true}, {false, "off", true}, {100, "100", true}, {int64(-1), "-1", true}, {uint64(7), "7", true}, {0.9, "0.9", true},
		{1e6, "1000000", true}, {json.Number("1e3"), "1e3", true}, {nil, "", false}, {[]any{}, "", false}, {map[string]any{}, "", false}} {
		got, ok := cluster.ParameterText(tc.in)
		if got != tc.want || ok != tc.ok {
			t.Errorf("%v: got %q, %v; want %q, %v", tc.in, got, ok, tc.want, tc.ok)
		}
	}
}

func TestParameters_ControlledAndChecked(t *testing.T) {
	for name, want := range map[string]bool{"port": true, "Primary_ConnInfo": true, "synchronous_standby_names": true, "work_mem": false, "restore_command": false} {
		if why, ok := cluster.ControlledParameter(name); ok != want || ok == (why == "") {
			t.Errorf("%s: got %v %q, want %v", name, ok, why, want)
		}
	}
	for _, good := range [][2]string{{"work_mem", "1MB"}, {"citus.node_conninfo", ""}, {"_a1", "'\\"}} {
		if err := cluster.CheckParameter(good[0], good[1]); err != nil {
			t.Errorf("%v: got %v, want none", good, err)
		}
	}
	for _, bad := range [][2]string{{"", "1"}, {"a b", "1"}, {"Work_mem", "1"}, {"1a", "1"}, {"a.b.c", "1"}, {"a.", "1"}, {"a", "1\nb=2"}, {"a", "\x00"}, {"a=b", "1"}, {strings.Repeat("a", 64), "1"}} {
		if err := cluster.CheckParameter(bad[0], bad[1]); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func FuzzParseDynamic(f *testing.F) {
	f.Add([]byte(`{"ttl":30,"postgresql":{"parameters":{"a":1},"pg_hba":["x"]},"slots":{"s":null},"synchronous_mode":"quorum"}`))
	f.Add([]byte(`{"ttl":1e309,"maximum_lag_on_failover":"1MB","ignore_slots":[1]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, _ := cluster.ParseDynamic(b)
		if d.TTL < 3*time.Second || d.TTL > 10*time.Minute || d.LoopWait < time.Second || d.SynchronousNodeCount < 1 || d.MaximumLagOnFailover < 0 {
			t.Fatalf("settings out of bounds: %+v", d.Settings)
		}
		if _, changed := cluster.MergePatch(d.Doc, d.Doc); changed && !hasNull(d.Doc) {
			t.Fatal("a document merged into itself changed")
		}
	})
}

func hasNull(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return v == nil
	}
	for _, e := range m {
		if hasNull(e) {
			return true
		}
	}
	return false
}
