package sim

import (
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/node"
)

// Surroundings in which a rule matters.
var (
	quorumDoc = map[string]any{"synchronous_mode": "quorum", "synchronous_mode_strict": false, "synchronous_node_count": 1, "failsafe_mode": false,
		"primary_start_timeout": 60}
	asyncDoc    = map[string]any{"synchronous_mode": false, "failsafe_mode": false, "ttl": 6, "maximum_lag_on_failover": 1 << 20}
	shortDoc    = map[string]any{"synchronous_mode": false, "failsafe_mode": false, "ttl": 3, "maximum_lag_on_failover": 1 << 20}
	longDoc     = map[string]any{"synchronous_mode": false, "failsafe_mode": false, "ttl": 120, "maximum_lag_on_failover": 1 << 20}
	exactDoc    = map[string]any{"synchronous_mode": false, "failsafe_mode": false, "maximum_lag_on_failover": 0, "primary_start_timeout": 0}
	failsafeDoc = map[string]any{"failsafe_mode": true, "synchronous_mode": false, "maximum_lag_on_failover": 1 << 20}
	cloneDoc    = map[string]any{"synchronous_mode": false, "failsafe_mode": false, "ttl": 3, "maximum_lag_on_failover": 1 << 20, "postgresql": map[string]any{"use_pg_rewind": false, "use_slots": true}}

	quorumMenu = []string{"power cut", "power cut", "cut off from replication", "cut off from everything", "synchronous_node_count changed",
		"machine frozen", "slow network", "postmaster killed", "one standby behind, then the leader lost"}
	asyncMenu = []string{"cut off from everything", "cut off from the store", "agent killed", "agent frozen", "postmaster stopped", "switchover",
		"last answer late, agent lost, postmaster stopped", "restart asked for", "agent told to end"}
	revokeMenu = []string{"slow way to the store", "store slow", "agent and guardian frozen", "agent and guardian frozen", "machine frozen",
		"agent killed, restarted at once", "cut off from everything", "cut off from replication", "power cut"}
	failsafeMenu = []string{"cut off from everything", "cut off from the store", "answers of the store do not arrive", "store down", "one way cut", "agent frozen"}

	inAsync    = surroundings{doc: asyncDoc, menu: asyncMenu, nodes: 3}
	inQuorum   = surroundings{doc: quorumDoc, menu: quorumMenu, nodes: 3}
	inRevoke   = surroundings{doc: quorumDoc, menu: revokeMenu, nodes: 3}
	inMute     = surroundings{doc: quorumDoc, nodes: 3, menu: []string{"the leader mute, who promised restarted, the leader heard again"}}
	inFailsafe = surroundings{doc: failsafeDoc, menu: failsafeMenu, nodes: 3}
	behind     = surroundings{doc: exactDoc, nodes: 2, menu: []string{"one standby behind, then the leader lost", "cut off from replication", "power cut", "switchover", "slow network"}}
)

// Mutations are the safety rules that can be switched off. For each of them the simulator has to
// find a history that breaks a promise: TestMutations. docs/SAFETY.md lists them.
func Mutations() []Mutation {
	list := append(append(append(leaseRules(), lockRules()...), quorumRules()...), dataRules()...)
	by := map[string]*Mutation{}
	for i := range list {
		by[list[i].Name] = &list[i]
	}
	pair := func(name, a, b string, within uint64, breaks ...string) {
		x := both(name, *by[a], *by[b])
		x.Within, x.Breaks = within, breaks
		list = append(list, x)
	}
	pair("take-without-any-cas", "take-without-sync-cas", "take-without-lock-cas", 200, "epoch", "lost", "bound")
	pair("hand-over-and-lead-behind", "hand-over-without-proof", "no-maximum-lag", 400, "bound")
	pair("refused-by-the-impatient", "refusals-ignored", "impatient-observer", 200, "epoch")
	pair("undone-by-a-late-answer", "late-renewal-undoes-fence", "t0-after-answer", 1000, "epoch")
	pair("no-fence-when-deposed", "no-fence-on-loss", "no-fence", 200, "epoch")
	pair("ready-and-blind", "ready-too-early", "no-history-in-elections", 1000, "lost", "bound", "epoch", "corrupt", "stuck")
	pair("no-way-back-and-no-history", "no-way-back", "no-history-in-elections", 1000, "lost", "bound", "epoch", "corrupt", "stuck")
	pair("no-rule-at-start", "promote-without-rule", "start-without-rule", 400, "lost", "epoch")
	return list
}

