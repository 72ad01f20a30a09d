package sim

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// What mutations put between a node and what it works with.

// ttl is the lease that the cluster is configured for.
func (m *machine) ttl() time.Duration {
	if t := m.w.check.settings.TTL; t != 0 {
		return t
	}
	return lease.DefaultTTL
}

// lateGuardian moves deadlines back.
type lateGuardian struct {
	node.Guardian
	by  time.Duration
	dyn func() time.Duration
}

func (g lateGuardian) late() time.Duration {
	if g.dyn != nil {
		return g.dyn()
	}
	return g.by
}

func (g lateGuardian) Arm(at time.Duration, l lease.Ladder) (int64, error) {
	return g.Guardian.Arm(at+g.late(), l)
}
func (g lateGuardian) Extend(at time.Duration) bool { return g.Guardian.Extend(at + g.late()) }

// slowLadder is patient with PostgreSQL.
type slowLadder struct{ node.Guardian }

func (g slowLadder) Arm(at time.Duration, _ lease.Ladder) (int64, error) {
	return g.Guardian.Arm(at, lease.Ladder{Immediate: 20 * time.Second, Kill: 30 * time.Second})
}

// timedStore notes how long the last write took.
type timedStore struct {
	dcs.Store
	m *machine
}

func (s *timedStore) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	begin := s.m.clock()
	res, err := s.Store.Commit(ctx, t)
	s.m.lastTrip = s.m.clock() - begin
	return res, err
}

// hopeful takes an unknown outcome for a success.
type hopeful struct{ dcs.Store }

func (s hopeful) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	res, err := s.Store.Commit(ctx, t)
	if err != nil && len(t.If) > 0 {
		return dcs.Result{Succeeded: true, Revision: t.If[0].ModRev}, nil
	}
	return res, err
}

// isTake says whether a transaction takes the lock: only those write the key of people's tools.
func isTake(t dcs.Txn) bool {
	return slices.ContainsFunc(t.Then, func(op dcs.Op) bool { return op.Key == dcs.KeyLeader && !op.Delete })
}

// without leaves out the condition on one key, in some transactions.
type without struct {
	dcs.Store
	key string
	of  func(dcs.Txn) bool
}

func (s without) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	if !s.of(t) {
		return s.Store.Commit(ctx, t)
	}
	t.If = slices.DeleteFunc(slices.Clone(t.If), func(c dcs.Cond) bool { return c.Key == s.key })
	return s.Store.Commit(ctx, t)
}

// hastyRule shows a rule that was only written.
type hastyRule struct {
	node.Database
	m *machine
}

func (d hastyRule) SetRule(ctx context.Context, r quorum.Rule) error {
	if d.m.pg.dir == nil {
		return errNotRunning
	}
	d.m.pg.setRule(r)
	return nil
}

func (d hastyRule) Observe(ctx context.Context) ha.Database {
	o := d.Database.Observe(ctx)
	if o.RuleKnown && d.m.pg.dir != nil {
		o.Rule = d.m.pg.dir.rule
	}
	return o
}

// hastyFlush lets every standby have flushed everything.
type hastyFlush struct{ node.Database }

func (d hastyFlush) Observe(ctx context.Context) ha.Database {
	o := d.Database.Observe(ctx)
	for i := range o.Replicas {
		o.Replicas[i].Flushed = o.LSN
	}
	return o
}

// blindPeers lets everybody be as far as oneself.
type blindPeers struct {
	node.Peers
	m *machine
}

func (p blindPeers) Ask(ctx context.Context, members map[string]cluster.Member, self string, unhurried []string) map[string]cluster.PeerStatus {
	out := p.Peers.Ask(ctx, members, self, unhurried)
	for name, a := range out {
		if d := p.m.pg.dir; d != nil && a.InRecovery {
			a.LSN, a.Timeline = d.lsn(), d.timeline()
			out[name] = a
		}
	}
	return out
}

// rewrite changes one key of what a node reads.
func rewrite(snap dcs.Snapshot, key string, change func(b []byte) []byte) dcs.Snapshot {
	e, ok := snap.Entries[key]
	if !ok {
		return snap
	}
	out := dcs.Snapshot{Revision: snap.Revision, Entries: maps.Clone(snap.Entries)}
	e.Value = change(e.Value)
	out.Entries[key] = e
	return out
}

// relock reads the lock as something else; with m, only while that machine does not hold it.
type relock struct {
	dcs.Store
	m      *machine
	change func(*cluster.Lock)
}

