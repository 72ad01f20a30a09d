package sim

import (
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/quorum"
)

type phase int

const (
	phaseDown phase = iota
	phaseStarting
	phaseUp
)

type hang int

const (
	hungNot        hang = iota
	hungPostmaster      // no new connection; sessions go on
	hungAll             // nothing moves
)

// Sizes of records.
const (
	commitBytes   = 100
	shutdownBytes = 120
	promoteBytes  = 80
)

// postgres is one PostgreSQL.
type postgres struct {
	m      *machine
	dir    *dir // nil: the directory is empty
	asides []*dir

	phase    phase
	phaseAt  time.Duration // by the machine's clock
	life     int           // grows with each start and end of a postmaster
	primary  bool          // not in recovery
	manual   bool          // a human promoted it
	sessions bool          // backends run and may acknowledge
	stopping int           // 1: fast, 2: immediate
	hung     hang
	hungAt   time.Duration // by the machine's clock
	fenced   bool
	failure  string
	upstream string // primary_conninfo

	shown    quorum.Rule // what SHOW says
	enforced quorum.Rule // what the walsenders and backends do
	ruleGen  int

	promoting  bool
	source     *stream // as a standby
	streamLost time.Duration
	movedAt    time.Duration // by the machine's clock: when WAL came last
	replicas   []*stream     // as an upstream, by machine index
	waiting    []*commit     // for the synchronous rule
	degrade    bool          // a mutation: the rule gives way when standbys are away
	lazyReload bool          // a mutation: a changed rule takes seconds to come into force
	dying      bool          // a mutation: the agent believes it dead
	mixed      bool          // it met WAL that differs because of a promotion by hand
}

// stream is a walreceiver and its walsender.
type stream struct {
	up, down         *postgres
	upLife, downLife int
	sent             int // records delivered
	flushed          cluster.LSN
	busy             bool
	heard            time.Duration // by the world: when both ends could talk last
	upSees, downSees bool
}

func (s *stream) live() bool {
	return s.upSees && s.downSees && s.up.life == s.upLife && s.down.life == s.downLife
}

// commit is one that waits for the rule.
type commit struct {
	c    *client
	at   int // index in the WAL
	id   int64
	end  cluster.LSN
	life int
}

func (p *postgres) boot() {
	p.life++
	p.setPhase(phaseDown)
	p.hung, p.stopping, p.fenced, p.failure = hungNot, 0, false, ""
	p.streamLost, p.movedAt = 0, 0 // by a clock that began anew
}

func (p *postgres) setPhase(ph phase) {
	p.phase, p.phaseAt = ph, p.m.clock()
	if p.m.agent != nil && ph == phaseDown {
		p.m.agent.main.wake(time.Millisecond)
	}
}

// still says whether PostgreSQL stands still now.
func (p *postgres) still() bool { return p.m.frozen || p.hung == hungAll }

// later does something as this postmaster, after d of work, unless it has ended by then. While it
// stands still the work waits.
func (p *postgres) later(d time.Duration, do func()) {
	life := p.life
	p.m.w.after(d, func() { p.run(life, do) })
}

func (p *postgres) run(life int, do func()) {
	if p.life != life {
		return
	}
	if p.still() {
		p.m.deferred = append(p.m.deferred, func() { p.run(life, do) })
		return
	}
	do()
}

func (m *machine) resumePG() {
	if m.pg.still() {
		return
	}
	list := m.deferred
	m.deferred = nil
	for _, do := range list {
		m.w.after(0, do)
	}
}

func (p *postgres) hang(h hang) {
	if p.phase == phaseDown {
		return
	}
	if h != hungNot && p.hung == hungNot {
		p.hungAt = p.m.clock()
	}
	p.hung = h
	if h == hungNot {
		p.phaseAt = p.m.clock()
	}
	p.m.resumePG()
}

// work is how long something takes on this machine's disk.
func (p *postgres) work(lo, hi time.Duration) time.Duration {
	return time.Duration(float64(p.m.w.between(lo, hi)) * p.m.slowDisk)
}

