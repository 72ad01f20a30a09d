package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// verdict words of goals.
const (
	met         = "met"
	missed      = "**missed**"
	tooFew      = "too few rounds"
	tooNoisy    = "too noisy to say"
	notMeasured = "not measured"
)

// How much must be measured for a goal to count as met.
const (
	enoughRounds     = 10
	enoughPromotions = 100
	enoughMinutes    = 10
)

// goal is one that was set, and what the figures say of it.
type goal struct {
	What    string `json:"what"`
	Want    string `json:"want"`
	Now     string `json:"now"`
	Verdict string `json:"verdict"`
}

// Names of the systems that goals are set for.
const (
	async6  = "hathi async ttl 6"
	async3  = "hathi async ttl 3"
	quorum6 = "hathi quorum ttl 6"
)

// limit is a goal for the outages of some events: at most these many seconds, 0 for no bound.
type limit struct {
	what           string
	systems        []string
	faults         []fault
	p50, p95, most float64
	keepRows       bool // no acknowledged row may be lost
}

var limits = []limit{
	{what: "node loss, async, ttl 6", systems: []string{async6}, faults: []fault{cable, power}, p95: 6.5},
	{what: "node loss, async, ttl 3", systems: []string{async3}, faults: []fault{cable, power}, p95: 3.5},
	{what: "node loss, quorum", systems: []string{quorum6}, faults: []fault{cable, power}, p95: 2.5, keepRows: true},
	{what: "postmaster SIGKILL", systems: []string{async6, quorum6}, faults: []fault{sigkill}, p95: 1},
	{what: "postmaster SIGSTOP", systems: []string{async6, quorum6}, faults: []fault{sigstop}, most: 5},
	{what: "one frozen auxiliary process", systems: []string{async6, quorum6}, faults: []fault{walwriter, checkpointer}, most: 5},
	{what: "frozen storage", systems: []string{async6, quorum6}, faults: []fault{storage, wholeDisk}, most: 5},
	{what: "planned switchover", systems: []string{async6, quorum6}, faults: []fault{switchover}, p50: 0.3, p95: 0.8},
}

// judgeGoals computes what the results say of every goal.
func judgeGoals(r results) []goal {
	all := figures(r.rounds)
	var out []goal
	for _, l := range limits {
		out = append(out, l.judge(all))
	}
	return append(out, rejoinGoal(all), orderGoal(all), promotionsGoal(r), noiseGoal(r), memoryGoal(r), idleGoal(r), costGoal(r, "cost"), costGoal(r, "cost-quorum"))
}

// judge takes every event by itself: pooled, the quick one would hide the slow one.
func (l limit) judge(all []figure) goal {
	var want, now []string
	for _, b := range []struct {
		name string
		at   float64
	}{{"p50", l.p50}, {"p95", l.p95}, {"max", l.most}} {
		if b.at > 0 {
			want = append(want, fmt.Sprintf("%s at most %g s", b.name, b.at))
		}
	}
	if l.keepRows {
		want = append(want, "no acknowledged row lost")
	}
	g := goal{What: l.what, Want: strings.Join(want, ", "), Verdict: notMeasured}
	few, over := false, false
	var pairs int
	for _, f := range all {
		if !slices.Contains(l.systems, f.System) || !slices.Contains(l.faults, f.Fault) || f.N == 0 {
			continue
		}
		pairs++
		few = few || f.Void > 0 // a round that did not come about may be hathi's doing
		over = over || l.p50 > 0 && f.Median > l.p50 || l.p95 > 0 && f.P95 > l.p95 || l.most > 0 && f.Max > l.most || l.keepRows && f.Lost > 0 || f.Failed > 0
		few = few || f.N < enoughRounds
		text := fmt.Sprintf("%s, %s: p50 %.2f, p95 %.2f, max %.2f (n %d)", strings.TrimPrefix(f.System, "hathi "), f.Fault, f.Median, f.P95, f.Max, f.N)
		if f.Failed > 0 {
			text += fmt.Sprintf(", %d failed", f.Failed)
		}
		if f.Fault.mayPass() {
			text += fmt.Sprintf(", taken over %d of %d", len(f.TakenOver), f.N)
		}
		if l.keepRows {
			text += fmt.Sprintf(", lost %d", f.Lost)
		}
		now = append(now, text)
	}
	g.Now = strings.Join(now, "; ")
	if len(now) > 0 {
		g.Verdict = verdictOf(over, few || pairs < len(l.systems)*len(l.faults))
	}
	return g
}

func verdictOf(over, few bool) string {
	switch {
	case over:
		return missed
	case few:
		return tooFew
	}
	return met
}

