package sim

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// Mutation switches one safety rule off by standing between a node and what it works with. The
// fields that are nil change nothing.
type Mutation struct {
	Name, Text string
	// Redundant says which other rule keeps the promise when this one is off; the simulator then has
	// to find nothing.
	Redundant string

	// Unproven says why no history was found yet that needs this rule.
	Unproven string
	// Within is how many histories find it.
	Within uint64

	// What histories look like in which the rule matters; nil and 0: like all others.
	doc   map[string]any
	menu  []string
	nodes int

	wrapLead  func(m *machine, s dcs.Store) dcs.Store
	wrapFeed  func(m *machine, s dcs.Store) dcs.Store
	wrapClock func(m *machine, now func() time.Duration) func() time.Duration
	wrapGuard func(m *machine, g node.Guardian) node.Guardian
	wrapDB    func(m *machine, d node.Database) node.Database
	wrapPeers func(m *machine, p node.Peers) node.Peers
	wrapFile  func(m *machine, p node.Promises) node.Promises
}

func (x *Mutation) leadStore(m *machine, s dcs.Store) dcs.Store {
	if x == nil || x.wrapLead == nil {
		return s
	}
	return x.wrapLead(m, s)
}

func (x *Mutation) feedStore(m *machine, s dcs.Store) dcs.Store {
	if x == nil || x.wrapFeed == nil {
		return s
	}
	return x.wrapFeed(m, s)
}

func (x *Mutation) feedClock(m *machine, now func() time.Duration) func() time.Duration {
	if x == nil || x.wrapClock == nil {
		return now
	}
	return x.wrapClock(m, now)
}

func (x *Mutation) guard(m *machine, g node.Guardian) node.Guardian {
	if x == nil || x.wrapGuard == nil {
		return g
	}
	return x.wrapGuard(m, g)
}

func (x *Mutation) database(m *machine, d node.Database) node.Database {
	if x == nil || x.wrapDB == nil {
		return d
	}
	return x.wrapDB(m, d)
}

func (x *Mutation) promises(m *machine, p node.Promises) node.Promises {
	if x == nil || x.wrapFile == nil {
		return p
	}
	return x.wrapFile(m, p)
}

func (x *Mutation) peers(m *machine, p node.Peers) node.Peers {
	if x == nil || x.wrapPeers == nil {
		return p
	}
	return x.wrapPeers(m, p)
}

// Mutations are the safety rules that can be switched off. For each of them the simulator has to
// find a history that breaks a promise: TestMutations.
func Mutations() []Mutation {
	list := []Mutation{
		{Name: "no-fence", Text: "the guardian never fences: it is armed for a day",
			doc: asyncDoc, menu: asyncMenu, nodes: 3,
			wrapGuard: func(_ *machine, g node.Guardian) node.Guardian { return lateGuardian{g, 24 * time.Hour, nil} }},
		{Name: "fence-after-lease", Text: "the fence begins at L instead of a margin before it",
			doc: asyncDoc, menu: asyncMenu, nodes: 3,
			wrapGuard: func(m *machine, g node.Guardian) node.Guardian {
				return lateGuardian{g, 0, func() time.Duration { return lease.Margin(m.ttl()) + time.Second }}
			}},
		{Name: "t0-after-answer", Text: "a renewal counts from when its answer came, not from before it was sent",
			doc: asyncDoc, menu: asyncMenu, nodes: 3,
			wrapLead: func(m *machine, s dcs.Store) dcs.Store { return &timedStore{Store: s, m: m} },
			wrapGuard: func(m *machine, g node.Guardian) node.Guardian {
				return lateGuardian{g, 0, func() time.Duration { return m.lastTrip }}
			}},
		{Name: "unknown-is-success", Text: "a renewal whose outcome is unknown counts as confirmed",
			doc: asyncDoc, menu: asyncMenu, nodes: 3,
			wrapLead: func(m *machine, s dcs.Store) dcs.Store { return hopeful{s} }},
		{Name: "no-cas-on-lock", Text: "the lock is written without comparing its revision",
			wrapLead: func(m *machine, s dcs.Store) dcs.Store { return without{s, dcs.KeyLock} }},
		{Name: "no-cas-on-sync", Text: "a take-over does not compare the revision of /sync",
			Redundant: "every write of /sync is one transaction with a write of the lock, so the revision of the lock tells too",
			wrapLead:  func(m *machine, s dcs.Store) dcs.Store { return without{s, dcs.KeySync} }},
		{Name: "impatient-observer", Text: "an observer waits half of the lease before it takes over",
			doc: asyncDoc, menu: asyncMenu, nodes: 3,
			wrapClock: func(m *machine, now func() time.Duration) func() time.Duration {
				return func() time.Duration { return max(now()-m.ttl()/2, 1) }
			}},
		{Name: "narrow-before-cas", Text: "PostgreSQL stops waiting for standbys that are away before the store says so",
			doc: quorumDoc, menu: quorumMenu, nodes: 3,
			wrapDB: func(m *machine, d node.Database) node.Database { m.pg.degrade = true; return d }},
		{Name: "widen-store-first", Text: "a new rule counts as in force before PostgreSQL has it",
			doc: quorumDoc, menu: quorumMenu, nodes: 3,
			wrapDB: func(m *machine, d node.Database) node.Database { m.pg.lazyReload = true; return hastyRule{d, m} }},
		{Name: "no-confirmation-of-rule", Text: "a new rule counts as confirmed before the standbys have flushed",
			doc: quorumDoc, menu: []string{"a standby back for a moment, then the leader lost"}, nodes: 2,
			wrapDB: func(m *machine, d node.Database) node.Database { return hastyFlush{d} }},
		{Name: "no-lsn-in-elections", Text: "a candidate does not compare positions",
			doc: quorumDoc, menu: quorumMenu, nodes: 3,
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return blindPeers{p, m} }},
		{Name: "no-history-in-elections", Text: "the lock does not say which timeline may hold commits",
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store { return forgetful{s} }},
		{Name: "no-confirmations", Text: "one member's word is enough in an election, whatever the quorum",
			doc: quorumDoc, menu: quorumMenu, nodes: 3,
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store { return alone{s, m} }},
		{Name: "failsafe-without-promises", Text: "the holder goes on without the members' promises while the store is away",
			doc: failsafeDoc, menu: failsafeMenu, nodes: 3,
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return yesPeers{p} }},
		{Name: "broken-promises", Text: "members promise and take the lock all the same",
			doc: failsafeDoc, menu: failsafeMenu, nodes: 3,
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return perjured{p, m} }},
		{Name: "slow-ladder", Text: "the guardian's ladder ends long after L",
			doc: asyncDoc, menu: asyncMenu, nodes: 3,
			wrapGuard: func(_ *machine, g node.Guardian) node.Guardian { return slowLadder{g} }},
		{Name: "hold-is-a-lie", Text: "a member says that it stopped receiving from the leader and goes on",
			doc: quorumDoc, menu: revokeMenu, nodes: 3,
			wrapDB: func(m *machine, d node.Database) node.Database { return noHold{d} }},
		{Name: "promise-not-kept", Text: "the promise to receive nothing does not survive a restart of the agent",
			Unproven: "it takes a restart of a standby's agent in the milliseconds between its answer and the take-over",
			doc:      quorumDoc, menu: revokeMenu, nodes: 3,
			wrapFile: func(m *machine, p node.Promises) node.Promises { return shortMemory{} }},
		{Name: "release-before-kill", Text: "the lock is given back before PostgreSQL is dead",
			doc: asyncDoc, menu: asyncMenu, nodes: 3,
			wrapDB: func(m *machine, d node.Database) node.Database { return lazyKill{d, m} }},
	}
	for i := range list {
		list[i].Within = 1000
	}
	return list
}

