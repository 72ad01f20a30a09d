package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
)

// plane is one kind of traffic between machines; each can be cut on its own.
type plane int

const (
	planePeers   plane = iota // probes and failsafe promises
	planeRepl                 // replication and copies
	planeClients              // clients to PostgreSQL
	planes
)

// world is one cluster and everything around it.
type world struct {
	scheduler
	opt      Options
	rng      *rand.Rand
	store    *mem.Server
	operator *mem.Client // a human with a terminal, whom no fault of the network reaches
	machines []*machine
	clients  []*client
	log      *slog.Logger

	snap    dcs.Snapshot // as last read
	decoder dcs.Decoder
	views   [16]cluster.View // by revision, the lately decoded ones

	cut        [planes][][]bool // [from][to]: nothing gets through
	slowNet    time.Duration    // added to each message
	storeDown  bool
	duplicates float64       // chance that a request arrives twice
	listed     func()        // what happens when /failsafe names one more member next
	inList     int           // how many it names
	entitled   func()        // what happens when /sync names one more standby next
	doomed     time.Duration // the next member that promotes loses its power and gets it back after that
	storeSlow  time.Duration

	serial    int64    // names of directories, records, requests
	count     int      // events played
	played    []string // faults
	copies    int      // how many copies of the data may still be given up by hand
	joins     int      // how many members may still join
	settledIn time.Duration
	remedies  int  // how often the operator ordered a fail-over by force
	faults    bool // faults are being injected
	check     checker
	trace     *trace
	sync      struct {
		rev   int64
		state cluster.SyncState
	}
}

