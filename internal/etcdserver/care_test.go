package etcdserver_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/etcdserver"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func hurry(s *etcdserver.Server) { s.Hurry() }

func TestCare_LeaderCompactsAndKeepsTheLastRevisions(t *testing.T) {
	c := configs(t, 1, nil)[0]
	c.CompactionRetention = time.Millisecond
	s := start(t, c, hurry)
	ready(t, s)
	cl := client(t, nil, c.ListenClientURLs...)
	for i := range 50 {
		put(t, cl, "k", fmt.Sprint(i))
	}
	until(t, func() string {
		w := cl.Watch(bound(t), "k", clientv3.WithRev(2))
		if resp := <-w; resp.CompactRevision == 0 {
			return "revision 2 is still there"
		}
		return ""
	})
	rev := s.Status().Revision
	w := cl.Watch(bound(t), "k", clientv3.WithRev(rev-5))
	if resp := <-w; resp.Err() != nil || len(resp.Events) == 0 {
		t.Errorf("got %+v, want the last revisions kept", resp)
	}
}

func TestCare_DefragmentsWhenHalfIsFree(t *testing.T) {
	c := configs(t, 1, nil)[0]
	c.CompactionRetention = time.Millisecond
	s := start(t, c, hurry)
	ready(t, s)
	cl := client(t, nil, c.ListenClientURLs...)
	big := strings.Repeat("x", 100_000)
	// In use, and not only past revisions, so that nothing is freed before the peak is read.
	for i := range 60 {
		put(t, cl, fmt.Sprint("big", i), big)
	}
	peak := s.Status().Bytes
	if peak < 2_000_000 {
		t.Fatalf("got a database of %d bytes, want one worth defragmenting", peak)
	}
	if _, err := cl.Delete(bound(t), "big", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		put(t, cl, "k", "small")
		if st := s.Status(); st.Bytes > peak/2 {
			return fmt.Sprintf("%d bytes, %d in use", st.Bytes, st.InUse)
		}
		return ""
	})
	resp, err := cl.Get(bound(t), "k")
	if err != nil || string(resp.Kvs[0].Value) != "small" {
		t.Errorf("got %v, %v, want the value", resp, err)
	}
}

func TestCare_GetsOutOfAFullDatabase(t *testing.T) {
	var j journal
	cs := configs(t, 3, j.logger())
	var servers []*etcdserver.Server
	var endpoints []string
	for i := range cs {
		cs[i].QuotaBytes = 4 << 20
		servers = append(servers, start(t, cs[i], func(s *etcdserver.Server) { s.HurryAlarmsOnly() }))
		endpoints = append(endpoints, cs[i].ListenClientURLs[0])
	}
	for _, s := range servers {
		ready(t, s)
	}
	cl := client(t, nil, endpoints...)
	big := strings.Repeat("x", 200_000)
	full := false
	for range 200 {
		if _, err := cl.Put(bound(t), "k", big); err != nil {
			if !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Fatal(err)
			}
			full = true
			break
		}
	}
	if !full {
		t.Fatal("the database did not get full: the test tests nothing")
	}
	until(t, func() string {
		if _, err := cl.Put(bound(t), "k", "small"); err != nil {
			return err.Error()
		}
		for _, s := range servers {
			if s.Status().NoSpace {
				return "there is still an alarm"
			}
		}
		if log := j.String(); !strings.Contains(log, "etcd is full") || !strings.Contains(log, "has space again") {
			return "the log does not tell of both: " + log
		}
		return ""
	})
}
