package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
)

// fault is one kind of trouble. It gets a random running machine and a duration after which it ends
// what it began.
type fault struct {
	name string
	do   func(w *world, m *machine, d time.Duration)
}

var faults = []fault{
	{"power cut", func(w *world, m *machine, d time.Duration) {
		m.powerOff()
		w.after(d, func() {
			if !m.gone && !m.on {
				w.tracef(m, "power is back")
				m.boot()
			}
		})
	}},
	{"agent killed", func(w *world, m *machine, d time.Duration) {
		m.stopAgent()
		w.after(d, m.startAgent)
	}},
	{"agent killed, restarted at once", func(w *world, m *machine, d time.Duration) {
		m.stopAgent()
		w.after(w.between(50*time.Millisecond, time.Second), m.startAgent)
	}},
	{"agent told to end", func(w *world, m *machine, d time.Duration) {
		if m.agent == nil {
			return
		}
		w.operate(m)
		m.agent.node.Shutdown()
		m.agent.main.wake(0)
		w.after(d+5*time.Second, m.startAgent)
	}},
	{"postmaster killed", func(w *world, m *machine, d time.Duration) { m.pg.die("SIGKILL", true) }},
	{"guardian killed", func(w *world, m *machine, d time.Duration) {
		m.guard.kill()
		w.after(min(d, 3*time.Second), m.guard.start)
	}},
	{"machine frozen", func(w *world, m *machine, d time.Duration) {
		m.freeze()
		w.after(d, m.thaw)
	}},
	{"agent frozen", func(w *world, m *machine, d time.Duration) {
		m.freezeAgent()
		w.after(d, m.thawAgent)
	}},
	{"guardian frozen", func(w *world, m *machine, d time.Duration) {
		m.guard.freeze(true)
		w.after(d, func() { m.guard.freeze(false) })
	}},
	{"agent and guardian frozen", func(w *world, m *machine, d time.Duration) {
		m.freezeAgent()
		m.guard.freeze(true)
		w.after(d, func() { m.guard.freeze(false); m.thawAgent() })
	}},
	{"cut off from everything", func(w *world, m *machine, d time.Duration) {
		w.isolate(m, true, planePeers, planeRepl, planeClients)
		m.storeCut = true
		w.after(d, func() { w.isolate(m, false, planePeers, planeRepl, planeClients); m.storeCut = false })
	}},
	{"cut off from the store", func(w *world, m *machine, d time.Duration) {
		m.storeCut = true
		w.after(d, func() { m.storeCut = false })
	}},
	{"answers of the store do not arrive", func(w *world, m *machine, d time.Duration) {
		m.storeMute = true
		w.after(d, func() { m.storeMute = false })
	}},
	{"answers of the store get lost", func(w *world, m *machine, d time.Duration) {
		m.loseReplies = w.rng.Float64()
		w.after(d, func() { m.loseReplies = 0 })
	}},
	{"slow way to the store", func(w *world, m *machine, d time.Duration) {
		m.slowStore = w.between(50*time.Millisecond, 2*time.Second)
		w.after(d, func() { m.slowStore = 0 })
	}},
	{"cut off from peers", func(w *world, m *machine, d time.Duration) {
		w.isolate(m, true, planePeers)
		w.after(d, func() { w.isolate(m, false, planePeers) })
	}},
	{"cut off from replication", func(w *world, m *machine, d time.Duration) {
		w.isolate(m, true, planeRepl)
		w.after(d, func() { w.isolate(m, false, planeRepl) })
	}},
	{"one way cut", func(w *world, m *machine, d time.Duration) {
		o := pick(w, w.machines...)
		p := plane(w.rng.IntN(int(planes)))
		w.cut[p][m.index][o.index] = true
		w.after(d, func() { w.cut[p][m.index][o.index] = false })
	}},
	{"ring cut", func(w *world, m *machine, d time.Duration) {
		n := len(w.machines)
		for i := range n {
			for p := range planes {
				w.cut[p][i][(i+1)%n] = true
			}
		}
		w.after(d, func() {
			for i := range n {
				for p := range planes {
					w.cut[p][i][(i+1)%n] = false
				}
			}
		})
	}},
	{"network in two halves", func(w *world, m *machine, d time.Duration) {
		w.halves(m, true)
		w.after(d, func() { w.halves(m, false) })
	}},
	{"slow network", func(w *world, m *machine, d time.Duration) {
		w.slowNet = w.between(5*time.Millisecond, 300*time.Millisecond)
		w.after(d, func() { w.slowNet = 0 })
	}},
	{"store down", func(w *world, m *machine, d time.Duration) {
		w.storeDown = true
		w.after(d, func() { w.storeDown = false })
	}},
	{"store slow", func(w *world, m *machine, d time.Duration) {
		w.storeSlow = w.between(100*time.Millisecond, 1500*time.Millisecond)
		w.after(d, func() { w.storeSlow = 0 })
	}},
	{"slow disk", func(w *world, m *machine, d time.Duration) {
		m.slowDisk = 1 + w.rng.Float64()*20
		w.after(d, func() { m.slowDisk = 1 })
	}},
	{"postmaster stopped", func(w *world, m *machine, d time.Duration) {
		m.pg.hang(hungPostmaster)
		life := m.pg.life
		w.after(d, func() {
			if m.pg.life == life {
				m.pg.hang(hungNot)
			}
		})
	}},
	{"PostgreSQL frozen", func(w *world, m *machine, d time.Duration) {
		m.pg.hang(hungAll)
		life := m.pg.life
		w.after(d, func() {
			if m.pg.life == life {
				m.pg.hang(hungNot)
			}
		})
	}},
	{"last answer late, agent lost, postmaster stopped", func(w *world, m *machine, d time.Duration) {
		m.slowBack = w.between(900*time.Millisecond, 1450*time.Millisecond)
		m.pg.hang(hungPostmaster)
		life := m.pg.life
		w.after(w.between(time.Second, 3*time.Second), func() {
			m.stopAgent()
			m.slowBack = 0
		})
		w.after(d+8*time.Second, func() {
			if m.pg.life == life {
				m.pg.hang(hungNot)
			}
			m.startAgent()
		})
	}},
	{"one standby behind, then the leader lost", func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || lead == m {
			return
		}
		w.isolate(m, true, planeRepl)
		w.after(w.between(200*time.Millisecond, 3*time.Second), func() {
			if lead.on {
				w.tracef(lead, "*** power cut, the second part")
				lead.powerOff()
			}
			w.isolate(m, false, planeRepl)
			w.after(d+5*time.Second, func() {
				if !lead.gone && !lead.on {
					lead.boot()
				}
			})
		})
	}},
	{"a standby back for a moment, then the leader lost", func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || lead == m {
			return
		}
		away, back, then := w.between(7*time.Second, 10*time.Second), w.between(100*time.Millisecond, 700*time.Millisecond), w.between(time.Second, 4*time.Second)
		w.isolate(m, true, planeRepl)
		w.after(away, func() { w.isolate(m, false, planeRepl) })
		w.after(away+back, func() { w.isolate(m, true, planeRepl) })
		w.after(away+back+then, func() {
			w.isolate(m, false, planeRepl)
			if !lead.on {
				return
			}
			w.tracef(lead, "*** power cut, the last part")
			lead.powerOff()
			w.after(d+5*time.Second, func() {
				if !lead.gone && !lead.on {
					lead.boot()
				}
			})
		})
	}},
	{"switchover", func(w *world, m *machine, d time.Duration) { w.switchover(m) }},
	{"failover ordered", func(w *world, m *machine, d time.Duration) {
		w.request(cluster.FailoverRequest{Candidate: m.name})
	}},
	{"pause", func(w *world, m *machine, d time.Duration) {
		w.configure(func(doc map[string]any) { doc["pause"] = true })
		w.after(d, func() { w.configure(func(doc map[string]any) { doc["pause"] = false }) })
	}},
	{"promoted by hand", func(w *world, m *machine, d time.Duration) { m.pg.promote(0, true) }},
	{"restart asked for", func(w *world, m *machine, d time.Duration) {
		if m.agent != nil {
			w.operate(m)
			done, cancel := context.WithCancel(m.agent.ctx)
			cancel()
			_, _ = m.agent.node.Restart(done)
			m.agent.main.wake(0)
		}
	}},
	{"reinit asked for", func(w *world, m *machine, d time.Duration) {
		// One copy of the data may be given up by hand in a history, not more: that is the tolerance.
		if m.agent != nil && w.copies > 0 && len(w.machines) > 2 {
			w.copies--
			w.reinit(m)
		}
	}},
	{"synchronous_mode changed", func(w *world, m *machine, d time.Duration) {
		mode := pick[any](w, false, true, "quorum", "quorum")
		strict := w.chance(0.2)
		w.configure(func(doc map[string]any) { doc["synchronous_mode"], doc["synchronous_mode_strict"] = mode, strict })
	}},
	{"synchronous_node_count changed", func(w *world, m *machine, d time.Duration) {
		n := 1 + w.rng.IntN(3)
		w.configure(func(doc map[string]any) { doc["synchronous_node_count"] = n })
	}},
	{"ttl changed", func(w *world, m *machine, d time.Duration) {
		ttl := pick(w, 3, 4, 6, 10, 15)
		w.configure(func(doc map[string]any) { doc["ttl"] = ttl })
	}},
	{"failsafe_mode changed", func(w *world, m *machine, d time.Duration) {
		on := w.chance(0.5)
		w.configure(func(doc map[string]any) { doc["failsafe_mode"] = on })
	}},
	{"a member joins", func(w *world, m *machine, d time.Duration) {
		if len(w.machines) < maxMachines && w.joins > 0 {
			w.joins--
			w.addMachine().boot()
		}
	}},
	{"a member leaves for good", func(w *world, m *machine, d time.Duration) { w.leave(m) }},
}