func rejoinGoal(all []figure) goal {
	g := goal{What: "old primary streaming again after it can", Want: "p95 at most 3 s (+ changed blocks)", Verdict: notMeasured}
	var worst *figure
	few, over := false, false
	for i, f := range all {
		if !strings.HasPrefix(f.System, "hathi ") || f.Rejoins == 0 {
			continue
		}
		few = few || f.Rejoins < enoughRounds
		over = over || f.RejoinP95 > 3 || f.Failed > 0 // one that did not come back in time has no figure
		if worst == nil || f.RejoinP95 > worst.RejoinP95 {
			worst = &all[i]
		}
	}
	if worst != nil {
		g.Now = fmt.Sprintf("worst event: %s, %s: p50 %.2f, p95 %.2f (n %d)", strings.TrimPrefix(worst.System, "hathi "), worst.Fault, worst.Rejoin, worst.RejoinP95, worst.Rejoins)
		g.Verdict = verdictOf(over, few)
	}
	return g
}

func orderGoal(all []figure) goal {
	g := goal{What: "rows acknowledged by an older timeline after a newer one", Want: "0", Verdict: notMeasured}
	n, order := 0, 0
	for _, f := range all {
		if strings.HasPrefix(f.System, "hathi ") {
			n, order = n+f.N, order+f.Order
		}
	}
	if n > 0 {
		g.Now, g.Verdict = fmt.Sprintf("%d in %d rounds", order, n), verdictOf(order > 0, n < enoughRounds)
	}
	return g
}

// promotionTimes are those of the rounds, in which something else was measured too, and of the
// selection promotions.
func promotionTimes(r results) []float64 {
	var out []float64
	for _, x := range r.rounds {
		if x.Void == "" && x.Promotion > 0 {
			out = append(out, x.Promotion)
		}
	}
	for _, s := range r.samples {
		if s.What == "promotion" {
			out = append(out, s.Values["s"])
		}
	}
	return out
}

func promotionsGoal(r results) goal {
	g := goal{What: "promotions that took more than 1 s", Want: "0 of 100", Verdict: notMeasured}
	took := promotionTimes(r)
	slow := 0
	for _, t := range took {
		if t > 1 {
			slow++
		}
	}
	if len(took) > 0 {
		g.Now = fmt.Sprintf("%d of %d; median %.2f, p95 %.2f, max %.2f s", slow, len(took), median(took), quantile(took, 0.95), quantile(took, 1))
		g.Verdict = verdictOf(slow > 0, len(took) < enoughPromotions)
	}
	return g
}

func noiseGoal(r results) goal {
	g := goal{What: "failovers in 10 min of noise", Want: "0", Verdict: notMeasured}
	var n, minutes float64
	for _, l := range r.lines {
		if l.What == "noise" && strings.HasPrefix(l.System, "hathi ") {
			n, minutes = n+l.Values["failovers"], minutes+l.Values["minutes"]
		}
	}
	if minutes > 0 {
		g.Now, g.Verdict = fmt.Sprintf("%.0f in %.1f min", n, minutes), verdictOf(n > 0, minutes < enoughMinutes-0.1)
	}
	return g
}

func idleFigures(r results, key string) []float64 {
	var out []float64
	for _, l := range r.lines {
		if l.What == "idle, per node" && strings.HasPrefix(l.System, "hathi ") {
			out = append(out, l.Values[key])
		}
	}
	return out
}

func memoryGoal(r results) goal {
	g := goal{What: "resident memory of agent + guardian + etcd + router", Want: "at most 80 MB", Verdict: notMeasured}
	if rss := idleFigures(r, "rss_mb"); len(rss) > 0 {
		g.Now = fmt.Sprintf("%.0f MB RSS (%.0f MB PSS)", quantile(rss, 1), quantile(idleFigures(r, "pss_mb"), 1))
		g.Verdict = verdictOf(quantile(rss, 1) > 80, false)
	}
	return g
}

func idleGoal(r results) goal {
	g := goal{What: "idle processor time per node", Want: "at most 1 % of a core", Verdict: notMeasured}
	if cpu := idleFigures(r, "cpu_percent"); len(cpu) > 0 {
		g.Now, g.Verdict = fmt.Sprintf("%.2f %%", quantile(cpu, 1)), verdictOf(quantile(cpu, 1) > 1, false)
	}
	return g
}

// costs compares throughputs that were measured in the same block.
type costs struct {
	n                       int
	stolen                  int     // blocks that are left out, see mostSteal
	hathi, bare             float64 // medians, transactions per second
	cost, costLow, costHigh float64 // percent: median over the blocks, and its 95 % interval
	same, sameLow, sameHigh float64 // the same of the two bare servers
	slowest, fastest        float64 // of the bare runs
}