func (s relock) Load(ctx context.Context) (dcs.Snapshot, error) {
	snap, err := s.Store.Load(ctx)
	if s.m.holds() {
		return snap, err
	}
	return rewrite(snap, dcs.KeyLock, func(b []byte) []byte {
		l, perr := cluster.ParseLock(b)
		if perr != nil {
			return b
		}
		s.change(&l)
		b, _ = json.Marshal(l)
		return b
	}), err
}

// holds says whether the agent of m holds the lock.
func (m *machine) holds() bool {
	if m == nil || m.agent == nil || m.agent.lead == nil {
		return false
	}
	_, held := m.agent.lead.Held()
	return held
}

// alone reads synchronous states that ask for no confirmation, as long as it does not lead.
type alone struct {
	dcs.Store
	m *machine
}

func (s alone) Load(ctx context.Context) (dcs.Snapshot, error) {
	snap, err := s.Store.Load(ctx)
	if s.m.holds() {
		return snap, err
	}
	return rewrite(snap, dcs.KeySync, func(b []byte) []byte {
		var v cluster.SyncState
		if v.UnmarshalJSON(b) != nil {
			return b
		}
		v.Quorum = 0
		b, _ = json.Marshal(v)
		return b
	}), err
}

// yesPeers has everybody's promise without asking.
type yesPeers struct{ node.Peers }

func (yesPeers) Failsafe(context.Context, string, node.Promise) (bool, error) { return true, nil }

// perjured asks for promises that end at once.
type perjured struct {
	node.Peers
	m *machine
}

func (p perjured) Failsafe(ctx context.Context, url string, pr node.Promise) (bool, error) {
	pr.TTL = 1
	return p.Peers.Failsafe(ctx, url, pr)
}

// lazyKill says that PostgreSQL is dead five seconds before it is.
type lazyKill struct {
	node.Database
	m *machine
}

func (d lazyKill) Kill(context.Context, string) error {
	p := d.m.pg
	if p.phase == phaseDown {
		return nil
	}
	p.dying = true
	p.later(5*time.Second, func() { p.die("killed, late", true) })
	return nil
}

func (d lazyKill) Stop(ctx context.Context, immediate bool) error {
	if d.m.agent != nil && d.m.pg.primary {
		return d.Kill(ctx, "")
	}
	return d.Database.Stop(ctx, immediate)
}

func (d lazyKill) Observe(ctx context.Context) ha.Database {
	o := d.Database.Observe(ctx)
	if p := d.m.pg; p.dying && p.phase != phaseDown {
		o.Phase, o.Control, o.ControlTimeline = ha.Down, ha.ControlShutDown, p.dir.timeline()
		o.ControlCheckpoint = p.dir.lsn() - 1
	}
	return o
}

// noHold does not hold.
type noHold struct{ node.Database }

func (noHold) Hold(context.Context) error { return nil }

// shortMemory forgets promises with the process.
type shortMemory struct{ node.Promises }

func (shortMemory) Load() (int64, error) { return 0, nil }

// trusted is a guardian that counts as alive whatever it does.
type trusted struct{ node.Guardian }

func (trusted) Alive(time.Duration) bool             { return true }
func (trusted) WaitAck(context.Context, int64) error { return nil }

// endless claims a deadline that has not passed.
type endless struct {
	node.Guardian
	m *machine
}

func (g endless) Deadline() time.Duration { return g.m.clock() + g.m.ttl() }

// unhurried leaves the deadline as it is when the lock was lost.
type unhurried struct{ node.Guardian }

func (g unhurried) Arm(at time.Duration, l lease.Ladder) (int64, error) {
	if l.Immediate == 0 {
		return 0, nil
	}
	return g.Guardian.Arm(at, l)
}

// earlyTTL announces the configured lease duration, whatever the fence is.
type earlyTTL struct {
	dcs.Store
	m *machine
}

func (s earlyTTL) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	return s.Store.Commit(ctx, relocked(t, func(l *cluster.Lock) { l.TTL = s.m.ttl().Milliseconds() }))
}

// relocked changes the lock that a transaction writes.
func relocked(t dcs.Txn, change func(*cluster.Lock)) dcs.Txn {
	t.Then = slices.Clone(t.Then)
	for i, op := range t.Then {
		if op.Key != dcs.KeyLock || op.Delete {
			continue
		}
		if l, err := cluster.ParseLock(op.Value); err == nil {
			change(&l)
			t.Then[i].Value, _ = json.Marshal(l)
		}
	}
	return t
}

// lateClaim leaves a claim out of what is written until PostgreSQL is a primary.
type lateClaim struct {
	dcs.Store
	m        *machine
	timeline uint32 // as stored
}

