package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/cluster"
)

// line is one figure that is not a round's.
type line struct {
	System string             `json:"system"`
	What   string             `json:"what"`
	Values map[string]float64 `json:"values"`
	Text   string             `json:"text"`
}

func (b *bench) note(l line) {
	b.keep(record{Line: &l})
	b.say("%s, %s: %s", l.System, l.What, l.Text)
}

// usage of a kind of process.
type usage struct {
	rss, pss float64 // MB
	cpu      float64 // seconds since the process began
}

// kindOf names the daemon that a command line is of; "" for PostgreSQL and its children.
func kindOf(cmdline string) string {
	args := strings.Split(strings.TrimRight(cmdline, "\x00"), "\x00")
	for i, a := range args {
		switch filepath.Base(a) {
		case "hathi":
			if i+1 < len(args) {
				return map[string]string{"run": "agent", "etcd": "etcd", "guardian": "guardian", "router": "router"}[args[i+1]]
			}
		case "patroni":
			return "agent"
		case "etcd":
			return "etcd"
		case "haproxy":
			return "router"
		}
		if i == 1 {
			break
		}
	}
	return ""
}

func measure(h *host, into map[string]usage) {
	ticks := 100.0
	for _, pid := range h.cg.pids() {
		dir := "/proc/" + strconv.Itoa(pid)
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		kind := kindOf(string(cmdline))
		if kind == "" {
			kind = "postgresql"
		}
		u := into[kind]
		text, _ := os.ReadFile(dir + "/smaps_rollup")
		for l := range strings.Lines(string(text)) {
			f := strings.Fields(l)
			if len(f) < 2 {
				continue
			}
			kb, _ := strconv.ParseFloat(f[1], 64)
			switch f[0] {
			case "Rss:":
				u.rss += kb / 1024
			case "Pss:":
				u.pss += kb / 1024
			}
		}
		stat, _ := os.ReadFile(dir + "/stat")
		if i := strings.LastIndex(string(stat), ") "); i > 0 {
			f := strings.Fields(string(stat)[i+2:])
			if len(f) > 12 {
				user, _ := strconv.ParseFloat(f[11], 64)
				system, _ := strconv.ParseFloat(f[12], 64)
				u.cpu += (user + system) / ticks
			}
		}
		into[kind] = u
	}
}

// footprint is what the daemons of a node use while nothing happens.
func (b *bench) footprint(ctx context.Context, s system, proxy *host) error {
	const settle, window = 20 * time.Second, 60 * time.Second
	if err := pause(ctx, settle); err != nil {
		return err
	}
	hosts := []*host{proxy}
	for _, n := range s.nodes() {
		hosts = append(hosts, s.host(n))
	}
	take := func() map[string]usage {
		out := map[string]usage{}
		for _, h := range hosts {
			measure(h, out)
		}
		return out
	}
	before := take()
	load, all := loadAverage(), cpuTimes()
	if err := pause(ctx, window); err != nil {
		return err
	}
	after := take()
	l := line{System: s.name(), What: "idle, per node", Values: map[string]float64{}}
	nodes := float64(len(s.nodes()))
	var rss, pss, cpu float64
	for _, kind := range []string{"agent", "guardian", "etcd", "router", "postgresql"} {
		n := nodes
		if kind == "router" {
			n = 1
		}
		u := after[kind]
		share := 100 * (u.cpu - before[kind].cpu) / window.Seconds() / n
		l.Values[kind+"_rss_mb"], l.Values[kind+"_pss_mb"], l.Values[kind+"_cpu_percent"] = u.rss/n, u.pss/n, share
		if kind != "postgresql" {
			rss, pss, cpu = rss+u.rss/n, pss+u.pss/n, cpu+share
		}
		if u.rss > 0 {
			l.Text += fmt.Sprintf("%s RSS %.0f PSS %.0f MB, CPU %.2f %%; ", kind, u.rss/n, u.pss/n, share)
		}
	}
	l.Values["rss_mb"], l.Values["pss_mb"], l.Values["cpu_percent"] = rss, pss, cpu
	l.Text += fmt.Sprintf("without PostgreSQL: RSS %.0f, PSS %.0f MB, CPU %.2f %% of one processor (load average %s, steal %.1f %%)", rss, pss, cpu, load, steal(all, cpuTimes()))
	b.note(l)
	return nil
}

// promotions makes n of them, on every way that leads to one in turn: the primary's cable pulled, which
// leaves the winner's WAL receiver waiting; its postmaster killed, which ends the receiver at the same
// moment; a planned switchover. Each is kept; the report counts them together with those of the rounds.
func (b *bench) promotions(ctx context.Context, h *hathi, n int) error {
	ways := []fault{sigkill, switchover, cable}
	var errs []error
	for i := 0; i < n && ctx.Err() == nil && !b.late(); i++ {
		f := ways[i%len(ways)]
		d, err := promote(ctx, h, f)
		if err != nil {
			b.say("promotion %d (%s): %v", i+1, f, err)
			// It took longer than anybody waited for it.
			b.keep(record{Sample: &sample{What: "promotion", System: h.name(), Values: map[string]float64{"s": h.longest().Seconds()}}})
			if errs = append(errs, err); len(errs) > n/10+3 {
				return fmt.Errorf("given up after %d promotions that did not come about: %w", len(errs), err)
			}
			continue
		}
		b.keep(record{Sample: &sample{What: "promotion", System: h.name(), Values: map[string]float64{"s": d.Seconds()}}})
		if d > time.Second || b.opts.verbose || i%10 == 9 {
			b.say("promotion %d (%s) took %.2f s", i+1, f, d.Seconds())
		}
	}
	return errors.Join(errs...)
}

