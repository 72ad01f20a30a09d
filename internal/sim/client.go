package sim

import (
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// client writes one row after another. It sits on a machine and reaches what that machine reaches.
type client struct {
	w       *world
	index   int
	home    *machine
	routed  bool // goes where a sound router would send it; else to any primary it reaches
	stuck   bool // to its home alone: a client on the old primary's side of a partition
	wait    bool
	asked   uint64
	askedAt time.Duration
}

// ack is an acknowledged commit.
type ack struct {
	at        time.Duration
	rec       int64
	place     int
	end       cluster.LSN
	epoch     uint64
	by        *machine
	protected bool // the store's synchronous state promises to keep it
}

func (w *world) addClient(home *machine, routed, stuck bool) {
	c := &client{w: w, index: len(w.clients), home: home, routed: routed, stuck: stuck}
	w.clients = append(w.clients, c)
	w.after(w.between(0, w.opt.think), c.turn)
}

// turn is one try.
func (c *client) turn() {
	w := c.w
	w.after(w.between(w.opt.think/2, w.opt.think*3/2), c.turn)
	if c.wait && w.now-c.askedAt < 3*time.Second {
		return // later it gives up and opens a new session
	}
	var to *machine
	n := len(w.machines)
	first := w.rng.IntN(n)
	for i := range n {
		m := w.machines[(first+i)%n]
		if m.gone || c.stuck && m != c.home || !w.both(planeClients, c.home, m) {
			continue
		}
		if m.pg.phase != phaseUp || !m.pg.primary || c.routed && !m.confirmed() {
			continue
		}
		to = m
		break
	}
	if to == nil {
		return
	}
	c.wait, c.askedAt = true, w.now
	c.asked++
	asked := c.asked
	w.after(w.hop(), func() {
		if !w.both(planeClients, c.home, to) || !to.pg.write(c) {
			if c.asked == asked {
				c.wait = false
			}
		}
	})
}

// acknowledge is the instant at which a primary tells a client that its commit is safe.
func (w *world) acknowledge(p *postgres, x *commit) {
	x.c.wait = false
	w.check.acknowledged(p.m, x)
}
