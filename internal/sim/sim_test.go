package sim_test

import (
	"flag"
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/sim"
)

var (
	seedFlag = flag.Uint64("seed", 0, "the seed that TestSeed replays")
)

// TestSeed replays one history with its trace: go test ./internal/sim -run TestSeed -seed N -v
func TestSeed(t *testing.T) {
	if *seedFlag == 0 {
		t.Skip("no -seed given")
	}
	r := sim.Run(*seedFlag, sim.Options{Trace: true})
	t.Log("\n" + strings.Join(r.Trace, "\n"))
	t.Log(r)
	if len(r.Violations) > 0 {
		t.Fail()
	}
}

func TestQuiet(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		r := sim.Run(seed, sim.Options{Quiet: true})
		t.Log(r)
		if len(r.Violations) > 0 {
			t.Errorf("got %s, want none", r)
		}
	}
}
