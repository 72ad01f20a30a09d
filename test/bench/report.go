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
	if r.Failed != "" {
		more += "; FAILED: " + r.Failed
	}
	b.say("%s, %s, round %d (%s to %s, etcd's leader %s): outage %.2f s from %+.2f; errors %d (%d connecting), lost %d of %d, order %d, late %d; rejoin %.2f s; %.0f acks/s, load %s%s",
		r.System, r.Fault, r.Number+1, r.Primary, r.Next, where, r.Outage, r.GapBegan, r.Errors, r.ConnectErrs, r.Lost, r.Acked, r.Order, r.Late, r.Rejoin, r.Rate, r.Load, more)
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
	System    string  `json:"system"`
	Fault     fault   `json:"fault"`
	N         int     `json:"n"`
	Failed    int     `json:"failed"`
	Void      int     `json:"void"`
	Median    float64 `json:"outage_median_s"`
	P95       float64 `json:"outage_p95_s"`
	Max       float64 `json:"outage_max_s"`
	Errors    float64 `json:"client_errors_median"`
	Lost      int     `json:"acked_rows_lost"`
	Order     int     `json:"acked_out_of_order"`
	Rejoin    float64 `json:"rejoin_median_s"`
	RejoinMax float64 `json:"rejoin_max_s"`
	Phases    phases  `json:"phase_medians"`
	Load      string  `json:"load_average_range"`
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
		var outage, errs, rejoin, load []float64
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
			f.Lost += r.Lost
			f.Order += r.Order
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
		f.Errors, f.Rejoin, f.RejoinMax = median(errs), median(rejoin), quantile(rejoin, 1)
		f.Phases = phases{Detection: median(ph[0]), Fencing: median(ph[1]), Election: median(ph[2]), Promotion: median(ph[3]), Routing: median(ph[4])}
		if len(load) > 0 {
			f.Load = fmt.Sprintf("%.1f-%.1f", slices.Min(load), slices.Max(load))
		}
	}
	return out
}

func (b *bench) report(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", machine())
	for _, l := range b.lines {
		defer fmt.Fprintf(w, "\n%s, %s: %s\n", l.System, l.What, l.Text)
	}
	if len(b.all) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| system\t| event\t| n\t| outage median\t| p95\t| max\t| errors\t| lost\t| order\t| rejoin median / max\t| detection\t| fencing\t| election\t| promotion\t| routing\t| load\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, f := range figures(b.all) {
		n := fmt.Sprint(f.N)
		if f.Failed > 0 {
			n += fmt.Sprintf(" (%d failed)", f.Failed)
		}
		p := f.Phases
		rejoin := "-" // nobody had to come back, or nobody did
		if f.RejoinMax > 0 {
			rejoin = fmt.Sprintf("%.2f / %.2f", f.Rejoin, f.RejoinMax)
		}
		fmt.Fprintf(t, "| %s\t| %s\t| %s\t| %.2f\t| %.2f\t| %.2f\t| %.0f\t| %d\t| %d\t| %s\t| %.2f\t| %.2f\t| %.2f\t| %.2f\t| %.2f\t| %s\t|\n", f.System, f.Fault, n, f.Median, f.P95, f.Max, f.Errors, f.Lost, f.Order,
			rejoin, p.Detection, p.Fencing, p.Election, p.Promotion, p.Routing, f.Load)
	}
	_ = t.Flush()
	fmt.Fprintln(w, "\nSeconds; medians per round where nothing else is said. Errors: what the 8 clients saw. Lost: acknowledged rows that the next primary lacks.\nOrder: rows acknowledged by an older timeline after a newer one. Failed rounds ran into their bound, which then stands as their outage.")
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
