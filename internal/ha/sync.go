package ha

import (
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// awayFor is how long a synchronous standby may be missing from pg_stat_replication before the
// rule stops naming it: a restart of a walreceiver is no reason to change it.
const awayFor = 2 * time.Second

// syncStep is the next single step of the synchronous record, with its reason, and how long it may
// wait where there is none. Package quorum has the arithmetic and the order rules.
func (d *decider) syncStep() (effects []Effect, why string, wait time.Duration) {
	if !d.DB.RuleKnown || !d.Store.Reachable || d.Store.View.SyncBad || d.Store.View.ConfigBad {
		return nil, "", idle
	}
	view := d.Store.View
	st := d.m.Rules
	if len(st.Active) == 0 {
		st = quorum.Begin(view.Sync, view.SyncRev, d.DB.Rule, false)
		d.awaitStandbys(st)
	}
	st = st.Stored(view.Sync, view.SyncRev)
	flushed := map[string]cluster.LSN{}
	for _, r := range d.DB.Replicas {
		flushed[r.Name] = r.Flushed
	}
	st = st.Observe(quorum.Observation{Live: d.DB.Rule, Flush: d.DB.LSN, Flushed: flushed})
	step := quorum.Next(st, d.syncTarget())
	wait = idle
	switch step.Kind {
	case quorum.Wait:
		wait = soon
	case quorum.SetRule:
		st = st.Intend(step.Rule)
		effects = []Effect{SetRule{Rule: step.Rule}}
	case quorum.WriteSync:
		st = st.Writing(step.Sync)
		effects = []Effect{WriteSync{Sync: step.Sync, Rev: st.Rev}}
	}
	for _, at := range d.m.Away {
		if at != d.Now {
			wait = soon // gone a moment ago: commits may wait for it
		}
	}
	d.m.Rules = st
	return effects, step.Why, wait
}

// firstFor is how much longer than awayFor a new leader waits for the standbys that its records name:
// they are on their way from the old one, and what is acknowledged without them is only here.
const firstFor = time.Second

// awaitStandbys counts the standbys of the records as present for a moment.
func (d *decider) awaitStandbys(st quorum.State) {
	away := map[string]time.Duration{}
	for _, names := range [][]string{st.Sync.Standbys, st.InForce().Names} {
		for _, n := range names {
			if n != d.Self.Name && n != cluster.StrictPlaceholder {
				away[n] = d.Now + firstFor
			}
		}
	}
	d.m.Away = away
}

func (d *decider) syncTarget() quorum.Target {
	s := d.settings()
	t := quorum.Target{Self: d.Self.Name, Mode: s.SynchronousMode, Strict: s.SynchronousStrict, Count: s.SynchronousNodeCount}
	away := map[string]time.Duration{}
	seen := map[string]bool{}
	add := func(name string, streaming bool, flushed cluster.LSN) {
		m, ok := d.Store.View.Member(name)
		if !ok && !d.Store.View.Sync.Has(name) && !slices.Contains(d.DB.Rule.Names, name) {
			return // not a member of ours, or gone for longer than its lease
		}
		// One of the present standbys counts without its key too: after an outage of the store the keys
		// of all members are gone for a moment, while they stream as ever.
		prio := m.Tags.SyncPriority()
		if m.Tags.NoStream() {
			prio = 0
		}
		t.Candidates = append(t.Candidates, quorum.Standby{Name: name, Streaming: streaming, SyncPriority: prio,
			NoFailover: m.Tags.FailoverPriority() == 0, Flushed: flushed,
			Lagging: s.MaximumLagOnSyncnode >= 0 && flushed.Behind(d.DB.LSN) > s.MaximumLagOnSyncnode})
	}
	for _, r := range d.DB.Replicas {
		seen[r.Name] = true
		if r.Streaming {
			away[r.Name] = d.Now
		}
		add(r.Name, r.Streaming || d.Now-d.m.Away[r.Name] < awayFor && d.m.Away[r.Name] != 0, r.Flushed)
	}
	for name, at := range d.m.Away {
		if _, ok := away[name]; ok {
			continue
		}
		if d.Now-at < awayFor {
			away[name] = at
			if !seen[name] {
				add(name, true, 0)
			}
		}
	}
	d.m.Away = away
	return t
}