func (s *lateClaim) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	claim := false
	t = relocked(t, func(l *cluster.Lock) {
		if l.Held() && !l.Ready && !isTake(t) && !s.m.pg.primary && s.timeline != 0 && l.Timeline > s.timeline {
			l.Timeline, claim = s.timeline, true
			return
		}
		s.timeline = l.Timeline
	})
	if claim {
		t.Then = slices.DeleteFunc(t.Then, func(op dcs.Op) bool { return op.Key == dcs.KeySync })
	}
	return s.Store.Commit(ctx, t)
}

// mostPeers does without the promise of the other member whose name is last.
type mostPeers struct {
	node.Peers
	m *machine
}

func (p mostPeers) Failsafe(ctx context.Context, url string, pr node.Promise) (bool, error) {
	last := ""
	for _, o := range p.m.w.machines {
		if o != p.m && !o.gone {
			last = o.name
		}
	}
	if strings.Contains(url, "//"+last+":") {
		return true, nil
	}
	return p.Peers.Failsafe(ctx, url, pr)
}

// deaf takes every answer for a promise.
type deaf struct{ node.Peers }

func (p deaf) Failsafe(ctx context.Context, url string, pr node.Promise) (bool, error) {
	_, err := p.Peers.Failsafe(ctx, url, pr)
	return err == nil, err
}

// timedPeers notes how long promises took.
type timedPeers struct {
	node.Peers
	m *machine
}

func (p timedPeers) Failsafe(ctx context.Context, url string, pr node.Promise) (bool, error) {
	begin := p.m.clock()
	ok, err := p.Peers.Failsafe(ctx, url, pr)
	p.m.promiseTrip = max(p.m.promiseTrip, p.m.clock()-begin)
	return ok, err
}

// latePromises counts a round of promises from its end.
type latePromises struct {
	node.Guardian
	m *machine
}

func (g latePromises) Extend(at time.Duration) bool {
	at += g.m.promiseTrip
	g.m.promiseTrip = 0
	return g.Guardian.Extend(at)
}

// insider finds itself in /failsafe.
type insider struct {
	dcs.Store
	m *machine
}

func (s insider) Load(ctx context.Context) (dcs.Snapshot, error) {
	snap, err := s.Store.Load(ctx)
	if s.m.holds() {
		return snap, err
	}
	return rewrite(snap, dcs.KeyFailsafe, func(b []byte) []byte {
		members := map[string]string{}
		if json.Unmarshal(b, &members) != nil || members == nil {
			return b
		}
		if members[s.m.name] == "" {
			members[s.m.name] = "http://" + s.m.name + ":8008/patroni"
		}
		b, _ = json.Marshal(members)
		return b
	}), err
}

// anyLag reads a maximum_lag_on_failover that is never reached.
type anyLag struct {
	dcs.Store
	m *machine
}

func (s anyLag) Load(ctx context.Context) (dcs.Snapshot, error) {
	snap, err := s.Store.Load(ctx)
	return rewrite(snap, dcs.KeyConfig, func(b []byte) []byte {
		doc := map[string]any{}
		if json.Unmarshal(b, &doc) != nil {
			return b
		}
		doc["maximum_lag_on_failover"] = 1 << 40
		b, _ = json.Marshal(doc)
		return b
	}), err
}

// bareStart starts PostgreSQL without a synchronous rule.
type bareStart struct{ node.Database }

func (d bareStart) Start(ctx context.Context, s node.StartSpec) error {
	s.Rule = quorum.Rule{}
	return d.Database.Start(ctx, s)
}

// asSeen starts PostgreSQL under a rule for the record of /sync that was seen last.
type asSeen struct {
	node.Database
	m *machine
}

func (d asSeen) Start(ctx context.Context, s node.StartSpec) error {
	if a := d.m.agent; a != nil {
		s.Rule = quorum.Restart(a.name, a.feed.Get().View.Sync)
	}
	return d.Database.Start(ctx, s)
}

// oldRule does not change the rule of a standby.
type oldRule struct {
	node.Database
	m *machine
}

func (d oldRule) SetRule(ctx context.Context, r quorum.Rule) error {
	if !d.m.pg.primary {
		return nil
	}
	return d.Database.SetRule(ctx, r)
}

// flatterers tell the holder that they have everything.
type flatterers struct {
	node.Peers
	m *machine
}

func (p flatterers) Ask(ctx context.Context, members map[string]cluster.Member, self string, unhurried []string) map[string]cluster.PeerStatus {
	out := p.Peers.Ask(ctx, members, self, unhurried)
	d := p.m.pg.dir
	if !p.m.holds() || d == nil {
		return out
	}
	for name, a := range out {
		a.LSN = max(a.LSN, d.lsn())
		out[name] = a
	}
	return out
}

