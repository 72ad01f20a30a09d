package etcdserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
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

// defrags is a log handler that notes the defragmentations of one member.
type defrags struct {
	slog.Handler
	mu   *sync.Mutex
	list *[]defragmentation
	name string
}

type defragmentation struct {
	name       string
	from, to   time.Time
	led        bool
	bytesAfter int64
}

func (d *defrags) Enabled(context.Context, slog.Level) bool { return true }

func (d *defrags) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "etcd defragmented" {
		f := defragmentation{name: d.name, to: r.Time}
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "took":
				f.from = r.Time.Add(-a.Value.Duration())
			case "led_others":
				f.led = a.Value.Bool()
			case "bytes_after":
				f.bytesAfter = a.Value.Int64()
			}
			return true
		})
		d.mu.Lock()
		defer d.mu.Unlock()
		*d.list = append(*d.list, f)
	}
	return nil
}

// All members have a half empty database at once: they defragment one after the other, and none while
// it leads the others.
func TestCare_DefragmentsOneAtATimeAndNeverTheLeader(t *testing.T) {
	var mu sync.Mutex
	var list []defragmentation
	cs := configs(t, 3, nil)
	var endpoints []string
	for i := range cs {
		cs[i].CompactionRetention = time.Millisecond
		cs[i].Logger = slog.New(&defrags{slog.DiscardHandler, &mu, &list, cs[i].Name})
		endpoints = append(endpoints, cs[i].ListenClientURLs[0])
	}
	for _, s := range startAll(t, cs, hurry) {
		ready(t, s)
	}
	cl := client(t, nil, endpoints...)
	big := strings.Repeat("x", 200_000)
	for i := range 40 {
		put(t, cl, fmt.Sprint("big", i), big)
	}
	if _, err := cl.Delete(bound(t), "big", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		put(t, cl, "k", "small") // what compaction freed shows in the size in use after later writes
		mu.Lock()
		defer mu.Unlock()
		done := map[string]bool{}
		for _, d := range list {
			done[d.name] = true
		}
		if len(done) < 3 {
			return fmt.Sprintf("defragmented so far: %v", list)
		}
		return ""
	})
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(list, func(a, b defragmentation) int { return a.from.Compare(b.from) })
	for i, d := range list {
		if d.led {
			t.Errorf("%s defragmented while it led the others", d.name)
		}
		if i > 0 && d.from.Before(list[i-1].to) {
			t.Errorf("%s began at %v, before %s was done at %v", d.name, d.from, list[i-1].name, list[i-1].to)
		}
	}
}

// A member that died in its turn to defragment holds the others up for as long as its lease lives.
func TestCare_ATurnToDefragmentIsNotHeldByTheDead(t *testing.T) {
	var mu sync.Mutex
	var list []defragmentation
	c := configs(t, 1, nil)[0]
	c.CompactionRetention = time.Millisecond
	c.Logger = slog.New(&defrags{slog.DiscardHandler, &mu, &list, c.Name})
	s := start(t, c, hurry)
	ready(t, s)
	cl := client(t, nil, c.ListenClientURLs...)
	dead, err := cl.Grant(bound(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Put(bound(t), etcdserver.DefragKey, "dead", clientv3.WithLease(dead.ID)); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 200_000)
	for i := range 20 {
		put(t, cl, fmt.Sprint("big", i), big)
	}
	if _, err := cl.Delete(bound(t), "big", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		put(t, cl, "k", "small")
		held, err := cl.Get(bound(t), etcdserver.DefragKey)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(held.Kvs) > 0 && string(held.Kvs[0].Value) == "dead" && len(list) > 0 {
			t.Fatalf("it defragmented (%v) although another had the turn", list)
		}
		if len(list) == 0 {
			return fmt.Sprintf("no defragmentation; the turn: %v", held.Kvs)
		}
		return ""
	})
}

// renewals writes a lock as its holder does, through hathi's own client, until the test ends.
type renewals struct {
	mu      sync.Mutex
	rev     int64
	good    int
	last    error
	lastAt  time.Time
	longest time.Duration
}

func renew(t *testing.T, endpoints []string) *renewals {
	t.Helper()
	st, err := etcd.Open(t.Context(), etcd.Config{Endpoints: endpoints, Prefix: "/service/demo/"})
	if err != nil {
		t.Fatal(err)
	}
	r := &renewals{lastAt: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			r.mu.Lock()
			rev := r.rev
			r.mu.Unlock()
			res, err := st.Commit(ctx, dcs.Txn{If: []dcs.Cond{{Key: "lock", ModRev: rev}},
				Then: []dcs.Op{{Key: "lock", Value: []byte(`{"node":"pg1"}`)}, {Key: "sync", Value: []byte(`{"leader":"pg1"}`)}}})
			r.mu.Lock()
			switch {
			case err != nil:
				r.last = err
			case !res.Succeeded:
				r.rev = res.Found["lock"].ModRev // an unknown outcome that was one
			default:
				r.rev, r.good = res.Revision, r.good+1
				r.longest = max(r.longest, time.Since(r.lastAt))
				r.lastAt = time.Now()
			}
			r.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; st.Close() })
	return r
}

