package etcdserver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
	"github.com/hathi-ha/hathi/internal/etcdserver"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// What a group of three nodes writes in two seconds: a renewal of the lock every 400 ms, the leader's
// position with one of them, and each node's member key.
const (
	renewalsInTwoSeconds = 5
	nodes                = 3
	writesInTwoSeconds   = renewalsInTwoSeconds + nodes
	writesInAWeek        = 7 * 24 * 3600 / 2 * writesInTwoSeconds // 2,419,200
)

// mostBytes bounds the database of each member, and its log, on disk.
const mostBytes = 32 << 20

// TestWeek writes what hathi itself writes in a week (a fortieth of it unless HATHI_WEEK is set, see
// `make test-week`), with the same transactions, and looks at the sizes on each member's disk all the
// time. Time is compressed: compaction, defragmentation and the removal of old log files come as much
// sooner as the writes do. Meanwhile a foreigner fills some of the store and deletes it again, several
// times, and a member is away and comes back.
func TestWeek_SizesStayBounded(t *testing.T) {
	if raced {
		t.Skip("so many writes take too long under the race detector; scripts/check.sh runs this without it")
	}
	total := writesInAWeek / 40
	if v := os.Getenv("HATHI_WEEK"); v != "" {
		total = writesInAWeek
		if n, err := strconv.Atoi(v); err == nil && n > 1 {
			total = n
		}
	} else if testing.Short() {
		t.Skip("tens of thousands of writes take seconds")
	}
	base := t.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "hathi-week-"); err == nil { // syncing is not what is tested
		base = dir
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	cs := configs(t, 3, nil)
	var endpoints []string
	for i := range cs {
		// The real timings: others would be unseated by so many writes.
		cs[i].HeartbeatInterval, cs[i].ElectionTimeout = etcdserver.DefaultHeartbeatInterval, etcdserver.DefaultElectionTimeout
		cs[i].DataDir = filepath.Join(base, cs[i].Name)
		cs[i].CompactionRetention = 200 * time.Millisecond
		endpoints = append(endpoints, cs[i].ListenClientURLs[0])
	}
	servers := startAll(t, cs, (*etcdserver.Server).CompressTime)
	for _, s := range servers {
		ready(t, s)
	}

	stop := make(chan struct{})
	var watchers sync.WaitGroup
	t.Cleanup(func() { close(stop); watchers.Wait() })
	peaks := make([]sizes, len(cs))
	for i := range cs {
		wal := filepath.Join(cs[i].DataDir, "member", "wal")
		// etcd itself does just this every 30 s, which is hours of what is written here.
		done, errs := fileutil.PurgeFileWithDoneNotify(zap.NewNop(), wal, "wal", etcdserver.KeptFiles, 100*time.Millisecond, stop)
		watchers.Go(func() {
			select {
			case err := <-errs:
				t.Errorf("remove old log files of %s: %v", cs[i].Name, err)
			case <-done:
			}
		})
		watchers.Go(func() {
			for {
				peaks[i].look(cs[i].DataDir)
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}

	// Several groups, as with Citus, so that the writes of one need not wait for each other.
	const groups = 8
	var written atomic.Int64
	var writers sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for g := range groups {
		st, err := etcd.Open(ctx, etcd.Config{Endpoints: endpoints[:2], Prefix: fmt.Sprintf("/service/demo/%d/", g), RequestTimeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		writers.Go(func() {
			if err := oneGroup(ctx, st, &written, int64(total)); err != nil {
				t.Errorf("group %d: %v", g, err)
			}
		})
	}

	cl := client(t, nil, endpoints[:2]...)
	reached := func(part int) {
		t.Helper()
		want := int64(total) * int64(part) / 8
		for deadline := time.Now().Add(2 * time.Hour); written.Load() < want; <-time.After(20 * time.Millisecond) {
			if t.Failed() || time.Now().After(deadline) {
				t.Fatalf("%d writes, want %d", written.Load(), want)
			}
		}
	}
	defragmented := 0
	for part := 1; part < 8; part++ {
		reached(part)
		switch part {
		case 2, 4, 6:
			big := strings.Repeat("x", 100_000)
			for i := range 80 {
				until(t, func() string { return text(write(cl, fmt.Sprintf("/elsewhere/%d", i), big)) })
			}
			until(t, func() string {
				_, err := cl.Delete(bound(t), "/elsewhere/", clientv3.WithPrefix())
				return text(err)
			})
			until(t, func() string {
				if err := write(cl, "/elsewhere", "small"); err != nil {
					return err.Error()
				}
				for i, s := range servers {
					// The third is away for the second visit, and Status is zero then.
					if st := s.Status(); st.Bytes > 9<<20 {
						return fmt.Sprintf("%s was not defragmented: %d bytes, %d in use", cs[i].Name, st.Bytes, st.InUse)
					}
				}
				return ""
			})
			defragmented++
		case 3:
			if err := servers[2].Close(); err != nil {
				t.Fatal(err)
			}
		case 5:
			servers[2] = start(t, cs[2], (*etcdserver.Server).CompressTime)
			ready(t, servers[2])
		}
	}
	writers.Wait()
	until(t, func() string {
		a, b := servers[0].Status().Revision, servers[2].Status().Revision
		if a == 0 || a != b {
			return fmt.Sprintf("revision %d on one member and %d on the one that was away", a, b)
		}
		return ""
	})
	if rev := servers[0].Status().Revision; rev < int64(total) {
		t.Errorf("got revision %d after %d writes", rev, total)
	}
	if w := <-cl.Watch(bound(t), "k", clientv3.WithRev(2)); w.CompactRevision < int64(total)/2 {
		t.Errorf("got the revisions from %d on kept, want those of the first half compacted", w.CompactRevision)
	}
	for i := range cs {
		p := peaks[i].get()
		t.Logf("%s: %d writes, largest database %.1f MiB, log %.1f MiB, all %.1f MiB", cs[i].Name, written.Load(), mib(p.db), mib(p.wal), mib(p.all))
		if p.db == 0 || p.wal == 0 {
			t.Errorf("%s: nothing was measured", cs[i].Name)
		}
		if p.db > mostBytes || p.wal > mostBytes {
			t.Errorf("%s: database %d and log %d bytes at most, want each within %d", cs[i].Name, p.db, p.wal, mostBytes)
		}
	}
	if defragmented != 3 {
		t.Errorf("got %d rounds of defragmentation, want 3", defragmented)
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// oneGroup writes as one group of nodes does until all groups together have written total.
func oneGroup(ctx context.Context, st *etcd.Store, written *atomic.Int64, total int64) error {
	var lockRev int64
	leases := make([]dcs.LeaseID, nodes)
	for i := range leases {
		for leases[i] == 0 {
			id, err := st.Grant(ctx, time.Hour)
			if ctx.Err() != nil {
				return fmt.Errorf("no lease: %w", err)
			}
			leases[i] = id // 0 with an error: the machine is busy
		}
	}
	for round := 0; written.Load() < total; round++ {
		for i := range renewalsInTwoSeconds {
			seq := round*renewalsInTwoSeconds + i
			txn := dcs.Txn{If: []dcs.Cond{{Key: dcs.KeyLock, ModRev: lockRev}}, Then: []dcs.Op{{Key: dcs.KeyLock,
				Value: fmt.Appendf(nil, `{"node":"pg1","instance":"475d46d0-7c55-4f50-9d6a-0c5a5f0a9b11","epoch":3,"seq":%d,"ttl_ms":6000,"timeline":3,"ready":true}`, seq)}}}
			if i == 0 {
				txn.Then = append(txn.Then, dcs.Op{Key: dcs.KeyStatus, Value: fmt.Appendf(nil,
					`{"optime":%d,"slots":{"pg1":%d,"pg2":%d,"pg3":%d},"timeline":3}`, 1000000+seq, 1000000+seq, 1000000+seq, 1000000+seq)})
			}
			res, err := st.Commit(ctx, txn)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				continue // as a leader does: outcome unknown, try again
			case !res.Succeeded:
				lockRev = res.Found[dcs.KeyLock].ModRev // an unknown outcome that was one
				continue
			}
			lockRev = res.Revision
			written.Add(1)
		}
		for i := range nodes {
			_, err := st.Commit(ctx, dcs.Txn{Then: []dcs.Op{{Key: dcs.MemberKey(fmt.Sprint("pg", i)), Lease: leases[i], Value: fmt.Appendf(nil,
				`{"api_url":"https://127.0.0.1:8608/patroni","conn_url":"postgres://127.0.0.1:8032/postgres","replication_state":"streaming","role":"replica","state":"running","timeline":3,"version":"4.1.0","xlog_location":%d,"receive_lsn":%d,"replay_lsn":%d,"instance":"475d46d0-7c55-4f50-9d6a-0c5a5f0a9b11","peer_url":"https://127.0.0.1:9608/peer"}`,
				round, round, round)}}})
			if err != nil && ctx.Err() != nil {
				return nil
			}
			written.Add(1)
		}
	}
	return nil
}

// sizes are the largest seen on a member's disk.
type sizes struct {
	mu           sync.Mutex
	db, wal, all int64
}

func (s *sizes) look(dataDir string) {
	var db, wal, all int64
	_ = filepath.Walk(dataDir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return nil // it is being removed
		}
		all += info.Size()
		switch {
		case filepath.Base(path) == "db":
			db = info.Size()
		case filepath.Base(filepath.Dir(path)) == "wal":
			wal += info.Size()
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.db, s.wal, s.all = max(s.db, db), max(s.wal, wal), max(s.all, all)
}

func (s *sizes) get() sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sizes{db: s.db, wal: s.wal, all: s.all}
}
