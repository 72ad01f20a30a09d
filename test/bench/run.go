package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/postgres"
)

// options are the command line.
type options struct {
	rounds     int
	peerRounds int
	what       []string
	peer       string
	tunings    []tuning
	hathi      string
	dir        string
	json       string
	report     []string
	goals      bool
	keep       bool
	verbose    bool
	pgBin      string
	// within is when no further round begins; 0 for no limit.
	within time.Duration
	// promotions, noise and the cost's pairs size the selections of these names.
	promotions  int
	noise       time.Duration
	costBlocks  int
	costSeconds int
}

// selections are what -what can name, and the clusters and faults that each stands for.
var selections = map[string][]plan{
	"node-loss-async":  {{6, "off", false, []fault{cable, power}}, {3, "off", false, []fault{cable, power}}},
	"node-loss-quorum": {{6, "quorum", false, []fault{cable, power}}},
	"postmaster":       {{6, "off", false, []fault{sigkill, sigstop}}, {6, "quorum", false, []fault{sigkill, sigstop}}},
	"auxiliary":        {{6, "off", false, []fault{walwriter, checkpointer}}, {6, "quorum", false, []fault{walwriter, checkpointer}}},
	"agent":            {{6, "off", false, []fault{agentKill, agentBack}}, {6, "quorum", false, []fault{agentKill, agentBack}}},
	"switchover":       {{6, "off", false, []fault{switchover}}, {6, "quorum", false, []fault{switchover}}},
	"storage":          {{6, "off", true, []fault{storage, wholeDisk}}, {6, "quorum", true, []fault{storage, wholeDisk}}},
	"async":            {{6, "off", false, everyFault}},
	"async-3":          {{3, "off", false, []fault{cable, power}}},
	"quorum":           {{6, "quorum", false, everyFault}},
}

// everyFault is what happens to a cluster without disks of its own, the quick ones first.
var everyFault = []fault{switchover, sigkill, cable, power, sigstop, walwriter, checkpointer, agentKill, agentBack}

// extras are what -what can name besides: figures that are not of rounds.
var extras = []string{"footprint", "promotions", "noise", "cost", "cost-quorum"}

// plan is one cluster and what happens to it.
type plan struct {
	ttl    int
	sync   string
	disks  bool
	faults []fault
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 10, "rounds per event")
	f.IntVar(&o.peerRounds, "peer-rounds", 0, "rounds per event of the peer, whose rounds are long (default: as many as -rounds)")
	what := f.String("what", "node-loss-async,node-loss-quorum,postmaster,switchover", "what to measure, with commas")
	f.DurationVar(&o.within, "for", 0, "begin no further round after this time, and report what there is")
	f.IntVar(&o.promotions, "promotions", 100, "how many promotions the selection promotions makes")
	f.DurationVar(&o.noise, "noise", 10*time.Minute, "how long the selection noise goes on")
	f.IntVar(&o.costBlocks, "cost-blocks", 16, "how many blocks of one run with hathi and two of bare servers the selections cost and cost-quorum make")
	f.IntVar(&o.costSeconds, "cost-seconds", 5, "how long each of these runs is")
	f.StringVar(&o.peer, "peer", "", "patroni: the same rounds against Patroni, etcd and HAProxy")
	tunings := f.String("peer-tunings", "guide,minimum", "the peer's settings: guide, minimum, or both")
	f.StringVar(&o.hathi, "hathi", "bin/hathi", "the program under test")
	f.StringVar(&o.dir, "dir", "", "where data directories go (default: a new folder in /var/tmp, removed at the end)")
	f.StringVar(&o.json, "json", "", "append every result, as it comes, to this file of JSON lines (default: a new file in bin)")
	report := f.String("report", "", "measure nothing: report these files of results, with commas, as one")
	f.BoolVar(&o.goals, "goals", false, "fail when a goal that was measured is missed, or has too few rounds to say")
	f.BoolVar(&o.keep, "keep", false, "keep the data directories and logs")
	f.BoolVar(&o.verbose, "v", false, "print what the agents decided in each round")
	f.StringVar(&o.pgBin, "pg-bin", "", "directory of PostgreSQL's programs (default: the newest installed)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if *report != "" {
		o.report = strings.Split(*report, ",")
	}
	for _, w := range strings.Split(*what, ",") {
		if w == "all" {
			o.what = append(append(o.what, "async", "node-loss-async", "quorum", "storage"), extras...)
			continue
		}
		if _, ok := selections[w]; !ok && !slices.Contains(extras, w) {
			return o, fmt.Errorf("-what %s: want some of %s", w, strings.Join(known(), ", "))
		}
		o.what = append(o.what, w)
	}
	if o.peer != "" && o.peer != "patroni" {
		return o, fmt.Errorf("-peer %s: only patroni is known", o.peer)
	}
	for _, t := range strings.Split(*tunings, ",") {
		switch t {
		case "guide":
			o.tunings = append(o.tunings, guideTuning)
		case "minimum":
			o.tunings = append(o.tunings, fastTuning)
		default:
			return o, fmt.Errorf("-peer-tunings %s: want guide, minimum, or both", t)
		}
	}
	if o.rounds < 1 || o.costBlocks < 2 || o.costSeconds < 1 {
		return o, errors.New("-rounds and -cost-seconds must be at least 1, -cost-blocks at least 2")
	}
	if o.peerRounds == 0 {
		o.peerRounds = o.rounds
	}
	return o, nil
}