// leaseRules: the holder is dead before anybody else begins.
func leaseRules() []Mutation {
	return []Mutation{
		{Name: "no-fence", Rule: "a guardian ends PostgreSQL when the lease has not been renewed", Where: "node.Leadership.arm, guardian.due",
			Text: "the guardian never fences: it is armed for a day", Breaks: []string{"epoch"}, Within: 100, surroundings: inAsync,
			wrapGuard: func(_ *machine, g node.Guardian) node.Guardian { return lateGuardian{g, 24 * time.Hour, nil} }},
		{Name: "fence-after-lease", Rule: "the fence begins a margin before L", Where: "lease.FenceAt",
			Text: "it begins a second after L", Breaks: []string{"epoch"}, Within: 200, surroundings: inAsync,
			wrapGuard: func(m *machine, g node.Guardian) node.Guardian {
				return lateGuardian{g, 0, func() time.Duration { return lease.Margin(m.ttl()) + time.Second }}
			}},
		{Name: "slow-ladder", Rule: "the ladder of signals ends before L", Where: "lease.LadderFor",
			Text: "it ends long after L", Breaks: []string{"epoch"}, Within: 200, surroundings: inAsync,
			wrapGuard: func(_ *machine, g node.Guardian) node.Guardian { return slowLadder{g} }},
		{Name: "t0-after-answer", Rule: "t0 is noted before a renewal is sent", Where: "node.Leadership.writeOnce, node.Leadership.Take",
			Text: "a renewal counts from when its answer came", Breaks: []string{"epoch"}, Within: 1000, surroundings: inAsync,
			wrapLead: func(m *machine, s dcs.Store) dcs.Store { return &timedStore{Store: s, m: m} },
			wrapGuard: func(m *machine, g node.Guardian) node.Guardian {
				return lateGuardian{g, 0, func() time.Duration { return m.lastTrip }}
			}},
		{Name: "unknown-is-success", Rule: "an unknown outcome of a renewal is a failure", Where: "node.Leadership.writeOnce",
			Text: "a renewal whose outcome is unknown counts as confirmed", Breaks: []string{"epoch"}, Within: 200, surroundings: inAsync,
			wrapLead: func(m *machine, s dcs.Store) dcs.Store { return hopeful{s} }},
		{Name: "impatient-observer", Rule: "an observer waits for L since it saw the lock change", Where: "ha.decider.expiresAt, lease.TakeoverAfter",
			Text: "it waits half of L", Breaks: []string{"epoch"}, Within: 200, surroundings: inAsync,
			wrapClock: func(m *machine, now func() time.Duration) func() time.Duration {
				return func() time.Duration { return max(now()-m.ttl()/2, 1) }
			}},
		{Name: "restart-is-patience", Rule: "a member that has just started watches the lock for L before it may take it", Where: "node.Feed.take, ha.decider.expiresAt",
			Text: "what it sees first counts as seen for long", Breaks: []string{"epoch", "lost", "stuck"}, Within: 400,
			surroundings: surroundings{doc: quorumDoc, nodes: 3, menu: []string{"cut off from peers", "cut off from peers", "agent killed, restarted at once"}},
			wrapClock: func(_ *machine, now func() time.Duration) func() time.Duration {
				first := 2 // of the contact, and of the lock
				return func() time.Duration {
					if first > 0 {
						first--
						return 1
					}
					return now()
				}
			}},
		{Name: "no-drift-allowance", Rule: "an observer waits for the drift of clocks on top of L", Where: "lease.TakeoverAfter",
			Text: "it waits exactly L by its own clock", Breaks: []string{"epoch"}, Within: 1000,
			surroundings: surroundings{doc: longDoc, nodes: 3, drift: true, lasting: 10 * time.Minute, gap: 150 * time.Second, menu: []string{"agent lost and postmaster stopped for longer than the lease"}},
			wrapClock: func(m *machine, now func() time.Duration) func() time.Duration {
				return func() time.Duration { return max(now()-(lease.TakeoverAfter(m.ttl())-m.ttl()), 1) }
			}},
		{Name: "guardian-optional", Rule: "without a guardian that answers no lock is taken and none renewed", Where: "ha.Decide, ha.decider.candidate, node.Leadership.arm",
			Text: "a guardian counts as alive whatever it does", Breaks: []string{"epoch"}, Within: 400,
			surroundings: surroundings{doc: shortDoc, nodes: 3, menu: []string{"guardian frozen for long, then its machine away"}},
			wrapGuard:    func(_ *machine, g node.Guardian) node.Guardian { return trusted{g} }},
		{Name: "ttl-announced-early", Rule: "a shorter ttl is announced only once the fence in force is within it", Where: "node.Leadership.writeOnce",
			Text: "it is announced as soon as it is configured", Breaks: []string{"epoch"}, Within: 400,
			surroundings: surroundings{doc: asyncDoc, nodes: 3, menu: []string{"the ttl lowered, then the leader without the store"}},
			wrapLead:     func(m *machine, s dcs.Store) dcs.Store { return earlyTTL{s, m} }},
		{Name: "pause-is-silence", Rule: "nobody takes a lock whose fence is down for a pause", Where: "ha.decider.leader, ha.decider.candidate",
			Text: "it is taken like any other that is silent", Breaks: []string{"epoch"}, Within: 400,
			surroundings: surroundings{doc: asyncDoc, nodes: 3, menu: []string{"pause", "pause", "cut off from everything", "cut off from the store", "agent killed"}},
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store {
				return relock{s, m, func(l *cluster.Lock) { l.Paused = false }}
			}},
		{Name: "pause-disarms-first", Rule: "the fence is put down only once the lock says that it is", Where: "node.Leadership.extend",
			Text: "it is put down before that is written", Breaks: []string{"epoch"}, Within: 400,
			surroundings: surroundings{doc: asyncDoc, nodes: 3, menu: []string{"a pause that the store does not learn of"}},
			wrapLead:     func(m *machine, s dcs.Store) dcs.Store { return hastyPause{s, m} }},
		{Name: "late-renewal-undoes-fence", Rule: "a fence that has begun is not undone", Where: "node.Leadership.extend, guardian.due",
			Text: "a renewal that is confirmed after it extends the deadline all the same", Within: 300, surroundings: inAsync,
			Covered:   "a renewal counts from before it was sent, and what was confirmed is in the store",
			wrapGuard: func(m *machine, g node.Guardian) node.Guardian { return forgiving{g, m} }},
		{Name: "resume-late", Rule: "a restarted agent resumes its lock only under the guardian's old deadline", Where: "node.Leadership.Resume",
			Text: "it resumes whatever the guardian's deadline is", Breaks: []string{"epoch"}, Within: 1000, surroundings: inAsync,
			wrapGuard: func(m *machine, g node.Guardian) node.Guardian { return endless{g, m} }},
		{Name: "no-fence-on-loss", Rule: "who learns that the lock was taken begins the fence at once", Where: "node.Leadership.lose",
			Text: "it leaves the deadline as it is", Covered: "a lock is taken after L, or when nothing can be acknowledged, and the guardian's deadline lies before that",
			surroundings: inAsync, Within: 300,
			wrapGuard: func(_ *machine, g node.Guardian) node.Guardian { return unhurried{g} }},
		{Name: "failsafe-without-promises", Rule: "without the store a lease lives on the promises of all members", Where: "node.Node.KeepFailsafe",
			Text: "the holder goes on without asking", Breaks: []string{"epoch"}, Within: 200, surroundings: inFailsafe,
			wrapPeers: func(_ *machine, p node.Peers) node.Peers { return yesPeers{p} }},
		{Name: "failsafe-of-most", Rule: "every member has to promise", Where: "node.Node.KeepFailsafe",
			Text: "one member's promise is not waited for", Breaks: []string{"epoch"}, Within: 400, surroundings: inFailsafe,
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return mostPeers{p, m} }},
		{Name: "refusals-ignored", Rule: "who takes the lock or knows another holder does not promise", Where: "node.Node.Promise",
			Text: "a refusal counts as a promise", Within: 300, surroundings: inFailsafe,
			Covered:   "who takes the lock, or follows who took it, has waited until the former holder's fence, or has the promises that leave it nobody to acknowledge with",
			wrapPeers: func(_ *machine, p node.Peers) node.Peers { return deaf{p} }},
		{Name: "broken-promises", Rule: "who promised takes no lock for as long", Where: "node.Node.Promise, node.Node.mayTake, ha.decider.elect, ha.decider.depose",
			Text: "promises end at once", Breaks: []string{"epoch"}, Within: 200, surroundings: inFailsafe,
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return perjured{p, m} }},
		{Name: "promises-counted-late", Rule: "promises count from before they were asked for", Where: "node.Node.KeepFailsafe",
			Text: "they count from when the last one came", Breaks: []string{"epoch"}, Within: 1000,
			surroundings: surroundings{doc: failsafeDoc, nodes: 3, menu: []string{"the last promise late, agent lost, postmaster stopped"}},
			wrapPeers:    func(m *machine, p node.Peers) node.Peers { return timedPeers{p, m} },
			wrapGuard:    func(m *machine, g node.Guardian) node.Guardian { return latePromises{g, m} }},
		{Name: "outsiders-lead", Rule: "who is not in /failsafe does not lead while there is such a list", Where: "ha.decider.unfit",
			Text: "a member leads although the holder does not know of it", Breaks: []string{"epoch"}, Within: 400,
			surroundings: surroundings{doc: map[string]any{"failsafe_mode": true, "synchronous_mode": false, "ttl": 3, "maximum_lag_on_failover": 1 << 20}, nodes: 3,
				menu: []string{"an agent away for long, then the leader without the store"}},
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store { return insider{s, m} }},
		{Name: "list-as-seen", Rule: "members of a list in /failsafe that may be stored have to promise, too", Where: "node.failsafeWrites.toAsk",
			Text: "only those are asked that the holder has seen in it", Breaks: []string{"epoch"}, Within: 400,
			surroundings: surroundings{doc: map[string]any{"failsafe_mode": true, "synchronous_mode": false, "ttl": 3, "maximum_lag_on_failover": 1 << 20}, nodes: 3,
				menu: []string{"an agent away for long, and the leader without the store as it lists it again"}},
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return seenPeers{p, m} }},
		{Name: "release-before-kill", Rule: "the lock is given back when PostgreSQL is dead", Where: "node.Node.effect",
			Text: "it is given back seconds before", Breaks: []string{"epoch", "bound", "lost"}, Within: 200, surroundings: inAsync,
			wrapDB: func(m *machine, d node.Database) node.Database { return lazyKill{d, m} }},
	}
}

