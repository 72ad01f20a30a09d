package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/node"
)

// maxDrift is how much faster or slower than the world a clock may run. Two of them then differ by
// less than lease allows for.
const maxDrift = 0.0049

// maxMachines bounds a cluster, later members included.
const maxMachines = 6

// machine is one computer with its clock, disk and processes.
type machine struct {
	w     *world
	index int
	name  string
	poses string // the name that its configuration gives it by mistake; "": its own
	tags  cluster.Tags

	on     bool // powered
	gone   bool // left for good
	frozen bool // the whole machine stands still
	boots  int

	// The boot clock reads offset + rate * (now - bootedAt).
	bootedAt time.Duration
	offset   time.Duration
	rate     float64

	agent       *agent
	agentFrozen bool
	guard       *guardian
	pg          *postgres

	storeCut    bool    // no way to the store
	storeMute   bool    // requests arrive, answers do not
	loseReplies float64 // chance that an answer gets lost
	slowStore   time.Duration
	slowBack    time.Duration // answers come that much later
	slowDisk    float64       // 1: normal; work takes that many times longer

	promise        int64         // on disk: the revision of the lock at which nothing is received
	promised       func()        // what happens after the next promise
	asked          bool          // an operator asked this machine for a restart, a copy, a stop
	epoch          uint64        // the latest epoch that this machine's agent held
	confirmedUntil time.Duration // by the machine's clock
	lastTrip       time.Duration // of the last write under the lock, for mutations
	promiseTrip    time.Duration // of a member's promise, for mutations
	deferred       []func()      // what PostgreSQL would have done while it stood still
}

func (w *world) addMachine() *machine {
	i := len(w.machines)
	m := &machine{w: w, index: i, name: fmt.Sprintf("pg%d", i+1), slowDisk: 1}
	m.guard = &guardian{m: m}
	m.pg = &postgres{m: m}
	w.machines = append(w.machines, m)
	return m
}

// clock is CLOCK_BOOTTIME.
func (m *machine) clock() time.Duration {
	return m.offset + time.Duration(float64(m.w.now-m.bootedAt)*m.rate)
}

// global is how long d by this machine's clock takes in the world.
func (m *machine) global(d time.Duration) time.Duration {
	return time.Duration(float64(d)/m.rate) + 1
}

// local is an instant of the world by this machine's clock.
func (m *machine) local(at time.Duration) time.Duration {
	return m.offset + time.Duration(float64(at-m.bootedAt)*m.rate)
}

func (m *machine) storeReachable() bool { return m.on && !m.storeCut && !m.w.storeDown }
func (m *machine) answersReach() bool   { return m.storeReachable() && !m.storeMute }

// boot powers the machine on.
func (m *machine) boot() {
	m.on, m.frozen = true, false
	m.boots++
	m.bootedAt = m.w.now
	m.offset = m.w.between(time.Second, 500*time.Hour)
	m.rate = 1 + (m.w.rng.Float64()*2-1)*maxDrift
	if x := m.w.opt.Mutation; x != nil && x.drift {
		m.rate = 1 + pick(m.w, -maxDrift, maxDrift)
	}
	m.guard.reset()
	m.pg.boot()
	m.deferred = nil
	m.guard.start()
	m.startAgent()
}

// powerOff ends everything at once. Disks survive.
func (m *machine) powerOff() {
	m.stopAgent()
	m.guard.kill()
	m.guard.reset()
	m.pg.die("power cut", false)
	m.on, m.frozen, m.agentFrozen = false, false, false
	m.deferred = nil
}

func (m *machine) freeze() {
	m.frozen = true
	m.guard.touch()
}

func (m *machine) thaw() {
	if !m.frozen {
		return
	}
	m.frozen = false
	m.resumePG()
	if m.agent != nil && !m.agentFrozen {
		m.agent.life.thaw()
	}
	m.guard.touch()
}

func (m *machine) freezeAgent() { m.agentFrozen = true }
func (m *machine) thawAgent() {
	m.agentFrozen = false
	if m.agent != nil && !m.frozen {
		m.agent.life.thaw()
	}
}

// agent is one life of `hathi run`.
type agent struct {
	m     *machine
	name  string
	life  life
	node  *node.Node
	lead  *node.Leadership
	feed  *node.Feed
	jobs  *jobs
	main  *proc
	watch *proc
	ctx   context.Context
}