// promote makes another node the primary and says how long its promotion took.
func promote(ctx context.Context, h *hathi, f fault) (time.Duration, error) {
	if err := until(ctx, 2*time.Minute, 100*time.Millisecond, "healthy before a promotion", h.healthy); err != nil {
		return 0, err
	}
	old, err := h.primary(ctx)
	if err != nil {
		return 0, err
	}
	calls := make(chan error, 1)
	hurt, err := prepare(ctx, h, f, old, h.names[(slices.Index(h.names, old)+1)%len(h.names)], calls)
	if err != nil {
		return 0, err
	}
	if hurt.undo != nil {
		defer func() { _ = hurt.undo() }()
	}
	began := boottime.Now()
	if err := hurt.do(); err != nil {
		return 0, err
	}
	var took time.Duration
	err = until(ctx, h.longest(), 20*time.Millisecond, "a promotion", func(context.Context) error {
		if took = h.promotion(began); took == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	if f == switchover {
		select {
		case e := <-calls:
			err = errors.Join(err, e)
		case <-time.After(h.longest()):
		}
	}
	return took, err
}

// marks are the first taking of the lock after an instant, and when its holder was ready.
func (h *hathi) marks(after time.Duration) landmarks {
	var m landmarks
	var epoch uint64
	for _, e := range h.lock.since(after - 30*time.Second) { // it is renewed every few seconds at the least
		l, err := cluster.ParseLock(e.value)
		if err != nil {
			continue
		}
		if e.at > after && epoch > 0 && l.Epoch > epoch && m.take == 0 {
			m.take = e.at
		}
		if m.take > 0 && l.Ready && m.ready == 0 {
			m.ready = e.at
		}
		epoch = l.Epoch
	}
	return m
}

// noise disturbs a cluster that must not fail over: every processor busy, 5 % of the packets lost, and
// every 5 to 15 s the disk under one etcd member, which holds the agent's files too but not PostgreSQL's
// data, takes a second to write anything.
func (b *bench) noise(ctx context.Context, h *hathi, d time.Duration) error {
	if err := makeTable(ctx, h.writeURI()); err != nil {
		return err
	}
	for _, n := range h.names {
		rules := "table inet bench { chain in { type filter hook input priority 0; iifname eth0 numgen random mod 100 < 5 counter drop; }; }"
		if out, err := exec.Command("nsenter", "--net="+filepath.Join(nsDir, h.hosts[n].ns), "nft", rules).CombinedOutput(); err != nil {
			return fmt.Errorf("drop packets on %s: %w: %s", n, err, strings.TrimSpace(string(out)))
		}
	}
	l, err := startLoad(h.writeURI())
	if err != nil {
		return err
	}
	defer l.stop()
	if _, err := l.awaitRate(ctx, 1, 30*time.Second); err != nil {
		return err
	}
	cpus, err := newHostless("noise")
	if err != nil {
		return err
	}
	defer cpus.cg.remove()
	for i := range runtime.NumCPU() {
		if _, err := cpus.start(fmt.Sprintf("burn-%d", i), h.user, "/dev/null", "/bin/sh", "-c", "while :; do :; done"); err != nil {
			return err
		}
	}
	first, err := h.lockNow(ctx)
	if err != nil {
		return err
	}
	began := boottime.Now()
	load, stalls, cpu := loadAverage(), 0, cpuTimes()
	for boottime.Now()-began < d {
		if err := pause(ctx, min(time.Duration(5+rand.IntN(10))*time.Second, d-(boottime.Now()-began))); err != nil {
			break // what was measured until then is worth telling
		}
		d := h.disks[h.names[rand.IntN(3)]][0]
		if err := d.freeze(); err != nil {
			return err
		}
		err := pause(ctx, time.Second)
		if err := errors.Join(err, d.thaw()); err != nil {
			return err
		}
		stalls++
	}
	d = boottime.Now() - began
	acks, fails := l.stop()
	v := judge(acks, began)
	last, err := h.lockNow(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	dropped := 0
	for _, n := range h.names {
		out, _ := exec.Command("nsenter", "--net="+filepath.Join(nsDir, h.hosts[n].ns), "nft", "list", "table", "inet", "bench").Output()
		if _, after, ok := strings.Cut(string(out), "counter packets "); ok {
			k, _ := strconv.Atoi(strings.Fields(after)[0])
			dropped += k
		}
	}
	b.note(line{System: h.name(), What: "noise", Values: map[string]float64{"failovers": float64(last.Epoch - first.Epoch), "minutes": d.Minutes(), "stalls": float64(stalls), "packets_dropped": float64(dropped),
		"longest_gap_s": v.outage.Seconds(), "client_errors": float64(len(fails)), "acked": float64(len(acks))},
		Text: fmt.Sprintf("%d failovers in %.1f min with %d busy loops, 5 %% of packets lost (%d dropped) and %d stalls of 1 s of the disk under an etcd member (fsfreeze); %d acknowledged inserts, longest gap %.2f s, %d client errors (load average %s to %s, steal %.1f %%)",
			last.Epoch-first.Epoch, d.Minutes(), runtime.NumCPU(), dropped, stalls, len(acks), v.outage.Seconds(), len(fails), load, loadAverage(), steal(cpu, cpuTimes()))})
	return nil
}
