package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
)

// Config is what a node is made of.
type Config struct {
	Name, Scope string
	Tags        cluster.Tags
	Member      cluster.Member // the fixed part of the member key: addresses, version of hathi
	Instance    func() string  // identity of the data directory; "" while there is none
	CanClone    bool
	// BootstrapDoc is the dynamic configuration that a new cluster begins with.
	BootstrapDoc map[string]any

	Store  dcs.Store
	DB     Database
	Guard  Guardian
	Peers  Peers
	Jobs   Jobs
	Feed   *Feed
	Lead   *Leadership
	Now    func() time.Duration // CLOCK_BOOTTIME
	Wall   func() time.Time     // for people, and for schedules that people gave
	Log    *slog.Logger
	Record Journal
	// Promises keeps revocation promises; nil where none are made.
	Promises Promises
	// OneRead makes each tick read the store itself instead of relying on a watch (the simulator).
	OneRead bool
}

// Node is one member.
type Node struct {
	c       Config
	started time.Duration

	mem      ha.Memory
	peers    ha.Peers
	lastRule struct {
		text string
		at   time.Duration
	}
	lastErr    string
	configured string // what was configured last
	member     struct {
		still   cluster.Member // as it was written last, but for its position
		written bool           // under the present lease
		at      time.Duration
		lease   dcs.LeaseID
		kept    time.Duration
	}
	slotsAt  time.Duration
	slotSeen map[string]time.Duration

	reqMu   sync.Mutex
	tags    cluster.Tags
	request ha.Request
	answers map[string]chan Outcome
	promise time.Duration // until when this node takes no lock
	// promisedEpoch is the highest epoch that a promise was for; 0: none said.
	promisedEpoch uint64
	taking        bool // a take-over is under way

	listed failsafeWrites

	follow  sync.Mutex // held while what PostgreSQL streams from is changed; guards revoked
	revoked int64      // the revision of the lock at which nothing is received from its holder
	held    bool       // and that is so, not only promised
	told    bool       // and somebody may count on it: another member, or a take-over of this node's

	probeMu  sync.Mutex
	probed   hold // what answered is about
	answered time.Duration

	reconfigure atomic.Bool // the configuration file was read again

	behind atomic.Int64 // bytes that former leaders had published and this node did not have when it took over

	wake chan struct{}
	pub  publication
}

// Outcome is the answer to an operator's request of this very node.
type Outcome struct {
	Text string
	Done bool
}

// New makes a node. It does nothing until Tick or Run.
func New(c Config) *Node {
	n := &Node{c: c, started: c.Now(), wake: make(chan struct{}, 1), answers: map[string]chan Outcome{}, slotSeen: map[string]time.Duration{}}
	n.tags = c.Tags
	if c.Promises != nil {
		rev, err := c.Promises.Load()
		if err != nil {
			c.Log.Warn("an earlier promise cannot be read", "err", err)
		}
		n.revoked = rev
	}
	n.pub.init()
	return n
}

// maxRounds bounds the decisions of one tick.
const maxRounds = 12

// Tick observes, decides and performs until a decision is content to wait, and publishes the result.
func (n *Node) Tick(ctx context.Context) ha.Decision {
	var d ha.Decision
	var o ha.Observation
	for round := range maxRounds {
		o = n.observe(ctx)
		d = ha.Decide(o)
		n.mem = d.Memory
		if d.Vouch > 0 {
			n.c.Lead.Vouch(n.c.Now() + d.Vouch)
		} else {
			n.c.Lead.Unvouch()
		}
		err := n.perform(ctx, o, d)
		n.note(o, d, err)
		if err != nil {
			d.Wait = max(d.Wait, 50*time.Millisecond)
			break
		}
		if d.Wait > 0 || d.State == ha.StateStopped && len(d.Effects) == 0 {
			break
		}
		if round == maxRounds-1 {
			d.Wait = 50 * time.Millisecond
		}
	}
	n.keepHouse(ctx, o, d)
	n.publish(ctx, o, d)
	return d
}