// lockRules: what a write of the lock compares.
func lockRules() []Mutation {
	return []Mutation{
		{Name: "take-without-lock-cas", Rule: "a take-over compares the revision of the lock that was seen", Where: "node.Leadership.Take",
			Text: "it does not compare it", Breaks: []string{"epoch", "lost", "bound"}, Within: 400,
			wrapLead: func(_ *machine, s dcs.Store) dcs.Store { return without{s, dcs.KeyLock, isTake} }},
		{Name: "renew-without-cas", Rule: "a renewal compares the revision that this holder wrote", Where: "node.Leadership.writeOnce",
			Text: "it does not compare it", Breaks: []string{"epoch"}, Within: 400,
			wrapLead: func(_ *machine, s dcs.Store) dcs.Store {
				return without{s, dcs.KeyLock, func(t dcs.Txn) bool { return !isTake(t) }}
			}},
		{Name: "take-without-sync-cas", Rule: "a take-over compares the revision of /sync that the choice rested on", Where: "node.Leadership.Take",
			Text: "it does not compare it", Covered: "every write of /sync is one transaction with a write of the lock, so the revision of the lock tells too", Within: 100,
			surroundings: surroundings{doc: quorumDoc, menu: append(quorumMenu, revokeMenu...), nodes: 3},
			wrapLead:     func(_ *machine, s dcs.Store) dcs.Store { return without{s, dcs.KeySync, isTake} }},
		{Name: "names-are-enough", Rule: "the lock names the data directory, not only the member", Where: "ha.decider.ours, node.Leadership.Resume",
			Text: "a member of the holder's name counts as the holder", Breaks: []string{"epoch", "lost", "bound"}, Within: 200,
			surroundings: surroundings{doc: asyncDoc, nodes: 3, menu: []string{"a second member under the leader's name"}},
			wrapID: func(_ *machine, id func() string) func() string {
				return func() string {
					if id() == "" {
						return ""
					}
					return "the same"
				}
			}},
		{Name: "claim-after-promotion", Rule: "the new timeline and the new record of /sync are stored before PostgreSQL is promoted", Where: "ha.decider.promote",
			Text: "they are stored once it is a primary", Breaks: []string{"lost", "corrupt", "epoch"}, Within: 400,
			surroundings: surroundings{doc: quorumDoc, nodes: 3, menu: []string{"the leader lost, and the next one right after its promotion"}},
			wrapLead:     func(m *machine, s dcs.Store) dcs.Store { return &lateClaim{Store: s, m: m} }},
		{Name: "ready-too-early", Rule: "the lock says ready only when PostgreSQL accepts writes on the claimed timeline", Where: "ha.decider.leadUp, ha.decider.beforeReady",
			Text: "members take every held lock for ready", Within: 300,
			Covered: "clone, rewind and following compare timelines and positions again with the server itself, and what may lead is told by claim and position",
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store {
				return relock{s, m, func(l *cluster.Lock) { l.Ready = l.Held() }}
			}},
	}
}