func known() []string {
	var out []string
	for k := range selections {
		out = append(out, k)
	}
	slices.Sort(out)
	return append(append(out, extras...), "all")
}

// plans are the clusters that the selections need, each once.
func (o options) plans() []plan {
	var out []plan
	for _, w := range o.what {
		for _, p := range selections[w] {
			i := slices.IndexFunc(out, func(q plan) bool { return q.ttl == p.ttl && q.sync == p.sync && q.disks == p.disks })
			if i < 0 {
				out = append(out, plan{p.ttl, p.sync, p.disks, nil})
				i = len(out) - 1
			}
			for _, f := range p.faults {
				if !slices.Contains(out[i].faults, f) {
					out[i].faults = append(out[i].faults, f)
				}
			}
		}
	}
	return out
}

func inside(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	b := &bench{opts: o}
	if len(o.report) > 0 {
		if b.results, err = readResults(o.report); err != nil {
			return err
		}
		b.report(os.Stdout)
		return b.check(o.goals)
	}
	began := boottime.Now()
	b.say = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", (boottime.Now() - began).Seconds(), fmt.Sprintf(format, args...))
	}
	if b.opts.hathi, err = filepath.Abs(o.hathi); err != nil {
		return err
	}
	if _, err := os.Stat(b.opts.hathi); err != nil {
		return fmt.Errorf("the program under test: %w (make build makes it)", err)
	}
	if b.opts.pgBin == "" {
		if b.opts.pgBin, err = postgres.FindBinDir(0); err != nil {
			return err
		}
	}
	if o.dir == "" {
		if b.opts.dir, err = os.MkdirTemp("/var/tmp", "hathi-bench-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(b.opts.dir, 0o755); err != nil {
		return err
	}
	if o.keep {
		b.say("data and logs stay in %s", b.opts.dir)
	} else if o.dir == "" {
		defer os.RemoveAll(b.opts.dir)
	}
	// A build that replaces the program meanwhile must not change what is measured.
	under := filepath.Join(b.opts.dir, "under-test")
	if err := copyProgram(b.opts.hathi, under); err != nil {
		return err
	}
	b.opts.hathi = under
	c, err := postgres.LookupCredential("postgres")
	if err != nil {
		return err
	}
	u := &user{uid: c.UID, gid: c.GID, groups: c.Groups, home: c.Home}
	if b.opts.json == "" {
		b.opts.json = filepath.Join("bin", "bench-"+time.Now().Format("20060102-150405")+".jsonl")
		if err := os.MkdirAll("bin", 0o755); err != nil {
			return err
		}
	}
	if b.file, err = openRecords(b.opts.json); err != nil {
		return err
	}
	defer b.file.f.Close()
	b.say("results go to %s", b.opts.json)
	b.keep(record{Run: &runInfo{Began: time.Now().Format(time.RFC3339), Build: buildOf(b.opts.hathi), Machine: machine() + ", " + versionOf(filepath.Join(b.opts.pgBin, "postgres")), Args: args}})
	if o.within > 0 {
		b.until = began + o.within
	}
	var errs []error
	for k, p := range o.plans() {
		if ctx.Err() != nil || b.late() {
			break
		}
		if err := b.runPlan(ctx, k, p, u); err != nil && ctx.Err() == nil {
			b.say("%v", err)
			errs = append(errs, err)
		}
	}
	if err := b.runExtras(ctx, u); err != nil && ctx.Err() == nil {
		errs = append(errs, err)
	}
	b.report(os.Stdout)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	// What could not be measured is an error; that a goal is missed only where it is asked for.
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return b.check(o.goals)
}

// late says that no further round is to begin.
func (b *bench) late() bool { return b.until > 0 && boottime.Now() > b.until }

// contender is a system under test and how to make it, once more if need be.
type contender struct {
	system
	title  string
	rounds int
	number int
	make   func(dir string) (system, error)
	dir    string
}

// maxAnew is how often a cluster that does not come back is made anew.
const maxAnew = 5

// begin makes the system and brings it up. What is left of the one before is removed.
func (b *bench) begin(ctx context.Context, c *contender) error {
	c.end(b)
	dir := c.dir
	if c.number++; c.number > 1 {
		dir = fmt.Sprintf("%s-%d", c.dir, c.number)
	}
	b.say("starting %s", c.title)
	s, err := c.make(dir)
	c.system = s
	if err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	return makeTable(ctx, s.writeURI())
}

func (c *contender) end(b *bench) {
	if c.system == nil {
		return
	}
	if err := c.system.close(); err != nil {
		b.say("%s: %v", c.title, err)
	}
	c.system = nil
}

