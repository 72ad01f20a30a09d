package mem

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
)

type lease struct {
	id   dcs.LeaseID
	ttl  time.Duration
	ends time.Duration
	keys map[string]bool
}

// expire ends, with mu held, the leases whose time has come, in the order in which it came.
func (s *Server) expire() int {
	now := s.now()
	var gone []*lease
	for _, l := range s.leases {
		if now >= l.ends {
			gone = append(gone, l)
		}
	}
	slices.SortFunc(gone, func(a, b *lease) int {
		return cmp.Or(cmp.Compare(a.ends, b.ends), cmp.Compare(a.id, b.id))
	})
	for _, l := range gone {
		s.end(l)
	}
	return len(gone)
}

// end removes a lease and deletes its keys at one revision.
func (s *Server) end(l *lease) {
	keys := make([]string, 0, len(l.keys))
	for k := range l.keys {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	ops := make([]dcs.Op, len(keys))
	for i, k := range keys {
		ops[i] = dcs.Op{Key: k, Delete: true}
	}
	delete(s.leases, l.id)
	s.change(ops)
}

// grant makes a lease with mu held. As etcd does, it rounds up to whole seconds.
func (s *Server) grant(ttl time.Duration) (dcs.LeaseID, error) {
	s.expire()
	if ttl <= 0 {
		return 0, fmt.Errorf("%w: a lease of %v is not above zero", dcs.ErrUnavailable, ttl)
	}
	ttl = (ttl + time.Second - 1).Truncate(time.Second)
	s.lastLease++
	s.leases[s.lastLease] = &lease{id: s.lastLease, ttl: ttl, ends: s.now() + ttl, keys: map[string]bool{}}
	return s.lastLease, nil
}

// ExtendLeases gives every lease its whole time anew, as etcd does when its leader changes.
func (s *Server) ExtendLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	for _, l := range s.leases {
		l.ends = s.now() + l.ttl
	}
}

func (s *Server) keepAlive(id dcs.LeaseID) error {
	s.expire()
	l := s.leases[id]
	if l == nil {
		return fmt.Errorf("lease %x: %w", id, dcs.ErrLeaseGone)
	}
	l.ends = s.now() + l.ttl
	return nil
}

func (s *Server) revoke(id dcs.LeaseID) {
	s.expire()
	if l := s.leases[id]; l != nil {
		s.end(l)
	}
}