func newWorld(seed uint64, o Options) *world {
	w := &world{opt: o, rng: rand.New(rand.NewPCG(seed, 0x6861746869)), trace: newTrace(o.Trace)}
	w.store = mem.NewServer(func() time.Duration { return w.now })
	w.operator = w.store.Client("operator")
	w.log = slog.New(slog.DiscardHandler)
	if o.Trace {
		w.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	w.check.w, w.check.optime, w.check.forced = w, map[uint64]cluster.LSN{}, map[uint64]bool{}
	for p := range w.cut {
		w.cut[p] = make([][]bool, maxMachines)
		for i := range w.cut[p] {
			w.cut[p][i] = make([]bool, maxMachines)
		}
	}
	return w
}

// between is a random duration.
func (w *world) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

// chance is true with probability p.
func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func pick[T any](w *world, list ...T) T { return list[w.rng.IntN(len(list))] }

// hop is how long a message takes.
func (w *world) hop() time.Duration {
	d := w.between(200*time.Microsecond, 3*time.Millisecond)
	if w.slowNet > 0 {
		d += w.between(0, w.slowNet)
	}
	return d
}

// twice has a message that has arrived arrive once more, now and then.
func (w *world) twice(arrive func()) {
	if w.duplicates > 0 && w.chance(w.duplicates) {
		w.after(w.between(0, 5*time.Second), arrive)
	}
}

// passes says whether a message gets from one machine to another now.
func (w *world) passes(p plane, from, to *machine) bool {
	return from.on && to.on && (from == to || !w.cut[p][from.index][to.index])
}

// both says whether messages pass both ways.
func (w *world) both(p plane, a, b *machine) bool { return w.passes(p, a, b) && w.passes(p, b, a) }

func (w *world) machine(name string) *machine {
	for _, m := range w.machines {
		if m.name == name && !m.gone {
			return m
		}
	}
	return nil
}

func (w *world) nextID() int64 { w.serial++; return w.serial }

// tracef notes a line of the history.
func (w *world) tracef(m *machine, format string, args ...any) {
	if !w.trace.on() {
		return
	}
	who := "world"
	if m != nil {
		who = m.name
	}
	w.trace.line(w.now, who, fmt.Sprintf(format, args...))
}

// committed looks at a transaction that the store carried out.
func (w *world) committed(t dcs.Txn, res dcs.Result) {
	if !res.Succeeded {
		return
	}
	news, renewed := false, false
	for _, op := range inOrder(t.Then) {
		switch op.Key {
		case dcs.KeySync:
			before := len(w.sync.state.Standbys)
			w.sync.rev, w.sync.state = res.Revision, cluster.SyncState{}
			if !op.Delete {
				_ = w.sync.state.UnmarshalJSON(op.Value)
			}
			w.check.syncChanged(w.sync.state)
			if do := w.entitled; do != nil && before < len(w.sync.state.Standbys) {
				w.entitled = nil
				do()
			}
			w.tracef(nil, "stored /sync: leader=%s standbys=%v quorum=%d", w.sync.state.Leader, w.sync.state.Standbys, w.sync.state.Quorum)
			news = true
		case dcs.KeyLock:
			lock, err := cluster.ParseLock(op.Value)
			if err == nil {
				news = w.check.lockChanged(lock) || news
				renewed = true
			}
		case dcs.KeyConfig:
			d, _ := cluster.ParseDynamic(op.Value)
			w.check.settings = d.Settings
			news = true
		case dcs.KeyStatus:
			var st cluster.Status
			if json.Unmarshal(op.Value, &st) == nil {
				w.check.optime[w.check.lock.Epoch] = st.Optime
			}
		case dcs.KeyFailsafe:
			n := bytes.Count(op.Value, []byte("://")) // members
			if do := w.listed; do != nil && n > w.inList {
				w.listed = nil
				do()
			}
			w.inList = n
			news = true
		case dcs.KeyFailover:
			var r cluster.FailoverRequest
			w.check.forcing = !op.Delete && json.Unmarshal(op.Value, &r) == nil && r.Force
			news = true
		case dcs.KeyLeader:
		default:
			news = true
		}
	}
	// The watches of the agents see it.
	for _, m := range w.machines {
		switch {
		case m.agent == nil || !m.storeReachable():
		case news:
			m.agent.main.wake(w.hop() + w.hop())
		case renewed && w.check.lock.Node != m.agent.name:
			m.agent.watch.wake(w.hop())
		}
	}
}

// inOrder puts a request to fail over behind the lock that is taken for it: the one transaction does
// both.
func inOrder(ops []dcs.Op) []dcs.Op {
	for i, op := range ops {
		if op.Key == dcs.KeyFailover && i < len(ops)-1 {
			return append(append(append([]dcs.Op{}, ops[:i]...), ops[i+1:]...), op)
		}
	}
	return ops
}

// load reads the store. What one read at a revision serves for all: nobody changes a snapshot.
func (w *world) load(c *mem.Client) (dcs.Snapshot, error) {
	w.store.Expire()
	if w.snap.Revision == w.store.Revision() {
		return w.snap, nil
	}
	snap, err := c.Load(context.Background())
	if err == nil {
		w.snap = snap
	}
	return snap, err
}

// decode is the decoder that all nodes share: each reads the same keys at almost the same time.
func (w *world) decode(s dcs.Snapshot) cluster.View {
	at := &w.views[s.Revision%int64(len(w.views))]
	if at.Revision != s.Revision || s.Revision == 0 {
		*at = w.decoder.Decode(s)
	}
	return *at
}

// edit is a change by the operator: read, change, compare and swap, until it went through.
func (w *world) edit(change func(v cluster.View) []dcs.Op) {
	ctx := context.Background()
	for range 5 {
		snap, err := w.operator.Load(ctx)
		if err != nil {
			return
		}
		ops := change(dcs.Decode(snap))
		if len(ops) == 0 {
			return
		}
		t := dcs.Txn{Then: ops}
		for _, op := range ops {
			t.If = append(t.If, dcs.Cond{Key: op.Key, ModRev: snap.Entries[op.Key].ModRev})
		}
		res, err := w.operator.Commit(ctx, t)
		if err == nil && res.Succeeded {
			w.committed(t, res)
			return
		}
	}
}
