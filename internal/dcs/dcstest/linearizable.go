package dcstest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hathi-ha/hathi/internal/dcs"
)

// state is what the model of a store knows: its keys, and a revision that it has at least reached
// (leases of other tests may raise it further).
type state struct {
	revision int64
	entries  map[string]held
}

type held struct {
	value  string
	modRev int64
}

// request is a Load when txn is nil.
type request struct{ txn *dcs.Txn }

type answer struct {
	succeeded bool
	revision  int64
	entries   map[string]held // all of them of a Load, Found of a failed Commit
}

func model(initial state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return initial },
		Step: func(s, in, out any) (bool, any) { return step(s.(state), in.(request), out.(answer)) },
		Equal: func(a, b any) bool {
			return a.(state).revision == b.(state).revision && maps.Equal(a.(state).entries, b.(state).entries)
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}
}

func step(s state, in request, out answer) (bool, state) {
	if out.revision < s.revision {
		return false, s
	}
	if in.txn == nil {
		return maps.Equal(s.entries, out.entries), state{out.revision, s.entries}
	}
	holds := true
	found := map[string]held{}
	for _, c := range in.txn.If {
		e, there := s.entries[c.Key]
		holds = holds && e.modRev == c.ModRev
		if there {
			found[c.Key] = e
		}
	}
	if holds != out.succeeded {
		return false, s
	}
	if !holds {
		return maps.Equal(found, out.entries), state{out.revision, s.entries}
	}
	if out.revision == s.revision {
		return false, s // every transaction of the test changes something
	}
	entries := maps.Clone(s.entries)
	for _, op := range in.txn.Then {
		if op.Delete {
			delete(entries, op.Key)
		} else {
			entries[op.Key] = held{string(op.Value), out.revision}
		}
	}
	return true, state{out.revision, entries}
}

func describe(entries map[string]dcs.Entry) map[string]held {
	m := map[string]held{}
	for k, e := range entries {
		m[k] = held{string(e.Value), e.ModRev}
	}
	return m
}

// testLinearizable lets several callers read and compare-and-swap two keys at the same time, and
// asks porcupine whether some order of the operations, each between its call and its return,
// explains all answers.
func testLinearizable(t *testing.T, open Open) {
	a, b, _ := open(t)
	initial := state{load(t, a).Revision, map[string]held{}}
	const workers, each = 4, 30
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	began := time.Now()
	var (
		mu  sync.Mutex
		ops []porcupine.Operation
		wg  sync.WaitGroup
	)
	for w := range workers {
		st := []dcs.Store{a, b}[w%2]
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			known := map[string]held{}
			for i := range each {
				in := request{}
				if rnd.IntN(3) > 0 {
					in.txn = randomTxn(rnd, known, fmt.Sprintf("%d.%d", w, i))
				}
				call := time.Since(began)
				out, err := perform(t, st, in)
				ret := time.Since(began)
				if err != nil {
					t.Errorf("%+v: %v", in, err)
					return
				}
				switch {
				case in.txn == nil:
					known = maps.Clone(out.entries)
				case out.succeeded:
					_, after := step(state{0, known}, request{&dcs.Txn{Then: in.txn.Then}}, out)
					known = after.entries
				default:
					for _, c := range in.txn.If {
						delete(known, c.Key)
					}
					maps.Copy(known, out.entries)
				}
				mu.Lock()
				ops = append(ops, porcupine.Operation{ClientId: w, Input: in, Output: out, Call: int64(call), Return: int64(ret)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	switch got := porcupine.CheckOperationsTimeout(model(initial), ops, patience); got {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Logf("the check of %d operations took too long; no verdict", len(ops))
	default:
		t.Errorf("got a history of %d operations that no order explains, want a linearizable one", len(ops))
	}
}

// randomTxn compares what the caller last knew, which may be old, and changes one key or both.
func randomTxn(rnd *rand.Rand, known map[string]held, value string) *dcs.Txn {
	keys := [][]string{{"x"}, {"y"}, {"x", "y"}}[rnd.IntN(3)]
	txn := &dcs.Txn{}
	for i, k := range keys {
		txn.If = append(txn.If, dcs.Cond{Key: k, ModRev: known[k].modRev})
		if _, there := known[k]; i == 0 && there && rnd.IntN(4) == 0 {
			txn.Then = append(txn.Then, dcs.Op{Key: k, Delete: true})
			continue
		}
		txn.Then = append(txn.Then, put(k, value))
	}
	return txn
}

func perform(t *testing.T, st dcs.Store, in request) (answer, error) {
	if in.txn == nil {
		snap, err := st.Load(bound(t))
		return answer{revision: snap.Revision, entries: describe(snap.Entries)}, err
	}
	res, err := st.Commit(bound(t), *in.txn)
	return answer{succeeded: res.Succeeded, revision: res.Revision, entries: describe(res.Found)}, err
}
