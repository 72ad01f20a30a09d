package dcstest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/hathi-ha/hathi/internal/dcs"
)

func testLoadEmpty(t *testing.T, open Open) {
	a, _, _ := open(t)
	snap := load(t, a)
	wantEntries(t, snap, map[string]string{})
	if snap.Revision < 1 {
		t.Errorf("got revision %d, want at least 1", snap.Revision)
	}
}

func testConditions(t *testing.T, open Open) {
	a, b, _ := open(t)
	rev1 := must(t, a, dcs.Txn{If: []dcs.Cond{{Key: "k", ModRev: 0}}, Then: []dcs.Op{put("k", "1"), put("members/x", "m")}})
	other := load(t, b).Entries["members/x"].ModRev
	if other != rev1 {
		t.Errorf("got revision %d for the second key of the transaction, want %d", other, rev1)
	}
	for _, tt := range []struct {
		name  string
		conds []dcs.Cond
		holds bool
		found []string
	}{
		{"absent, but it is there", []dcs.Cond{{Key: "k"}}, false, []string{"k"}},
		{"an older revision", []dcs.Cond{{Key: "k", ModRev: rev1 - 1}}, false, []string{"k"}},
		{"a later revision", []dcs.Cond{{Key: "k", ModRev: rev1 + 1}}, false, []string{"k"}},
		{"a revision of what is absent", []dcs.Cond{{Key: "none", ModRev: rev1}}, false, nil},
		{"one of two", []dcs.Cond{{Key: "k", ModRev: rev1}, {Key: "members/x"}}, false, []string{"k", "members/x"}},
		{"one of two, the other absent", []dcs.Cond{{Key: "none"}, {Key: "k"}}, false, []string{"k"}},
		{"contradiction", []dcs.Cond{{Key: "k"}, {Key: "k", ModRev: rev1}}, false, []string{"k"}},
		{"a prefix of a key is another key", []dcs.Cond{{Key: "members/"}, {Key: "members"}}, true, nil},
		{"both", []dcs.Cond{{Key: "k", ModRev: rev1}, {Key: "members/x", ModRev: other}, {Key: "none"}}, true, nil},
	} {
		before := load(t, b)
		res := commit(t, a, dcs.Txn{If: tt.conds, Then: []dcs.Op{put("result", tt.name)}})
		after := load(t, b)
		if res.Succeeded != tt.holds {
			t.Errorf("%s: got %v, want %v", tt.name, res.Succeeded, tt.holds)
			continue
		}
		if tt.holds {
			if e := after.Entries["result"]; string(e.Value) != tt.name || e.ModRev != res.Revision {
				t.Errorf("%s: got %+v, want the value at revision %d", tt.name, e, res.Revision)
			}
			continue
		}
		if e := after.Entries["result"]; e.ModRev != before.Entries["result"].ModRev {
			t.Errorf("%s: a change was made although the conditions failed", tt.name)
		}
		if len(res.Found) != len(tt.found) {
			t.Errorf("%s: got found %v, want keys %v", tt.name, res.Found, tt.found)
		}
		for _, k := range tt.found {
			got, want := res.Found[k], before.Entries[k]
			if !bytes.Equal(got.Value, want.Value) || got.ModRev != want.ModRev {
				t.Errorf("%s: got found %q = %+v, want %+v", tt.name, k, got, want)
			}
		}
	}

	// Deleted and made anew: the old revision must not match.
	must(t, a, dcs.Txn{If: []dcs.Cond{{Key: "k", ModRev: rev1}}, Then: []dcs.Op{{Key: "k", Delete: true}}})
	must(t, a, dcs.Txn{If: []dcs.Cond{{Key: "k"}}, Then: []dcs.Op{put("k", "1")}})
	if res := commit(t, b, dcs.Txn{If: []dcs.Cond{{Key: "k", ModRev: rev1}}, Then: []dcs.Op{put("k", "2")}}); res.Succeeded {
		t.Error("got success with the revision of a deleted key")
	}
}

func testAllOrNothing(t *testing.T, open Open) {
	a, b, _ := open(t)
	must(t, a, puts(put("old", "x")))
	rev := must(t, a, puts(put("k1", "1"), put("k2", "2"), dcs.Op{Key: "old", Delete: true}))
	snap := load(t, b)
	wantEntries(t, snap, map[string]string{"k1": "1", "k2": "2"})
	if got := [2]int64{snap.Entries["k1"].ModRev, snap.Entries["k2"].ModRev}; got != [2]int64{rev, rev} {
		t.Errorf("got revisions %v, want both %d", got, rev)
	}
	// The second op cannot be carried out: the first must not be either.
	_, err := a.Commit(bound(t), puts(put("k1", "9"), dcs.Op{Key: "k3", Value: []byte("3"), Lease: 0x7777}))
	wantError(t, "commit on an unknown lease", err, dcs.ErrLeaseGone)
	wantEntries(t, load(t, b), map[string]string{"k1": "1", "k2": "2"})
}