func (m *machine) startAgent() {
	if m.agent != nil || !m.on || m.gone {
		return
	}
	w := m.w
	a := &agent{m: m, name: cmp.Or(m.poses, m.name)}
	a.life.frozen = func() bool { return m.frozen || m.agentFrozen }
	m.agent = a
	m.agentFrozen = false
	ctx := node.WithVirtual(context.Background(), virtual{m})
	a.ctx = ctx
	client := w.store.Client(m.name)
	tick := &storeLink{m: m, client: client, what: "tick"}
	keep := &storeLink{m: m, client: client, what: "lease"}
	mut := w.opt.Mutation
	a.feed = node.NewFeed(mut.feedStore(m, tick), mut.feedClock(m, m.clock), w.log)
	if mut == nil || mut.wrapFeed == nil {
		a.feed.DecodeWith(w.decode)
	}
	a.lead = node.NewLeadership(mut.leadStore(m, keep), mut.guard(m, m.guard), m.clock, a.name, mut.instance(m))
	a.jobs = &jobs{a: a}
	a.node = node.New(node.Config{
		Name: a.name, Scope: "sim", Tags: m.tags,
		Member:       cluster.Member{APIURL: "http://" + m.name + ":8008/patroni", ConnURL: "postgres://" + m.name + ":5432/postgres", Version: "sim"},
		Instance:     mut.instance(m),
		CanClone:     true,
		BootstrapDoc: w.opt.doc,
		Store:        tick, DB: mut.database(m, database{m}), Guard: mut.guard(m, m.guard), Peers: mut.peers(m, peers{m}), Jobs: a.jobs,
		Feed: a.feed, Lead: a.lead, Now: m.clock, Wall: w.wall, Log: w.log, OneRead: true, Record: journal{m}, Promises: mut.promises(m, promises{m}),
	})
	w.tracef(m, "agent started")
	a.main = w.spawn(&a.life, a.run)
	a.watch = w.spawn(&a.life, a.follow)
	w.spawn(&a.life, a.keep)
	w.spawn(&a.life, a.keepFailsafe)
	w.spawn(&a.life, a.probe)
	w.after(w.between(10*time.Millisecond, 300*time.Millisecond), func() {
		if m.agent == a {
			m.guard.start()
		}
	})
}

func (w *world) wall() time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(w.now)
}

func (m *machine) instance() string {
	if m.pg.dir == nil {
		return ""
	}
	return m.pg.dir.instance
}

// run is node.Run on virtual time.
func (a *agent) run(p *proc) {
	for {
		d := a.node.Tick(a.ctx)
		if d.State == ha.StateStopped {
			break
		}
		a.note()
		a.stall(p)
		p.idle(a.m.global(max(d.Wait, 5*time.Millisecond)))
	}
	a.m.w.tracef(a.m, "agent ends as told")
	a.m.w.after(0, func() {
		if a.m.agent == a {
			a.m.stopAgent()
			a.m.w.after(a.m.w.between(time.Second, 10*time.Second), a.m.startAgent)
		}
	})
}

// follow is the watch of the store, as far as renewals of the lock go: each is seen at once.
func (a *agent) follow(p *proc) {
	for {
		p.idle(time.Hour)
		ctx, _ := virtual{a.m}.Timeout(a.ctx, time.Second)
		_ = a.feed.Refresh(ctx)
	}
}

// stall is a pause that the operating system imposes now and then.
func (a *agent) stall(p *proc) {
	if a.m.w.faults && a.m.w.chance(0.002) {
		p.sleep(a.m.w.between(0, 2*time.Second))
	}
}

// note keeps what the world wants to know about the lease when the agent is gone.
func (a *agent) note() {
	m := a.m
	if until, held := a.lead.Held(); held {
		m.confirmedUntil = until
		m.epoch = max(m.epoch, a.lead.Lock().Epoch)
	} else {
		m.confirmedUntil = 0
	}
}

func (a *agent) every() time.Duration {
	ttl := a.lead.TTL()
	if ttl == 0 {
		ttl = lease.MinTTL
	}
	return a.m.global(lease.RenewEvery(ttl))
}

// keep is node.Keep.
func (a *agent) keep(p *proc) {
	for {
		p.sleep(a.every())
		if err := a.lead.Renew(a.ctx); err != nil {
			if _, held := a.lead.Held(); !held {
				a.main.wake(0)
			}
		}
		a.stall(p)
	}
}

