package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// several are n rounds of one event, each with this outage.
func several(system string, f fault, n int, outage float64, more ...func(*round)) []round {
	var out []round
	for i := range n {
		r := round{System: system, Fault: f, Number: i, Outage: outage, Rejoin: -1, EtcdOnPrimary: i%2 == 0}
		for _, m := range more {
			m(&r)
		}
		out = append(out, r)
	}
	return out
}

func find(t *testing.T, goals []goal, what string) goal {
	t.Helper()
	for _, g := range goals {
		if g.What == what {
			return g
		}
	}
	t.Fatalf("there is no goal %q", what)
	return goal{}
}

func TestGoals_OutagesOfEventsAreJudgedOneByOne(t *testing.T) {
	quick, slow := several(quorum6, cable, 10, 2), several(quorum6, power, 10, 2.6)
	lossy := several(quorum6, power, 10, 2, func(r *round) { r.Lost = r.Number / 9 })
	failed := several(quorum6, power, 10, 2, func(r *round) {
		if r.Number == 3 {
			r.Failed = "did not come back"
		}
	})
	void := several(quorum6, power, 10, 9, func(r *round) { r.Void = "no writes before the fault" })
	for name, c := range map[string]struct {
		rounds []round
		want   string
	}{
		"nothing":                     {nil, notMeasured},
		"both quick":                  {append(several(quorum6, power, 10, 2.5), quick...), met},
		"nine rounds":                 {several(quorum6, power, 9, 2.5), tooFew},
		"one event slow":              {append(slow, quick...), missed},
		"slow in few rounds":          {several(quorum6, power, 2, 2.6), missed},
		"one row lost":                {append(lossy, quick...), missed},
		"a failed round":              {append(failed, quick...), missed},
		"rounds that do not count":    {void, notMeasured},
		"some that do not count":      {append(append(several(quorum6, power, 10, 2), void[0]), quick...), tooFew},
		"one event of two":            {quick, tooFew},
		"another system that is slow": {append(append(several("patroni 20/1/3 sync", power, 10, 20), several(quorum6, power, 10, 2)...), quick...), met},
	} {
		if got := find(t, judgeGoals(results{rounds: c.rounds}), "node loss, quorum"); got.Verdict != c.want {
			t.Errorf("%s: got %q (%s), want %q", name, got.Verdict, got.Now, c.want)
		}
	}
}

func TestGoals_SwitchoverHasTwoBounds(t *testing.T) {
	half := results{rounds: several(async6, switchover, 10, 0.25)}
	if got := find(t, judgeGoals(half), "planned switchover"); got.Verdict != tooFew {
		t.Errorf("one of two clusters: got %q (%s), want %q", got.Verdict, got.Now, tooFew)
	}
	rounds := append(half.rounds, several(quorum6, switchover, 10, 0.25)...)
	if got := find(t, judgeGoals(results{rounds: rounds}), "planned switchover"); got.Verdict != met {
		t.Errorf("got %q (%s), want it met", got.Verdict, got.Now)
	}
	rounds[0].Outage = 0.9 // p50 stays, p95 of ten is the maximum
	if got := find(t, judgeGoals(results{rounds: rounds}), "planned switchover"); got.Verdict != missed {
		t.Errorf("got %q (%s), want it missed", got.Verdict, got.Now)
	}
	for i := range rounds {
		rounds[i].Outage = 0.4
	}
	if got := find(t, judgeGoals(results{rounds: rounds}), "planned switchover"); got.Verdict != missed {
		t.Errorf("got %q (%s), want it missed by its median", got.Verdict, got.Now)
	}
}

