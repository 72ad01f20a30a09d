package sim

import (
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/node"
)

// Mutation switches one safety rule off by standing between a node and what it works with. The
// fields that are nil change nothing.
type Mutation struct {
	Name, Text string

	wrapLead  func(m *machine, s dcs.Store) dcs.Store
	wrapFeed  func(m *machine, s dcs.Store) dcs.Store
	wrapClock func(m *machine, now func() time.Duration) func() time.Duration
	wrapGuard func(m *machine, g node.Guardian) node.Guardian
	wrapDB    func(m *machine, d node.Database) node.Database
	wrapPeers func(m *machine, p node.Peers) node.Peers
}

func (x *Mutation) leadStore(m *machine, s dcs.Store) dcs.Store {
	if x == nil || x.wrapLead == nil {
		return s
	}
	return x.wrapLead(m, s)
}

func (x *Mutation) feedStore(m *machine, s dcs.Store) dcs.Store {
	if x == nil || x.wrapFeed == nil {
		return s
	}
	return x.wrapFeed(m, s)
}

func (x *Mutation) feedClock(m *machine, now func() time.Duration) func() time.Duration {
	if x == nil || x.wrapClock == nil {
		return now
	}
	return x.wrapClock(m, now)
}

func (x *Mutation) guard(m *machine, g node.Guardian) node.Guardian {
	if x == nil || x.wrapGuard == nil {
		return g
	}
	return x.wrapGuard(m, g)
}

func (x *Mutation) database(m *machine, d node.Database) node.Database {
	if x == nil || x.wrapDB == nil {
		return d
	}
	return x.wrapDB(m, d)
}

func (x *Mutation) peers(m *machine, p node.Peers) node.Peers {
	if x == nil || x.wrapPeers == nil {
		return p
	}
	return x.wrapPeers(m, p)
}

// Mutations are the safety rules that can be switched off.
func Mutations() []Mutation { return nil }