// keepFailsafe is node.KeepFailsafeLoop.
func (a *agent) keepFailsafe(p *proc) {
	for {
		p.sleep(a.every())
		a.node.KeepFailsafe(a.ctx)
	}
}

// probe is node.ProbeLoop.
func (a *agent) probe(p *proc) {
	for {
		p.sleep(a.m.global(node.ProbeEvery))
		a.node.ProbeLeader(a.ctx)
	}
}

// promises is the file of revocation promises.
type promises struct{ m *machine }

// Load implements node.Promises.
func (p promises) Load() (int64, error) { return p.m.promise, nil }

// Save implements node.Promises.
func (p promises) Save(rev int64) error {
	p.m.promise = rev
	if do := p.m.promised; do != nil {
		p.m.promised = nil
		do()
	}
	return nil
}

func (m *machine) stopAgent() {
	a := m.agent
	if a == nil {
		return
	}
	a.note()
	m.agent = nil
	m.agentFrozen = false
	a.life.killAll()
}

// confirmed says whether a router may still count this machine as the primary: its agent's word,
// within the lease, by the machine's own clock.
func (m *machine) confirmed() bool {
	if m.agent != nil {
		m.agent.note()
	}
	return m.confirmedUntil > m.clock()
}

// journal writes decisions into the trace.
type journal struct{ m *machine }

// Record implements node.Journal.
func (j journal) Record(e node.Entry) {
	w := j.m.w
	if !w.trace.on() {
		return
	}
	text := fmt.Sprintf("[%s] %s", e.State, e.Why)
	if len(e.Effects) > 0 {
		text += " => " + strings.Join(e.Effects, "; ")
	}
	if e.Err != "" {
		text += " !! " + e.Err
	}
	w.tracef(j.m, "%s", text)
}

// jobs runs work in coroutines.
type jobs struct {
	a    *agent
	job  ha.Job
	proc *proc
}

var _ node.Jobs = (*jobs)(nil)

// Start implements node.Jobs.
func (j *jobs) Start(kind ha.JobKind, bound time.Duration, work func(context.Context) error) bool {
	if j.job.Running() {
		return false
	}
	m := j.a.m
	j.job = ha.Job{Kind: kind, Began: m.clock()}
	ctx, _ := virtual{m}.Timeout(j.a.ctx, bound)
	j.proc = m.w.spawn(&j.a.life, func(p *proc) {
		err := work(ctx)
		if j.proc != p {
			return
		}
		j.job.Done = true
		if err != nil {
			j.job.Failure = err.Error()
			m.w.tracef(m, "job %s failed: %v", kind, err)
		}
		j.a.main.wake(0)
	})
	return true
}

// Poll implements node.Jobs.
func (j *jobs) Poll() ha.Job {
	out := j.job
	if out.Done {
		j.job = ha.Job{}
	}
	return out
}

// Cancel implements node.Jobs.
func (j *jobs) Cancel(string) {
	if !j.job.Running() {
		return
	}
	p := j.proc
	j.proc, j.job = nil, ha.Job{}
	p.kill()
}

// Done implements node.Jobs.
func (j *jobs) Done() <-chan struct{} { return nil }

// peers asks other machines over the network.
type peers struct{ m *machine }

var _ node.Peers = peers{}

// askWithin bounds a round of probes, as in the daemon.
const askWithin = ha.AskWithin

// Ask implements node.Peers.
func (s peers) Ask(ctx context.Context, members map[string]cluster.Member, self string, unhurried []string) map[string]cluster.PeerStatus {
	m, w := s.m, s.m.w
	p := w.cur
	out := map[string]cluster.PeerStatus{}
	open, hurried := 0, 0
	p.token++
	t := p.token
	end := min(w.now+askWithin, deadlineOf(ctx, w))
	done := false
	for _, to := range w.machines {
		if _, ok := members[to.name]; !ok || to == m {
			continue
		}
		late := false
		for _, n := range unhurried {
			late = late || n == to.name
		}
		open++
		if !late {
			hurried++
		}
		w.after(w.hop(), func() {
			if !w.passes(planePeers, m, to) || to.agent == nil || to.agent.life.frozen() || to.pg.hung != hungNot {
				return
			}
			answer := to.agent.node.Peer(context.Background())
			w.after(w.hop(), func() {
				if done || !w.passes(planePeers, to, m) {
					return
				}
				out[to.name] = answer
				open--
				if !late {
					hurried--
				}
				if open == 0 || hurried == 0 {
					p.resume(t)
				}
			})
		})
	}
	if open == 0 {
		return out
	}
	w.after(end-w.now, func() { p.resume(t) })
	for w.now < end && open > 0 && (hurried > 0 || len(out) == 0) {
		p.park()
	}
	done = true
	return out
}

