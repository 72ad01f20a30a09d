package dcs_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hathi-ha/hathi/internal/dcs"
)

func TestDecoder_IsTheSameAsDecodingAnew(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	values := map[string][]string{
		dcs.KeyLock:         {`{"node":"pg1","epoch":1,"seq":%d,"ttl_ms":6000}`, `junk`, `{"node":"","epoch":2,"seq":%d}`},
		dcs.KeyConfig:       {`{"ttl":%d}`, `{"ttl":6,"pause":true}`, `[`},
		dcs.KeySync:         {`{"leader":"pg1","sync_standby":"pg2","quorum":0}`, `null`, `7`},
		dcs.KeyStatus:       {`{"optime":%d}`, `12`, `x`},
		dcs.KeyHistory:      {`[[1,100,"r"]]`, `[[1,100,"r"],[2,%d,"s"]]`, `[[1]]`},
		dcs.KeyFailsafe:     {`{"pg1":"http://pg1"}`, `{}`, `[]`},
		dcs.KeyFailover:     {`{"leader":"pg1"}`, `"`},
		"members/pg1":       {`{"role":"primary","timeline":%d}`, `{`},
		"members/pg2":       {`{"role":"replica","xlog_location":%d}`},
		dcs.KeyInitialize:   {"", "123"},
		dcs.KeyLeader:       {"pg1"},
		"members/odd/thing": {"?"},
	}
	keys := []string{dcs.KeyLock, dcs.KeyConfig, dcs.KeySync, dcs.KeyStatus, dcs.KeyHistory, dcs.KeyFailsafe, dcs.KeyFailover,
		"members/pg1", "members/pg2", dcs.KeyInitialize, dcs.KeyLeader, "members/odd/thing"}
	var d dcs.Decoder
	s := dcs.Snapshot{Entries: map[string]dcs.Entry{}}
	for range 3000 {
		s.Revision++
		key := keys[rng.IntN(len(keys))]
		if rng.IntN(6) == 0 {
			delete(s.Entries, key)
		} else {
			text := values[key][rng.IntN(len(values[key]))]
			if rng.IntN(2) == 0 && len(text) > 20 {
				text = fmt.Sprintf(text+"%.0s", rng.IntN(900)+3)
			}
			s.Entries[key] = dcs.Entry{Value: []byte(text), ModRev: s.Revision}
		}
		if got, want := d.Decode(s), dcs.Decode(s); !cmp.Equal(got, want) {
			t.Fatalf("got %+v, want %+v\n%s", got, want, cmp.Diff(want, got))
		}
	}
}
