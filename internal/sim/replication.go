package sim

import (
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// streamTimeout is wal_receiver_timeout and wal_sender_timeout.
const streamTimeout = 5 * time.Second

// connect lets a standby try to stream from its upstream.
func (w *world) connect(p *postgres) {
	if p.phase != phaseUp || p.primary || p.promoting || p.source != nil || p.upstream == "" || p.still() || p.stopping > 0 {
		return
	}
	m := w.machine(p.upstream)
	if m == nil || m == p.m || !w.both(planeRepl, p.m, m) {
		return
	}
	up := m.pg
	if up.phase != phaseUp || up.hung != hungNot || up.still() || up.stopping > 0 || up.dir == nil || p.dir.system != up.dir.system {
		return
	}
	if !p.dir.canFollow(up.dir) {
		return
	}
	if !p.dir.prefixOf(up.dir) && (p.dir.manual || up.dir.manual) {
		if !p.mixed {
			w.check.mixed++
			w.tracef(p.m, "would stream from %s, whose WAL differs, after a promotion by hand", m.name)
		}
		p.mixed = true
		return
	}
	if !p.dir.prefixOf(up.dir) {
		w.check.violate("corrupt", "%s streams from %s at %s of timeline %d, and their WAL before that differs", p.m.name, m.name, p.dir.lsn(), p.dir.timeline())
		return
	}
	s := &stream{up: up, down: p, upLife: up.life, downLife: p.life, sent: len(p.dir.wal), flushed: p.dir.lsn(), heard: w.now, upSees: true, downSees: true}
	for _, old := range slices.Clone(up.replicas) {
		if old.down == p {
			up.forget(old)
		}
	}
	up.replicas = append(up.replicas, s)
	slices.SortFunc(up.replicas, func(a, b *stream) int { return a.down.m.index - b.down.m.index })
	p.source = s
	p.dir.manual = p.dir.manual || up.dir.manual
	p.dir.newest = max(p.dir.newest, up.dir.newest)
	w.tracef(p.m, "streams from %s at %s of timeline %d", m.name, p.dir.lsn(), p.dir.timeline())
	up.release()
	up.pump(s)
}

func (p *postgres) pumpAll() {
	for _, s := range p.replicas {
		p.pump(s)
	}
}

// pump sends what the standby does not have yet.
func (p *postgres) pump(s *stream) {
	if s.busy || !s.live() || s.sent >= len(p.dir.wal) || p.still() {
		return
	}
	s.busy = true
	p.m.w.after(p.m.w.hop(), func() { p.deliver(s) })
}

func (p *postgres) deliver(s *stream) {
	w := p.m.w
	s.busy = false
	if !s.live() {
		return
	}
	if !w.passes(planeRepl, p.m, s.down.m) || s.down.still() || p.still() {
		s.busy = true
		w.after(100*time.Millisecond, func() { p.deliver(s) })
		return
	}
	to := s.down.dir
	for _, r := range p.dir.wal[s.sent:] {
		to.add(r)
	}
	s.sent = len(p.dir.wal)
	to.manual = to.manual || p.dir.manual
	to.minTL = to.timeline()
	s.down.movedAt = s.down.m.clock()
	s.down.pumpAll() // to whoever cascades from it
	s.tell(to.lsn())
	p.pump(s)
}

// tell reports a flushed position to the upstream.
func (s *stream) tell(at cluster.LSN) {
	w := s.up.m.w
	w.after(w.hop()+w.between(0, 2*time.Millisecond), func() {
		if !s.upSees || s.up.life != s.upLife {
			return
		}
		if !w.passes(planeRepl, s.down.m, s.up.m) || s.up.still() {
			w.after(100*time.Millisecond, func() { s.arrive(at) })
			return
		}
		s.arrive(at)
	})
}

func (s *stream) arrive(at cluster.LSN) {
	w := s.up.m.w
	if !s.upSees || s.up.life != s.upLife {
		return
	}
	if !w.passes(planeRepl, s.down.m, s.up.m) || s.up.still() {
		w.after(100*time.Millisecond, func() { s.arrive(at) })
		return
	}
	s.flushed = max(s.flushed, at)
	s.up.release()
}

// housekeeping ends streams that time out and lets standbys connect.
func (w *world) housekeeping() {
	for _, m := range w.machines {
		p := m.pg
		for _, s := range slices.Clone(p.replicas) {
			if w.talks(s) {
				s.heard = w.now
				continue
			}
			if w.now-s.heard > streamTimeout && !p.still() {
				p.forget(s)
			}
		}
		if s := p.source; s != nil && !p.still() {
			gone := !s.upSees || s.up.life != s.upLife
			if gone && w.passes(planeRepl, s.up.m, m) || w.now-s.heard > streamTimeout {
				p.lose(s)
			}
		}
		w.connect(p)
	}
}

// talks says whether both ends of a stream live and reach each other.
func (w *world) talks(s *stream) bool {
	return s.live() && w.both(planeRepl, s.up.m, s.down.m) && !s.up.still() && !s.down.still()
}