// Alive implements node.Peers.
func (s peers) Alive(ctx context.Context, member cluster.Member) bool {
	m, w := s.m, s.m.w
	p := w.cur
	to := w.machine(member.Name)
	p.token++
	t := p.token
	end := deadlineOf(ctx, w)
	answered := false
	silence := func() {
		if end < forever {
			w.after(end-w.now, func() { p.resume(t) })
		}
	}
	there, back := w.hop(), w.hop()
	if w.now+there+back >= end {
		silence() // an answer would come too late
	}
	w.after(there, func() {
		if to == nil || !w.passes(planePeers, m, to) || to.frozen {
			silence()
			return
		}
		agent := to.agent != nil && !to.agent.life.frozen()
		server := to.pg.phase == phaseUp && to.pg.hung == hungNot
		if !agent && !server {
			silence()
			return
		}
		w.after(back, func() {
			if !w.passes(planePeers, to, m) {
				silence()
				return
			}
			answered = answered || w.now < end
			p.resume(t)
		})
	})
	for !answered && w.now < end {
		p.park()
	}
	return answered
}

// Revoke implements node.Peers.
func (s peers) Revoke(ctx context.Context, members map[string]cluster.Member, self, holder string, r node.Revocation) map[string]cluster.PeerStatus {
	m, w := s.m, s.m.w
	p := w.cur
	out := map[string]cluster.PeerStatus{}
	open := 0
	p.token++
	t := p.token
	end := min(w.now+askWithin, deadlineOf(ctx, w))
	done := false
	for _, to := range w.machines {
		if _, ok := members[to.name]; !ok || to == m || to.name == holder {
			continue
		}
		open++
		w.after(w.hop(), func() {
			if !w.passes(planePeers, m, to) || to.agent == nil || to.agent.life.frozen() {
				return
			}
			a := to.agent
			w.twice(func() {
				if to.agent == a && w.passes(planePeers, m, to) {
					w.spawn(&a.life, func(*proc) { _, _ = a.node.Revoke(a.ctx, r) })
				}
			})
			w.spawn(&a.life, func(*proc) {
				answer, err := a.node.Revoke(a.ctx, r)
				if err != nil {
					w.tracef(to, "asked by %s to stop receiving: %v", m.name, err)
				}
				w.after(w.hop(), func() {
					if done || !w.passes(planePeers, to, m) {
						return
					}
					if err == nil {
						out[to.name] = answer
					}
					if open--; open == 0 {
						p.resume(t)
					}
				})
			})
		})
	}
	if open == 0 {
		return out
	}
	w.after(end-w.now, func() { p.resume(t) })
	for w.now < end && open > 0 {
		p.park()
	}
	done = true
	return out
}

var errNoRoute = errors.New("no route to host")

// Failsafe implements node.Peers.
func (s peers) Failsafe(ctx context.Context, url string, pr node.Promise) (bool, error) {
	m, w := s.m, s.m.w
	p := w.cur
	name := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), ":8008/patroni")
	to := w.machine(name)
	if to == nil {
		p.sleep(time.Millisecond)
		return false, errNoRoute
	}
	p.token++
	t := p.token
	end := deadlineOf(ctx, w)
	answered, ok := false, false
	w.after(w.hop(), func() {
		if !w.passes(planePeers, m, to) || to.agent == nil || to.agent.life.frozen() {
			return
		}
		w.twice(func() {
			if to.agent != nil && w.passes(planePeers, m, to) {
				to.agent.node.Promise(pr)
			}
		})
		yes, why := to.agent.node.Promise(pr)
		w.tracef(to, "failsafe asked by %s in epoch %d: %t %s", pr.Name, pr.Epoch, yes, why)
		w.after(w.hop(), func() {
			if w.passes(planePeers, to, m) {
				answered, ok = true, yes
				p.resume(t)
			}
		})
	})
	if end < forever {
		w.after(end-w.now, func() { p.resume(t) })
	}
	for !answered && w.now < end {
		p.park()
	}
	if !answered {
		return false, errTimeout
	}
	return ok, nil
}
