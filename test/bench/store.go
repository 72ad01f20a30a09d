package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hathi-ha/hathi/internal/boottime"
)

// etcdCluster is the etcd of a system under test, member by member: a member that is cut off delays
// no question to the others.
type etcdCluster struct {
	clients map[string]*clientv3.Client // by node
	ids     map[uint64]string           // node by member id
}

func openEtcd(endpoints map[string]string, tlsc *tls.Config) (*etcdCluster, error) {
	e := &etcdCluster{clients: map[string]*clientv3.Client{}, ids: map[uint64]string{}}
	for node, ep := range endpoints {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{ep}, TLS: tlsc, DialTimeout: time.Second, Logger: zap.NewNop(),
			DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: time.Second})
		if err != nil {
			return nil, err
		}
		e.clients[node] = c
	}
	return e, nil
}

func (e *etcdCluster) close() {
	for _, c := range e.clients {
		_ = c.Close()
	}
}

// leader is the node whose member leads etcd, as a majority sees it.
func (e *etcdCluster) leader(ctx context.Context) (string, error) {
	votes := map[uint64]int{}
	var last error
	for node, c := range e.clients {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		st, err := c.Status(sctx, c.Endpoints()[0])
		cancel()
		if err != nil {
			last = fmt.Errorf("etcd of %s: %w", node, err)
			continue
		}
		e.ids[st.Header.MemberId] = node
		votes[st.Leader]++
	}
	for id, n := range votes {
		if 2*n > len(e.clients) && e.ids[id] != "" {
			return e.ids[id], nil
		}
	}
	return "", errors.Join(errors.New("no etcd leader that a majority knows"), last)
}

// healthy says whether every member knows the same leader.
func (e *etcdCluster) healthy(ctx context.Context) error {
	leader := uint64(0)
	for node, c := range e.clients {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		st, err := c.Status(sctx, c.Endpoints()[0])
		cancel()
		if err != nil {
			return fmt.Errorf("etcd of %s: %w", node, err)
		}
		if st.Leader == 0 || leader != 0 && st.Leader != leader {
			return fmt.Errorf("etcd of %s sees leader %x", node, st.Leader)
		}
		leader = st.Leader
	}
	return nil
}

// moveLeader makes the member of node lead.
func (e *etcdCluster) moveLeader(ctx context.Context, node string) error {
	return until(ctx, 20*time.Second, 300*time.Millisecond, "move etcd's leader to "+node, func(ctx context.Context) error {
		now, err := e.leader(ctx)
		if err != nil || now == node {
			return err
		}
		var id uint64
		for i, n := range e.ids {
			if n == node {
				id = i
			}
		}
		mctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if _, err := e.clients[now].MoveLeader(mctx, id); err != nil {
			return err
		}
		return fmt.Errorf("moved from %s", now)
	})
}

// event is a change of a key, at the instant the first of the watching connections told of it.
type event struct {
	at    time.Duration
	rev   int64
	value []byte // nil: deleted
}

// recorder follows one key through every member.
type recorder struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	seen   map[int64]bool
	events []event
	newest event // by revision: the connections do not tell in step
}

func (e *etcdCluster) record(key string) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{cancel: cancel, seen: map[int64]bool{}}
	for _, c := range e.clients {
		r.wg.Go(func() {
			var after int64
			for ctx.Err() == nil {
				opts := []clientv3.OpOption{}
				if after > 0 {
					opts = append(opts, clientv3.WithRev(after+1))
				}
				wctx, stop := context.WithCancel(ctx)
				for resp := range c.Watch(wctx, key, opts...) {
					now := boottime.Now()
					if resp.CompactRevision > 0 {
						after = 0
					}
					for _, ev := range resp.Events {
						after = max(after, ev.Kv.ModRevision)
						r.add(event{now, ev.Kv.ModRevision, value(ev)})
					}
				}
				stop()
				_ = pause(ctx, 100*time.Millisecond)
			}
		})
	}
	return r
}

func value(ev *clientv3.Event) []byte {
	if ev.Type == clientv3.EventTypeDelete {
		return nil
	}
	return ev.Kv.Value
}

func (r *recorder) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[e.rev] {
		return
	}
	r.seen[e.rev] = true
	r.events = append(r.events, e)
	if e.rev > r.newest.rev {
		r.newest = e
	}
}

// last is the newest value that was told; false before the first.
func (r *recorder) last() (event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest, len(r.events) > 0
}

func (r *recorder) since(at time.Duration) []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []event
	for _, e := range r.events {
		if e.at > at {
			out = append(out, e)
		}
	}
	return out
}

func (r *recorder) close() { r.cancel(); r.wg.Wait() }
