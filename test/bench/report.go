package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// tell prints one round.
func (b *bench) tell(r *round) {
	if r.Void != "" {
		b.say("%s, %s, round %d: does not count: %s", r.System, r.Fault, r.Number+1, r.Void)
		return
	}
	where := "elsewhere"
	if r.EtcdOnPrimary {
		where = "on the primary"
	}
	more := ""
	if p := r.Phases; p != nil {
		more = fmt.Sprintf("; detection %.2f, fencing %.2f, election %.2f, promotion %.2f, routing %.2f", p.Detection, p.Fencing, p.Election, p.Promotion, p.Routing)
	}
	if r.TakenOver > 0 {
		more += fmt.Sprintf("; taken over after %.2f, promotion took %.2f", r.TakenOver, r.Promotion)
	}
	if r.Later > 0.5 {
		more += fmt.Sprintf("; later gap %.2f", r.Later)
	}
	if r.Failed != "" {
		more += "; FAILED: " + r.Failed
	}
	b.say("%s, %s, round %d (%s to %s, etcd's leader %s): outage %.2f s from %+.2f; errors %d (%d connecting), lost %d of %d, order %d, late %d; rejoin %.2f s; %.0f acks/s, load %s, steal %.1f %%; took %.1f s (%.1f before)%s",
		r.System, r.Fault, r.Number+1, r.Primary, r.Next, where, r.Outage, r.GapBegan, r.Errors, r.ConnectErrs, r.Lost, r.Acked, r.Order, r.Late, r.Rejoin, r.Rate, r.Load, r.Steal, r.Took, r.TookBefore, more)
	for _, t := range slices.Sorted(maps.Keys(r.Texts)) {
		if b.opts.verbose {
			b.say("    %d x %s", r.Texts[t], t)
		}
	}
	if r.Phases != nil && b.opts.verbose {
		for _, n := range r.Phases.Notes {
			b.say("    %s", n)
		}
		for _, n := range r.Return {
			b.say("    return %s", n)
		}
	}
}

// figure sums up one event of one system.
type figure struct {
	System    string
	Fault     fault
	N         int
	Failed    int
	Void      int
	Median    float64
	P95       float64
	Max       float64
	OnEtcd    float64 // the median where etcd's leader was on the primary, and elsewhere; below 0 for no round
	OffEtcd   float64
	Later     float64 // the longest gap after the one of the fault
	TakenOver []float64
	Errors    float64
	Lost      int
	Order     int
	Rejoins   int
	Rejoin    float64
	RejoinP95 float64
	RejoinMax float64
	Phases    phases
	Load      string
	Steal     float64 // the most of a round
	// The cost of a round: medians of all of it, of what comes before the fault, and of the outage.
	Took, TookBefore, TookOutage float64
}

func figures(all []round) []figure {
	var out []figure
	for _, r := range all {
		if slices.IndexFunc(out, func(f figure) bool { return f.System == r.System && f.Fault == r.Fault }) < 0 {
			out = append(out, figure{System: r.System, Fault: r.Fault})
		}
	}
	for i := range out {
		f := &out[i]
		var outage, on, off, errs, rejoin, load, took, before, during []float64
		var ph [5][]float64
		for _, r := range all {
			switch {
			case r.System != f.System || r.Fault != f.Fault:
				continue
			case r.Void != "":
				f.Void++
				continue
			case r.Failed != "":
				f.Failed++
			}
			f.N++
			outage, errs = append(outage, r.Outage), append(errs, float64(r.Errors))
			took, before, during = append(took, r.Took), append(before, r.TookBefore), append(during, r.TookOutage)
			if r.EtcdOnPrimary {
				on = append(on, r.Outage)
			} else {
				off = append(off, r.Outage)
			}
			f.Lost += r.Lost
			f.Order += r.Order
			f.Later, f.Steal = max(f.Later, r.Later), max(f.Steal, r.Steal)
			if r.TakenOver > 0 {
				f.TakenOver = append(f.TakenOver, r.TakenOver)
			}
			if r.Rejoin >= 0 {
				rejoin = append(rejoin, r.Rejoin)
			}
			if p := r.Phases; p != nil {
				for j, v := range []float64{p.Detection, p.Fencing, p.Election, p.Promotion, p.Routing} {
					ph[j] = append(ph[j], v)
				}
			}
			var l float64
			if _, err := fmt.Sscan(r.Load, &l); err == nil {
				load = append(load, l)
			}
		}
		f.Median, f.P95, f.Max = median(outage), quantile(outage, 0.95), quantile(outage, 1)
		f.OnEtcd, f.OffEtcd = -1, -1
		if len(on) > 0 {
			f.OnEtcd = median(on)
		}
		if len(off) > 0 {
			f.OffEtcd = median(off)
		}
		f.Errors = median(errs)
		f.Rejoins, f.Rejoin, f.RejoinP95, f.RejoinMax = len(rejoin), median(rejoin), quantile(rejoin, 0.95), quantile(rejoin, 1)
		f.Phases = phases{Detection: median(ph[0]), Fencing: median(ph[1]), Election: median(ph[2]), Promotion: median(ph[3]), Routing: median(ph[4])}
		if len(load) > 0 {
			f.Load = fmt.Sprintf("%.1f-%.1f", slices.Min(load), slices.Max(load))
		}
		f.Took, f.TookBefore, f.TookOutage = median(took), median(before), median(during)
	}
	return out
}

