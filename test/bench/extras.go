package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

func (b *bench) add(l line) {
	b.lines = append(b.lines, l)
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
	load := loadAverage()
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
	l.Text += fmt.Sprintf("without PostgreSQL: RSS %.0f, PSS %.0f MB, CPU %.2f %% of one processor (load average %s)", rss, pss, cpu, load)
	b.add(l)
	return nil
}

// promotions counts those that take longer than a second, of n: half after the primary's cable was
// pulled, half planned.
func (b *bench) promotions(ctx context.Context, h *hathi, n int) error {
	var took []float64
	slow, skipped := 0, 0
	for i := 0; len(took) < n && i < 2*n; i++ {
		if err := until(ctx, 3*time.Minute, 200*time.Millisecond, "healthy before a promotion", h.healthy); err != nil {
			return err
		}
		old, err := h.primary(ctx)
		if err != nil {
			return err
		}
		k := slices.Index(h.names, old)
		began := boottime.Now()
		if i%2 == 0 {
			if err := h.hosts[old].cut(); err != nil {
				return err
			}
		} else if err := h.switchover(ctx, old, h.names[(k+1)%len(h.names)]); err != nil {
			b.say("promotion %d: %v", i+1, err)
			skipped++
			continue
		}
		err = until(ctx, time.Minute, 50*time.Millisecond, "a primary", func(ctx context.Context) error {
			p, err := h.primary(ctx)
			if err == nil && p == old {
				return errors.New("the old one")
			}
			return err
		})
		if err := errors.Join(err, h.hosts[old].plug()); err != nil {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		m := h.marks(began)
		if m.take == 0 || m.ready == 0 {
			skipped++
			continue
		}
		d := (m.ready - m.take).Seconds()
		took = append(took, d)
		if d > 1 {
			slow++
			b.say("promotion %d took %.2f s", i+1, d)
		}
	}
	b.add(line{System: h.name(), What: "promotions", Values: map[string]float64{"n": float64(len(took)), "over_1s": float64(slow), "median_s": median(took), "p95_s": quantile(took, 0.95), "max_s": quantile(took, 1)},
		Text: fmt.Sprintf("%d of %d took more than 1 s; median %.2f, p95 %.2f, max %.2f s from the taking of the lock to writes; %d tries without one (load average %s)",
			slow, len(took), median(took), quantile(took, 0.95), quantile(took, 1), skipped, loadAverage())})
	return nil
}

// marks are the first taking of the lock after an instant, and when its holder was ready.
func (h *hathi) marks(after time.Duration) landmarks {
	var m landmarks
	var epoch uint64
	for _, e := range h.lock.since(after - time.Second) {
		l, err := cluster.ParseLock(e.value)
		if err != nil {
			continue
		}
		if epoch > 0 && l.Epoch > epoch && m.take == 0 {
			m.take = e.at
		}
		if m.take > 0 && l.Ready && m.ready == 0 {
			m.ready = e.at
		}
		epoch = l.Epoch
	}
	return m
}

// noise disturbs a cluster that must not fail over: every processor busy, 5 % of the packets lost,
// and now and then one etcd member stopped for a second, as a disk does that takes a second to sync.
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
	for i := range 2 {
		if _, err := cpus.start(fmt.Sprintf("burn-%d", i), h.user, "/dev/null", "/bin/sh", "-c", "while :; do :; done"); err != nil {
			return err
		}
	}
	first, err := h.lockNow(ctx)
	if err != nil {
		return err
	}
	began := boottime.Now()
	load, stalls := loadAverage(), 0
	for boottime.Now()-began < d {
		if err := pause(ctx, time.Duration(5+rand.IntN(10))*time.Second); err != nil {
			return err
		}
		p := h.hosts[h.names[rand.IntN(3)]].procs["etcd"]
		_ = p.cmd.Process.Signal(syscall.SIGSTOP)
		err := pause(ctx, time.Second)
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		if err != nil {
			return err
		}
		stalls++
	}
	acks, fails := l.stop()
	v := judge(acks, began)
	last, err := h.lockNow(ctx)
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
	b.add(line{System: h.name(), What: "noise", Values: map[string]float64{"failovers": float64(last.Epoch - first.Epoch), "minutes": d.Minutes(), "stalls": float64(stalls), "packets_dropped": float64(dropped),
		"longest_gap_s": v.outage.Seconds(), "client_errors": float64(len(fails)), "acked": float64(len(acks))},
		Text: fmt.Sprintf("%d failovers in %.0f min with 2 busy loops, 5 %% of packets lost (%d dropped) and %d stalls of 1 s of an etcd member (SIGSTOP); %d acknowledged inserts, longest gap %.2f s, %d client errors (load average %s to %s)",
			last.Epoch-first.Epoch, d.Minutes(), dropped, stalls, len(acks), v.outage.Seconds(), len(fails), load, loadAverage())})
	return nil
}