// more waits for a few more renewals.
func (r *renewals) more(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	want := r.good + 5
	r.mu.Unlock()
	until(t, func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.good < want {
			return fmt.Sprintf("%d renewals, want %d: %v", r.good, want, r.last)
		}
		return ""
	})
}

// fill writes with a foreign client until etcd refuses for want of space.
func fill(t *testing.T, endpoints []string, key func(i int) string) {
	t.Helper()
	cl := client(t, nil, endpoints...)
	big := strings.Repeat("x", 200_000)
	for i := range 1000 {
		if _, err := cl.Put(bound(t), key(i), big); err != nil {
			if !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("the database did not get full: the test tests nothing")
}

// A foreign writer overwrites one key until the store is full of its past. The lock goes on being
// renewed without anybody's help, and the log says what happened.
func TestCare_TheLockOutlivesAStoreFullOfGarbage(t *testing.T) {
	servers, endpoints, j := fullCluster(t)
	r := renew(t, endpoints)
	r.more(t)
	fill(t, endpoints, func(int) string { return "/elsewhere/k" })
	until(t, func() string {
		for _, s := range servers {
			if s.Status().NoSpace {
				return "there is still an alarm"
			}
		}
		return ""
	})
	r.more(t)
	for _, want := range []string{"etcd is full and refuses writes", "etcd has space again"} {
		if !strings.Contains(j.String(), want) {
			t.Errorf("the log does not say %q: %s", want, j)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("longest time between two renewals: %v", r.longest.Round(time.Millisecond))
}

// What fills the store is live data of somebody else: nothing that may be thrown away. The log names
// it and says what to do; once that is done, the rest happens by itself, and the lock is as it was.
func TestCare_AStoreFullOfLiveDataIsNamedAndRecoversAfterDeletion(t *testing.T) {
	servers, endpoints, j := fullCluster(t)
	r := renew(t, endpoints)
	r.more(t)
	fill(t, endpoints, func(i int) string { return fmt.Sprintf("/elsewhere/app/k%d", i) })
	foreign, more := client(t, nil, endpoints...), 1000
	until(t, func() string {
		// Defragmentation may find room for a few more.
		if write(foreign, fmt.Sprintf("/elsewhere/app/k%d", more), strings.Repeat("x", 200_000)) == nil {
			more++
		}
		if log := j.String(); !strings.Contains(log, "etcd stays full") || !strings.Contains(log, `\"/elsewhere/app/\"`) || !strings.Contains(log, "etcdctl del --prefix") {
			return "the log does not name who fills it and what to do: " + log
		}
		return ""
	})
	cl := client(t, nil, endpoints...)
	lock, err := cl.Get(bound(t), "/service/demo/lock")
	if err != nil || len(lock.Kvs) != 1 || string(lock.Kvs[0].Value) != `{"node":"pg1"}` {
		t.Errorf("got %v, %v, want the lock kept", lock, err)
	}
	if _, err := cl.Delete(bound(t), "/elsewhere/", clientv3.WithPrefix()); err != nil {
		t.Fatalf("deleting must be possible in a full store: %v", err)
	}
	until(t, func() string {
		for i, s := range servers {
			if st := s.Status(); st.NoSpace || st.Bytes > st.QuotaBytes/2 {
				return fmt.Sprintf("%s: alarm %t, %d bytes", cs(i), st.NoSpace, st.Bytes)
			}
		}
		return ""
	})
	r.more(t)
}

func cs(i int) string { return fmt.Sprintf("pg%d", i+1) }

// fullCluster is one whose members have a small quota, and look at alarms more often than they would.
func fullCluster(t *testing.T) ([]*etcdserver.Server, []string, *journal) {
	t.Helper()
	j := &journal{}
	configs := configs(t, 3, j.logger())
	var endpoints []string
	for i := range configs {
		configs[i].QuotaBytes = 4 << 20
		endpoints = append(endpoints, configs[i].ListenClientURLs[0])
	}
	servers := startAll(t, configs, (*etcdserver.Server).HurryAlarmsOnly)
	for _, s := range servers {
		ready(t, s)
	}
	return servers, endpoints, j
}
