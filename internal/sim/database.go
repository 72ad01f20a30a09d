package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// database is node.Database on the fake PostgreSQL of a machine, with the meanings that package
// instance gives to each call.
type database struct{ m *machine }

var _ node.Database = database{}

var (
	errNotRunning = errors.New("PostgreSQL is not running")
	errRunning    = errors.New("PostgreSQL is running")
	errHangs      = errors.New("PostgreSQL does not answer")
)

// slice waits a little: SQL, files and processes take time, and the agent may be slow.
func (b database) slice(lo, hi time.Duration) {
	if p := b.m.w.cur; p != nil {
		p.sleep(b.m.w.between(lo, hi))
	}
}

// Observe implements node.Database.
func (b database) Observe(context.Context) ha.Database {
	p := b.m.pg
	if p.phase == phaseUp && p.hung != hungNot && b.m.w.cur != nil {
		b.slice(700*time.Millisecond, 1400*time.Millisecond)
	}
	o := ha.Database{Upstream: p.upstream, Failure: p.failure, Fenced: p.fenced, PhaseAt: p.phaseAt}
	d := p.dir
	if d == nil {
		o.Dir, o.Upstream = ha.DirEmpty, ""
		return o
	}
	o.Dir, o.Torn, o.SystemID = ha.DirValid, d.torn, d.system
	o.NewestTimeline = d.newest
	switch p.phase {
	case phaseDown:
		o.Phase = ha.Down
		o.Control, o.ControlTimeline, o.ControlCheckpoint = d.control, max(d.ckptTL, d.minTL), d.checkpoint
		o.Timeline = d.ckptTL
		o.LSN, o.Copy = d.checkpoint, d.copied
		return o
	case phaseStarting:
		o.Phase, o.Primary = ha.Starting, p.primary
		return o
	}
	o.Phase = ha.Up
	if p.hung != hungNot {
		o.Phase, o.PhaseAt = ha.Mute, p.hungAt
	}
	o.Primary, o.Timeline, o.LSN, o.Replayed = p.primary, d.timeline(), d.lsn(), d.lsn()
	o.History = d.history
	o.Streaming, o.MovedAt = p.source != nil, p.movedAt
	if o.Streaming {
		o.StreamingLost = b.m.clock()
	} else {
		o.StreamingLost = p.streamLost
	}
	o.Rule, o.RuleKnown = p.shown, true
	for _, s := range p.replicas {
		o.Replicas = append(o.Replicas, ha.Replica{Name: s.down.m.name, Streaming: true, Flushed: s.flushed})
	}
	return o
}

// Detail implements node.Database.
func (b database) Detail() node.Detail {
	p := b.m.pg
	d := node.Detail{Version: 170000}
	if p.source != nil {
		d.ReplicationState = "streaming"
	}
	return d
}

// Start implements node.Database.
func (b database) Start(_ context.Context, s node.StartSpec) error {
	p := b.m.pg
	switch {
	case p.dir == nil:
		return errors.New("there is no data directory")
	case p.phase != phaseDown:
		return nil // it runs already
	}
	p.start(s.Primary, s.Upstream.Name, s.Rule)
	return nil
}

// Hold implements node.Database. Like Start and Follow it takes no time, because the node holds a
// mutex meanwhile, on which another coroutine must not wait.
func (b database) Hold(context.Context) error {
	p := b.m.pg
	if p.phase != phaseUp || p.primary || p.promoting {
		return errors.New("PostgreSQL is no running standby")
	}
	if p.hung != hungNot || p.still() {
		return errHangs
	}
	b.m.w.check.leaves(b.m, "hold", "")
	b.m.w.tracef(b.m, "receives nothing any more, at %s of timeline %d", p.dir.lsn(), p.dir.timeline())
	p.upstream = ""
	if s := p.source; s != nil {
		p.lose(s)
		if b.m.w.passes(planeRepl, b.m, s.up.m) {
			s.up.forget(s)
		}
	}
	return nil
}

// Follow implements node.Database.
func (b database) Follow(_ context.Context, up node.Upstream) error {
	p := b.m.pg
	b.m.w.check.leaves(b.m, "follow "+up.Name, up.Name)
	if p.dir == nil {
		return errNotRunning
	}
	p.upstream = up.Name
	if s := p.source; s != nil && s.up.m.name != up.Name && !p.still() {
		p.lose(s)
		if b.m.w.passes(planeRepl, b.m, s.up.m) {
			s.up.forget(s)
		}
	}
	p.later(b.m.w.between(10*time.Millisecond, 100*time.Millisecond), func() { b.m.w.connect(p) })
	return nil
}

