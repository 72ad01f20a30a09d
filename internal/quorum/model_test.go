package quorum_test

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// model is a cluster in which one leader acknowledges commits under its rule, standbys receive
// prefixes of its log, and an agent does what Next says against a store that loses answers.
type model struct {
	rng    *rand.Rand
	trace  []string
	names  []string
	logs   map[string][]record
	up     map[string]bool
	prio   map[string]int
	leader string
	epoch  int
	nextID int
	acked  map[record]bool
	live   quorum.Rule
	coming *quorum.Rule // written to the configuration, not loaded yet
	stored cluster.SyncState
	rev    int64
	flying []flight
	state  quorum.State
	target quorum.Target
	mutate func(quorum.State, quorum.Step) quorum.Step
}

type record struct{ epoch, id int }

type flight struct {
	write quorum.Write
	epoch int
}

func newModel(seed int64, nodes int) *model {
	m := &model{rng: rand.New(rand.NewSource(seed)), logs: map[string][]record{}, up: map[string]bool{},
		prio: map[string]int{}, acked: map[record]bool{}, epoch: 1, leader: "a"}
	for i := range nodes {
		n := string(rune('a' + i))
		m.names = append(m.names, n)
		m.logs[n] = []record{{1, 0}}
		m.up[n], m.prio[n] = true, 1
	}
	m.nextID = 1
	m.state = quorum.Begin(m.stored, 0, m.live, true)
	m.target = quorum.Target{Mode: cluster.SyncQuorum, Count: 1}
	return m
}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *model) step() {
	switch p := m.rng.Intn(100); {
	case p < 15:
		m.logs[m.leader] = append(m.logs[m.leader], record{m.epoch, m.nextID})
		m.nextID++
	case p < 40:
		m.stream(m.names[m.rng.Intn(len(m.names))], 1+m.rng.Intn(4))
	case p < 50:
		m.acknowledge()
	case p < 78:
		m.tick(true)
	case p < 82 && len(m.flying) > 0:
		m.land(m.rng.Intn(len(m.flying)))
	case p < 85 && m.coming != nil:
		m.live, m.coming = *m.coming, nil
		m.note("setting in force: %v", m.live)
	case p < 87:
		m.note("agent restarts")
		m.state = quorum.Begin(m.stored, m.rev, m.live, false)
	case p < 90:
		m.target.Mode = []cluster.SyncMode{cluster.SyncOff, cluster.SyncOn, cluster.SyncOn, cluster.SyncQuorum, cluster.SyncQuorum, cluster.SyncQuorum}[m.rng.Intn(6)]
		m.target.Strict = m.rng.Intn(2) == 0
		m.target.Count = 1 + m.rng.Intn(3)
		m.note("config: %s strict=%v count=%d", m.target.Mode, m.target.Strict, m.target.Count)
	case p < 96:
		n := m.names[m.rng.Intn(len(m.names))]
		if m.rng.Intn(6) == 0 {
			m.prio[n] = m.rng.Intn(3)
		} else {
			m.up[n] = !m.up[n]
		}
		m.note("%s up=%v priority=%d", n, m.up[n], m.prio[n])
	case p < 98:
		m.failover()
	}
}

// stream lets a standby receive up to k records, after it rewound to the leader's history.
func (m *model) stream(n string, k int) {
	if n == m.leader || !m.up[n] {
		return
	}
	from, have := m.logs[m.leader], m.logs[n]
	common := 0
	for common < len(from) && common < len(have) && from[common] == have[common] {
		common++
	}
	m.logs[n] = slices.Clone(from[:min(common+k, len(from))])
}

func (m *model) onBranch(n string) bool {
	have, from := m.logs[n], m.logs[m.leader]
	return len(have) <= len(from) && slices.Equal(have, from[:len(have)])
}

func (m *model) acknowledge() {
	if m.live.Blocks() {
		return
	}
	for i, rec := range m.logs[m.leader] {
		flushed := 0
		for _, n := range m.live.Names {
			if n != m.leader && m.logs[n] != nil && m.up[n] && m.onBranch(n) && len(m.logs[n]) > i {
				flushed++
			}
		}
		if flushed >= m.live.Num {
			m.acked[rec] = true
		}
	}
}

func (m *model) wanted() quorum.Target {
	t := m.target
	t.Self = m.leader
	for _, n := range m.names {
		if n != m.leader {
			t.Candidates = append(t.Candidates, quorum.Standby{Name: n, Streaming: m.up[n], SyncPriority: m.prio[n], Flushed: cluster.LSN(len(m.logs[n]))})
		}
	}
	return t
}

func (m *model) observe() {
	o := quorum.Observation{Live: m.live, Flush: cluster.LSN(len(m.logs[m.leader])), Flushed: map[string]cluster.LSN{}}
	for _, n := range m.names {
		if n != m.leader && m.up[n] && m.onBranch(n) {
			o.Flushed[n] = cluster.LSN(len(m.logs[n]))
		}
	}
	m.state = m.state.Stored(m.stored, m.rev).Observe(o)
}

