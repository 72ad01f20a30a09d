// Package mem is the store in memory, for tests and the simulator. It behaves as etcd does wherever
// the contract of package dcs speaks, and package dcstest checks that it does.
//
// It is synchronous: every operation happens at once under one lock, time is what the injected
// clock says, and no goroutine runs in the background. A change is in the channel of every watch
// before the Commit that made it returns, so a simulator that drains channels without blocking sees
// the same order on every run. (Only a context that ends while a watch hangs on it takes a moment
// of a goroutine of the runtime's own.)
//
// Each client can be made to fail: refuse, lose answers, drop requests, hang, or apply them late
// (see Fault). What it does not do: it survives nothing, and it enforces no limits of size.
package mem

import (
	"fmt"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
)

// maxHistory bounds the changes kept for watches that begin in the past; beyond it the older half
// is compacted away.
const maxHistory = 20_000

// Server is the state that all clients share. It is safe for concurrent use. Make one with NewServer.
type Server struct {
	now func() time.Duration

	mu        sync.Mutex
	revision  int64
	compacted int64 // changes before this revision are gone from history
	entries   map[string]dcs.Entry
	history   []dcs.Update
	leases    map[dcs.LeaseID]*lease
	lastLease dcs.LeaseID
	watches   []*watch // in the order of their beginning
	delayed   []func() // requests put aside by FaultDelayed, called with mu held
}

// NewServer makes an empty store at revision 1 (as a new etcd has). now is its clock: any steady
// clock, only differences count. It is called with the server's lock held and must not call back.
func NewServer(now func() time.Duration) *Server {
	return &Server{
		now:      now,
		revision: 1,
		entries:  map[string]dcs.Entry{},
		leases:   map[dcs.LeaseID]*lease{},
	}
}

// Client makes a handle. The name appears in its errors and is for people only.
func (s *Server) Client(name string) *Client {
	return &Client{server: s, name: name, done: make(chan struct{})}
}

// Expire ends the leases whose time has come, as every operation does by itself, and says how many.
func (s *Server) Expire() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expire()
}

// Flush applies the requests that FaultDelayed put aside, in the order in which they came, and says
// how many they were.
func (s *Server) Flush() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	late := s.delayed
	s.delayed = nil
	for _, apply := range late {
		apply()
	}
	return len(late)
}

// FlushOne applies only the oldest request that was put aside, and says whether there was one.
func (s *Server) FlushOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.delayed) == 0 {
		return false
	}
	apply := s.delayed[0]
	s.delayed = s.delayed[1:]
	apply()
	return true
}

// Pending is the number of requests put aside.
func (s *Server) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.delayed)
}

// Compact forgets the changes before revision, at most the present one: a watch that asks for
// them ends with an error.
func (s *Server) Compact(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compact(min(revision, s.revision))
}

// Revision is the present revision, for assertions.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

func (s *Server) compact(revision int64) {
	if revision <= s.compacted {
		return
	}
	s.compacted = revision
	keep := 0
	for keep < len(s.history) && s.history[keep].Revision < revision {
		keep++
	}
	s.history = append([]dcs.Update(nil), s.history[keep:]...)
}

// commit runs a transaction with mu held.
func (s *Server) commit(t dcs.Txn) (dcs.Result, error) {
	s.expire()
	seen := make(map[string]bool, len(t.Then))
	for _, op := range t.Then {
		if seen[op.Key] {
			return dcs.Result{}, fmt.Errorf("%w: key %q appears twice in a transaction", dcs.ErrUnavailable, op.Key)
		}
		seen[op.Key] = true
	}
	for _, c := range t.If {
		if s.entries[c.Key].ModRev != c.ModRev {
			return dcs.Result{Revision: s.revision, Found: s.found(t.If)}, nil
		}
	}
	// Leases are checked only on the path taken, and before the first change: all or nothing.
	for _, op := range t.Then {
		if op.Lease != 0 && !op.Delete && s.leases[op.Lease] == nil {
			return dcs.Result{}, fmt.Errorf("bind key %q to lease %x: %w", op.Key, op.Lease, dcs.ErrLeaseGone)
		}
	}
	s.change(t.Then)
	return dcs.Result{Succeeded: true, Revision: s.revision}, nil
}

func (s *Server) found(conds []dcs.Cond) map[string]dcs.Entry {
	found := map[string]dcs.Entry{}
	for _, c := range conds {
		if e, ok := s.entries[c.Key]; ok {
			found[c.Key] = clone(e)
		}
	}
	return found
}

// change makes changes at one new revision and tells the watches. Deletions of what is not there
// are none, and without any change the revision stays.
func (s *Server) change(ops []dcs.Op) {
	var changes []dcs.Change
	rev := s.revision + 1
	for _, op := range ops {
		old, had := s.entries[op.Key]
		if op.Delete && !had {
			continue
		}
		if l := s.leases[old.Lease]; had && l != nil {
			delete(l.keys, op.Key)
		}
		if op.Delete {
			delete(s.entries, op.Key)
			changes = append(changes, dcs.Change{Key: op.Key, Entry: dcs.Entry{ModRev: rev}, Deleted: true})
			continue
		}
		e := clone(dcs.Entry{Value: op.Value, ModRev: rev, Lease: op.Lease})
		s.entries[op.Key] = e
		if op.Lease != 0 {
			s.leases[op.Lease].keys[op.Key] = true
		}
		changes = append(changes, dcs.Change{Key: op.Key, Entry: e})
	}
	if len(changes) == 0 {
		return
	}
	s.revision = rev
	u := dcs.Update{Revision: rev, Changes: changes}
	s.history = append(s.history, u)
	if len(s.history) > maxHistory {
		s.compact(s.history[maxHistory/2].Revision)
	}
	s.tell(u)
}

func (s *Server) load() dcs.Snapshot {
	s.expire()
	snap := dcs.Snapshot{Revision: s.revision, Entries: make(map[string]dcs.Entry, len(s.entries))}
	for k, e := range s.entries {
		snap.Entries[k] = clone(e)
	}
	return snap
}

// clone keeps the bytes of callers and of the store apart. An empty value is never nil.
func clone(e dcs.Entry) dcs.Entry {
	e.Value = append([]byte{}, e.Value...)
	return e
}

func cloneUpdate(u dcs.Update) dcs.Update {
	changes := make([]dcs.Change, len(u.Changes))
	for i, c := range u.Changes {
		if !c.Deleted {
			c.Entry = clone(c.Entry)
		}
		changes[i] = c
	}
	u.Changes = changes
	return u
}
