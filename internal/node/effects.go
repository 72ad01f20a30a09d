package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// markReady announces that we accept writes, in one transaction with the history and the end of the
// request that brought us here.
func (n *Node) markReady(ctx context.Context, o ha.Observation, e ha.MarkReady) error {
	view := o.Store.View
	var ops []dcs.Op
	var ifs []dcs.Cond
	if h, changed := n.history(o); changed {
		value, err := json.Marshal(h)
		if err != nil {
			return err
		}
		ops = append(ops, dcs.Op{Key: dcs.KeyHistory, Value: value})
	}
	if f := view.Failover; f != nil {
		out := cluster.Outcome{ID: f.ID, Done: f.Leader != n.c.Name && (f.Candidate == "" || f.Candidate == n.c.Name), Text: n.c.Name + " leads"}
		value, err := json.Marshal(out)
		if err != nil {
			return err
		}
		ops = append(ops, dcs.Op{Key: dcs.KeyOutcome, Value: value}, dcs.Op{Key: dcs.KeyFailover, Delete: true})
		ifs = append(ifs, dcs.Cond{Key: dcs.KeyFailover, ModRev: view.FailoverRev})
	}
	st, err := json.Marshal(cluster.Status{Optime: o.DB.LSN, Timeline: o.DB.Timeline})
	if err != nil {
		return err
	}
	ops = append(ops, dcs.Op{Key: dcs.KeyStatus, Value: st})
	err = n.c.Lead.Write(ctx, func(l *cluster.Lock) {
		l.Ready, l.Successor, l.Timeline = true, "", max(l.Timeline, e.Timeline)
	}, ifs, ops...)
	n.refresh(ctx)
	return err
}

// history is the cluster's history with the lines that this node's timeline adds to it, and without
// those of branches that it did not come by: members that were on one tell by it that they have to go
// back, and PostgreSQL would not let them stream. After a fail-over by force, or a promotion by hand,
// the same timeline may have ended at another position here.
func (n *Node) history(o ha.Observation) (cluster.History, bool) {
	own := o.DB.History
	h := slices.DeleteFunc(slices.Clone(o.Store.View.History), func(line cluster.HistoryLine) bool {
		if len(own) == 0 || line.Timeline < own[0].Timeline {
			return false
		}
		at, ok := own.SwitchPoint(line.Timeline)
		return !ok || at != line.LSN
	})
	changed := len(h) != len(o.Store.View.History)
	for i, line := range own {
		if _, ok := h.SwitchPoint(line.Timeline); ok {
			continue
		}
		if i == len(own)-1 {
			line.Timestamp = n.c.Wall().UTC().Format(time.RFC3339)
			line.NewLeader, line.Epoch = n.c.Name, o.Lease.Epoch
		}
		h = append(h, line)
		changed = true
	}
	slices.SortStableFunc(h, func(a, b cluster.HistoryLine) int { return cmp.Compare(a.Timeline, b.Timeline) })
	if limit := o.Store.View.Config.MaxTimelinesHistory; limit > 0 && len(h) > limit {
		h = h[len(h)-limit:]
	}
	return h, changed
}

// recordCluster writes the identity of a cluster that was made or adopted here.
func (n *Node) recordCluster(ctx context.Context, o ha.Observation, e ha.RecordCluster) error {
	view := o.Store.View
	ops := []dcs.Op{{Key: dcs.KeyInitialize, Value: []byte(e.SystemID)}}
	ifs := []dcs.Cond{{Key: dcs.KeyInitialize, ModRev: view.InitializeRev}}
	if view.ConfigRev == 0 {
		doc, err := json.Marshal(n.c.BootstrapDoc)
		if err != nil {
			return fmt.Errorf("encode the dynamic configuration: %w", err)
		}
		ops = append(ops, dcs.Op{Key: dcs.KeyConfig, Value: doc})
		ifs = append(ifs, dcs.Cond{Key: dcs.KeyConfig})
	}
	err := n.c.Lead.Write(ctx, nil, ifs, ops...)
	n.refresh(ctx)
	return err
}

func (n *Node) dropRequest(ctx context.Context, o ha.Observation, e ha.DropRequest) error {
	if e.Rev == 0 {
		return nil
	}
	out := cluster.Outcome{Text: e.Outcome, Done: e.Done}
	if f := o.Store.View.Failover; f != nil {
		out.ID = f.ID
	}
	value, err := json.Marshal(out)
	if err != nil {
		return err
	}
	err = n.c.Lead.Write(ctx, nil, []dcs.Cond{{Key: dcs.KeyFailover, ModRev: e.Rev}},
		dcs.Op{Key: dcs.KeyFailover, Delete: true}, dcs.Op{Key: dcs.KeyOutcome, Value: value})
	n.refresh(ctx)
	return err
}

// startRule is the synchronous rule that PostgreSQL starts with: one that is safe for the stored
// state, so that nothing is acknowledged under less than the store promises. A primary that starts
// again in place may have written /sync with an outcome that it has not seen, and must not wait for
// the store to tell; so the rule is safe for what such a write would store, too.
func startRule(o ha.Observation, primary bool) quorum.Rule {
	states := []cluster.SyncState{o.Store.View.Sync}
	if primary {
		for _, w := range o.Memory.Rules.Pending {
			states = append(states, w.Sync)
		}
	}
	rule := quorum.Restart(o.Self.Name, states...)
	if s := o.Store.View.Config.Settings; primary && rule.Num == 0 && s.SynchronousStrict && s.SynchronousMode != cluster.SyncOff && o.Store.View.Initialize != "" {
		return quorum.Blocking(s.SynchronousMode == cluster.SyncQuorum) // in strict mode nothing is acknowledged by the leader alone
	}
	return rule
}

