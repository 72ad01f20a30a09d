package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/postgres"
)

// options are the command line.
type options struct {
	rounds  int
	what    []string
	peer    string
	hathi   string
	dir     string
	json    string
	keep    bool
	verbose bool
	pgBin   string
	// promotions and noise size the selections of these names.
	promotions int
	noise      time.Duration
}

// selections are what -what can name, and the clusters and faults that each stands for.
var selections = map[string][]plan{
	"node-loss-async":  {{6, "off", []fault{cable, power}}, {3, "off", []fault{cable, power}}},
	"node-loss-quorum": {{6, "quorum", []fault{cable, power}}},
	"postmaster":       {{6, "off", []fault{sigkill, sigstop}}, {6, "quorum", []fault{sigkill, sigstop}}},
	"switchover":       {{6, "off", []fault{switchover}}, {6, "quorum", []fault{switchover}}},
	"async":            {{6, "off", []fault{cable, power, sigkill, sigstop, switchover}}},
	"async-3":          {{3, "off", []fault{cable, power, sigkill, sigstop, switchover}}},
	"quorum":           {{6, "quorum", []fault{cable, power, sigkill, sigstop, switchover}}},
}

// extras are what -what can name besides: figures that are not of rounds.
var extras = []string{"footprint", "promotions", "noise", "cost"}

// plan is one cluster and what happens to it.
type plan struct {
	ttl    int
	sync   string
	faults []fault
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 10, "rounds per event")
	what := f.String("what", "node-loss-async,node-loss-quorum,postmaster,switchover", "what to measure, with commas")
	f.IntVar(&o.promotions, "promotions", 100, "how many promotions the selection promotions counts")
	f.DurationVar(&o.noise, "noise", 10*time.Minute, "how long the selection noise goes on")
	f.StringVar(&o.peer, "peer", "", "patroni: the same rounds against Patroni, etcd and HAProxy")
	f.StringVar(&o.hathi, "hathi", "bin/hathi", "the program under test")
	f.StringVar(&o.dir, "dir", "", "where data directories go (default: a new folder in /var/tmp, removed at the end)")
	f.StringVar(&o.json, "json", "", "write every round and the figures to this file")
	f.BoolVar(&o.keep, "keep", false, "keep the data directories and logs")
	f.BoolVar(&o.verbose, "v", false, "print what the agents decided in each round")
	f.StringVar(&o.pgBin, "pg-bin", "", "directory of PostgreSQL's programs (default: the newest installed)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for _, w := range strings.Split(*what, ",") {
		if w == "all" {
			o.what = append(append(o.what, "async", "node-loss-async", "quorum"), extras...)
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
	if o.rounds < 1 {
		return o, errors.New("-rounds must be at least 1")
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
			i := slices.IndexFunc(out, func(q plan) bool { return q.ttl == p.ttl && q.sync == p.sync })
			if i < 0 {
				out = append(out, plan{p.ttl, p.sync, nil})
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
	c, err := postgres.LookupCredential("postgres")
	if err != nil {
		return err
	}
	u := &user{uid: c.UID, gid: c.GID, groups: c.Groups, home: c.Home}
	for k, p := range o.plans() {
		if err := b.runPlan(ctx, k, p, u); err != nil {
			b.say("%v", err)
			if ctx.Err() != nil {
				break
			}
		}
	}
	if err := b.runExtras(ctx, u); err != nil {
		b.say("%v", err)
	}
	b.report(os.Stdout)
	if o.json != "" {
		text, err := json.MarshalIndent(map[string]any{"machine": machine(), "rounds": b.all, "figures": figures(b.all), "lines": b.lines}, "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(o.json, append(text, '\n'), 0o644)
	}
	return context.Cause(ctx)
}

// runPlan brings up the systems of a plan and plays its rounds, taking turns.
func (b *bench) runPlan(ctx context.Context, k int, p plan, u *user) (err error) {
	var systems []system
	defer func() {
		for _, s := range systems {
			if e := s.close(); e != nil {
				b.say("%s: %v", s.name(), e)
			}
		}
	}()
	h, err := newHathi(10*k+1, 3, filepath.Join(b.opts.dir, fmt.Sprintf("hathi-%d-%s", p.ttl, p.sync)), b.opts.hathi, b.opts.pgBin, u, time.Duration(p.ttl)*time.Second, p.sync)
	if h != nil {
		systems = append(systems, h)
	}
	if err != nil {
		return err
	}
	if b.opts.peer != "" && p.ttl != 3 {
		for i, t := range []tuning{guideTuning, fastTuning} {
			q, err := newPatroni(10*k+2+i, filepath.Join(b.opts.dir, fmt.Sprintf("patroni-%d-%s", t.ttl, p.sync)), b.opts.pgBin, u, t, p.sync != "off")
			if q != nil {
				systems = append(systems, q)
			}
			if err != nil {
				return err
			}
		}
	}
	for _, s := range systems {
		b.say("starting %s", s.name())
		if err := s.start(ctx); err != nil {
			return err
		}
		if err := makeTable(ctx, s.writeURI()); err != nil {
			return err
		}
	}
	broken := map[string]bool{}
	for _, f := range p.faults {
		for n := range b.opts.rounds {
			for _, s := range systems {
				if broken[s.name()] {
					continue
				}
				r, err := b.play(ctx, s, f, n)
				if r != nil {
					b.all = append(b.all, *r)
					b.tell(r)
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					b.say("%s, %s, round %d: %v: no more rounds with it", s.name(), f, n+1, err)
					broken[s.name()] = true
				}
			}
		}
	}
	return nil
}

// runExtras measures what is not a matter of rounds.
func (b *bench) runExtras(ctx context.Context, u *user) error {
	var errs []error
	for i, w := range extras {
		if !slices.Contains(b.opts.what, w) || ctx.Err() != nil {
			continue
		}
		k := 200 + 4*i
		if err := b.runExtra(ctx, k, w, u); err != nil {
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
	h, err := newHathi(k, nodes, filepath.Join(b.opts.dir, w), b.opts.hathi, b.opts.pgBin, u, 6*time.Second, sync)
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
		p, err := newPatroni(k+1, filepath.Join(b.opts.dir, w+"-patroni"), b.opts.pgBin, u, guideTuning, false)
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
	case "cost":
		return b.cost(ctx, h)
	}
	return nil
}
