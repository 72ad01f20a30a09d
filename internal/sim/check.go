package sim

import (
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Violation is a broken promise.
type Violation struct {
	At   time.Duration
	Rule string
	Text string
}

func (v Violation) String() string {
	return fmt.Sprintf("at %.3fs, %s: %s", v.At.Seconds(), v.Rule, v.Text)
}

// checker looks at every acknowledgement, every change of the lock and every new leader.
//
// The numbers are those of DESIGN section 3:
//
//   - epoch (1): no acknowledgement of epoch e after the first of epoch e+1, and one node per epoch.
//     A commit that lies in the later leader's own history may be acknowledged late by the former
//     one (Result.Late): this happens when a leader was deposed by revocation, and nothing is lost.
//     A primary whose guardian did not run when the fence was due, or that a human promoted, is
//     excused as long as no sound router would have sent it a client: counted in Result.Unfenced.
//   - lost (2): what was acknowledged while the store held a synchronous state is in the WAL of
//     every later leader.
//   - bound (3): without one, a fail-over loses at most maximum_lag_on_failover before the position
//     that the old leader published last, and what it wrote after.
//   - deleted (4): no record that was acknowledged vanishes from every data directory there is.
//   - corrupt, torn: nothing streams onto WAL that differs, nothing half rewound is started. Where a
//     human promoted one of the two by hand this is counted in Result.Mixed: PostgreSQL gives both
//     histories the same timeline number, and nothing that it shows tells them apart.
//   - left (6): a standby that streams from a working primary is not taken from it while its agent
//     cannot reach the store.
//   - stuck: after everything healed, one primary takes writes and all follow it, within a bound.
type checker struct {
	w        *world
	acks     []ack
	highest  uint64 // epoch with an acknowledgement
	by       *machine
	lock     cluster.Lock
	renewed  time.Duration // when the lock was written last
	epochs   uint64
	verified uint64 // epoch whose leader was found to have everything
	settings cluster.Settings
	// abandoned are the acknowledged commits that a leader did not have: kept only where the former
	// leader's data still are.
	abandoned []ack
	optime    map[uint64]cluster.LSN // last published position by epoch
	synced    bool                   // the store holds a synchronous state
	forcing   bool                   // the store holds an order of a human to fail over with force
	forced    map[uint64]bool        // epochs that began under such an order: losses there are his
	total     int
	unfenced  int
	mixed     int
	late      int
	lost      int // acknowledged and lost within the bound of asynchronous mode
	lastAck   time.Duration
	found     []Violation
}

func (c *checker) violate(rule, format string, args ...any) {
	v := Violation{At: c.w.now, Rule: rule, Text: fmt.Sprintf(format, args...)}
	c.found = append(c.found, v)
	c.w.tracef(nil, "VIOLATION %s", v)
}

// lockChanged notes a write of the lock and says whether it was more than a renewal.
func (c *checker) lockChanged(l cluster.Lock) bool {
	old := c.lock
	if l.Epoch < old.Epoch {
		c.violate("epoch", "the lock went back from epoch %d to %d", old.Epoch, l.Epoch)
	}
	if l.Epoch == old.Epoch && old.Held() && l.Held() && l.Node != old.Node {
		c.violate("epoch", "%s took the lock from %s within epoch %d", l.Node, old.Node, l.Epoch)
	}
	c.lock, c.renewed = l, c.w.now // a renewal too
	if l.Epoch > old.Epoch && c.forcing {
		c.forced[l.Epoch] = true
	}
	x, y := old, l
	x.Seq, y.Seq = 0, 0
	if x == y {
		return false
	}
	c.w.tracef(nil, "stored lock: node=%s epoch=%d seq=%d timeline=%d ready=%t paused=%t successor=%s ttl=%d", l.Node, l.Epoch, l.Seq, l.Timeline, l.Ready, l.Paused, l.Successor, l.TTL)
	c.epochs = max(c.epochs, l.Epoch)
	return true
}

// syncChanged: a synchronous state makes a promise about everything acknowledged so far; taking it
// away takes the promise away.
func (c *checker) syncChanged(s cluster.SyncState) {
	c.synced = !s.Empty()
	lead := c.w.machine(s.Leader)
	for i := range c.acks {
		a := &c.acks[i]
		// A state that begins to promise does so for what its leader has.
		a.protected = c.synced && (a.protected || lead != nil && lead.pg.dir != nil && lead.pg.dir.holds(a.place, a.rec))
	}
}

func (c *checker) acknowledged(m *machine, x *commit) {
	w := c.w
	confirmed := m.confirmed()
	epoch := m.epoch
	if !confirmed && (m.pg.manual || epoch == 0 || m.excused()) {
		if epoch < c.highest || m.pg.manual || epoch == 0 || epoch < c.epochs {
			c.unfenced++
			return
		}
	}
	if m.pg.manual && (m.agent == nil || !m.agent.lead.Lock().Ready) {
		c.unfenced++ // a human was faster than the claim of the member that holds the lock
		return
	}
	switch {
	case epoch < c.highest && c.by.pg.dir != nil && c.by.pg.dir.holds(x.at, x.id):
		// The commit is in the history of the present leader: a report of a standby, sent before it
		// promised to receive nothing more, came late. The client learns late of what is true.
		c.late++
	case epoch < c.highest:
		c.violate("epoch", "%s acknowledged a commit in epoch %d after %s had in epoch %d (within its lease: %t)", m.name, epoch, c.by.name, c.highest, confirmed)
	case epoch == c.highest && c.by != nil && c.by != m:
		c.violate("epoch", "%s and %s both acknowledged commits in epoch %d", m.name, c.by.name, epoch)
	case epoch > c.highest:
		c.verify(m, epoch)
		c.highest, c.by = epoch, m
	}
	c.total++
	c.lastAck = w.now
	c.acks = append(c.acks, ack{at: w.now, rec: x.id, place: x.at, end: x.end, epoch: epoch, by: m, protected: c.synced})
}

// excused says whether the fence of this machine could not work: nobody was there to see the
// deadline pass, or not for long enough. It is no excuse that the lease was extended although the
// guardian had not answered for longer than a decision vouches for.
func (m *machine) excused() bool {
	g := m.guard
	if g.extendedAt > g.downAt+m.ttl()+5*time.Second && !g.healthy() {
		return false
	}
	return !g.healthy() || m.w.now-g.backAt < 2*time.Second
}

// verify looks for what a new leader lacks.
func (c *checker) verify(m *machine, epoch uint64) {
	if epoch <= c.verified {
		return
	}
	c.verified = epoch
	w := c.w
	kept := c.acks[:0]
	told := false // of one of many
	var gone []ack
	n, tooOld := 0, 0
	forced := func(since uint64) bool {
		for e := since + 1; e <= epoch; e++ {
			if c.forced[e] {
				return true
			}
		}
		return false
	}
	for _, a := range c.acks {
		if m.pg.dir.holds(a.place, a.rec) {
			kept = append(kept, a)
			continue
		}
		n++
		gone = append(gone, a)
		if forced(a.epoch) {
			continue
		}
		if a.protected && !told {
			told = true
			c.violate("lost", "%s leads epoch %d on timeline %d without the commit that %s acknowledged at %.3fs in epoch %d (record %d, up to %s)",
				m.name, epoch, m.pg.dir.timeline(), a.by.name, a.at.Seconds(), a.epoch, a.rec, a.end)
		}
		for e := a.epoch; e < epoch; e++ {
			if known := c.optime[e]; a.end.Behind(known) > c.settings.MaximumLagOnFailover {
				tooOld++
				break
			}
		}
	}
	c.acks = kept
	c.lost += n
	c.abandoned = append(c.abandoned, gone...)
	if n > 0 {
		w.tracef(m, "leads epoch %d without %d acknowledged commits", epoch, n)
	}
	if tooOld > 0 {
		c.violate("bound", "%s leads epoch %d without %d acknowledged commits that lay more than maximum_lag_on_failover (%d) before the position that the old leader had published", m.name, epoch, tooOld, c.settings.MaximumLagOnFailover)
	}
}

// leaders verifies leaders before anybody writes to them.
func (c *checker) leaders() {
	for _, m := range c.w.machines {
		if m.agent == nil || m.pg.phase != phaseUp || !m.pg.primary || m.pg.manual {
			continue
		}
		if m.confirmed() && m.agent.lead.Lock().Ready && m.epoch > c.verified {
			c.verify(m, m.epoch)
		}
	}
}

// leaves is called when an agent is about to part a standby from its upstream.
func (c *checker) leaves(m *machine, what, to string) {
	w, p := c.w, m.pg
	s := p.source
	if p.phase != phaseUp || p.primary || s == nil || s.up.m.name == to || m.agent == nil || m.asked {
		return
	}
	if m.answersReach() && m.loseReplies == 0 && m.slowStore == 0 && !w.storeDown || m.agent.feed.Get().Reachable {
		return
	}
	if !w.talks(s) || !s.up.sessions || s.up.m.epoch < c.epochs {
		return
	}
	c.violate("left", "the agent of %s cannot reach the store and takes its standby from the working primary %s (%s)", m.name, s.up.m.name, what)
}

// erased is called when a data directory of m was deleted. Even a commit that asynchronous mode lost is
// to be found somewhere then.
func (c *checker) erased(m *machine, gone *dir) {
	for _, a := range append(append([]ack{}, c.abandoned...), c.acks...) {
		if !gone.holds(a.place, a.rec) || c.elsewhere(a, gone) {
			continue
		}
		c.violate("deleted", "the only copy of the commit acknowledged at %.3fs in epoch %d was deleted on %s", a.at.Seconds(), a.epoch, m.name)
		return
	}
}

// elsewhere says whether another data directory than d, one set aside included, has the commit.
func (c *checker) elsewhere(a ack, d *dir) bool {
	for _, o := range c.w.machines {
		for _, x := range append([]*dir{o.pg.dir}, o.pg.asides...) {
			if x != nil && x != d && x.holds(a.place, a.rec) {
				return true
			}
		}
	}
	return false
}

// overwrites is called before a rewind on m drops the records from place on.
func (c *checker) overwrites(m *machine, place int) {
	for _, a := range c.acks {
		if !a.protected || a.place < place || !m.pg.dir.holds(a.place, a.rec) {
			continue
		}
		if !c.elsewhere(a, m.pg.dir) {
			c.violate("deleted", "a rewind on %s drops the only copy of the commit acknowledged at %.3fs in epoch %d", m.name, a.at.Seconds(), a.epoch)
			return
		}
	}
}
