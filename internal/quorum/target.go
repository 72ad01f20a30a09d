package quorum

import (
	"cmp"
	"slices"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Target is what the leader's configuration and its view of the standbys ask for.
type Target struct {
	Self       string
	Mode       cluster.SyncMode
	Strict     bool
	Count      int // synchronous_node_count; below 1 means 1
	Candidates []Standby
}

// Standby is one standby as the leader sees it.
type Standby struct {
	Name string
	// Streaming says that it is in pg_stat_replication and streams. The caller damps: a standby that
	// went away a moment ago may still be given as streaming; commits then wait for it.
	Streaming bool
	// SyncPriority 0 keeps it out; a higher one is preferred, even to a present synchronous standby
	// (Patroni's sync_priority).
	SyncPriority int
	// NoFailover standbys may not lead: they are taken only when there are not enough others.
	NoFailover bool
	// Lagging standbys are further behind than maximum_lag_on_syncnode: they are taken only when
	// there is no other.
	Lagging bool
	Flushed cluster.LSN // as reported in pg_stat_replication
}

// Goal is where the target leads: the rule that shall be in force and the state that shall be stored.
type Goal struct {
	Rule Rule
	Sync cluster.SyncState
	// KeepVoters says that the stored voters stay as they are: strict mode without a standby.
	KeepVoters bool
}

// Goal chooses the standbys. present is the state now; its standbys are preferred among equals.
func (t Target) Goal(present State) Goal {
	if t.Mode != cluster.SyncOn && t.Mode != cluster.SyncQuorum {
		return Goal{}
	}
	count := max(t.Count, 1)
	anyOf := t.Mode == cluster.SyncQuorum
	pool := t.usable()
	if len(pool) == 0 {
		if t.Strict {
			return Goal{Rule: Blocking(anyOf), KeepVoters: true}
		}
		return Goal{Sync: cluster.SyncState{Leader: t.Self}}
	}
	now := present.InForce()
	isPresent := func(n string) bool { return slices.Contains(now.Names, n) || present.Sync.Has(n) }
	slices.SortStableFunc(pool, func(a, b Standby) int {
		return cmp.Or(
			falseFirst(a.NoFailover, b.NoFailover),
			cmp.Compare(b.SyncPriority, a.SyncPriority),
			falseFirst(!slices.Contains(now.Names, a.Name), !slices.Contains(now.Names, b.Name)),
			falseFirst(!isPresent(a.Name), !isPresent(b.Name)),
			cmp.Compare(b.Flushed, a.Flushed),
			cmp.Compare(a.Name, b.Name))
	})
	var names []string
	for _, c := range pool {
		if len(names) >= count && (!anyOf || c.NoFailover) {
			break
		}
		names = append(names, c.Name)
	}
	num := len(names)
	if anyOf {
		num = min(count, num)
	}
	r := NewRule(names, num, anyOf)
	return Goal{Rule: r, Sync: cluster.SyncState{Leader: t.Self, Standbys: r.Names, Quorum: len(r.Names) - r.Num}}
}

// usable are the standbys that may be synchronous, one entry per name.
func (t Target) usable() []Standby {
	var fine, lagging []Standby
	seen := map[string]bool{t.Self: true}
	for _, c := range t.Candidates {
		if !c.Streaming || c.SyncPriority <= 0 || c.Name == "" || seen[c.Name] {
			continue
		}
		seen[c.Name] = true
		if c.Lagging {
			lagging = append(lagging, c)
		} else {
			fine = append(fine, c)
		}
	}
	if len(fine) == 0 {
		return lagging
	}
	return fine
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
