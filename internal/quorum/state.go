package quorum

import (
	"slices"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// State is what the leader knows of both records. It is a value: every method returns a new one.
//
// The protocol that makes it sound, for the one process that leads:
//
//   - Begin when leadership or the process begins.
//   - SetRule: Intend, then change the setting and reload, then report what is live with Observe.
//   - WriteSync: Writing, then a compare-and-swap against Rev (and the leader's own epoch); then
//     Stored when the answer came or the key was seen, Refused when the request surely did not
//     happen, and nothing when the outcome is unknown.
//   - Never anything else that changes either record.
type State struct {
	Sync cluster.SyncState // the newest stored value known
	Rev  int64             // its revision; 0: the key does not exist
	// Active are the rules under which commits may have been acknowledged that are not known to be
	// covered by a later one. The last is in force: it is the live setting. Never empty after Begin.
	Active []Rule
	// Intended is a rule being set that was not seen live yet: it may come into force at any time.
	Intended *Rule
	// Confirmed says that everything acknowledged under older rules is covered by the one in force.
	Confirmed bool
	// Unknown says that commits may have been acknowledged under rules that this process never saw.
	// The stored state was safe for them, so until the rule in force is confirmed the stored state
	// may only be narrowed: fewer voters, no smaller quorum.
	Unknown bool
	// Mark is the primary's flush position that the rule in force has to be flushed to; 0: none yet.
	Mark cluster.LSN
	// Pending are writes whose outcome is unknown and that may still happen.
	Pending []Write
	// Unsettled says that a write of this node's former life may still happen as long as the
	// revision of the key is the one seen at Begin.
	Unsettled bool
}

// Write is a write of the sync state that compares the key's revision with If.
type Write struct {
	Sync  cluster.SyncState
	If    int64
	Tries int // how often it was sent and may still happen
}

// Begin is the state of a process that begins to lead, or leads already when it starts. live is the
// setting in force. fresh says that this process has itself written the stored value at rev in this
// epoch (with the take-over), so that no write of a former life can still come.
func Begin(stored cluster.SyncState, rev int64, live Rule, fresh bool) State {
	return State{Sync: stored, Rev: rev, Active: []Rule{live}, Unknown: true, Unsettled: !fresh}
}

// InForce is the rule that PostgreSQL was last seen to enforce.
func (s State) InForce() Rule {
	if len(s.Active) == 0 {
		return Rule{}
	}
	return s.Active[len(s.Active)-1]
}

// Intend notes that r is about to be set. It must be called before the first action that can bring
// it into force.
func (s State) Intend(r Rule) State {
	if s.Intended != nil && !s.Intended.same(r) {
		// The earlier one may come into force for a moment before this one overwrites it.
		s = s.remember(*s.Intended)
	}
	s.Intended = &r
	return s
}

// remember puts r among the active rules that are not in force.
func (s State) remember(r Rule) State {
	last := s.InForce()
	rest := slices.DeleteFunc(slices.Clone(s.Active), func(o Rule) bool { return o.Equal(r) || o.same(last) })
	if !r.Equal(last) {
		rest = append(rest, r)
		s.Confirmed, s.Mark = false, 0
	}
	s.Active = append(rest, last)
	return s
}

// Observation is what the leader sees of its own PostgreSQL, read in this order: Live, Flush, Flushed.
type Observation struct {
	// Live is the setting that every walsender is known to have loaded. Patroni waits 100 ms after
	// the reload; the caller does the like.
	Live Rule
	// Flush is the primary's own flushed position (pg_current_wal_flush_lsn).
	Flush cluster.LSN
	// Flushed are the positions that standbys report as flushed (pg_stat_replication.flush_lsn), by
	// application name.
	Flushed map[string]cluster.LSN
}

// Observe takes in an observation: a changed setting becomes the rule in force, and the rule in
// force is confirmed once Num of its names have flushed what the primary had flushed when the rule
// was first seen in force.
func (s State) Observe(o Observation) State {
	if len(s.Active) == 0 {
		s.Active = []Rule{o.Live}
		s.Unknown = true
	}
	if !o.Live.same(s.InForce()) {
		if o.Live.Equal(s.InForce()) { // only spelled anew
			s.Active = append(slices.Clone(s.Active[:len(s.Active)-1]), o.Live)
		} else {
			rest := slices.DeleteFunc(slices.Clone(s.Active), func(r Rule) bool { return r.Equal(o.Live) })
			s.Active = append(rest, o.Live)
			s.Confirmed, s.Mark = false, 0
		}
	}
	if s.Intended != nil && s.Intended.same(o.Live) {
		s.Intended = nil
	}
	if s.Mark == 0 {
		s.Mark = o.Flush
	}
	if s.Confirmed || s.Mark == 0 || s.InForce().Blocks() {
		return s
	}
	flushed := 0
	for _, n := range s.InForce().real() {
		if o.Flushed[n] >= s.Mark {
			flushed++
		}
	}
	if flushed >= s.InForce().Num {
		s.Active = []Rule{s.InForce()}
		s.Confirmed, s.Unknown = true, false
	}
	return s
}

// Writing notes that v is about to be written, compared with the present revision.
func (s State) Writing(v cluster.SyncState) State {
	s.Pending = slices.Clone(s.Pending)
	for i, w := range s.Pending {
		if w.If == s.Rev && w.Sync.Equal(v) {
			s.Pending[i].Tries++
			return s
		}
	}
	s.Pending = append(s.Pending, Write{Sync: v, If: s.Rev, Tries: 1})
	return s
}

// Refused notes that the last Writing of v surely did not happen.
func (s State) Refused(v cluster.SyncState) State {
	s.Pending = slices.Clone(s.Pending)
	for i, w := range s.Pending {
		if w.If == s.Rev && w.Sync.Equal(v) {
			s.Pending[i].Tries--
		}
	}
	s.Pending = slices.DeleteFunc(s.Pending, func(w Write) bool { return w.Tries <= 0 })
	return s
}

// Stored takes in the stored value as seen at a revision (0: the key does not exist). What is older
// than what is known is ignored. Writes that compared an older revision can no longer happen.
func (s State) Stored(v cluster.SyncState, rev int64) State {
	if rev < s.Rev && rev != 0 {
		return s
	}
	if rev != s.Rev {
		s.Unsettled = false
	}
	s.Sync, s.Rev = v, rev
	s.Pending = slices.DeleteFunc(slices.Clone(s.Pending), func(w Write) bool { return w.If != rev })
	if len(s.Pending) == 0 {
		s.Pending = nil
	}
	return s
}

// rules are all rules under which a commit may be acknowledged now or was and is not covered.
func (s State) rules(more ...Rule) []Rule {
	out := slices.Clone(s.Active)
	if s.Intended != nil {
		out = append(out, *s.Intended)
	}
	return append(out, more...)
}

// allows says whether v, written now by self, would be safe for every rule that is or may come into
// force, and for those that are not known.
func (s State) allows(self string, v cluster.SyncState, more ...Rule) bool {
	v.Leader = self
	if s.Unknown && !narrower(v, s.Sync) {
		return false
	}
	return Safe(v, s.rules(more...)...)
}

// narrower says that every choice by v is also sufficient by old.
func narrower(v, old cluster.SyncState) bool {
	if len(v.Standbys) == 0 {
		return true
	}
	for _, n := range v.Standbys {
		if !old.Has(n) {
			return false
		}
	}
	return v.Quorum >= old.Quorum
}
