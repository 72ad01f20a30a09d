package cluster_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
)

func TestCheckName(t *testing.T) {
	for _, good := range []string{"pg1", "postgres-0", "a", "A.b_c-9", strings.Repeat("x", 63), "anything", "0"} {
		if err := cluster.CheckName(good); err != nil {
			t.Errorf("%q: got %v, want none", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "-a", "_a", ".a", "a b", "a\n", "a'", `a"`, "a,b", "ANY", "First", "none", "*", "é", "🐘", "a\x00",
		strings.Repeat("x", 64), cluster.StrictPlaceholder, strings.ToUpper(cluster.StrictPlaceholder)} {
		if err := cluster.CheckName(bad); !errors.Is(err, cluster.ErrBadName) {
			t.Errorf("%q: got %v, want ErrBadName", bad, err)
		}
	}
}

func TestSlotName(t *testing.T) {
	for in, want := range map[string]string{"postgres-0": "postgres_0", "Node.A": "node_a", "pg 1": "pgu00321", "é": "u0233", "a_b": "a_b",
		strings.Repeat("x", 70): strings.Repeat("x", 63)} {
		if got := cluster.SlotName(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzSlotName_IsAlwaysAccepted(f *testing.F) {
	valid := regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	f.Add("postgres-0")
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return
		}
		if got := cluster.SlotName(s); !valid.MatchString(got) {
			t.Fatalf("%q: got %q, which PostgreSQL refuses", s, got)
		}
	})
}

func TestTags_PrioritiesAsPatroniReadsThem(t *testing.T) {
	for _, tc := range []struct {
		text string
		want int
	}{
		{`{}`, 1},
		{`{"nofailover":true}`, 0},
		{`{"nofailover":"true"}`, 0},
		{`{"nofailover":false}`, 1},
		{`{"failover_priority":0}`, 0},
		{`{"failover_priority":"0"}`, 0},
		{`{"failover_priority":"2"}`, 2},
		{`{"failover_priority":-3}`, 0},
		{`{"nofailover":true,"failover_priority":1}`, 0},
		{`{"nofailover":false,"failover_priority":0}`, 1},
		{`{"nofailover":false,"failover_priority":5}`, 5},
		{`{"failover_priority":"x"}`, 1},
	} {
		var tags cluster.Tags
		if err := json.Unmarshal([]byte(tc.text), &tags); err != nil {
			t.Fatal(err)
		}
		if got := tags.FailoverPriority(); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.text, got, tc.want)
		}
		sync := cluster.Tags{}
		for k, v := range tags {
			sync[map[string]string{"nofailover": "nosync", "failover_priority": "sync_priority"}[k]] = v
		}
		if got := sync.SyncPriority(); got != tc.want {
			t.Errorf("%v: got %d, want %d", sync, got, tc.want)
		}
	}
	tags := cluster.Tags{"clonefrom": "true", "noloadbalance": json.Number("1"), "nostream": 0, "replicatefrom": "pg2"}
	if !tags.CloneFrom() || !tags.NoLoadBalance() || tags.NoStream() || tags.ReplicateFrom() != "pg2" {
		t.Errorf("%v is read wrongly", tags)
	}
}

func TestTags_EffectiveDropsWhatIsOff(t *testing.T) {
	for _, tc := range []struct{ in, want cluster.Tags }{
		{cluster.Tags{"noloadbalance": false, "clonefrom": false, "nostream": false}, nil},
		{cluster.Tags{"new_tag": "new_value", "nosync": false, "own": false}, cluster.Tags{"new_tag": "new_value", "own": false}},
		{cluster.Tags{"nofailover": false, "failover_priority": "0"}, cluster.Tags{"nofailover": false, "failover_priority": "0"}},
		{cluster.Tags{"clonefrom": "true", "replicatefrom": ""}, cluster.Tags{"clonefrom": "true"}},
		{nil, nil},
	} {
		if got := tc.in.Effective(); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%v: got %v, want %v", tc.in, got, tc.want)
		}
	}
}