// runPlan brings up the systems of a plan and plays its rounds. Events and systems take turns, so that
// a run that ends early has some rounds of each, and none has the quiet minutes for itself.
func (b *bench) runPlan(ctx context.Context, k int, p plan, u *user) error {
	suffix := ""
	if p.disks {
		suffix = "-disks"
	}
	in := func(what string) string {
		return filepath.Join(b.opts.dir, fmt.Sprintf("%s-%d-%s%s", what, p.ttl, p.sync, suffix))
	}
	all := []*contender{{title: hathiTitle(p.sync, p.ttl), rounds: b.opts.rounds, dir: in("hathi"), make: func(dir string) (system, error) {
		h, err := newHathi(10*k+1, 3, dir, b.opts.hathi, b.opts.pgBin, u, time.Duration(p.ttl)*time.Second, p.sync, p.disks)
		return h, err
	}}}
	if b.opts.peer != "" && p.ttl != 3 {
		for i, t := range b.opts.tunings {
			all = append(all, &contender{title: t.name, rounds: b.opts.peerRounds, dir: in(fmt.Sprintf("patroni-%d", t.ttl)), make: func(dir string) (system, error) {
				q, err := newPatroni(10*k+2+i, dir, b.opts.pgBin, u, t, p.sync != "off", p.disks)
				return q, err
			}})
		}
	}
	defer func() {
		for _, c := range all {
			c.end(b)
		}
	}()
	for n := range b.opts.rounds {
		for _, f := range p.faults {
			for _, c := range all {
				if n >= c.rounds || b.late() {
					continue
				}
				if err := b.playOn(ctx, c, f, n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// playOn plays a round on a contender's cluster, which it makes when there is none. Only the end of the
// run is an error. A round that did not count is played once more.
func (b *bench) playOn(ctx context.Context, c *contender, f fault, n int) error {
	for range 2 {
		if c.system == nil {
			if c.number >= maxAnew {
				return nil
			}
			if err := b.begin(ctx, c); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				b.say("%s does not start: %v", c.title, err)
				c.end(b)
				continue
			}
		}
		r, err := b.play(ctx, c.system, f, n)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			if r == nil {
				r = &round{System: c.system.name(), Fault: f, Number: n, Rejoin: -1, Void: err.Error()}
			} else if r.Failed == "" {
				r.Failed = err.Error()
			}
		}
		b.keep(record{Round: r})
		b.tell(r)
		if err != nil {
			b.say("%s, %s, round %d: %v: making the cluster anew", c.title, f, n+1, err)
			c.end(b)
		}
		if r.Void == "" {
			return nil
		}
	}
	return nil
}

// runExtras measures what is not a matter of rounds.
func (b *bench) runExtras(ctx context.Context, u *user) error {
	var errs []error
	for i, w := range extras {
		if !slices.Contains(b.opts.what, w) || ctx.Err() != nil || b.late() {
			continue
		}
		k := 200 + 4*i
		if err := b.runExtra(ctx, k, w, u); err != nil {
			b.say("%s: %v", w, err)
			errs = append(errs, fmt.Errorf("%s: %w", w, err))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) runExtra(ctx context.Context, k int, w string, u *user) (err error) {
	nodes, sync := 3, "quorum"
	if w == "cost" {
		nodes, sync = 1, "off"
	}
	h, err := newHathi(k, nodes, filepath.Join(b.opts.dir, w), b.opts.hathi, b.opts.pgBin, u, 6*time.Second, sync, w == "noise")
	if h != nil {
		defer func() { err = errors.Join(err, h.close()) }()
	}
	if err != nil {
		return err
	}
	b.say("starting %s for %s", h.name(), w)
	if err := h.start(ctx); err != nil {
		return err
	}
	switch w {
	case "footprint":
		if err := b.footprint(ctx, h, h.proxy); err != nil || b.opts.peer == "" {
			return err
		}
		p, err := newPatroni(k+1, filepath.Join(b.opts.dir, w+"-patroni"), b.opts.pgBin, u, guideTuning, false, false)
		if p != nil {
			defer p.close()
		}
		if err != nil {
			return err
		}
		b.say("starting %s for %s", p.name(), w)
		if err := p.start(ctx); err != nil {
			return err
		}
		return b.footprint(ctx, p, p.proxy)
	case "promotions":
		return b.promotions(ctx, h, b.opts.promotions)
	case "noise":
		return b.noise(ctx, h, b.opts.noise)
	case "cost", "cost-quorum":
		return b.cost(ctx, h, w)
	}
	return nil
}

// buildOf is what the program under test calls itself.
func buildOf(exe string) string { return versionOf(exe, "version") }

func versionOf(exe string, args ...string) string {
	if len(args) == 0 {
		args = []string{"--version"}
	}
	out, err := exec.Command(exe, args...).Output()
	if err != nil {
		return "unknown version"
	}
	return strings.TrimSpace(string(out))
}