// SetRule implements node.Database.
func (b database) SetRule(ctx context.Context, r quorum.Rule) error {
	b.slice(time.Millisecond, 5*time.Millisecond)
	p := b.m.pg
	if p.dir == nil {
		return errNotRunning
	}
	b.m.w.tracef(b.m, "synchronous_standby_names := %q", r)
	p.setRule(r)
	end := min(deadlineOf(ctx, b.m.w), b.m.w.now+5*time.Second)
	for p.phase == phaseUp && !p.shown.Equal(r) {
		if b.m.w.now >= end {
			return errHangs
		}
		b.slice(10*time.Millisecond, 20*time.Millisecond)
	}
	return nil
}

// Configure implements node.Database.
func (b database) Configure(context.Context, cluster.Settings, map[string]cluster.Member) error {
	return nil
}

// Slots implements node.Database.
func (b database) Slots(context.Context, node.SlotPlan) error { return nil }

// Kill implements node.Database.
func (b database) Kill(_ context.Context, why string) error {
	b.slice(time.Millisecond, 50*time.Millisecond)
	b.m.w.check.leaves(b.m, "kill: "+why, "")
	b.m.pg.die("killed by the agent: "+why, true)
	return nil
}

// SetAside implements node.Database.
func (b database) SetAside(_ context.Context, reason string) error {
	b.slice(time.Millisecond, 10*time.Millisecond)
	p := b.m.pg
	if p.phase != phaseDown {
		return errRunning
	}
	if p.dir == nil {
		return nil
	}
	b.m.w.tracef(b.m, "data directory set aside: %s", reason)
	p.mixed = false
	p.asides = append(p.asides, p.dir)
	p.dir = nil
	return nil
}

// Bootstrap implements node.Database.
func (b database) Bootstrap(context.Context, cluster.Settings) error {
	p, w := b.m.pg, b.m.w
	b.slice(p.work(300*time.Millisecond, time.Second), p.work(time.Second, 2*time.Second))
	if p.dir != nil {
		return errors.New("the data directory is not empty")
	}
	id := w.nextID()
	p.dir = &dir{system: fmt.Sprintf("%d", 7000+id), instance: fmt.Sprintf("instance-%d", id), newest: 1, ckptTL: 1, control: ha.ControlShutDown}
	p.dir.add(record{id: id, tl: 1, end: 1000})
	p.dir.checkpoint = 900
	p.start(true, "", quorum.Rule{})
	for p.phase == phaseStarting {
		b.slice(20*time.Millisecond, 50*time.Millisecond)
	}
	if p.phase != phaseUp {
		return errors.New("PostgreSQL ended at its first start")
	}
	return nil
}

// reach is the machine to copy from.
func (b database) reach(from node.Upstream) (*machine, error) {
	src := b.m.w.machine(from.Name)
	if src == nil || src == b.m || !b.m.w.both(planeRepl, b.m, src) || src.pg.phase != phaseUp || src.pg.hung != hungNot || src.pg.still() {
		return nil, fmt.Errorf("connect to %q: %w", from.Name, errNoRoute)
	}
	return src, nil
}

// Clone implements node.Database.
func (b database) Clone(_ context.Context, from node.Upstream) error {
	p, w := b.m.pg, b.m.w
	if p.dir != nil {
		return errors.New("the data directory is not empty")
	}
	src, err := b.reach(from)
	if err != nil {
		b.slice(time.Millisecond, time.Second)
		return err
	}
	life := src.pg.life
	for range 3 {
		b.slice(p.work(300*time.Millisecond, 600*time.Millisecond), p.work(600*time.Millisecond, 2*time.Second))
		if again, err := b.reach(from); err != nil || again.pg.life != life {
			return fmt.Errorf("copy from %s: the connection broke", from.Name)
		}
	}
	if p.dir != nil {
		return errors.New("the data directory is not empty")
	}
	d := &dir{system: src.pg.dir.system, instance: fmt.Sprintf("instance-%d", w.nextID()), standby: true, copied: true}
	d.copyWAL(src.pg.dir)
	d.control, d.checkpoint, d.ckptTL, d.minTL = ha.ControlInProduction, src.pg.dir.checkpoint, src.pg.dir.ckptTL, src.pg.dir.minTL
	p.dir = d
	w.tracef(b.m, "copied %s: timeline %d, %s", from.Name, d.timeline(), d.lsn())
	return nil
}

