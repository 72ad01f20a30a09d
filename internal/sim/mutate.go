package sim

import (
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/node"
)

// Mutation switches one safety rule off by standing between a node and what it works with: nothing in
// the program itself can be switched. The fields that are nil change nothing.
type Mutation struct {
	Name string
	// Rule is the safety rule, Where the code that keeps it, Text what happens instead.
	Rule, Where, Text string
	// Breaks are the promises of which one has to be found broken, by their names at checker.
	Breaks []string
	// Covered says which other rule keeps the promise while this one is off; the simulator then has to
	// find nothing, and a mutation that names it in Both has to be found.
	Covered string
	// Both are the mutations that this one consists of.
	Both []string
	// Within is how many histories have to find it.
	Within uint64

	surroundings

	wrapID    func(m *machine, id func() string) func() string
	wrapLead  func(m *machine, s dcs.Store) dcs.Store
	wrapFeed  func(m *machine, s dcs.Store) dcs.Store
	wrapClock func(m *machine, now func() time.Duration) func() time.Duration
	wrapGuard func(m *machine, g node.Guardian) node.Guardian
	wrapDB    func(m *machine, d node.Database) node.Database
	wrapPeers func(m *machine, p node.Peers) node.Peers
	wrapFile  func(m *machine, p node.Promises) node.Promises
}

func (x *Mutation) instance(m *machine) func() string {
	if x == nil || x.wrapID == nil {
		return m.instance
	}
	return x.wrapID(m, m.instance)
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

func (x *Mutation) promises(m *machine, p node.Promises) node.Promises {
	if x == nil || x.wrapFile == nil {
		return p
	}
	return x.wrapFile(m, p)
}

func (x *Mutation) peers(m *machine, p node.Peers) node.Peers {
	if x == nil || x.wrapPeers == nil {
		return p
	}
	return x.wrapPeers(m, p)
}

// surroundings are what histories look like in which a rule matters; what is nil or 0 is as in all
// other histories.
type surroundings struct {
	doc     map[string]any // dynamic configuration
	menu    []string       // faults
	nodes   int
	drift   bool          // clocks run as differently as they may
	gap     time.Duration // between two faults, on average
	lasting time.Duration // how long faults go on at least
}

// both is the mutation that does what a and b do.
func both(name string, a, b Mutation) Mutation {
	x := Mutation{Name: name, Both: []string{a.Name, b.Name}, Rule: a.Rule + "; and: " + b.Rule, Where: a.Where + "; " + b.Where, Text: a.Text + ", and " + b.Text,
		surroundings: a.surroundings}
	x.wrapID = then(a.wrapID, b.wrapID)
	x.wrapLead = then(a.wrapLead, b.wrapLead)
	x.wrapFeed = then(a.wrapFeed, b.wrapFeed)
	x.wrapClock = then(a.wrapClock, b.wrapClock)
	x.wrapGuard = then(a.wrapGuard, b.wrapGuard)
	x.wrapDB = then(a.wrapDB, b.wrapDB)
	x.wrapPeers = then(a.wrapPeers, b.wrapPeers)
	x.wrapFile = then(a.wrapFile, b.wrapFile)
	return x
}

func then[T any](a, b func(*machine, T) T) func(*machine, T) T {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(m *machine, x T) T { return b(m, a(m, x)) }
}