// Surroundings in which a rule matters.
var (
	quorumDoc = map[string]any{"synchronous_mode": "quorum", "synchronous_mode_strict": false, "synchronous_node_count": 1, "failsafe_mode": false,
		"primary_start_timeout": 60}
	quorumMenu = []string{"power cut", "power cut", "cut off from replication", "cut off from everything", "synchronous_node_count changed",
		"machine frozen", "slow network", "postmaster killed", "one standby behind, then the leader lost"}
	asyncDoc  = map[string]any{"synchronous_mode": false, "failsafe_mode": false, "ttl": 6, "maximum_lag_on_failover": 1 << 20}
	asyncMenu = []string{"cut off from everything", "cut off from the store", "agent killed", "agent frozen", "postmaster stopped", "switchover",
		"last answer late, agent lost, postmaster stopped", "restart asked for", "agent told to end"}
	revokeMenu   = []string{"slow way to the store", "store slow", "agent and guardian frozen", "agent and guardian frozen", "machine frozen", "agent killed, restarted at once", "cut off from everything", "cut off from replication", "power cut"}
	failsafeDoc  = map[string]any{"failsafe_mode": true, "synchronous_mode": false, "maximum_lag_on_failover": 1 << 20}
	failsafeMenu = []string{"cut off from everything", "cut off from the store", "answers of the store do not arrive", "store down", "one way cut", "agent frozen"}
)

// noHold does not hold.
type noHold struct{ node.Database }

func (noHold) Hold(context.Context) error { return nil }

// shortMemory forgets promises with the process.
type shortMemory struct{}

func (shortMemory) Load() (int64, error) { return 0, nil }
func (shortMemory) Save(int64) error     { return nil }

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

// without leaves out the condition on one key.
type without struct {
	dcs.Store
	key string
}

func (s without) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
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

// forgetful reads locks that name no timeline.
type forgetful struct{ dcs.Store }

func (s forgetful) Load(ctx context.Context) (dcs.Snapshot, error) {
	snap, err := s.Store.Load(ctx)
	return rewrite(snap, dcs.KeyLock, func(b []byte) []byte {
		l, perr := cluster.ParseLock(b)
		if perr != nil || l.Ready {
			return b
		}
		l.Timeline = 0
		b, _ = json.Marshal(l)
		return b
	}), err
}

// alone reads synchronous states that ask for no confirmation, as long as it does not lead.
type alone struct {
	dcs.Store
	m *machine
}

func (s alone) Load(ctx context.Context) (dcs.Snapshot, error) {
	snap, err := s.Store.Load(ctx)
	if s.m.agent == nil || s.m.agent.lead == nil {
		return snap, err
	}
	if _, held := s.m.agent.lead.Held(); held {
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