func TestGoals_PromotionsCountFromRoundsAndSamples(t *testing.T) {
	r := results{rounds: several(async6, cable, 60, 6, func(r *round) { r.Promotion = 0.2 })}
	r.rounds[0].Void, r.rounds[0].Promotion = "does not count", 5
	for range 40 {
		r.samples = append(r.samples, sample{What: "promotion", Values: map[string]float64{"s": 0.1}})
	}
	const what = "promotions that took more than 1 s"
	if got := find(t, judgeGoals(r), what); got.Verdict != tooFew || !strings.HasPrefix(got.Now, "0 of 99") {
		t.Errorf("got %q (%s), want 99, which are too few", got.Verdict, got.Now)
	}
	r.samples = append(r.samples, sample{What: "promotion", Values: map[string]float64{"s": 1}})
	if got := find(t, judgeGoals(r), what); got.Verdict != met {
		t.Errorf("got %q (%s), want it met", got.Verdict, got.Now)
	}
	r.samples = append(r.samples, sample{What: "promotion", Values: map[string]float64{"s": 1.01}})
	if got := find(t, judgeGoals(r), what); got.Verdict != missed || !strings.HasPrefix(got.Now, "1 of 101") {
		t.Errorf("got %q (%s), want 1 of 101", got.Verdict, got.Now)
	}
}

func TestGoals_LinesAndRejoin(t *testing.T) {
	r := results{
		lines: []line{{System: quorum6, What: "noise", Values: map[string]float64{"failovers": 0, "minutes": 4}}, {System: quorum6, What: "idle, per node", Values: map[string]float64{"rss_mb": 79, "cpu_percent": 1.2}}},
		rounds: append(several(async6, cable, 10, 6, func(r *round) { r.Rejoin = 2 }),
			several(async6, power, 10, 6, func(r *round) { r.Rejoin = 3 + float64(r.Number)/10 })...),
	}
	goals := judgeGoals(r)
	for what, want := range map[string]string{
		"failovers in 10 min of noise":                             tooFew,
		"resident memory of agent + guardian + etcd + router":      met,
		"idle processor time per node":                             missed,
		"old primary streaming again after it can":                 missed,
		"rows acknowledged by an older timeline after a newer one": met,
		"planned switchover":                                       notMeasured,
	} {
		if got := find(t, goals, what); got.Verdict != want {
			t.Errorf("%s: got %q (%s), want %q", what, got.Verdict, got.Now, want)
		}
	}
	r.lines[0].Values["minutes"] = 10
	r.rounds[3].Order = 1
	goals = judgeGoals(r)
	if got := find(t, goals, "failovers in 10 min of noise"); got.Verdict != met {
		t.Errorf("got %q (%s), want it met", got.Verdict, got.Now)
	}
	if got := find(t, goals, "rows acknowledged by an older timeline after a newer one"); got.Verdict != missed {
		t.Errorf("got %q (%s), want it missed", got.Verdict, got.Now)
	}
}

func costSamples(n int, with, first, second func(i int) float64) []sample {
	var out []sample
	for i := range n {
		for server, tps := range []float64{with(i), first(i), second(i)} {
			out = append(out, sample{What: "cost", Values: map[string]float64{"run": 1, "block": float64(i), "server": float64(server), "tps": tps}})
		}
	}
	return out
}

func TestCost_RatiosWithinABlockOutliveADrift(t *testing.T) {
	// The machine doubles its speed on the way; hathi costs 0.5 %.
	drift := func(i int) float64 { return 1000 * (1 + float64(i)/16) }
	r := results{samples: costSamples(16, func(i int) float64 { return 0.995 * drift(i) }, drift, drift)}
	c := costOf(r, "cost")
	if c.n != 16 || c.cost < 0.49 || c.cost > 0.51 || c.costLow < 0.49 || c.costHigh > 0.51 || c.same != 0 {
		t.Errorf("got %+v, want a cost of 0.5 %% and no difference of the bare servers", c)
	}
	if got := costGoal(r, "cost"); got.Verdict != met {
		t.Errorf("got %q (%s), want it met", got.Verdict, got.Now)
	}
	r.samples = append(r.samples, sample{What: "cost", Values: map[string]float64{"run": 1, "block": 99, "server": 0, "tps": 1}})
	if got := costOf(r, "cost"); got.n != 16 {
		t.Errorf("got %d blocks, want the incomplete one left out", got.n)
	}
	r.samples[4].Values["steal_percent"], r.samples[4].Values["tps"] = mostSteal+1, 100
	if got := costOf(r, "cost"); got.n != 15 || got.stolen != 1 || got.cost < 0.49 || got.cost > 0.51 {
		t.Errorf("got %+v, want the block left out in which others had the processors", got)
	}
}

