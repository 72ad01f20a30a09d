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

// doom has the machine that was just promoted lose its power within moments, if a fault ordered so.
func (w *world) doom(m *machine) {
	away := w.doomed
	if away == 0 {
		return
	}
	w.doomed = 0
	w.after(w.between(0, 500*time.Millisecond), func() {
		if !m.on {
			return
		}
		w.tracef(m, "*** power cut right after its promotion")
		m.powerOff()
		w.after(away, func() {
			if !m.gone && !m.on {
				m.boot()
			}
		})
	})
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
	w.slowNet, w.storeDown, w.storeSlow, w.duplicates, w.doomed, w.entitled, w.listed = 0, false, 0, 0, 0, nil, nil
	for _, m := range w.machines {
		m.storeCut, m.storeMute, m.loseReplies, m.slowStore, m.slowBack, m.slowDisk = false, false, 0, 0, 0, 1
		m.promised = nil
		if m.gone {
			continue
		}
		if m.poses != "" {
			m.stopAgent()
			m.poses = ""
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