// observe gathers what is known now.
func (n *Node) observe(ctx context.Context) ha.Observation {
	if n.c.OneRead || !n.c.Feed.Get().Reachable {
		rctx, cancel := within(ctx, time.Second)
		_ = n.c.Feed.Refresh(rctx) // shows in Reachable
		cancel()
	}
	store := n.c.Feed.Get()
	store.View.Failover = n.due(store.View.Failover)
	job := n.c.Jobs.Poll()
	db := n.c.DB.Observe(ctx)
	n.settleRule(&db)
	o := ha.Observation{
		Now:   n.c.Now(),
		Self:  ha.Self{Name: n.c.Name, Instance: n.c.Instance(), Tags: n.Tags(), Started: n.started, CanClone: n.c.CanClone},
		Store: store,
		DB:    db,
		Peers: n.peers,
		Job:   job,
	}
	o.Lease = n.c.Lead.Lease(store.View)
	o.Memory = n.mem
	o.Store.LeaderAnsweredAt = n.leaderAnswered(store.View)
	n.follow.Lock()
	if n.held {
		o.Store.RevokedRev = n.revoked
	}
	n.follow.Unlock()
	n.reqMu.Lock()
	o.Request = n.request
	o.Store.PromisedUntil = n.promisedUntil(store.View)
	n.reqMu.Unlock()
	return o
}

// due hides a fail-over request until its time has come.
func (n *Node) due(f *cluster.FailoverRequest) *cluster.FailoverRequest {
	if f == nil || f.ScheduledAt == "" {
		return f
	}
	at, err := cluster.ParseSchedule(f.ScheduledAt)
	if err != nil || n.c.Wall().Before(at) {
		return nil
	}
	return f
}

// ruleGrace is how long a changed synchronous_standby_names must have been seen before every
// walsender counts as having loaded it.
const ruleGrace = 100 * time.Millisecond

// settleRule holds a changed rule back until it surely is in force everywhere.
func (n *Node) settleRule(db *ha.Database) {
	if !db.RuleKnown {
		return
	}
	text := db.Rule.String()
	if n.lastRule.text != text || n.lastRule.at == 0 {
		n.lastRule.text, n.lastRule.at = text, n.c.Now()
	}
	if n.c.Now()-n.lastRule.at < ruleGrace {
		db.RuleKnown = false
	}
}

// note tells the log and the journal what changed.
func (n *Node) note(o ha.Observation, d ha.Decision, err error) {
	effects := make([]string, 0, len(d.Effects))
	for _, e := range d.Effects {
		effects = append(effects, e.String())
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	changed := d.State != o.Memory.State
	if !changed && len(effects) == 0 && text == n.lastErr {
		return
	}
	if onlyAsks(d.Effects) && !changed && text == n.lastErr {
		return
	}
	n.lastErr = text
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
	}
	n.c.Log.Log(context.Background(), level, d.Why, "state", string(d.State), "effects", effects, "epoch", o.Lease.Epoch, "err", text)
	if n.c.Record != nil {
		n.c.Record.Record(Entry{Epoch: max(o.Lease.Epoch, o.Store.View.Lock.Epoch), State: d.State, Why: d.Why, Effects: effects, Facts: facts(o), Err: text})
	}
}

func onlyAsks(effects []ha.Effect) bool {
	for _, e := range effects {
		if _, ok := e.(ha.AskPeers); !ok {
			return false
		}
	}
	return true
}

// facts are the figures a decision rested on, for hathi why.
func facts(o ha.Observation) map[string]any {
	f := map[string]any{
		"postgresql": o.DB.Phase.String(), "primary": o.DB.Primary, "timeline": o.DB.Timeline, "lsn": o.DB.LSN.String(),
		"lock_node": o.Store.View.Lock.Node, "lock_epoch": o.Store.View.Lock.Epoch, "lock_timeline": o.Store.View.Lock.Timeline,
		"lock_unchanged_ms": (o.Now - o.Store.LockSeenAt).Milliseconds(), "store_reachable": o.Store.Reachable,
		"holds_lock": o.Lease.Held,
	}
	if !o.Store.View.Sync.Empty() {
		f["sync"] = fmt.Sprintf("leader=%s standbys=%v quorum=%d", o.Store.View.Sync.Leader, o.Store.View.Sync.Standbys, o.Store.View.Sync.Quorum)
	}
	if o.Peers.AskedAt != 0 && o.Now-o.Peers.AskedAt < 5*time.Second {
		for _, name := range slices.Sorted(maps.Keys(o.Peers.Answers)) {
			a := o.Peers.Answers[name]
			f["peer_"+name] = fmt.Sprintf("timeline=%d lsn=%s in_recovery=%t eligible=%t %s", a.Timeline, a.LSN, a.InRecovery, a.Eligible, a.Why)
		}
	}
	return f
}

// errRefused marks an effect that the node refused to perform because it would break a promise.
var errRefused = errors.New("refused")

