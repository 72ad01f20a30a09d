package etcdserver_test

import (
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
)

// A member that has lost the others still runs and still has everything: it must neither be read from
// nor be listened to.
func TestMinority_IsNeitherReadNorListenedTo(t *testing.T) {
	cs := configs(t, 3, nil)
	servers := startAll(t, cs)
	for _, s := range servers {
		ready(t, s)
	}
	st, err := etcd.Open(t.Context(), etcd.Config{Endpoints: cs[0].ListenClientURLs, Prefix: "/service/demo/", RequestTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	var snap dcs.Snapshot
	until(t, func() string {
		if _, err := st.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: "lock", Value: []byte("1")}}}); err != nil {
			return err.Error()
		}
		var err error
		snap, err = st.Load(t.Context())
		return text(err)
	})
	watch := st.Watch(t.Context(), snap.Revision)
	if u := <-watch; u.Err != nil {
		t.Fatal(u.Err)
	}
	for _, s := range servers[1:] {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		var last error
		for u := range watch {
			last = u.Err
		}
		ended <- last
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("got no error at the end of the watch")
		}
	case <-time.After(patience):
		t.Error("the watch goes on although nothing can be committed")
	}
	if snap, err := st.Load(t.Context()); err == nil {
		t.Errorf("got %v from a member without a majority", snap)
	}
	if res, err := st.Commit(t.Context(), dcs.Txn{If: []dcs.Cond{{Key: "lock", ModRev: 1}}, Then: []dcs.Op{{Key: "lock"}}}); err == nil {
		t.Errorf("got %v from a member without a majority", res)
	}
}