// isolate cuts a machine off from all others, or ends that.
func (w *world) isolate(m *machine, yes bool, on ...plane) {
	for _, p := range on {
		for i := range maxMachines {
			w.cut[p][m.index][i], w.cut[p][i][m.index] = yes, yes
		}
	}
}

// halves cuts the machines up to m from the rest; the smaller part also loses the store.
func (w *world) halves(m *machine, yes bool) {
	n := len(w.machines)
	first := m.index + 1
	for i := range n {
		for j := range n {
			if (i < first) != (j < first) {
				for p := range planes {
					w.cut[p][i][j] = yes
				}
			}
		}
		small := (i < first) == (first <= n/2)
		if small && first < n {
			w.machines[i].storeCut = yes
		}
	}
}

// operate marks that an operator asked something of m, for a while.
func (w *world) operate(m *machine) {
	m.asked = true
	w.after(2*time.Minute, func() { m.asked = false })
}

// configure changes the dynamic configuration.
func (w *world) configure(change func(doc map[string]any)) {
	w.edit(func(v cluster.View) []dcs.Op {
		if v.ConfigRev == 0 {
			return nil
		}
		doc, _ := cluster.MergePatch(v.Config.Doc, nil)
		change(doc)
		b, err := json.Marshal(doc)
		if err != nil {
			return nil
		}
		w.tracef(nil, "config %s", b)
		return []dcs.Op{{Key: dcs.KeyConfig, Value: b}}
	})
}

