package etcdserver_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// BenchmarkElection kills the leader of three `hathi etcd` processes with the default settings and
// measures how long until a survivor knows another leader, and until one acknowledges a write.
//
//	go test ./internal/etcdserver -run - -bench Election -benchtime 20x
func BenchmarkElection(b *testing.B) {
	ps := processes(b, 3, "", nil)
	for _, p := range ps {
		p.start()
	}
	var elected, written []time.Duration
	for b.Loop() {
		lead, others := settled(b, ps...)
		cs := []*clientv3.Client{connect(b, others[0]), connect(b, others[1])}
		st, err := others[0].status(cs[0])
		if err != nil {
			b.Fatal(err)
		}
		old := st.Leader
		for i, c := range cs {
			if err := write(c, lockKey, others[i].name); err != nil {
				b.Fatal(err)
			}
		}
		began := time.Now()
		_ = lead.cmd.Process.Kill()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var first, wrote time.Duration
		note := func(at *time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			if *at == 0 {
				*at = time.Since(began)
			}
		}
		for i, c := range cs {
			wg.Go(func() {
				for time.Since(began) < patience {
					if st, err := others[i].status(c); err == nil && st.Leader != 0 && st.Leader != old {
						note(&first)
						return
					}
					<-time.After(2 * time.Millisecond)
				}
			})
			wg.Go(func() {
				for time.Since(began) < patience {
					ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(context.Background()), 100*time.Millisecond)
					_, err := c.Put(ctx, lockKey, "x")
					cancel()
					if err == nil {
						// What the old leader had appended before it died is committed by the next.
						if st, err := others[i].status(c); err == nil && st.Leader != old {
							note(&wrote)
							return
						}
					}
					<-time.After(2 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if first == 0 || wrote == 0 {
			b.Fatalf("no election in %v", patience)
		}
		elected, written = append(elected, first), append(written, wrote)
		<-lead.done
		lead.start()
		for _, c := range cs {
			c.Close()
		}
	}
	settled(b, ps...)
	for name, d := range map[string][]time.Duration{"elected": elected, "written": written} {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Milliseconds()), name+"-median-ms")
		b.ReportMetric(float64(d[len(d)-1].Milliseconds()), name+"-max-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDefragmentation measures how long a member is away while it defragments, by the size of
// what is in use: the longest gap between acknowledged writes through that very member.
//
//	go test ./internal/etcdserver -run - -bench Defragmentation -benchtime 3x
func BenchmarkDefragmentation(b *testing.B) {
	for _, mib := range []int{2, 8, 32} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			ps := processes(b, 1, "512MB", nil)
			ps[0].start()
			settled(b, ps...)
			c, other := connect(b, ps[0]), connect(b, ps[0])
			value := string(make([]byte, 1000))
			for i := range mib << 10 {
				if err := write(c, fmt.Sprintf("/service/demo/%d", i), value); err != nil {
					b.Fatal(err)
				}
			}
			var gaps, took []time.Duration
			for b.Loop() {
				ctx, stop := context.WithCancel(context.Background())
				var longest time.Duration
				var wg sync.WaitGroup
				wg.Go(func() {
					last := time.Now()
					for ctx.Err() == nil {
						if write(other, lockKey, "x") == nil {
							longest = max(longest, time.Since(last))
							last = time.Now()
						}
					}
				})
				began := time.Now()
				if _, err := c.Defragment(boundTB(b), "http://"+ps[0].client); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
				stop()
				wg.Wait()
				gaps = append(gaps, longest)
			}
			slices.Sort(gaps)
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "defrag-max-ms")
			b.ReportMetric(float64(gaps[len(gaps)-1].Milliseconds()), "gap-max-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