// quorumRules: an acknowledged commit is on whoever may lead.
func quorumRules() []Mutation {
	return []Mutation{
		{Name: "narrow-before-cas", Rule: "PostgreSQL waits for fewer standbys only after the store says so", Where: "quorum.Next, ha.decider.syncStep",
			Text: "it stops waiting for those that are away at once", Breaks: []string{"lost", "epoch"}, Within: 200, surroundings: inQuorum,
			wrapDB: func(m *machine, d node.Database) node.Database { m.pg.degrade = true; return d }},
		{Name: "widen-store-first", Rule: "a wider rule is in force in PostgreSQL before the store counts on it", Where: "quorum.Next, node.Node.settleRule",
			Text: "it counts as in force once it is written", Breaks: []string{"lost", "epoch"}, Within: 1000, surroundings: inQuorum,
			wrapDB: func(m *machine, d node.Database) node.Database { m.pg.lazyReload = true; return hastyRule{d, m} }},
		{Name: "no-confirmation-of-rule", Rule: "a new rule counts once its standbys have flushed what older rules acknowledged", Where: "quorum.State.Observe",
			Text: "it counts at once", Breaks: []string{"lost"}, Within: 400,
			surroundings: surroundings{doc: quorumDoc, menu: []string{"a standby back for a moment, then the leader lost"}, nodes: 2},
			wrapDB:       func(_ *machine, d node.Database) node.Database { return hastyFlush{d} }},
		{Name: "start-without-rule", Rule: "PostgreSQL starts with a synchronous rule that is safe for the stored state", Where: "node.startRule",
			Text: "it starts with asynchronous commit", Breaks: []string{"lost", "epoch"}, Within: 1000,
			surroundings: surroundings{doc: quorumDoc, nodes: 3, menu: []string{"postmaster killed, and power cut once it is back"}},
			wrapDB:       func(_ *machine, d node.Database) node.Database { return bareStart{d} }},
		{Name: "late-write-forgotten", Rule: "a primary that starts in place is safe for the writes of /sync whose outcome it has not seen, too", Where: "node.startRule, quorum.Restart",
			Text: "it starts under a rule for the record that it saw last", Breaks: []string{"lost", "epoch"}, Within: 400,
			surroundings: surroundings{doc: quorumDoc, nodes: 2, menu: []string{"the leader alone as a standby is entitled again, and its postmaster killed"}},
			wrapDB:       func(m *machine, d node.Database) node.Database { return asSeen{d, m} }},
		{Name: "promote-without-rule", Rule: "the rule of the new leader is set before it is promoted", Where: "ha.decider.promote",
			Text: "it keeps the rule that it had as a standby", Within: 300,
			Covered:      "a standby starts with a rule that is safe for the stored state as well",
			surroundings: surroundings{doc: quorumDoc, nodes: 3, menu: []string{"the leader lost, and the next one right after its promotion", "postmaster killed, and power cut once it is back"}},
			wrapDB:       func(m *machine, d node.Database) node.Database { return oldRule{d, m} }},
		{Name: "anybody-leads", Rule: "under synchronous rules only members of /sync lead", Where: "ha.decider.unsafe",
			Text: "a member that is not in it takes itself for one", Breaks: []string{"lost", "epoch"}, Within: 400, surroundings: inQuorum,
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store { return joiner{s, m} }},
		{Name: "no-lsn-in-elections", Rule: "a candidate is not behind those that confirm it", Where: "ha.confirmations, ha.ahead",
			Text: "positions are not compared", Breaks: []string{"lost", "epoch"}, Within: 200, surroundings: inQuorum,
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return blindPeers{p, m} }},
		{Name: "no-history-in-elections", Rule: "a candidate is on the timeline that may hold commits", Where: "ha.decider.unfit",
			Text: "the lock does not say which one that is", Breaks: []string{"lost", "bound", "epoch", "corrupt"}, Within: 1000,
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store {
				return relock{s, m, func(l *cluster.Lock) {
					if !l.Ready || m.w.now-m.w.check.renewed > m.ttl() {
						l.Timeline = 0
					}
				}}
			}},
		{Name: "no-confirmations", Rule: "quorum other members of /sync have to confirm a candidate", Where: "ha.decider.unsafe, ha.decider.depose",
			Text: "one member's word is enough", Breaks: []string{"lost", "epoch"}, Within: 200, surroundings: inQuorum,
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store { return alone{s, m} }},
		{Name: "no-maximum-lag", Rule: "without a synchronous record a candidate is at most maximum_lag_on_failover behind", Where: "ha.decider.unsafe",
			Text: "any candidate will do", Breaks: []string{"bound"}, Within: 200, surroundings: behind,
			wrapFeed: func(m *machine, s dcs.Store) dcs.Store { return anyLag{s, m} }},
		{Name: "hand-over-without-proof", Rule: "the lock is handed to a member that has everything", Where: "ha.decider.handoverDown, ha.decider.successor",
			Text: "the former leader believes so of everybody", Within: 300,
			Covered:      "the successor looks itself whether it has everything, or is within maximum_lag_on_failover",
			surroundings: surroundings{doc: exactDoc, nodes: 2, menu: []string{"switchover", "switchover", "cut off from replication", "slow network", "postmaster killed"}},
			wrapPeers:    func(m *machine, p node.Peers) node.Peers { return flatterers{p, m} }},
		{Name: "revoke-without-promises", Rule: "a leader is deposed below L only once quorum + 1 members receive nothing from it", Where: "ha.decider.depose",
			Text: "who does not answer counts as having promised", Breaks: []string{"epoch", "lost"}, Within: 400, surroundings: inRevoke,
			wrapPeers: func(m *machine, p node.Peers) node.Peers { return presumed{p, m} }},
		{Name: "hold-is-a-lie", Rule: "who promises has stopped receiving from the leader", Where: "node.Node.hold, instance.Hold",
			Text: "it goes on", Breaks: []string{"epoch", "lost", "deleted"}, Within: 400, surroundings: inMute,
			wrapDB: func(_ *machine, d node.Database) node.Database { return noHold{d} }},
		{Name: "receives-again", Rule: "who promised receives nothing until the lock is seen at another revision", Where: "node.Node.mayReceive",
			Text: "it begins to receive again after a moment", Breaks: []string{"epoch", "lost"}, Within: 400,
			surroundings: inMute,
			wrapDB:       func(m *machine, d node.Database) node.Database { return shortHold{d, m} }},
		{Name: "promise-not-kept", Rule: "the promise to receive nothing is on disk before it is given", Where: "node.Node.hold",
			Text: "it does not survive a restart of the agent", Breaks: []string{"epoch", "lost"}, Within: 1000,
			surroundings: inMute,
			wrapFile:     func(_ *machine, p node.Promises) node.Promises { return shortMemory{p} }},
	}
}