// request writes a fail-over request.
func (w *world) request(r cluster.FailoverRequest) {
	w.edit(func(v cluster.View) []dcs.Op {
		b, err := json.Marshal(r)
		if err != nil {
			return nil
		}
		return []dcs.Op{{Key: dcs.KeyFailover, Value: b}}
	})
}

func (w *world) switchover(to *machine) {
	lead := w.check.lock.Node
	if lead == "" || lead == to.name {
		return
	}
	r := cluster.FailoverRequest{Leader: lead, Candidate: to.name}
	if w.chance(0.3) {
		r.Candidate = ""
	}
	w.request(r)
}

// leave takes a machine away with its data, where the stated tolerance allows it.
func (w *world) leave(m *machine) {
	here := 0
	for _, o := range w.machines {
		if !o.gone && o.pg.dir != nil && !o.pg.dir.torn {
			here++
		}
	}
	s := w.sync.state
	lock := w.check.lock
	if here < 3 || w.copies <= 0 || lock.Paused || lock.Node == m.name || s.Leader == m.name || m.pg.primary || !lock.Ready {
		return
	}
	w.copies = 0
	m.gone = true
	m.powerOff()
	for _, c := range w.clients {
		for c.home.gone {
			c.home = pick(w, w.machines...)
		}
	}
}