func TestCost_NoiseIsNotAVerdict(t *testing.T) {
	flat := func(int) float64 { return 1000 }
	wild := func(i int) float64 { return []float64{900, 1100}[i%2] }
	if got := costGoal(results{samples: costSamples(16, wild, flat, flat)}, "cost"); got.Verdict != tooNoisy {
		t.Errorf("got %q (%s), want %q", got.Verdict, got.Now, tooNoisy)
	}
	slow := func(int) float64 { return 950 }
	if got := costGoal(results{samples: costSamples(16, slow, flat, flat)}, "cost"); got.Verdict != missed {
		t.Errorf("got %q (%s), want %q", got.Verdict, got.Now, missed)
	}
	if got := costGoal(results{samples: costSamples(9, flat, flat, flat)}, "cost"); got.Verdict != tooFew {
		t.Errorf("got %q (%s), want %q", got.Verdict, got.Now, tooFew)
	}
}

func TestMedianInterval(t *testing.T) {
	var sample []float64
	for i := range 20 {
		sample = append(sample, float64(i+1))
	}
	for n, want := range map[int][2]float64{1: {1, 1}, 5: {1, 5}, 6: {1, 6}, 10: {2, 9}, 16: {4, 13}, 20: {6, 15}} { // tables of the sign test
		if low, high := medianInterval(sample[:n]); low != want[0] || high != want[1] {
			t.Errorf("%d values: got %v to %v, want %v to %v", n, low, high, want[0], want[1])
		}
	}
}

func TestCheck_FailsWhenAGoalIsMissed(t *testing.T) {
	good := &bench{results: results{rounds: append(several(async6, sigkill, 10, 0.5), several(quorum6, sigkill, 10, 0.5)...)}}
	if err := good.check(true); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	bad := &bench{results: results{rounds: several(async6, sigkill, 10, 1.5)}}
	if err := bad.check(true); err == nil || !strings.Contains(err.Error(), "postmaster SIGKILL") {
		t.Errorf("got %v, want the goal that is missed", err)
	}
	if err := bad.check(false); err != nil {
		t.Errorf("got %v, want none where goals were not asked for", err)
	}
	if err := (&bench{}).check(true); err == nil {
		t.Error("got no error where no goal was measured")
	}
}

func TestRecords_ACutLineIsLeftOutAndFilesAddUp(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	f, err := openRecords(first)
	if err != nil {
		t.Fatal(err)
	}
	r := several(async6, cable, 1, 6.1)[0]
	for _, rec := range []record{{Run: &runInfo{Build: "x"}}, {Round: &r}, {Sample: &sample{What: "promotion", Values: map[string]float64{"s": 0.2}}}} {
		if err := f.write(rec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.f.WriteString(`{"round":{"system":"cut of`); err != nil {
		t.Fatal(err)
	}
	f.f.Close()
	if f, err = openRecords(first); err != nil { // a later run goes on in the same file
		t.Fatal(err)
	}
	if err := f.write(record{Round: &r}); err != nil {
		t.Fatal(err)
	}
	f.f.Close()
	if err := os.WriteFile(second, []byte(`{"line":{"system":"hathi quorum ttl 6","what":"noise","values":{"minutes":10}}}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readResults([]string{first, second})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.runs) != 1 || len(got.rounds) != 2 || len(got.samples) != 1 || len(got.lines) != 1 || got.rounds[1].Outage != 6.1 {
		t.Errorf("got %+v, want a run, two rounds, a sample and a line", got)
	}
	if _, err := readResults([]string{filepath.Join(dir, "none")}); err == nil {
		t.Error("got no error for a file that is not there")
	}
}