// perform carries the effects out in order.
func (n *Node) perform(ctx context.Context, o ha.Observation, d ha.Decision) error {
	for _, e := range d.Effects {
		if err := n.effect(ctx, o, e); err != nil {
			return err // it says itself what was attempted
		}
	}
	return nil
}

// Bounds of the jobs.
const (
	boundBootstrap  = 24 * time.Hour // custom bootstraps restore backups
	boundClone      = 7 * 24 * time.Hour
	boundRewind     = 6 * time.Hour
	boundPromote    = 60 * time.Second
	boundCheckpoint = 2 * time.Minute
	boundQuick      = 10 * time.Second
)

func (n *Node) effect(ctx context.Context, o ha.Observation, e ha.Effect) error {
	quick, cancel := within(ctx, boundQuick)
	defer cancel()
	view := o.Store.View
	// Before the first leader has recorded its configuration, that of the bootstrap counts: a lock
	// taken for Patroni's 30 s would keep everybody waiting that long until its fence has moved on.
	settings := n.bootstrapSettings(view)
	switch e := e.(type) {
	case ha.AskPeers:
		at := n.c.Now()
		members, unhurried := view.Members, []string{}
		if leader := view.Lock.Node; leader != "" {
			unhurried = append(unhurried, leader)
			if answered := n.leaderAnswered(view); answered != 0 && at-answered >= muteFor {
				// Probes have told already that it does not answer; the take-over need not wait for it again.
				members = maps.Clone(members)
				delete(members, leader)
			}
		}
		n.peers = ha.Peers{Answers: n.c.Peers.Ask(quick, members, n.c.Name, unhurried), AskedAt: at}
		return nil
	case ha.TakeLock:
		if err := n.memberLease(quick, settings.TTL); err != nil {
			return err
		}
		taken, err := n.mayTake()
		if err != nil {
			return err
		}
		defer taken()
		n.tell()
		err = n.c.Lead.Take(quick, e, view.InitializeRev, view.Status, settings.TTL, n.member.lease)
		n.refresh(quick)
		if err == nil && e.Behind > 0 {
			n.behind.Add(e.Behind)
			n.c.Log.Warn("the former leader had published WAL that is not here", "bytes", e.Behind, "epoch", e.Epoch, "acknowledged_may_be_lost", view.Sync.Empty())
		}
		return err
	case ha.ResumeLock:
		return n.c.Lead.Resume(quick, view)
	case ha.ReleaseLock:
		if db := n.c.DB.Observe(quick); db.Writable() {
			return fmt.Errorf("%w: PostgreSQL still accepts writes", errRefused)
		}
		err := n.c.Lead.Release(quick, e, view.InitializeRev)
		n.refresh(quick)
		return err
	case ha.Claim:
		value, err := json.Marshal(e.Sync)
		if err != nil {
			return err
		}
		var ops []dcs.Op
		if !e.Sync.Equal(view.Sync) {
			ops = append(ops, dcs.Op{Key: dcs.KeySync, Value: value})
		}
		err = n.c.Lead.Write(quick, func(l *cluster.Lock) { l.Timeline, l.Ready, l.Successor = e.Timeline, false, "" },
			[]dcs.Cond{{Key: dcs.KeySync, ModRev: view.SyncRev}}, ops...)
		n.refresh(quick)
		return err
	case ha.MarkReady:
		return n.markReady(quick, o, e)
	case ha.RecordCluster:
		return n.recordCluster(quick, o, e)
	case ha.PauseLock:
		err := n.c.Lead.Pause(quick, e.Paused)
		n.refresh(quick)
		return err
	case ha.WriteSync:
		value, err := json.Marshal(e.Sync)
		if err != nil {
			return err
		}
		err = n.c.Lead.Write(quick, nil, []dcs.Cond{{Key: dcs.KeySync, ModRev: e.Rev}}, dcs.Op{Key: dcs.KeySync, Value: value})
		n.refresh(quick)
		return err
	case ha.DropRequest:
		return n.dropRequest(quick, o, e)
	case ha.Answer:
		n.answer(e)
		return nil
	case ha.SetRule:
		return n.c.DB.SetRule(quick, e.Rule)
	case ha.Revoke:
		return n.revoke(quick, o, e)
	case ha.Follow:
		n.follow.Lock()
		defer n.follow.Unlock()
		if err := n.mayReceive(view, e.Upstream); err != nil {
			return err
		}
		n.held = n.held && e.Upstream == ""
		return n.c.DB.Follow(quick, n.upstream(view, e.Upstream))
	case ha.Start:
		if _, held := n.c.Lead.Held(); e.Primary && !held {
			return fmt.Errorf("%w: no primary without the lock", errRefused)
		}
		rule := startRule(o, e.Primary)
		n.follow.Lock()
		defer n.follow.Unlock()
		if err := n.mayReceive(view, e.Upstream); err != nil {
			return err
		}
		n.held = n.held && e.Upstream == ""
		return n.c.DB.Start(quick, StartSpec{Primary: e.Primary, Upstream: n.upstream(view, e.Upstream), Settings: settings, Members: view.Members, Rule: rule})
	case ha.Kill:
		n.c.Jobs.Cancel("PostgreSQL is being killed: " + e.Why)
		return n.c.DB.Kill(quick, e.Why)
	case ha.SetAside:
		return n.c.DB.SetAside(quick, e.Reason)
	case ha.CancelJob:
		n.c.Jobs.Cancel(e.Why)
		return nil
	}
	return n.startJob(o, e)
}