func testNoChange(t *testing.T, open Open) {
	a, b, _ := open(t)
	must(t, a, puts(put("k", "v")))
	before := load(t, b)
	for name, txn := range map[string]dcs.Txn{
		"empty":                      {},
		"only conditions":            {If: []dcs.Cond{{Key: "none"}}},
		"deletion of what is absent": puts(dcs.Op{Key: "none", Delete: true}),
	} {
		if res := commit(t, a, txn); !res.Succeeded || res.Revision != before.Revision {
			t.Errorf("%s: got %+v, want success at revision %d", name, res, before.Revision)
		}
	}
	if got := load(t, b).Revision; got != before.Revision {
		t.Errorf("got revision %d, want %d", got, before.Revision)
	}
	// The same value again is a change: renewals rest on it.
	if rev := must(t, a, puts(put("k", "v"))); rev <= before.Revision {
		t.Errorf("got revision %d after a put of the same value, want above %d", rev, before.Revision)
	}
}

func testKeyTwice(t *testing.T, open Open) {
	a, b, _ := open(t)
	_, err := a.Commit(bound(t), puts(put("k", "1"), put("k", "2")))
	wantError(t, "commit", err, dcs.ErrUnavailable)
	wantEntries(t, load(t, b), map[string]string{})
}

func testLargeValues(t *testing.T, open Open) {
	a, b, _ := open(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	after := load(t, b).Revision
	w := b.Watch(t.Context(), after)
	for i := range 4 {
		must(t, a, puts(dcs.Op{Key: fmt.Sprintf("big%d", i), Value: big}))
	}
	must(t, a, puts(dcs.Op{Key: "empty"}))
	snap := load(t, b)
	for i := range 4 {
		if got := snap.Entries[fmt.Sprintf("big%d", i)].Value; !bytes.Equal(got, big) {
			t.Errorf("got %d bytes, want the %d written", len(got), len(big))
		}
		u := next(t, w)
		if u.Err != nil {
			t.Fatalf("the watch ended: %v", u.Err)
		}
		if len(u.Changes) != 1 || !bytes.Equal(u.Changes[0].Entry.Value, big) {
			t.Errorf("got an update with %d changes, want one with the value written", len(u.Changes))
		}
	}
	if e, ok := snap.Entries["empty"]; !ok || len(e.Value) != 0 {
		t.Errorf("got %+v (%v), want an entry with an empty value", e, ok)
	}
}

func testLoadAfterCommit(t *testing.T, open Open) {
	a, b, _ := open(t)
	stores := []dcs.Store{a, b}
	for i := range 30 {
		rev := must(t, stores[i%2], puts(put("k", strconv.Itoa(i))))
		snap := load(t, stores[(i+1)%2])
		if got := string(snap.Entries["k"].Value); got != strconv.Itoa(i) || snap.Revision < rev {
			t.Fatalf("got %q at revision %d, want %q at %d or later", got, snap.Revision, strconv.Itoa(i), rev)
		}
	}
}

func testBytes(t *testing.T, open Open) {
	a, b, _ := open(t)
	w := b.Watch(t.Context(), load(t, b).Revision)
	value := []byte("v")
	must(t, a, puts(dcs.Op{Key: "k", Value: value}))
	value[0] = 'X'
	load(t, b).Entries["k"].Value[0] = 'Y'
	next(t, w).Changes[0].Entry.Value[0] = 'Z'
	wantEntries(t, load(t, b), map[string]string{"k": "v"})
}

func testCounter(t *testing.T, open Open) {
	a, b, _ := open(t)
	const workers, each = 8, 20
	var wg sync.WaitGroup
	for i := range workers {
		st := []dcs.Store{a, b}[i%2]
		wg.Go(func() {
			for range each {
				if err := increment(t, st, "counter"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantEntries(t, load(t, a), map[string]string{"counter": strconv.Itoa(workers * each)})
}

func increment(t *testing.T, st dcs.Store, key string) error {
	var have dcs.Entry // the first try guesses that there is none
	for range 10_000 {
		n, _ := strconv.Atoi(string(have.Value))
		res, err := st.Commit(bound(t), dcs.Txn{
			If:   []dcs.Cond{{Key: key, ModRev: have.ModRev}},
			Then: []dcs.Op{put(key, strconv.Itoa(n+1))},
		})
		if err != nil {
			return fmt.Errorf("increment: %w", err)
		}
		if res.Succeeded {
			return nil
		}
		have = res.Found[key]
	}
	return errors.New("increment: no success in 10000 tries")
}
