package sim

import (
	"context"
	"errors"
	"time"

	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/node"
)

// claimed in guardian.deadline: the deadline has passed and the fence has begun.
const claimed = time.Duration(-1)

var (
	errFencing = errors.New("the guardian is fencing PostgreSQL")
	errNoAck   = errors.New("the guardian does not answer")
)

// guardian is the page that agent and guardian share, and the guardian process. The page outlives
// both, not the boot.
type guardian struct {
	m *machine

	deadline        time.Duration // 0: disarmed
	generation, ack int64
	ladder          lease.Ladder
	began, fencedAt time.Duration
	sent, sentLife  int // the last rung of this fence, and the postmaster that it went to
	killing         int // the postmaster that the kernel is tearing down

	running    bool
	frozen     bool
	lastBeat   time.Duration // by the world, valid while it does not run
	alarm      uint64
	ok         bool
	backAt     time.Duration // by the world: when it became healthy last
	downAt     time.Duration // and when it ceased to be
	extendedAt time.Duration // and when the deadline was moved forward last
}

var _ node.Guardian = (*guardian)(nil)

func (g *guardian) healthy() bool { return g.running && !g.frozen && !g.m.frozen && g.m.on }

// reset is a fresh page.
func (g *guardian) reset() {
	*g = guardian{m: g.m, alarm: g.alarm + 1}
}

func (g *guardian) start() {
	if g.running || !g.m.on {
		return
	}
	g.running, g.frozen = true, false
	g.touch()
}

func (g *guardian) kill() {
	if g.healthy() {
		g.lastBeat = g.m.w.now
	}
	if g.ok {
		g.downAt = g.m.w.now
	}
	g.running, g.ok = false, false
}

func (g *guardian) freeze(yes bool) {
	if yes && g.healthy() {
		g.lastBeat = g.m.w.now
	}
	g.frozen = yes
	g.touch()
}

// touch lets the loop look at the page soon.
func (g *guardian) touch() {
	g.alarm++
	if g.m.frozen && g.running && !g.frozen {
		g.lastBeat = g.m.w.now
	}
	if ok := g.healthy(); ok != g.ok {
		g.ok = ok
		if g.backAt = g.m.w.now; !ok {
			g.downAt = g.m.w.now
		}
	}
	g.look(g.m.w.between(0, 20*time.Millisecond))
}

func (g *guardian) look(in time.Duration) {
	id := g.alarm
	g.m.w.after(in, func() {
		if id == g.alarm && g.healthy() {
			g.loop()
		}
	})
}

// loop is one round of the guardian process.
func (g *guardian) loop() {
	now := g.m.clock()
	if g.deadline > 0 && now >= g.deadline {
		g.began, g.deadline, g.sent, g.fencedAt = g.deadline, claimed, 0, 0
	}
	g.ack = g.generation
	switch {
	case g.deadline == claimed && g.fencedAt == 0:
		late := now - g.began
		step := 1
		if late >= g.ladder.Immediate {
			step = 2
		}
		if late >= g.ladder.Kill {
			step = 3
		}
		if g.m.pg.phase == phaseDown {
			g.fencedAt = now
			g.m.w.tracef(g.m, "guardian: fenced")
			g.m.pg.fenced = true
			return
		}
		if step > g.sent || g.sentLife != g.m.pg.life || step == 3 {
			g.sent, g.sentLife = step, g.m.pg.life
			g.m.w.tracef(g.m, "guardian: %s", [...]string{"", "fast shutdown", "immediate shutdown", "kill"}[step])
			switch step {
			case 1:
				g.m.pg.shutdown(false)
			case 2:
				g.m.pg.shutdown(true)
			case 3:
				g.tearDown()
			}
		}
		g.look(5 * time.Millisecond)
	case g.deadline > 0:
		g.look(min(g.m.global(g.deadline-now), time.Second))
	}
}

// tearDown is SIGKILL: the kernel ends the processes, now and then almost as slowly as the margin
// grants it, and nothing is known of what they still do until then.
func (g *guardian) tearDown() {
	p, w := g.m.pg, g.m.w
	if g.killing == p.life {
		return
	}
	g.killing = p.life
	life, took := p.life, w.between(0, 5*time.Millisecond)
	if w.chance(0.3) {
		took = w.between(0, g.m.global(g.ladder.Kill/2)*9/10)
	}
	w.after(took, func() {
		if p.life == life {
			p.die("killed by the guardian", true)
		}
	})
}

// Arm implements node.Guardian.
func (g *guardian) Arm(deadline time.Duration, ladder lease.Ladder) (int64, error) {
	if g.deadline == claimed && g.fencedAt == 0 {
		return 0, errFencing
	}
	g.ladder, g.deadline, g.fencedAt = ladder, deadline, 0
	g.extendedAt = g.m.w.now
	g.generation++
	g.touch()
	return g.generation, nil
}

// WaitAck implements node.Guardian.
func (g *guardian) WaitAck(ctx context.Context, generation int64) error {
	w := g.m.w
	end := deadlineOf(ctx, w)
	for g.ack < generation {
		if w.now >= end {
			return errNoAck
		}
		w.cur.sleep(5 * time.Millisecond)
	}
	return nil
}

// Extend implements node.Guardian.
func (g *guardian) Extend(deadline time.Duration) bool {
	if g.deadline <= 0 || g.m.clock() >= g.deadline {
		return false
	}
	g.deadline = max(g.deadline, deadline)
	g.extendedAt = g.m.w.now
	return true
}

// Disarm implements node.Guardian.
func (g *guardian) Disarm() error {
	if g.deadline == claimed && g.fencedAt == 0 {
		return errFencing
	}
	g.deadline, g.fencedAt = 0, 0
	g.generation++
	g.touch()
	return nil
}

// Deadline implements node.Guardian.
func (g *guardian) Deadline() time.Duration { return max(g.deadline, 0) }

// Fenced implements node.Guardian.
func (g *guardian) Fenced() (time.Duration, bool) {
	return g.fencedAt, g.deadline == claimed && g.fencedAt != 0
}

// Fencing implements node.Guardian.
func (g *guardian) Fencing() bool { return g.deadline == claimed }

// Alive implements node.Guardian.
func (g *guardian) Alive(now time.Duration) bool {
	if g.healthy() {
		return true
	}
	return g.lastBeat != 0 && now-g.m.local(g.lastBeat) <= time.Second
}