// report prints what docs/PERFORMANCE.md holds: the tables of rounds, of what else was measured, and of
// the goals.
func (b *bench) report(w io.Writer) {
	fmt.Fprintln(w)
	for _, r := range b.runs {
		fmt.Fprintf(w, "%s, %s, build %s: %s\n", r.Machine, r.Began, r.Build, strings.Join(r.Args, " "))
	}
	writeRounds(w, b.rounds)
	goals := judgeGoals(b.results)
	var others [][2]string
	for _, l := range b.lines {
		others = append(others, [2]string{l.System + ", " + l.What, l.Text})
	}
	for _, g := range goals {
		if g.Verdict != notMeasured && (g.What == costTitles["cost"] || g.What == costTitles["cost-quorum"] || strings.HasPrefix(g.What, "promotions")) {
			others = append(others, [2]string{g.What, g.Now})
		}
	}
	if len(others) > 0 {
		fmt.Fprintln(w, "\n| while nothing fails | figure |\n|---|---|")
		for _, o := range others {
			fmt.Fprintf(w, "| %s | %s |\n", o[0], o[1])
		}
	}
	writeGoals(w, goals)
	for _, r := range b.rounds {
		if r.Void != "" {
			fmt.Fprintf(w, "\nNot counted: %s, %s, round %d: %s\n", r.System, r.Fault, r.Number+1, r.Void)
		} else if r.Failed != "" {
			fmt.Fprintf(w, "\nFailed: %s, %s, round %d: %s\n", r.System, r.Fault, r.Number+1, r.Failed)
		}
	}
}

func writeRounds(w io.Writer, rounds []round) {
	if len(rounds) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| system\t| event\t| n\t| outage median\t| p95\t| max\t| etcd on / off\t| taken over\t| errors\t| lost\t| order\t| rejoin median / p95 / max\t| detection\t| fencing\t| election\t| promotion\t| routing\t| load\t| steal\t|")
	fmt.Fprintln(t, "|---"+strings.Repeat("\t|---", 18)+"\t|")
	all := figures(rounds)
	for _, f := range all {
		n := fmt.Sprint(f.N)
		if f.Failed > 0 {
			n += fmt.Sprintf(" (%d failed)", f.Failed)
		}
		p := f.Phases
		rejoin := "-" // nobody had to come back, or nobody did
		if f.Rejoins > 0 {
			rejoin = fmt.Sprintf("%.2f / %.2f / %.2f", f.Rejoin, f.RejoinP95, f.RejoinMax)
		}
		fmt.Fprintf(t, "| %s\t| %s\t| %s\t| %.2f\t| %.2f\t| %.2f\t| %s / %s\t| %d of %d\t| %.0f\t| %d\t| %d\t| %s\t| %.2f\t| %.2f\t| %.2f\t| %.2f\t| %.2f\t| %s\t| %.1f %%\t|\n", f.System, f.Fault, n, f.Median, f.P95, f.Max,
			orDash(f.OnEtcd), orDash(f.OffEtcd), len(f.TakenOver), f.N, f.Errors, f.Lost, f.Order, rejoin, p.Detection, p.Fencing, p.Election, p.Promotion, p.Routing, f.Load, f.Steal)
	}
	_ = t.Flush()
	fmt.Fprintln(w, `
Seconds; medians per round where nothing else is said. Outage: the longest gap between acknowledged writes of the whole round. Etcd on / off: the median where etcd's
leader was on the primary, and elsewhere. Taken over: rounds after which another node led. Errors: what the 8 clients saw. Lost: acknowledged rows that the next primary lacks.
Order: rows acknowledged by an older timeline after a newer one. Failed rounds ran into their bound, which then stands as their outage. Steal: the most of a round.`)
	fmt.Fprintln(w, "\nWhat a round costs, seconds (median: all of it; of that before the fault; the outage and the second after it; the rest is the return):")
	for _, f := range all {
		fmt.Fprintf(w, "  %s, %s: %.1f (%.1f, %.1f)\n", f.System, f.Fault, f.Took, f.TookBefore, f.TookOutage)
	}
}

func orDash(v float64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// machine is what the figures were measured on.
func machine() string {
	model, memory := "unknown processor", ""
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		line, _, _ := strings.Cut(string(b), "\n")
		memory = strings.Join(strings.Fields(strings.TrimPrefix(line, "MemTotal:")), " ")
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d processors (%s), %s memory, Linux %s, Go %s", runtime.NumCPU(), model, memory, strings.TrimSpace(string(kernel)), strings.TrimPrefix(runtime.Version(), "go"))
}

func shorten(s string) string {
	const most = 160
	s = strings.ReplaceAll(s, "\n", " ")
	if len(s) > most {
		return "..." + s[len(s)-most:]
	}
	return s
}