// mostSteal is how much of the processors' time, in percent, others may have had during a run of a
// block that counts: what is taken from one run and not from its neighbour is no property of either.
const mostSteal = 2

// costOf sums up the runs of a selection. Blocks that are not complete are left out.
func costOf(r results, what string) costs {
	type block [3]float64 // with hathi, and the two bare servers
	type id struct{ run, block float64 }
	blocks, stolen := map[id]*block{}, map[id]bool{}
	var order []id
	for _, s := range r.samples {
		server := int(s.Values["server"])
		if s.What != what || server < 0 || server > 2 {
			continue
		}
		at := id{s.Values["run"], s.Values["block"]}
		if blocks[at] == nil {
			blocks[at] = &block{}
			order = append(order, at)
		}
		blocks[at][server] = s.Values["tps"]
		if s.Values["steal_percent"] > mostSteal {
			stolen[at] = true
		}
	}
	var with, without, cost, same []float64
	for _, at := range order {
		b := blocks[at]
		if b[0] <= 0 || b[1] <= 0 || b[2] <= 0 || stolen[at] {
			continue
		}
		with, without = append(with, b[0]), append(without, b[1], b[2])
		cost = append(cost, 100*(1-b[0]/math.Sqrt(b[1]*b[2])))
		same = append(same, 100*(1-b[2]/b[1]))
	}
	c := costs{n: len(cost), stolen: len(stolen), hathi: median(with), bare: median(without), cost: median(cost), same: median(same)}
	c.costLow, c.costHigh = medianInterval(cost)
	c.sameLow, c.sameHigh = medianInterval(same)
	c.slowest, c.fastest = quantile(without, 0), quantile(without, 1)
	return c
}

func (c costs) String() string {
	return fmt.Sprintf("cost %.2f %% (95 %%: %.2f to %.2f); bare against bare %.2f %% (%.2f to %.2f); medians %.0f tps against %.0f bare (bare runs %.0f to %.0f), %d blocks, %d more left out for steal",
		c.cost, c.costLow, c.costHigh, c.same, c.sameLow, c.sameHigh, c.hathi, c.bare, c.slowest, c.fastest, c.n, c.stolen)
}

var costTitles = map[string]string{"cost": "cost when nothing fails, one node", "cost-quorum": "cost when nothing fails, quorum commit, two standbys"}

func costGoal(r results, what string) goal {
	g := goal{What: costTitles[what], Want: "at most 1 %", Verdict: notMeasured}
	c := costOf(r, what)
	if c.n == 0 {
		return g
	}
	g.Now = c.String()
	switch {
	case c.n < enoughRounds:
		g.Verdict = tooFew
	case c.costHigh <= 1:
		g.Verdict = met
	case c.costLow > 1:
		g.Verdict = missed
	default:
		g.Verdict = tooNoisy
	}
	return g
}

// medianInterval is an interval that holds the median of what a sample was drawn from with a
// probability of at least 95 %, whatever its distribution (from the ranks, by the binomial). Of fewer
// than six values there is none: it is their range.
func medianInterval(sample []float64) (low, high float64) {
	n := len(sample)
	if n == 0 {
		return 0, 0
	}
	s := slices.Clone(sample)
	slices.Sort(s)
	// The interval from the k-th smallest to the k-th largest misses with twice the probability that
	// fewer than k of n values lie below the median.
	k, below, p := 0, 0.0, math.Pow(0.5, float64(n))
	for 2*(below+p) <= 0.05 && k < n/2 {
		below += p
		k++
		p *= float64(n-k+1) / float64(k)
	}
	k = max(k, 1)
	return s[k-1], s[n-k]
}

func writeGoals(w io.Writer, goals []goal) {
	fmt.Fprintln(w, "\n| event | goal | now | |\n|---|---|---|---|")
	for _, g := range goals {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", g.What, g.Want, g.Now, g.Verdict)
	}
}

// check fails when goals are asked for and one that was measured is not met, or none was measured.
func (b *bench) check(goals bool) error {
	if !goals {
		return nil
	}
	measured := 0
	var bad []error
	for _, g := range judgeGoals(b.results) {
		switch g.Verdict {
		case notMeasured:
			continue
		case met:
		default:
			bad = append(bad, fmt.Errorf("goal %q: %s (%s)", g.What, strings.Trim(g.Verdict, "*"), g.Now))
		}
		measured++
	}
	if measured == 0 {
		return errors.New("no goal was measured")
	}
	return errors.Join(bad...)
}
