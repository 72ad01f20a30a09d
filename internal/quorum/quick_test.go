package quorum_test

import (
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

const histories = 20_000

// Any choice by the stored state holds every acknowledged commit, at every instant, and the steps
// end at the target when nothing changes any more.
func TestHistories_NoChoiceMissesAnAcknowledgedCommit(t *testing.T) {
	n := histories
	if testing.Short() {
		n = 2000
	}
	for seed := range int64(n) {
		m := newModel(seed, 3+int(seed%3))
		for range 120 {
			m.step()
			if err := m.check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		taken, err := m.settle()
		if err != nil {
			t.Fatalf("seed %d: settle: %v", seed, err)
		}
		if len(taken) > 12 {
			t.Fatalf("seed %d: got %d steps to the target, want at most 12: %v", seed, len(taken), taken)
		}
		target := m.wanted()
		goal := target.Goal(m.state)
		if !m.live.Equal(goal.Rule) {
			t.Fatalf("seed %d: got rule %v at the end, want %v", seed, m.live, goal.Rule)
		}
		if !goal.KeepVoters && !m.stored.Equal(goal.Sync) {
			t.Fatalf("seed %d: got stored %+v at the end, want %+v", seed, m.stored, goal.Sync)
		}
	}
}

// The model must notice when the inequality is broken, else the test above proves nothing.
func TestHistories_BrokenRulesAreCaught(t *testing.T) {
	broken := map[string]func(quorum.State, quorum.Step) quorum.Step{
		"quorum one too small": func(_ quorum.State, s quorum.Step) quorum.Step {
			if s.Kind == quorum.WriteSync && s.Sync.Quorum > 0 {
				s.Sync.Quorum--
			}
			return s
		},
		"rule one too small": func(_ quorum.State, s quorum.Step) quorum.Step {
			if s.Kind == quorum.SetRule && s.Rule.Num > 1 {
				s.Rule.Num--
			}
			return s
		},
		"voters stored before the rule is confirmed": func(st quorum.State, s quorum.Step) quorum.Step {
			if s.Kind == quorum.Wait {
				r := st.InForce()
				return quorum.Step{Kind: quorum.WriteSync, Sync: cluster.SyncState{Leader: st.Sync.Leader, Standbys: r.Names, Quorum: len(r.Names) - r.Num}}
			}
			return s
		},
	}
	for name, mutate := range broken {
		t.Run(name, func(t *testing.T) {
			for seed := range int64(histories) {
				m := newModel(seed, 3+int(seed%3))
				m.mutate = mutate
				for range 120 {
					m.step()
					if m.check() != nil {
						return
					}
				}
			}
			t.Errorf("got no violation in %d histories, want one", histories)
		})
	}
}