func (n *Node) startJob(o ha.Observation, e ha.Effect) error {
	view := o.Store.View
	var kind ha.JobKind
	var bound time.Duration
	var work func(context.Context) error
	switch e := e.(type) {
	case ha.Bootstrap:
		settings := n.bootstrapSettings(view)
		kind, bound, work = ha.JobBootstrap, boundBootstrap, func(ctx context.Context) error { return n.c.DB.Bootstrap(ctx, settings) }
	case ha.Clone:
		from := n.upstream(view, e.From)
		kind, bound, work = ha.JobClone, boundClone, func(ctx context.Context) error { return n.c.DB.Clone(ctx, from) }
	case ha.Rewind:
		from := n.upstream(view, e.From)
		tl := view.Lock.Timeline
		kind, bound, work = ha.JobRewind, boundRewind, func(ctx context.Context) error { return n.c.DB.Rewind(ctx, from, tl) }
	case ha.Stop:
		bound = view.Config.PrimaryStopTimeout
		if bound == 0 {
			bound = time.Minute
		}
		kind, work = ha.JobStop, func(ctx context.Context) error { return n.c.DB.Stop(ctx, e.Immediate) }
	case ha.Promote:
		if _, held := n.c.Lead.Held(); !held {
			return fmt.Errorf("%w: no promotion without the lock", errRefused)
		}
		kind, bound, work = ha.JobPromote, boundPromote, func(ctx context.Context) error { return n.c.DB.Promote(ctx, e.Timeline) }
	case ha.Checkpoint:
		kind, bound, work = ha.JobCheckpoint, boundCheckpoint, n.c.DB.Checkpoint
	default:
		return fmt.Errorf("%w: unknown effect %T", errRefused, e)
	}
	if !n.c.Jobs.Start(kind, bound, work) {
		return fmt.Errorf("%w: another job is running", errRefused)
	}
	return nil
}

// refresh brings the view up to our own writes at once, rather than with the watch.
func (n *Node) refresh(ctx context.Context) {
	rctx, cancel := within(ctx, time.Second)
	defer cancel()
	_ = n.c.Feed.Refresh(rctx) // a failure shows in Reachable
}

// memberLease sees to the etcd lease on which the keys for people's tools hang.
func (n *Node) memberLease(ctx context.Context, ttl time.Duration) error {
	now := n.c.Now()
	if n.member.lease != 0 && now-n.member.kept < ttl/2 {
		return nil
	}
	if n.member.lease != 0 {
		err := n.c.Store.KeepAlive(ctx, n.member.lease)
		if err == nil {
			n.member.kept = now
			return nil
		}
		if !errors.Is(err, dcs.ErrLeaseGone) {
			return err
		}
	}
	id, err := n.c.Store.Grant(ctx, max(ttl, lease.MinTTL))
	if err != nil {
		return err
	}
	n.member.lease, n.member.kept, n.member.written = id, now, false
	return nil
}

// upstream resolves a member to its address.
func (n *Node) upstream(v cluster.View, name string) Upstream {
	m, ok := v.Member(name)
	if name == "" || !ok {
		return Upstream{}
	}
	host, port, err := m.HostPort()
	if err != nil {
		return Upstream{}
	}
	return Upstream{Name: name, Host: host, Port: port}
}

// bootstrapSettings are the cluster's settings, or those that it will begin with.
func (n *Node) bootstrapSettings(v cluster.View) cluster.Settings {
	if v.ConfigRev != 0 {
		return v.Config.Settings
	}
	d, _ := cluster.DynamicFrom(n.c.BootstrapDoc)
	return d.Settings
}