// remedy is what an operator does after promotions by hand left a cluster that cannot tell which
// history counts: order a fail-over to the furthest member, and make those anew that got mixed up.
func (w *world) remedy() bool {
	var standbys []*machine // the furthest first
	manual := false
	for _, m := range w.machines {
		p := m.pg
		if m.gone || p.dir == nil {
			continue
		}
		manual = manual || p.dir.manual
		if p.phase != phaseUp || p.primary {
			continue
		}
		standbys = append(standbys, m)
	}
	slices.SortStableFunc(standbys, func(a, b *machine) int {
		return cmp.Or(cmp.Compare(b.pg.dir.timeline(), a.pg.dir.timeline()), cmp.Compare(b.pg.dir.lsn(), a.pg.dir.lsn()))
	})
	if !manual {
		return false
	}
	w.tracef(nil, "--- an operator tidies up after promotions by hand")
	if holder := w.machine(w.check.lock.Node); len(standbys) > 0 && (holder == nil || !holder.confirmed()) {
		w.check.forced = true
		w.request(cluster.FailoverRequest{Candidate: standbys[w.remedies%len(standbys)].name, Force: true})
		w.remedies++
	}
	for _, m := range w.machines {
		if m.pg.mixed && m.agent != nil && !m.pg.primary {
			w.reinit(m)
		}
	}
	return true
}

func (w *world) reinit(m *machine) {
	w.operate(m)
	done, cancel := context.WithCancel(m.agent.ctx)
	cancel()
	_, _ = m.agent.node.Reinit(done, false)
	m.agent.main.wake(0)
}

// heal ends every trouble.
func (w *world) heal() {
	w.faults = false
	w.tracef(nil, "--- everything heals")
	for p := range w.cut {
		for i := range w.cut[p] {
			clear(w.cut[p][i])
		}
	}
	w.slowNet, w.storeDown, w.storeSlow = 0, false, 0
	for _, m := range w.machines {
		m.storeCut, m.storeMute, m.loseReplies, m.slowStore, m.slowBack, m.slowDisk = false, false, 0, 0, 0, 1
		if m.gone {
			continue
		}
		if !m.on {
			m.boot()
		}
		m.thaw()
		m.guard.freeze(false)
		m.guard.start()
		m.thawAgent()
		m.pg.hang(hungNot)
		m.startAgent()
	}
	here := 0
	for _, m := range w.machines {
		if !m.gone {
			here++
		}
	}
	w.configure(func(doc map[string]any) {
		doc["pause"] = false
		if here < 2 {
			doc["synchronous_mode_strict"] = false // alone, it would wait for a standby for ever, as asked
		}
	})
}

// settled says whether one primary takes writes and everybody follows it; if not, why.
func (w *world) settled() (bool, string) {
	var lead *machine
	for _, m := range w.machines {
		if m.gone {
			continue
		}
		if m.agent == nil {
			return false, m.name + " has no agent"
		}
		if m.confirmed() && m.pg.phase == phaseUp && m.pg.primary && m.agent.lead.Lock().Ready {
			if lead != nil {
				return false, "two lead"
			}
			lead = m
		}
	}
	if lead == nil {
		return false, "nobody leads"
	}
	if w.now-w.check.lastAck > time.Second || w.check.by != lead {
		return false, lead.name + " leads and acknowledges nothing"
	}
	for _, m := range w.machines {
		if m == lead || m.gone {
			continue
		}
		if s := m.pg.source; s == nil || s.up != lead.pg || !s.live() || m.pg.dir.timeline() != lead.pg.dir.timeline() {
			return false, m.name + " does not stream from " + lead.name + ": " + string(m.state())
		}
	}
	return true, ""
}

// state is what the machine's node says of itself.
func (m *machine) state() ha.State {
	if m.agent == nil {
		return "no agent"
	}
	st, _ := m.agent.node.Status()
	return ha.State(st.D.Why)
}