// tick is one round of the agent; with faults, answers get lost and things happen late or never.
func (m *model) tick(faults bool) quorum.Step {
	m.observe()
	s := quorum.Next(m.state, m.wanted())
	if m.mutate != nil {
		s = m.mutate(m.state, s)
	}
	m.note("%s rule=%v sync=%v: %s", s.Kind, s.Rule, s.Sync, s.Why)
	luck := 0
	if faults {
		luck = m.rng.Intn(6)
	}
	switch s.Kind {
	case quorum.SetRule:
		m.state = m.state.Intend(s.Rule)
		switch luck {
		case 1: // written, loaded some time later
			m.coming = &s.Rule
		case 2: // never written
		default:
			m.live, m.coming = s.Rule, nil
		}
	case quorum.WriteSync:
		m.state = m.state.Writing(s.Sync)
		w := flight{quorum.Write{Sync: s.Sync, If: m.state.Rev}, m.epoch}
		switch luck {
		case 1, 2: // unknown outcome: may land later
			m.flying = append(m.flying, w)
		case 3:
			if m.rng.Intn(2) == 0 {
				m.state = m.state.Refused(s.Sync)
			}
		default:
			m.flying = append(m.flying, w)
			m.land(len(m.flying) - 1)
			if luck != 4 { // 4: carried out, but the answer is lost
				m.state = m.state.Stored(m.stored, m.rev)
			}
		}
	}
	return s
}

func (m *model) land(i int) {
	w := m.flying[i]
	m.flying = slices.Delete(m.flying, i, i+1)
	if w.write.If == m.rev && w.epoch == m.epoch {
		m.stored = w.write.Sync
		m.rev++
		m.note("stored at %d: %v", m.rev, m.stored)
	}
}

// ahead says whether a is ahead of b, timelines first.
func (m *model) ahead(a, b string) bool {
	x, y := m.logs[a], m.logs[b]
	if ex, ey := x[len(x)-1].epoch, y[len(y)-1].epoch; ex != ey {
		return ex > ey
	}
	return len(x) > len(y)
}

// entitled says whether c could be chosen by the stored state if only some members answer.
func (m *model) entitled(c string) bool {
	if m.stored.Leader == c {
		return true
	}
	if !m.stored.Has(c) {
		return false
	}
	confirm := 0
	for _, n := range m.stored.Standbys {
		if n != c && !m.ahead(n, c) {
			confirm++
		}
	}
	return confirm >= m.stored.Quorum
}

func (m *model) lost(c string) []record {
	var out []record
	for rec := range m.acked {
		if !slices.Contains(m.logs[c], rec) {
			out = append(out, rec)
		}
	}
	return out
}

// check returns what is wrong now: somebody may lead who misses an acknowledged commit.
func (m *model) check() error {
	if m.stored.Empty() {
		return nil
	}
	for _, c := range m.names {
		if m.entitled(c) {
			if lost := m.lost(c); len(lost) > 0 {
				return fmt.Errorf("%s may lead by %+v but misses %v\nlive %v, state %+v\n%s", c, m.stored, lost, m.live, m.state,
					strings.Join(m.trace[max(0, len(m.trace)-25):], "\n"))
			}
		}
	}
	return nil
}

func (m *model) failover() {
	var can []string
	for _, c := range m.names {
		if m.up[c] && c != m.leader && (m.stored.Empty() || m.entitled(c)) {
			can = append(can, c)
		}
	}
	if len(can) == 0 {
		return
	}
	c := can[m.rng.Intn(len(can))]
	v, r := quorum.TakeOver(m.stored, c, m.target.Strict)
	m.note("%s takes over with %+v under %v", c, v, r)
	m.epoch++
	m.leader, m.stored, m.live, m.coming = c, v, r, nil
	m.rev++
	m.logs[c] = append(slices.Clone(m.logs[c]), record{m.epoch, m.nextID})
	m.nextID++
	for rec := range m.acked { // only without a promise (empty state) can this drop anything
		if !slices.Contains(m.logs[c], rec) {
			delete(m.acked, rec)
		}
	}
	m.state = quorum.Begin(m.stored, m.rev, m.live, true)
}

// settle runs the agent without faults until it has nothing to do; it returns the steps it took.
func (m *model) settle() (taken []quorum.Step, err error) {
	for range 40 {
		for _, n := range m.names {
			m.stream(n, 1<<20)
		}
		m.acknowledge()
		if m.coming != nil {
			m.live, m.coming = *m.coming, nil
		}
		s := m.tick(false)
		if err := m.check(); err != nil {
			return taken, err
		}
		if s.Kind == quorum.None {
			return taken, nil
		}
		taken = append(taken, s)
	}
	return taken, fmt.Errorf("no end after 40 steps: %v", m.trace[max(0, len(m.trace)-40):])
}