// keepHouse does what every tick does for a running node, whatever was decided. Nothing in it is
// needed for safety; failures are logged and tried again with the next tick.
func (n *Node) keepHouse(ctx context.Context, o ha.Observation, d ha.Decision) {
	ctx, cancel := within(ctx, boundQuick)
	defer cancel()
	view := o.Store.View
	settings := view.Config.Settings
	if view.ConfigRev != 0 {
		n.c.Lead.SetTTL(settings.TTL)
	}
	if o.DB.Phase != ha.Up || o.Job.Running() {
		return
	}
	if view.ConfigRev != 0 && d.State != ha.StatePromoting {
		again := n.reconfigure.Swap(false)
		if key := configKey(view); key != n.configured || again {
			if err := n.c.DB.Configure(ctx, settings, view.Members); err != nil {
				n.c.Log.Warn("configuration not applied", "err", err)
				n.configured = "" // once more with the next tick
			} else {
				n.configured = key
			}
		}
	}
	if o.Lease.Held && o.DB.Primary && o.Lease.Ready {
		n.leaderHouse(ctx, o)
	}
	if n.c.Now()-n.slotsAt >= settings.LoopWait && settings.UseSlots && (o.Lease.Held && o.DB.Primary || !o.DB.Primary) {
		n.slotsAt = n.c.Now()
		if err := n.c.DB.Slots(ctx, n.slotPlan(o)); err != nil {
			n.c.Log.Warn("replication slots not in order", "err", err)
		}
	}
}

// configKey changes when something that configuration files depend on has changed.
func configKey(v cluster.View) string {
	key := strconv.FormatInt(v.ConfigRev, 10)
	for _, name := range slices.Sorted(maps.Keys(v.Members)) {
		key += " " + name + "=" + v.Members[name].ConnURL
	}
	return key
}

func (n *Node) leaderHouse(ctx context.Context, o ha.Observation) {
	view := o.Store.View
	st := cluster.Status{Optime: o.DB.LSN, Timeline: o.DB.Timeline, Slots: map[string]cluster.LSN{}}
	for _, s := range n.c.DB.Detail().Slots {
		if s.RestartLSN != 0 {
			st.Slots[s.Name] = s.RestartLSN
		}
	}
	st.Slots[cluster.SlotName(n.c.Name)] = o.DB.LSN
	n.c.Lead.SetStatus(st)
	if !o.Store.Reachable || view.ConfigRev == 0 {
		return
	}
	n.keepFailsafeList(ctx, view)
}

// keepFailsafeList writes who has to promise while the store is away. Members that are not in the list
// do not lead, whatever the mode is now: the holder may not know that it was switched off.
func (n *Node) keepFailsafeList(ctx context.Context, view cluster.View) {
	settled := n.listed.settled(view.Failsafe)
	if !view.Config.FailsafeMode {
		if len(view.Failsafe) == 0 && settled {
			return
		}
		n.listed.writing(nil)
		if err := n.c.Lead.Write(ctx, nil, nil, dcs.Op{Key: dcs.KeyFailsafe, Delete: true}); err != nil {
			n.c.Log.Warn("failsafe members not removed", "err", err)
			return
		}
		n.listed.confirmed()
		return
	}
	members := map[string]string{}
	for name, m := range view.Members {
		if m.APIURL != "" {
			members[name] = m.APIURL
		}
	}
	if _, self := members[n.c.Name]; !self || maps.Equal(members, view.Failsafe) && settled {
		return
	}
	value, err := json.Marshal(members)
	if err != nil {
		return
	}
	n.listed.writing(members)
	if err := n.c.Lead.Write(ctx, nil, nil, dcs.Op{Key: dcs.KeyFailsafe, Value: value}); err != nil {
		n.c.Log.Warn("failsafe members not written", "err", err)
		return
	}
	n.listed.confirmed()
}

// slotPlan is which member slots this node should have: one for each other member, kept for
// member_slots_ttl after the member went.
func (n *Node) slotPlan(o ha.Observation) SlotPlan {
	view, now := o.Store.View, n.c.Now()
	p := SlotPlan{Want: map[string]cluster.LSN{}}
	own := cluster.SlotName(n.c.Name)
	standby := !o.DB.Primary
	if standby && (n.Tags().FailoverPriority() == 0 || n.Tags().NoStream()) {
		return p
	}
	for name, m := range view.Members {
		slot := cluster.SlotName(name)
		if slot == own || m.Tags.NoStream() {
			continue
		}
		n.slotSeen[slot] = now
		if standby {
			if m.Role == cluster.RolePrimary || m.XLogLocation == 0 || m.XLogLocation > o.DB.Replayed {
				continue
			}
			p.Want[slot] = m.XLogLocation
			continue
		}
		p.Want[slot] = 0
	}
	if !standby {
		for name, v := range view.Config.Slots {
			if m, ok := v.(map[string]any); name != own && (!ok || m["type"] == nil || m["type"] == "physical") {
				p.Want[name] = 0
			}
		}
	}
	for _, s := range n.c.DB.Detail().Slots {
		if s.Type != "physical" || s.Active {
			continue
		}
		seen, member := n.slotSeen[s.Name]
		if !member || view.Config.Slots[s.Name] != nil {
			continue
		}
		if s.WalStatus == "lost" || now-seen > view.Config.MemberSlotsTTL {
			p.Drop = append(p.Drop, s.Name)
		}
	}
	return p
}
