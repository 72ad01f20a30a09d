package sim

import (
	"fmt"
	"maps"
	"strings"
	"time"
)

// Options are what a history does not draw from its seed.
type Options struct {
	// Trace keeps the lines of the history.
	Trace bool
	// Fingerprint computes Result.Fingerprint; Trace does too.
	Fingerprint bool
	// Mutation switches a safety rule off; nil: none.
	Mutation *Mutation
	// Quiet leaves the faults out.
	Quiet bool

	doc   map[string]any // the dynamic configuration at the beginning
	think time.Duration  // of a client between two writes
}

// Result is how a history went.
type Result struct {
	Seed       uint64
	Violations []Violation
	Trace      []string
	// Fingerprint is the same for the same history.
	Fingerprint uint64
	// Simulated is how much virtual time passed, Events how many events it took.
	Simulated time.Duration
	Events    int
	// Faults are the names of the faults that were played, in order.
	Faults []string
	// Acknowledged commits; those that an unfenced primary gave to clients past the router; those
	// lost within the bound of asynchronous mode.
	Acknowledged, Unfenced, Lost int
	// Late counts acknowledgements by a deposed leader of commits that its successor has.
	Late int
	// Mixed counts members that, after a promotion by hand, would stream WAL that differs.
	Mixed int
	// Epochs is the number of leaderships.
	Epochs uint64
	// Settled is how long it took after everything healed.
	Settled time.Duration
}

// String is a line for people.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %.0f s simulated, %d epochs, %d commits acknowledged, %d lost in asynchronous mode, %d by unfenced primaries, settled %.1f s after the faults",
		r.Seed, r.Simulated.Seconds(), r.Epochs, r.Acknowledged, r.Lost, r.Unfenced, r.Settled.Seconds())
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "\n  %s", v)
	}
	return b.String()
}

// Faults are the names of the kinds of trouble that histories draw from.
func Faults() []string {
	var out []string
	for _, f := range faults {
		if f.excluded == "" {
			out = append(out, f.name)
		}
	}
	return out
}

// Bounds of a history.
const (
	firstSettle = 2 * time.Minute
	lastSettle  = 8 * time.Minute
	maxEvents   = 5_000_000
)

// Run plays the history of one seed. It is the same on every machine and at every time.
func Run(seed uint64, o Options) (res Result) {
	w := prepare(seed, o)
	w.trace.hash = o.Fingerprint || o.Trace
	defer w.end()
	defer func() {
		if p := recover(); p != nil {
			w.check.violate("panic", "%v", p)
		}
		c := &w.check
		res = Result{Seed: seed, Violations: c.found, Trace: w.trace.lines, Fingerprint: w.trace.sum, Simulated: w.now, Events: w.count, Faults: w.played,
			Acknowledged: c.total, Unfenced: c.unfenced, Lost: c.lost, Mixed: c.mixed, Late: c.late, Epochs: c.epochs, Settled: w.settledIn}
	}()
	if !w.untilSettled(firstSettle) || o.Quiet {
		return res
	}
	w.inject()
	if len(w.check.found) > 0 {
		return res
	}
	w.heal()
	w.untilSettled(lastSettle)
	return res
}

