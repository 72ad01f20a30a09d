package sim

import (
	"context"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// fault is one kind of trouble. It gets a random running machine and a duration after which it ends
// what it began.
type fault struct {
	name string
	do   func(w *world, m *machine, d time.Duration)
	// excluded says why no history has it by itself: it breaks what the promises rest on.
	excluded string
}

var faults = []fault{
	{name: "power cut", do: func(w *world, m *machine, d time.Duration) {
		m.powerOff()
		w.after(d, func() {
			if !m.gone && !m.on {
				w.tracef(m, "power is back")
				m.boot()
			}
		})
	}},
	{name: "agent killed", do: func(w *world, m *machine, d time.Duration) {
		m.stopAgent()
		w.after(d, m.startAgent)
	}},
	{name: "agent killed, restarted at once", do: func(w *world, m *machine, d time.Duration) {
		m.stopAgent()
		w.after(w.between(50*time.Millisecond, time.Second), m.startAgent)
	}},
	{name: "agent told to end", do: func(w *world, m *machine, d time.Duration) {
		if m.agent == nil {
			return
		}
		w.operate(m)
		m.agent.node.Shutdown()
		m.agent.main.wake(0)
		w.after(d+5*time.Second, m.startAgent)
	}},
	{name: "postmaster killed", do: func(w *world, m *machine, d time.Duration) { m.pg.die("SIGKILL", true) }},
	{name: "guardian killed", do: func(w *world, m *machine, d time.Duration) {
		m.guard.kill()
		w.after(min(d, 3*time.Second), m.guard.start)
	}},
	{name: "machine frozen", do: func(w *world, m *machine, d time.Duration) {
		m.freeze()
		w.after(d, m.thaw)
	}},
	{name: "agent frozen", do: func(w *world, m *machine, d time.Duration) {
		m.freezeAgent()
		w.after(d, m.thawAgent)
	}},
	{name: "guardian frozen", do: func(w *world, m *machine, d time.Duration) {
		m.guard.freeze(true)
		w.after(d, func() { m.guard.freeze(false) })
	}},
	{name: "agent and guardian frozen", do: func(w *world, m *machine, d time.Duration) {
		m.freezeAgent()
		m.guard.freeze(true)
		w.after(d, func() { m.guard.freeze(false); m.thawAgent() })
	}},
	{name: "cut off from everything", do: func(w *world, m *machine, d time.Duration) {
		w.isolate(m, true, planePeers, planeRepl, planeClients)
		m.storeCut = true
		w.after(d, func() { w.isolate(m, false, planePeers, planeRepl, planeClients); m.storeCut = false })
	}},
	{name: "cut off from the store", do: func(w *world, m *machine, d time.Duration) {
		m.storeCut = true
		w.after(d, func() { m.storeCut = false })
	}},
	{name: "answers of the store do not arrive", do: func(w *world, m *machine, d time.Duration) {
		m.storeMute = true
		w.after(d, func() { m.storeMute = false })
	}},
	{name: "answers of the store get lost", do: func(w *world, m *machine, d time.Duration) {
		m.loseReplies = w.rng.Float64()
		w.after(d, func() { m.loseReplies = 0 })
	}},
	{name: "slow way to the store", do: func(w *world, m *machine, d time.Duration) {
		m.slowStore = w.between(50*time.Millisecond, 2*time.Second)
		w.after(d, func() { m.slowStore = 0 })
	}},
	{name: "cut off from peers", do: func(w *world, m *machine, d time.Duration) {
		w.isolate(m, true, planePeers)
		w.after(d, func() { w.isolate(m, false, planePeers) })
	}},
	{name: "cut off from replication", do: func(w *world, m *machine, d time.Duration) {
		w.isolate(m, true, planeRepl)
		w.after(d, func() { w.isolate(m, false, planeRepl) })
	}},
	{name: "one way cut", do: func(w *world, m *machine, d time.Duration) {
		o := pick(w, w.machines...)
		p := plane(w.rng.IntN(int(planes)))
		w.cut[p][m.index][o.index] = true
		w.after(d, func() { w.cut[p][m.index][o.index] = false })
	}},
	{name: "ring cut", do: func(w *world, m *machine, d time.Duration) {
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
	{name: "network in two halves", do: func(w *world, m *machine, d time.Duration) {
		w.halves(m, true)
		w.after(d, func() { w.halves(m, false) })
	}},
	{name: "slow network", do: func(w *world, m *machine, d time.Duration) {
		w.slowNet = w.between(5*time.Millisecond, 300*time.Millisecond)
		w.after(d, func() { w.slowNet = 0 })
	}},
	{name: "store down", do: func(w *world, m *machine, d time.Duration) {
		w.storeDown = true
		w.after(d, func() { w.storeDown = false })
	}},
	{name: "store slow", do: func(w *world, m *machine, d time.Duration) {
		w.storeSlow = w.between(100*time.Millisecond, 1500*time.Millisecond)
		w.after(d, func() { w.storeSlow = 0 })
	}},
	{name: "the store's leader moves", do: func(w *world, m *machine, d time.Duration) {
		// What is under way may or may not be carried out, and is not answered; leases begin anew.
		w.storeDown = true
		for _, o := range w.machines {
			o.loseReplies = max(o.loseReplies, 0.5)
		}
		w.after(w.between(50*time.Millisecond, 1500*time.Millisecond), func() {
			w.storeDown = false
			w.store.ExtendLeases()
			for _, o := range w.machines {
				o.loseReplies = 0
			}
		})
	}},
	{name: "requests arrive twice", do: func(w *world, m *machine, d time.Duration) {
		w.duplicates = w.rng.Float64()
		w.after(d, func() { w.duplicates = 0 })
	}},
	{name: "slow disk", do: func(w *world, m *machine, d time.Duration) {
		m.slowDisk = 1 + w.rng.Float64()*20
		w.after(d, func() { m.slowDisk = 1 })
	}},
	{name: "postmaster stopped", do: func(w *world, m *machine, d time.Duration) {
		m.pg.hang(hungPostmaster)
		life := m.pg.life
		w.after(d, func() {
			if m.pg.life == life {
				m.pg.hang(hungNot)
			}
		})
	}},
	{name: "PostgreSQL frozen", do: func(w *world, m *machine, d time.Duration) {
		m.pg.hang(hungAll)
		life := m.pg.life
		w.after(d, func() {
			if m.pg.life == life {
				m.pg.hang(hungNot)
			}
		})
	}},
	{name: "last answer late, agent lost, postmaster stopped", do: func(w *world, m *machine, d time.Duration) {
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
	{name: "one standby behind, then the leader lost", do: func(w *world, m *machine, d time.Duration) {
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
	{name: "a standby back for a moment, then the leader lost", do: func(w *world, m *machine, d time.Duration) {
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
	{name: "the leader lost, and the next one right after its promotion", do: func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || !lead.on {
			return
		}
		w.doomed = d + 5*time.Second
		lead.powerOff()
		w.after(w.between(2*time.Second, 12*time.Second), func() {
			if !lead.gone && !lead.on {
				lead.boot()
			}
		})
	}},
	{name: "the leader mute, who promised restarted, the leader heard again", do: func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || lead == m || lead.agent == nil {
			return
		}
		w.tracef(lead, "*** mute")
		lead.freezeAgent()
		lead.guard.freeze(true)
		w.isolate(lead, true, planePeers, planeRepl)
		m.promised = func() {
			w.after(w.between(0, 20*time.Millisecond), func() {
				w.tracef(m, "*** restarted after its promise")
				m.stopAgent()
				w.after(w.between(10*time.Millisecond, 200*time.Millisecond), m.startAgent)
			})
			w.after(w.between(0, 300*time.Millisecond), func() { w.isolate(lead, false, planePeers, planeRepl) })
			for _, o := range w.machines {
				if o != m && o != lead {
					o.slowStore = w.between(300*time.Millisecond, 1400*time.Millisecond)
					w.after(2*time.Second, func() { o.slowStore = 0 })
				}
			}
		}
		w.after(d+8*time.Second, func() {
			m.promised = nil
			w.isolate(lead, false, planePeers, planeRepl)
			lead.guard.freeze(false)
			lead.thawAgent()
			m.startAgent()
		})
	}},
	{name: "an agent away for long, then the leader without the store", do: func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || lead == m {
			return
		}
		m.freezeAgent()
		away := w.between(6*time.Second, 14*time.Second)
		w.after(away, func() { w.tracef(lead, "*** cut off from the store"); lead.storeCut = true })
		w.after(away+w.between(0, 500*time.Millisecond), m.thawAgent)
		w.after(away+12*time.Second, func() { lead.storeCut = false })
	}},
	{name: "an agent away for long, and the leader without the store as it lists it again", do: func(w *world, m *machine, d time.Duration) {
		if w.listed != nil || m.name == w.check.lock.Node {
			return
		}
		m.freezeAgent()
		away := w.between(8*time.Second, 14*time.Second)
		w.after(away, func() {
			w.listed = func() {
				if lead := w.machine(w.check.lock.Node); lead != nil {
					w.tracef(lead, "*** cut off from the store before it learns that its list was stored")
					lead.storeCut = true
					w.after(12*time.Second, func() { lead.storeCut = false })
				}
			}
			m.thawAgent()
		})
		w.after(away+5*time.Second, func() { w.listed = nil })
	}},
	{name: "the ttl lowered, then the leader without the store", do: func(w *world, m *machine, d time.Duration) {
		w.configure(func(doc map[string]any) { doc["ttl"] = 15 })
		lowered := w.between(4*time.Second, 8*time.Second)
		w.after(lowered, func() { w.configure(func(doc map[string]any) { doc["ttl"] = 3 }) })
		w.after(lowered+w.between(200*time.Millisecond, 3*time.Second), func() {
			lead := w.machine(w.check.lock.Node)
			if lead == nil {
				return
			}
			w.tracef(lead, "*** cut off from the store and the members")
			w.isolate(lead, true, planePeers, planeRepl)
			lead.storeCut = true
			w.after(14*time.Second, func() { w.isolate(lead, false, planePeers, planeRepl); lead.storeCut = false })
		})
	}},
	{name: "guardian frozen for long, then its machine away", do: func(w *world, m *machine, d time.Duration) {
		m.guard.freeze(true)
		away := w.between(6*time.Second, 16*time.Second)
		w.after(away, func() {
			w.tracef(m, "*** cut off from the store and the members, agent frozen")
			w.isolate(m, true, planePeers, planeRepl)
			m.storeCut = true
			m.freezeAgent()
		})
		w.after(away+10*time.Second, func() {
			w.isolate(m, false, planePeers, planeRepl)
			m.storeCut = false
			m.guard.freeze(false)
			m.thawAgent()
		})
	}},
	{name: "agent lost and postmaster stopped for longer than the lease", do: func(w *world, m *machine, d time.Duration) {
		if lead := w.machine(w.check.lock.Node); lead != nil {
			m = lead
		}
		if m.agent == nil || m.pg.hung != hungNot {
			return
		}
		w.tracef(m, "*** lost")
		m.pg.hang(hungPostmaster)
		life := m.pg.life
		w.after(w.between(0, time.Second), m.stopAgent)
		w.after(m.ttl()*11/10+10*time.Second, func() {
			if m.pg.life == life {
				m.pg.hang(hungNot)
			}
			m.startAgent()
		})
	}},
	{name: "the last promise late, agent lost, postmaster stopped", do: func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || lead.agent == nil || lead.storeCut {
			return
		}
		w.tracef(lead, "*** without the store")
		lead.storeCut = true
		w.slowNet = w.between(100*time.Millisecond, 400*time.Millisecond)
		w.after(w.between(3*time.Second, 8*time.Second), func() {
			if lead.pg.phase != phaseUp {
				return
			}
			w.tracef(lead, "*** agent lost, postmaster stopped")
			lead.pg.hang(hungPostmaster)
			life := lead.pg.life
			lead.stopAgent()
			w.slowNet = 0
			w.after(lead.ttl()+8*time.Second, func() {
				if lead.pg.life == life {
					lead.pg.hang(hungNot)
				}
			})
		})
		w.after(lead.ttl()+20*time.Second, func() {
			w.slowNet, lead.storeCut = 0, false
			lead.startAgent()
		})
	}},
	{name: "a rewind interrupted, and the leader lost", do: func(w *world, m *machine, d time.Duration) {
		until := w.now + 30*time.Second
		var look func()
		look = func() {
			for _, o := range w.machines {
				if o.on && !o.gone && o.pg.dir != nil && o.pg.dir.torn {
					w.tracef(o, "*** power cut during its rewind, and of the leader")
					off := func(x *machine, d time.Duration) {
						x.powerOff()
						w.after(d, func() {
							if !x.gone && !x.on {
								x.boot()
							}
						})
					}
					if lead := w.machine(w.check.lock.Node); lead != nil && lead != o && lead.on {
						off(lead, 13*time.Second)
					}
					off(o, w.between(500*time.Millisecond, 2*time.Second))
					return
				}
			}
			if w.now < until && w.faults {
				w.after(30*time.Millisecond, look)
			}
		}
		look()
	}},
	{name: "the leader alone as a standby is entitled again, and its postmaster killed", do: func(w *world, m *machine, d time.Duration) {
		if w.entitled != nil || m.name == w.check.lock.Node {
			return
		}
		w.entitled = func() {
			lead := w.machine(w.check.lock.Node)
			if lead == nil || !lead.pg.primary {
				return
			}
			w.tracef(lead, "*** alone before it learns that its /sync was stored")
			w.isolate(lead, true, planePeers, planeRepl)
			lead.storeCut = true
			w.after(w.between(0, time.Second), func() { lead.pg.die("SIGKILL", true) })
			w.after(lead.ttl()+8*time.Second, func() {
				w.isolate(lead, false, planePeers, planeRepl)
				lead.storeCut = false
			})
		}
		w.isolate(m, true, planeRepl)
		away := w.between(7*time.Second, 10*time.Second)
		w.after(away, func() { w.isolate(m, false, planeRepl) })
		w.after(away+20*time.Second, func() { w.entitled = nil })
	}},
	{name: "postmaster killed, and power cut once it is back", do: func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || !lead.pg.primary || lead.pg.phase != phaseUp {
			return
		}
		w.tracef(lead, "*** alone, postmaster killed")
		w.isolate(lead, true, planePeers, planeRepl)
		lead.pg.die("SIGKILL", true)
		again := false
		var look func()
		look = func() {
			switch {
			case again || !lead.on:
				return
			case lead.pg.phase == phaseUp && lead.pg.primary:
				again = true
				w.after(w.between(0, 400*time.Millisecond), func() {
					w.tracef(lead, "*** power cut after the restart")
					lead.powerOff()
					w.isolate(lead, false, planePeers, planeRepl)
					w.after(d+5*time.Second, func() {
						if !lead.gone && !lead.on {
							lead.boot()
						}
					})
				})
			default:
				w.after(20*time.Millisecond, look)
			}
		}
		look()
		w.after(12*time.Second, func() {
			if !again {
				again = true
				w.isolate(lead, false, planePeers, planeRepl)
			}
		})
	}},
	{name: "a second member under the leader's name", do: func(w *world, m *machine, d time.Duration) {
		lead := w.check.lock.Node
		if m.agent == nil || lead == "" || lead == m.name || m.poses != "" {
			return
		}
		m.stopAgent()
		m.poses = lead
		m.startAgent()
		w.after(d, func() {
			if m.poses != "" {
				m.stopAgent()
				m.poses = ""
				m.startAgent()
			}
		})
	}, excluded: "/sync and /failsafe go by the names of members, and tell only the holder of the lock from another of its name"},
	{name: "failover forced", do: func(w *world, m *machine, d time.Duration) {
		if w.check.lock.Paused {
			return // the old leader has no fence then, as the operator was told
		}
		w.request(cluster.FailoverRequest{Candidate: m.name, Force: true})
	}},
	{name: "switchover", do: func(w *world, m *machine, d time.Duration) { w.switchover(m) }},
	{name: "failover ordered", do: func(w *world, m *machine, d time.Duration) {
		w.request(cluster.FailoverRequest{Candidate: m.name})
	}},
	{name: "pause", do: func(w *world, m *machine, d time.Duration) {
		w.configure(func(doc map[string]any) { doc["pause"] = true })
		w.after(d, func() { w.configure(func(doc map[string]any) { doc["pause"] = false }) })
	}},
	{name: "a pause that the store does not learn of", do: func(w *world, m *machine, d time.Duration) {
		lead := w.machine(w.check.lock.Node)
		if lead == nil || lead.agent == nil {
			return
		}
		w.configure(func(doc map[string]any) { doc["pause"] = true })
		// The leader hears of it, and its answer does not get through.
		w.after(w.between(2*time.Millisecond, 12*time.Millisecond), func() {
			lead.storeCut = true
			w.configure(func(doc map[string]any) { doc["pause"] = false })
		})
		w.after(lead.ttl()+w.between(3*time.Second, 8*time.Second), func() { lead.storeCut = false })
	}},
	{name: "promoted by hand", do: func(w *world, m *machine, d time.Duration) { m.pg.promote(0, true) }},
	{name: "restart asked for", do: func(w *world, m *machine, d time.Duration) {
		if m.agent != nil {
			w.operate(m)
			done, cancel := context.WithCancel(m.agent.ctx)
			cancel()
			_, _ = m.agent.node.Restart(done)
			m.agent.main.wake(0)
		}
	}},
	{name: "reinit asked for", do: func(w *world, m *machine, d time.Duration) {
		// One copy of the data may be given up by hand in a history, not more: that is the tolerance.
		if m.agent != nil && w.copies > 0 && len(w.machines) > 2 {
			w.copies--
			w.reinit(m)
		}
	}},
	{name: "synchronous_mode changed", do: func(w *world, m *machine, d time.Duration) {
		mode := pick[any](w, false, true, "quorum", "quorum")
		strict := w.chance(0.2)
		w.configure(func(doc map[string]any) { doc["synchronous_mode"], doc["synchronous_mode_strict"] = mode, strict })
	}},
	{name: "synchronous_node_count changed", do: func(w *world, m *machine, d time.Duration) {
		n := 1 + w.rng.IntN(3)
		w.configure(func(doc map[string]any) { doc["synchronous_node_count"] = n })
	}},
	{name: "ttl changed", do: func(w *world, m *machine, d time.Duration) {
		ttl := pick(w, 3, 4, 6, 10, 15)
		w.configure(func(doc map[string]any) { doc["ttl"] = ttl })
	}},
	{name: "failsafe_mode changed", do: func(w *world, m *machine, d time.Duration) {
		on := w.chance(0.5)
		w.configure(func(doc map[string]any) { doc["failsafe_mode"] = on })
	}},
	{name: "a member joins", do: func(w *world, m *machine, d time.Duration) {
		if len(w.machines) < maxMachines && w.joins > 0 {
			w.joins--
			w.addMachine().boot()
		}
	}},
	{name: "a member leaves for good", do: func(w *world, m *machine, d time.Duration) { w.leave(m) }},
}