// presumed counts members that do not answer as having promised.
type presumed struct {
	node.Peers
	m *machine
}

func (p presumed) Revoke(ctx context.Context, members map[string]cluster.Member, self, holder string, r node.Revocation) map[string]cluster.PeerStatus {
	out := p.Peers.Revoke(ctx, members, self, holder, r)
	for name := range members {
		if _, ok := out[name]; !ok && name != self && name != holder {
			out[name] = cluster.PeerStatus{Name: name, Revoked: r.LockRev, InRecovery: true, Running: true, LSN: 1, Timeline: p.m.pg.dir.timeline()}
		}
	}
	return out
}

// shortHold receives again after a moment.
type shortHold struct {
	node.Database
	m *machine
}

func (d shortHold) Hold(ctx context.Context) error {
	p, w := d.m.pg, d.m.w
	from := p.upstream
	err := d.Database.Hold(ctx)
	if err == nil {
		p.later(w.between(0, 100*time.Millisecond), func() { p.upstream = from; w.connect(p) })
	}
	return err
}

// whole shows half rewound data directories as whole.
type whole struct{ node.Database }

func (d whole) Observe(ctx context.Context) ha.Database {
	o := d.Database.Observe(ctx)
	o.Torn = false
	return o
}

// eraser deletes what it should set aside.
type eraser struct {
	node.Database
	m *machine
}

func (d eraser) SetAside(ctx context.Context, reason string) error {
	if err := d.Database.SetAside(ctx, reason); err != nil {
		return err
	}
	if p := d.m.pg; len(p.asides) > 0 {
		gone := p.asides[len(p.asides)-1]
		p.asides = p.asides[:len(p.asides)-1]
		d.m.w.check.erased(d.m, gone)
	}
	return nil
}

// humble shows a stopped primary as a standby.
type humble struct{ node.Database }

func (d humble) Observe(ctx context.Context) ha.Database {
	o := d.Database.Observe(ctx)
	if o.Phase == ha.Down && o.Control.WasPrimary() {
		o.Control = ha.ControlShutDownInRecovery
	}
	return o
}

// lostSheep follows nobody while the store does not answer.
type lostSheep struct {
	node.Database
	m *machine
}

func (d lostSheep) Observe(ctx context.Context) ha.Database {
	a := d.m.agent
	if a != nil && d.m.pg.source != nil && a.feed.ContactAt() != 0 && !a.feed.Get().Reachable {
		_ = d.Database.Follow(ctx, node.Upstream{})
	}
	return d.Database.Observe(ctx)
}

// hastyPause puts the fence down before it says so in the lock.
type hastyPause struct {
	dcs.Store
	m *machine
}

func (s hastyPause) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	pauses := false
	relocked(t, func(l *cluster.Lock) { pauses = l.Held() && l.Paused })
	if pauses {
		_ = s.m.guard.Disarm()
	}
	return s.Store.Commit(ctx, t)
}

// forgiving lets a late renewal undo a fence.
type forgiving struct {
	node.Guardian
	m *machine
}

func (g forgiving) Extend(at time.Duration) bool {
	if g.Guardian.Extend(at) {
		return true
	}
	if g.m.guard.deadline == 0 {
		return false
	}
	g.m.guard.deadline = at
	g.m.guard.touch()
	return true
}

// joiner finds itself in /sync.
type joiner struct {
	dcs.Store
	m *machine
}

func (s joiner) Load(ctx context.Context) (dcs.Snapshot, error) {
	snap, err := s.Store.Load(ctx)
	if s.m.holds() {
		return snap, err
	}
	return rewrite(snap, dcs.KeySync, func(b []byte) []byte {
		var v cluster.SyncState
		if v.UnmarshalJSON(b) != nil || v.Empty() || v.Has(s.m.name) {
			return b
		}
		v.Standbys = cluster.Sorted(append(slices.Clone(v.Standbys), s.m.name))
		b, _ = json.Marshal(v)
		return b
	}), err
}

// seenPeers asks only those for promises that the holder has seen in /failsafe.
type seenPeers struct {
	node.Peers
	m *machine
}

func (p seenPeers) Failsafe(ctx context.Context, url string, pr node.Promise) (bool, error) {
	for _, known := range p.m.agent.feed.Get().View.Failsafe {
		if known == url {
			return p.Peers.Failsafe(ctx, url, pr)
		}
	}
	return true, nil
}