// dataRules: no copy is lost or mixed up.
func dataRules() []Mutation {
	return []Mutation{
		{Name: "torn-is-whole", Rule: "a data directory that a rewind left half done is not started", Where: "ha.decider.rejoin, ha.decider.candidateDown, ha.decider.isolated",
			Text: "it is started like any other", Breaks: []string{"torn"}, Within: 1000,
			surroundings: surroundings{doc: shortDoc, nodes: 3, menu: []string{"cut off from everything", "a rewind interrupted, and the leader lost"}},
			wrapDB:       func(_ *machine, d node.Database) node.Database { return whole{d} }},
		{Name: "delete-not-aside", Rule: "a data directory that is given up is set aside", Where: "postgres.SetAside, instance.SetAside",
			Text: "it is deleted", Breaks: []string{"deleted"}, Within: 200,
			surroundings: surroundings{doc: cloneDoc, nodes: 3, menu: []string{"cut off from everything", "power cut", "machine frozen"}},
			wrapDB:       func(m *machine, d node.Database) node.Database { return eraser{d, m} }},
		{Name: "no-way-back", Rule: "a former primary compares histories before it starts as a standby", Where: "ha.decider.rejoin",
			Text: "it just starts", Within: 200,
			Covered:      "PostgreSQL does not stream onto a timeline that parted earlier, and a running standby is compared with the leader's history again",
			surroundings: surroundings{doc: shortDoc, nodes: 3, menu: []string{"cut off from everything", "power cut", "machine frozen", "network in two halves"}},
			wrapDB:       func(_ *machine, d node.Database) node.Database { return humble{d} }},
		{Name: "stop-without-the-store", Rule: "a standby goes on streaming while the store is away", Where: "ha.decider.isolated, ha.decider.leader",
			Text: "it follows nobody then", Breaks: []string{"left"}, Within: 100,
			wrapDB: func(m *machine, d node.Database) node.Database { return lostSheep{d, m} }},
	}
}