// start runs the postmaster.
func (p *postgres) start(primary bool, upstream string, rule quorum.Rule) {
	d := p.dir
	w := p.m.w
	p.life++
	p.fenced, p.failure, p.stopping, p.hung = false, "", 0, hungNot
	d.standby = !primary
	d.rule = rule
	p.shown, p.enforced = rule, rule
	p.ruleGen++
	p.primary, p.promoting, p.sessions, p.manual = primary, false, false, false
	p.upstream = upstream
	p.setPhase(phaseStarting)
	if d.torn {
		w.check.violate("torn", "%s started a data directory that a rewind left half done", p.m.name)
	}
	took := p.work(30*time.Millisecond, 200*time.Millisecond)
	if d.control == ha.ControlInProduction || d.control == ha.ControlInRecovery {
		took += p.work(50*time.Millisecond, 1500*time.Millisecond)
	}
	w.tracef(p.m, "PostgreSQL starts (primary %t, upstream %q, timeline %d, %s)", primary, upstream, d.timeline(), d.lsn())
	p.later(took, func() {
		if primary {
			// Crash recovery ends with a checkpoint, on the timeline that was recovered.
			d.control, d.checkpoint, d.ckptTL, d.minTL = ha.ControlInProduction, d.lsn(), d.timeline(), 0
		} else {
			d.control, d.minTL = ha.ControlInRecovery, d.timeline()
		}
		d.copied = false
		p.setPhase(phaseUp)
		if primary {
			p.open()
		}
		if p.m.agent != nil {
			p.m.agent.main.wake(100 * time.Millisecond)
		}
		p.m.w.connect(p)
	})
}

// open lets clients in.
func (p *postgres) open() {
	p.sessions = true
	p.m.w.tracef(p.m, "PostgreSQL accepts writes on timeline %d from %s under %q", p.dir.timeline(), p.dir.lsn(), p.enforced)
	p.later(p.work(100*time.Millisecond, 3*time.Second), p.checkpointDone)
}

func (p *postgres) checkpointDone() {
	if p.primary && p.phase == phaseUp {
		p.dir.checkpoint, p.dir.ckptTL, p.dir.minTL = p.dir.lsn(), p.dir.timeline(), 0
	}
}

// shutdown is what a signal to the postmaster does.
func (p *postgres) shutdown(immediate bool) {
	if p.phase == phaseDown || p.hung == hungPostmaster || p.still() {
		return // it stays pending; a stopped postmaster obeys SIGKILL alone
	}
	if immediate {
		if p.stopping < 2 {
			p.stopping = 2
			p.later(p.m.w.between(time.Millisecond, 30*time.Millisecond), func() { p.die("immediate shutdown", true) })
		}
		return
	}
	if p.stopping > 0 {
		return
	}
	p.stopping = 1
	p.later(p.m.w.between(0, 5*time.Millisecond), func() {
		p.sessions, p.waiting = false, nil
		if p.phase == phaseStarting || p.promoting {
			p.later(p.work(10*time.Millisecond, 100*time.Millisecond), func() { p.die("fast shutdown during the start", true) })
			return
		}
		p.later(p.work(20*time.Millisecond, 300*time.Millisecond), p.finishStop)
	})
}

// finishStop writes the shutdown checkpoint and waits for the standbys to have it.
func (p *postgres) finishStop() {
	d := p.dir
	if !p.primary {
		d.control = ha.ControlShutDownInRecovery
		d.checkpoint, d.ckptTL = d.lsn(), d.timeline()
		p.end("shut down in recovery", true)
		return
	}
	at := d.lsn()
	d.add(record{id: p.m.w.nextID(), tl: d.timeline(), end: at + shutdownBytes})
	p.pumpAll()
	var drained func()
	begin := p.m.w.now
	drained = func() {
		for _, s := range p.replicas {
			if s.upSees && s.flushed < d.lsn() && p.m.w.now-begin < 8*time.Second {
				p.later(20*time.Millisecond, drained)
				return
			}
		}
		d.control, d.checkpoint, d.ckptTL, d.minTL = ha.ControlShutDown, at, d.timeline(), 0
		p.end("shut down", true)
	}
	drained()
}

// die ends every process without a checkpoint.
func (p *postgres) die(why string, network bool) {
	if p.phase == phaseDown {
		return
	}
	p.end(why, network)
}

// end is the end of the postmaster; network says whether the machine still tells its peers.
func (p *postgres) end(why string, network bool) {
	w := p.m.w
	w.tracef(p.m, "PostgreSQL ended: %s (timeline %d, %s)", why, p.dir.timeline(), p.dir.lsn())
	p.life++
	p.sessions, p.promoting, p.waiting, p.stopping, p.hung = false, false, nil, 0, hungNot
	p.dying = false
	for _, s := range p.replicas {
		s.upSees = false
		if network && w.passes(planeRepl, p.m, s.down.m) && !s.down.still() {
			s.down.lose(s)
		}
	}
	p.replicas = nil
	if s := p.source; s != nil {
		s.downSees = false
		p.source = nil
		if network && w.passes(planeRepl, p.m, s.up.m) && !s.up.still() {
			s.up.forget(s)
		}
	}
	p.setPhase(phaseDown)
}

