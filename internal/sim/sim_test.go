package sim_test

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/sim"
)

var (
	seedFlag      = flag.Uint64("seed", 0, "the seed that TestSeed replays")
	mutationFlag  = flag.String("mutation", "", "the safety rule that TestSeed switches off")
	historiesFlag = flag.Uint64("histories", 20_000, "how many histories TestHistories plays; with -short 300")
)

// TestSeed replays one history with its trace: go test ./internal/sim -run TestSeed -seed N -v
func TestSeed(t *testing.T) {
	if *seedFlag == 0 {
		t.Skip("no -seed given")
	}
	o := sim.Options{Trace: true}
	for _, m := range sim.Mutations() {
		if m.Name == *mutationFlag {
			o.Mutation = &m
		}
	}
	r := sim.Run(*seedFlag, o)
	t.Log("\n" + strings.Join(r.Trace, "\n"))
	t.Log(r)
	if len(r.Violations) > 0 {
		t.Fail()
	}
}

// search plays the seeds from 1 to limit at the same time and returns the first result that breaks a
// promise; with a mutation one of those that it is expected to break, for without a rule a history can
// also just end in disorder.
func search(limit uint64, o sim.Options, each ...func(sim.Result)) (found *sim.Result, played uint64) {
	var next, done atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				if seed > limit {
					return
				}
				r := sim.Run(seed, o)
				done.Add(1)
				for _, f := range each {
					f(r)
				}
				if len(r.Violations) == 0 || o.Mutation != nil && o.Mutation.Covered == "" && !slices.Contains(o.Mutation.Breaks, r.Violations[0].Rule) {
					continue
				}
				mu.Lock()
				if found == nil || r.Seed < found.Seed {
					found = &r
				}
				mu.Unlock()
				next.Store(limit)
			}
		})
	}
	wg.Wait()
	return found, done.Load()
}

func TestHistories(t *testing.T) {
	n := *historiesFlag
	if testing.Short() {
		n = min(n, 300)
	}
	var mu sync.Mutex
	var simulated time.Duration
	var faults, epochs int
	played := map[string]int{}
	bad, _ := search(n, sim.Options{}, func(r sim.Result) {
		mu.Lock()
		defer mu.Unlock()
		simulated += r.Simulated
		faults += len(r.Faults)
		epochs += int(r.Epochs)
		for _, f := range r.Faults {
			played[f]++
		}
	})
	if bad != nil {
		t.Fatalf("got %s, want no broken promise; replay: go test ./internal/sim -run TestSeed -seed %d -v", bad, bad.Seed)
	}
	t.Logf("%d histories, on average %.0f s simulated, %.1f faults, %.1f leaderships", n, simulated.Seconds()/float64(n), float64(faults)/float64(n), float64(epochs)/float64(n))
	if n < 300 {
		return
	}
	// What is said of the histories in docs/SAFETY.md: that they are long and that nothing is left out.
	if got := simulated / time.Duration(n); got < 40*time.Second {
		t.Errorf("got %s simulated on average, want at least 40 s", got)
	}
	if got := float64(faults) / float64(n); got < 5 {
		t.Errorf("got %.1f faults on average, want at least 5", got)
	}
	for _, f := range sim.Faults() {
		if played[f] == 0 {
			t.Errorf("got no history with the fault %q, want some", f)
		}
	}
}

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // a history needs little memory and makes much garbage
	os.Exit(m.Run())
}

// A history depends on its seed alone: not on what else runs, nor on whether its lines are kept.
func TestRun_SameSeedSameHistoryBesideOthers(t *testing.T) {
	var wg sync.WaitGroup
	for seed := uint64(101); seed <= 110; seed++ {
		quiet := sim.Run(seed, sim.Options{})
		for range 2 {
			wg.Go(func() {
				r := sim.Run(seed, sim.Options{Trace: true})
				if r.Events != quiet.Events || r.Acknowledged != quiet.Acknowledged || r.Simulated != quiet.Simulated || r.Epochs != quiet.Epochs {
					t.Errorf("seed %d: got %s in %d events, want %s in %d", seed, r, r.Events, quiet, quiet.Events)
				}
			})
		}
	}
	wg.Wait()
}

func TestRun_SameSeedSameHistory(t *testing.T) {
	for seed := uint64(1); seed <= 12; seed++ {
		a, b := sim.Run(seed, sim.Options{Trace: true}), sim.Run(seed, sim.Options{Trace: true})
		if a.Fingerprint == b.Fingerprint && a.Events == b.Events {
			continue
		}
		for i := range min(len(a.Trace), len(b.Trace)) {
			if a.Trace[i] != b.Trace[i] {
				t.Fatalf("seed %d, line %d: got\n%s\nwant\n%s", seed, i, b.Trace[i], a.Trace[i])
			}
		}
		t.Fatalf("seed %d: got %d lines and %d events, want %d and %d", seed, len(b.Trace), b.Events, len(a.Trace), a.Events)
	}
}

// TestMutations switches each safety rule off and wants the simulator to notice.
func TestMutations(t *testing.T) {
	for _, m := range sim.Mutations() {
		t.Run(m.Name, func(t *testing.T) {
			if testing.Short() && m.Within > 200 {
				t.Skipf("it takes up to %d histories", m.Within)
			}
			bad, played := search(m.Within, sim.Options{Mutation: &m})
			switch {
			case m.Covered != "" && bad != nil:
				t.Errorf("got %s, want none because %s", bad, m.Covered)
			case m.Covered == "" && bad == nil:
				t.Errorf("got no broken promise in %d histories without this rule: %s", played, m.Rule)
			case bad == nil:
			default:
				t.Logf("found by history %d: %s", bad.Seed, bad.Violations[0])
			}
		})
	}
}
