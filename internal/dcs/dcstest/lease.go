package dcstest

import (
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
)

func grant(t *testing.T, st dcs.Store, ttl time.Duration) dcs.LeaseID {
	t.Helper()
	id, err := st.Grant(bound(t), ttl)
	if err != nil {
		t.Fatalf("grant: %v", err)
	}
	if id == 0 {
		t.Fatal("grant: got lease 0, which means none")
	}
	return id
}

func bind(key string, id dcs.LeaseID) dcs.Op {
	return dcs.Op{Key: key, Value: []byte("bound"), Lease: id}
}

func testLeaseExpires(t *testing.T, open Open) {
	a, b, advance := open(t)
	id := grant(t, a, 900*time.Millisecond)
	must(t, a, puts(bind("k1", id), bind("k2", id), put("free", "f")))
	snap := load(t, b)
	if got := snap.Entries["k1"].Lease; got != id {
		t.Errorf("got lease %x, want %x", got, id)
	}
	if got := snap.Entries["free"].Lease; got != 0 {
		t.Errorf("got lease %x, want none", got)
	}
	w := b.Watch(t.Context(), snap.Revision)
	eventually(t, advance, func() string {
		if _, there := load(t, b).Entries["k1"]; there {
			return "the key is still there"
		}
		return ""
	})
	u := next(t, w)
	if len(u.Changes) != 2 || !u.Changes[0].Deleted || !u.Changes[1].Deleted {
		t.Errorf("got %+v, want both keys deleted at one revision", u)
	}
	wantEntries(t, load(t, b), map[string]string{"free": "f"})
	wantError(t, "keepalive", a.KeepAlive(bound(t), id), dcs.ErrLeaseGone)
}

func testLeaseKeepAlive(t *testing.T, open Open) {
	a, b, advance := open(t)
	id := grant(t, a, 2*time.Second)
	must(t, a, puts(bind("k", id)))
	for range 8 { // twice its time
		advance(500 * time.Millisecond)
		if err := b.KeepAlive(bound(t), id); err != nil {
			t.Fatalf("keepalive: %v", err)
		}
	}
	wantEntries(t, load(t, b), map[string]string{"k": "bound"})
}

func testLeaseRevoke(t *testing.T, open Open) {
	a, b, _ := open(t)
	id := grant(t, a, time.Minute)
	must(t, a, puts(bind("k1", id), bind("k2", id)))
	w := b.Watch(t.Context(), load(t, b).Revision)
	for range 2 { // the second time it is gone already
		if err := b.Revoke(bound(t), id); err != nil {
			t.Fatalf("revoke: %v", err)
		}
	}
	wantEntries(t, load(t, a), map[string]string{})
	if u := next(t, w); len(u.Changes) != 2 || !u.Changes[0].Deleted || !u.Changes[1].Deleted {
		t.Errorf("got %+v, want both keys deleted at one revision", u)
	}
}

func testLeaseGone(t *testing.T, open Open) {
	a, b, _ := open(t)
	id := grant(t, a, time.Minute)
	if err := a.Revoke(bound(t), id); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	wantError(t, "keepalive", a.KeepAlive(bound(t), id), dcs.ErrLeaseGone)
	_, err := a.Commit(bound(t), puts(bind("k", id)))
	wantError(t, "commit", err, dcs.ErrLeaseGone)
	// Conditions come first: a transaction that would not be made needs no lease.
	res := commit(t, a, dcs.Txn{If: []dcs.Cond{{Key: "none", ModRev: 1}}, Then: []dcs.Op{bind("k", id)}})
	if res.Succeeded {
		t.Error("got success with a condition that does not hold")
	}
	wantEntries(t, load(t, b), map[string]string{})
}

func testLeaseRebind(t *testing.T, open Open) {
	a, b, _ := open(t)
	first, second := grant(t, a, time.Minute), grant(t, a, time.Minute)
	must(t, a, puts(bind("freed", first), bind("moved", first), bind("kept", first)))
	must(t, a, puts(put("freed", "f"), bind("moved", second)))
	if err := a.Revoke(bound(t), first); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	wantEntries(t, load(t, b), map[string]string{"freed": "f", "moved": "bound"})
	must(t, a, puts(dcs.Op{Key: "moved", Delete: true}))
	must(t, a, puts(put("moved", "new")))
	if err := a.Revoke(bound(t), second); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	wantEntries(t, load(t, b), map[string]string{"freed": "f", "moved": "new"})
}