// lose is what a standby does when its stream ends.
func (p *postgres) lose(s *stream) {
	s.downSees = false
	if p.source == s {
		p.source = nil
		p.streamLost = p.m.clock()
	}
}

// forget is what an upstream does when a stream ends.
func (p *postgres) forget(s *stream) {
	s.upSees = false
	for i, x := range p.replicas {
		if x == s {
			p.replicas = append(p.replicas[:i:i], p.replicas[i+1:]...)
			return
		}
	}
}

// setRule changes the configuration file and reloads: SHOW changes first, the walsenders follow
// within the grace that the node grants them.
func (p *postgres) setRule(r quorum.Rule) {
	p.dir.rule = r
	if p.phase == phaseDown {
		return
	}
	p.ruleGen++
	gen := p.ruleGen
	p.later(p.m.w.between(time.Millisecond, 30*time.Millisecond), func() {
		if gen != p.ruleGen {
			return
		}
		p.shown = r
		grace := 95 * time.Millisecond
		if p.lazyReload {
			grace = 8 * time.Second
		}
		p.later(p.m.w.between(0, grace), func() {
			if gen != p.ruleGen {
				return
			}
			p.enforced = r
			p.release()
		})
	})
}

// promote ends recovery, by itself once it was asked for.
func (p *postgres) promote(timeline uint32, manual bool) {
	if p.phase != phaseUp || p.primary || p.promoting || p.stopping > 0 || p.still() {
		return
	}
	p.promoting = true
	p.later(p.work(20*time.Millisecond, 250*time.Millisecond), func() {
		d := p.dir
		if s := p.source; s != nil {
			p.lose(s)
			if p.m.w.passes(planeRepl, p.m, s.up.m) {
				s.up.forget(s)
			}
		}
		next := max(d.newest, d.timeline()) + 1
		next = max(next, timeline)
		p.promoting, p.primary, p.manual = false, true, manual
		d.standby = false
		d.manual = d.manual || manual
		d.add(record{id: p.m.w.nextID(), tl: next, end: d.lsn() + promoteBytes})
		// CreateEndOfRecoveryRecord puts the new timeline into pg_control long before the checkpoint.
		d.control, d.minTL = ha.ControlInProduction, next
		p.m.w.tracef(p.m, "promoted onto timeline %d", next)
		p.open()
		p.m.w.doom(p.m)
		if p.m.agent != nil {
			p.m.agent.main.wake(20 * time.Millisecond)
		}
	})
}

// write is a commit that a client asks for; it says whether it was taken.
func (p *postgres) write(c *client) bool {
	if p.phase != phaseUp || !p.primary || !p.sessions || p.stopping > 0 || p.still() {
		return false
	}
	d := p.dir
	d.add(record{id: p.m.w.nextID(), tl: d.timeline(), end: d.lsn() + commitBytes})
	x := &commit{c: c, at: len(d.wal) - 1, id: d.wal[len(d.wal)-1].id, end: d.lsn(), life: p.life}
	p.pumpAll()
	p.later(p.m.w.between(time.Millisecond, 4*time.Millisecond), func() {
		if !p.sessions {
			return
		}
		p.waiting = append(p.waiting, x)
		p.release()
	})
	return true
}

// release acknowledges what the rule allows.
func (p *postgres) release() {
	if !p.sessions || p.still() || len(p.waiting) == 0 {
		return
	}
	upTo := p.dir.lsn()
	if !p.enforced.Async() {
		if p.enforced.Blocks() {
			return
		}
		upTo = p.covered(p.enforced)
	}
	n := 0
	for _, x := range p.waiting {
		if x.end <= upTo {
			p.m.w.acknowledge(p, x)
			continue
		}
		p.waiting[n] = x
		n++
	}
	clear(p.waiting[n:])
	p.waiting = p.waiting[:n]
}

// covered is the position that Num of the rule's standbys have flushed.
func (p *postgres) covered(r quorum.Rule) cluster.LSN {
	var at []cluster.LSN
	for _, s := range p.replicas {
		for _, n := range r.Names {
			if n == s.down.m.name || n == "*" {
				at = append(at, s.flushed)
				break
			}
		}
	}
	if len(at) < r.Num {
		if p.degrade {
			return p.dir.lsn()
		}
		return 0
	}
	for range r.Num - 1 { // the Num-th largest
		best := 0
		for i := range at {
			if at[i] > at[best] {
				best = i
			}
		}
		at = append(at[:best], at[best+1:]...)
	}
	var best cluster.LSN
	for _, l := range at {
		best = max(best, l)
	}
	return best
}