// Rewind implements node.Database.
func (b database) Rewind(_ context.Context, from node.Upstream, timeline uint32) error {
	p, w := b.m.pg, b.m.w
	if p.dir == nil || p.phase != phaseDown {
		return errRunning
	}
	src, err := b.reach(from)
	if err != nil {
		b.slice(time.Millisecond, time.Second)
		return err
	}
	for src.pg.dir.ckptTL < timeline { // wait for the checkpoint after its promotion
		b.slice(50*time.Millisecond, 200*time.Millisecond)
		if src, err = b.reach(from); err != nil {
			return err
		}
	}
	d, life := p.dir, src.pg.life
	b.slice(p.work(50*time.Millisecond, 200*time.Millisecond), p.work(200*time.Millisecond, time.Second)) // crash recovery first
	if p.phase != phaseDown || p.dir != d {
		return errRunning
	}
	if again, err := b.reach(from); err != nil || again.pg.life != life {
		return fmt.Errorf("rewind from %s: the connection broke", from.Name)
	}
	at, parted := d.parted(src.pg.dir)
	if d.control != ha.ControlShutDown {
		d.control, d.checkpoint, d.ckptTL = ha.ControlShutDown, d.lsn(), d.timeline()
	}
	if !parted {
		w.tracef(b.m, "pg_rewind: nothing to do")
		d.standby = true
		return nil
	}
	d.torn = true
	b.slice(p.work(100*time.Millisecond, 300*time.Millisecond), p.work(300*time.Millisecond, 2*time.Second))
	if again, err := b.reach(from); err != nil || again.pg.life != life {
		return fmt.Errorf("rewind from %s: the connection broke", from.Name)
	}
	if n := d.common(src.pg.dir); n == 0 || d.wal[n-1].end < at && n < len(d.wal) && !d.manual && !src.pg.dir.manual {
		w.check.violate("corrupt", "pg_rewind on %s from %s takes them to have parted at %s, and they parted earlier", b.m.name, from.Name, at)
	}
	w.check.overwrites(b.m, d.common(src.pg.dir))
	d.copyWAL(src.pg.dir)
	d.torn, d.standby = false, true
	d.control, d.checkpoint, d.ckptTL, d.minTL = ha.ControlInRecovery, src.pg.dir.checkpoint, src.pg.dir.ckptTL, src.pg.dir.timeline()
	w.tracef(b.m, "rewound onto %s: parted at %s, now timeline %d, %s", from.Name, at, d.timeline(), d.lsn())
	return nil
}

// Stop implements node.Database.
func (b database) Stop(ctx context.Context, immediate bool) error {
	p, w := b.m.pg, b.m.w
	b.m.w.check.leaves(b.m, "stop", "")
	b.slice(0, 5*time.Millisecond)
	begin := w.now
	end := deadlineOf(ctx, w)
	left := max(end-begin, 0)
	immediateAt, killAt := begin+min(20*time.Second, left*2/3), begin+min(25*time.Second, left*5/6)
	if immediate {
		immediateAt, killAt = begin, begin+time.Second
	}
	if p.phase != phaseDown {
		p.shutdown(immediate)
	}
	life := p.life
	for p.phase != phaseDown && p.life == life {
		if w.now >= killAt {
			p.die("killed at the end of the stop ladder", true)
			break
		}
		if w.now >= immediateAt {
			p.shutdown(true)
		}
		b.slice(10*time.Millisecond, 20*time.Millisecond)
	}
	return nil
}

// Promote implements node.Database.
func (b database) Promote(ctx context.Context, timeline uint32) error {
	p, w := b.m.pg, b.m.w
	end := deadlineOf(ctx, w)
	for {
		if p.phase == phaseDown {
			return errNotRunning
		}
		if p.phase == phaseUp && p.primary {
			return nil
		}
		if w.now >= end {
			return errHangs
		}
		p.promote(timeline, false)
		b.slice(40*time.Millisecond, 60*time.Millisecond)
	}
}

// Checkpoint implements node.Database.
func (b database) Checkpoint(context.Context) error {
	p := b.m.pg
	life := p.life
	b.slice(p.work(10*time.Millisecond, 100*time.Millisecond), p.work(100*time.Millisecond, 500*time.Millisecond))
	if p.life != life || p.phase != phaseUp {
		return errNotRunning
	}
	p.checkpointDone()
	return nil
}

// Progress implements node.Database.
func (b database) Progress() string { return "" }

// Exited implements node.Database.
func (b database) Exited() <-chan struct{} { return nil }