func prepare(seed uint64, o Options) *world {
	w := newWorld(seed, o)
	n := pick(w, 1, 2, 3, 3, 3, 3, 3, 4, 5)
	doc := map[string]any{
		"ttl": pick(w, 3, 6, 6, 10), "loop_wait": 1, "retry_timeout": 2,
		"maximum_lag_on_failover": pick(w, 0, 1000, 5000, 1<<20),
		"primary_start_timeout":   pick(w, 0, 3, 60), "primary_stop_timeout": pick(w, 0, 5),
		"failsafe_mode": w.chance(0.5), "synchronous_mode": pick[any](w, false, true, "quorum", "quorum"),
		"synchronous_mode_strict": n > 1 && w.chance(0.15), "synchronous_node_count": pick(w, 1, 1, 1, 2),
		"postgresql": map[string]any{"use_pg_rewind": w.chance(0.85), "use_slots": true},
	}
	if x := o.Mutation; x != nil {
		maps.Copy(doc, x.doc)
		if x.nodes != 0 {
			n = x.nodes
		}
	}
	w.opt.doc = doc
	w.opt.think = w.between(40*time.Millisecond, 250*time.Millisecond)
	w.copies, w.joins = 1, 1
	for range n {
		m := w.addMachine()
		w.after(w.between(0, 2*time.Second), func() { m.boot() })
	}
	for i := range 2 + w.rng.IntN(3) {
		w.addClient(w.machines[w.rng.IntN(n)], i == 0 || w.chance(0.4), w.chance(0.3))
	}
	w.addClient(w.machines[0], true, false)
	var house func()
	house = func() {
		w.housekeeping()
		w.check.leaders()
		w.store.Expire()
		w.after(200*time.Millisecond, house)
	}
	w.after(0, house)
	return w
}

// advance plays d, or less when a violation is found.
func (w *world) advance(d time.Duration) {
	end := w.now + d
	stop := false
	w.after(d, func() { stop = true })
	for !stop && len(w.check.found) == 0 {
		if !w.step() {
			break
		}
		if w.count++; w.count > maxEvents {
			w.check.violate("endless", "more than %d events", maxEvents)
		}
	}
	if len(w.check.found) == 0 {
		w.now = end
	}
}

// untilSettled plays until the cluster has been in order for two seconds.
func (w *world) untilSettled(bound time.Duration) bool {
	begin := w.now
	good := 0
	why := ""
	for w.now-begin < bound && good < 3 && len(w.check.found) == 0 {
		w.advance(time.Second)
		ok, text := w.settled()
		if ok {
			good++
			continue
		}
		good, why = 0, text
		if late := w.now - begin; late >= bound/4 && late.Truncate(time.Second)%(40*time.Second) == 0 {
			w.remedy()
		}
	}
	w.settledIn = w.now - begin
	if good < 3 && len(w.check.found) == 0 {
		for _, m := range w.machines {
			w.tracef(m, "gone=%t state=%q", m.gone, m.state())
		}
		w.check.violate("stuck", "the cluster is not in order %s after the faults ended: %s", bound, why)
	}
	return good >= 3
}

// inject plays the faults of the seed.
func (w *world) inject() {
	w.faults = true
	var menu []fault
	for _, f := range faults {
		if x := w.opt.Mutation; x != nil && x.menu != nil {
			for _, name := range x.menu {
				if name == f.name {
					menu = append(menu, f)
				}
			}
			continue
		}
		if w.chance(0.4) && f.excluded == "" {
			menu = append(menu, f)
		}
	}
	if len(menu) == 0 {
		menu = faults[:1]
	}
	gap := w.between(500*time.Millisecond, 6*time.Second)
	end := w.now + w.between(15*time.Second, 60*time.Second)
	if x := w.opt.Mutation; x != nil {
		end, gap = max(end, w.now+x.lasting), max(gap, x.gap)
	}
	longest := pick(w, 2*time.Second, 6*time.Second, 12*time.Second, 25*time.Second)
	for w.now < end && len(w.check.found) == 0 {
		f := menu[w.rng.IntN(len(menu))]
		m := w.victim()
		d := w.between(50*time.Millisecond, longest)
		if m != nil && m.on {
			w.tracef(m, "*** %s (%.1fs)", f.name, d.Seconds())
			w.played = append(w.played, f.name)
			f.do(w, m, d)
		}
		w.advance(w.between(10*time.Millisecond, 2*gap))
	}
}

// victim is a machine for a fault: the leader more often than others.
func (w *world) victim() *machine {
	if w.chance(0.4) {
		if m := w.machine(w.check.lock.Node); m != nil {
			return m
		}
	}
	m := pick(w, w.machines...)
	if m.gone {
		return nil
	}
	return m
}

// end lets go of every coroutine.
func (w *world) end() {
	for _, m := range w.machines {
		if m.agent != nil {
			m.agent.life.killAll()
		}
	}
}
