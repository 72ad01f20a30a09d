// Package etcd is the real store: dcs.Store over etcd's v3 API.
//
// What it adds to etcd's client is a strict view of outcomes and quick fail-over. Each endpoint has
// its own connection. A request goes to the first healthy endpoint; one that was surely not carried
// out is tried on the next, one whose outcome is unknown is reported as such and never repeated
// (reads and idempotent requests are). An endpoint that lets a request time out is left aside until
// a probe has succeeded on it, so a member that falls silent, without closing its connections,
// costs at most one failed write. Nothing is retried below this package.
//
// Reads are linearizable; on top of that an answer older than one already seen is refused, which
// catches a member that was frozen and answers before it notices, and a store that was restored from
// an older snapshot or founded anew (dcs.ErrWentBack). It stays refused while this Store lives, and
// for later ones that are given the same Config.Seen.
//
// What it does not do: it does not discover members (the endpoints are the configuration's), and it
// does not cache.
package etcd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Store is a dcs.Store. Make one with Open.
type Store struct {
	config    Config
	endpoints []*endpoint
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	revision  atomic.Int64 // the highest seen in any answer

	mu      sync.Mutex
	changed chan struct{} // closed and renewed when a connection changes state
	closed  bool
}

var _ dcs.Store = (*Store)(nil)

// Open begins to connect and returns at once: it fails on a bad configuration, never because the
// store is away. ctx bounds only Open itself. Close the Store after use.
func Open(ctx context.Context, config Config) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open etcd store: %w", err)
	}
	config, err := config.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open etcd store: %w", err)
	}
	s := &Store{config: config, changed: make(chan struct{})}
	s.revision.Store(config.Seen)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, url := range config.Endpoints {
		s.endpoints = append(s.endpoints, newEndpoint(s, url))
	}
	for _, e := range s.endpoints {
		s.wg.Go(func() { e.run(s.ctx) })
	}
	return s, nil
}

// Close implements dcs.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	return nil
}

// begin runs f as part of the store's life; false when the store is closed.
func (s *Store) begin(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// troubled says that some endpoint is suspect or not connected.
func (s *Store) troubled() bool {
	for _, e := range s.endpoints {
		if _, ok := e.ready(); !ok {
			return true
		}
		if suspect, _ := e.standing(); suspect {
			return true
		}
	}
	return false
}

func (s *Store) poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

func (s *Store) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// saw notes the revision of an answer.
func (s *Store) saw(revision int64) {
	for {
		old := s.revision.Load()
		if revision <= old || s.revision.CompareAndSwap(old, revision) {
			return
		}
	}
}

// staleError is the refusal of an answer from the past.
type staleError struct{ got, seen int64 }

func (e *staleError) Error() string {
	return fmt.Sprintf("the member answered with revision %d after revision %d had been seen: it is stale, or the store "+
		"was restored from an older copy, or made anew", e.got, e.seen)
}

func (e *staleError) Is(target error) bool { return target == dcs.ErrWentBack }

// Revision is the highest revision seen in any answer, at least Config.Seen.
func (s *Store) Revision() int64 { return s.revision.Load() }

// Load implements dcs.Store.
func (s *Store) Load(ctx context.Context) (dcs.Snapshot, error) {
	prefix := s.config.Prefix
	var snap dcs.Snapshot
	err := s.call(ctx, "load "+prefix, true, func(ctx context.Context, conn *grpc.ClientConn) error {
		seen := s.revision.Load()
		resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{
			Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)),
		})
		if err != nil {
			return err
		}
		if resp.Header.Revision < seen {
			return &staleError{got: resp.Header.Revision, seen: seen}
		}
		s.saw(resp.Header.Revision)
		snap = dcs.Snapshot{Revision: resp.Header.Revision, Entries: make(map[string]dcs.Entry, len(resp.Kvs))}
		for _, kv := range resp.Kvs {
			if key, ok := s.relative(kv.Key); ok {
				snap.Entries[key] = entry(kv)
			}
		}
		return nil
	})
	if err != nil {
		return dcs.Snapshot{}, err
	}
	return snap, nil
}

// Commit implements dcs.Store.
func (s *Store) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	req := s.txn(t)
	var res dcs.Result
	err := s.call(ctx, "commit to "+s.config.Prefix, len(t.Then) == 0, func(ctx context.Context, conn *grpc.ClientConn) error {
		seen := s.revision.Load()
		resp, err := pb.NewKVClient(conn).Txn(ctx, req)
		if err != nil {
			return err
		}
		if resp.Header.Revision < seen {
			// Not even a refused comparison counts: the values compared with are from another past.
			return &staleError{got: resp.Header.Revision, seen: seen}
		}
		s.saw(resp.Header.Revision)
		res = dcs.Result{Succeeded: resp.Succeeded, Revision: resp.Header.Revision}
		if resp.Succeeded {
			return nil
		}
		res.Found = map[string]dcs.Entry{}
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().GetKvs() {
				if key, ok := s.relative(kv.Key); ok {
					res.Found[key] = entry(kv)
				}
			}
		}
		return nil
	})
	if err != nil {
		return dcs.Result{}, err
	}
	return res, nil
}

// txn words a transaction for etcd; when a condition fails it reads the keys of all conditions.
func (s *Store) txn(t dcs.Txn) *pb.TxnRequest {
	req := &pb.TxnRequest{}
	read := map[string]bool{}
	for _, c := range t.If {
		key := []byte(s.config.Prefix + c.Key)
		req.Compare = append(req.Compare, &pb.Compare{
			Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: c.ModRev},
		})
		if !read[c.Key] {
			read[c.Key] = true
			req.Failure = append(req.Failure, &pb.RequestOp{
				Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}},
			})
		}
	}
	for _, op := range t.Then {
		key := []byte(s.config.Prefix + op.Key)
		r := &pb.RequestOp{}
		if op.Delete {
			r.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}
		} else {
			r.Request = &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: op.Value, Lease: int64(op.Lease)}}
		}
		req.Success = append(req.Success, r)
	}
	return req
}

// Grant implements dcs.Store. The time is rounded up to whole seconds; etcd raises it further if
// it is below one and a half election timeouts.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (dcs.LeaseID, error) {
	if ttl <= 0 {
		return 0, fmt.Errorf("grant a lease: %w: %v is not above zero", dcs.ErrUnavailable, ttl)
	}
	seconds := int64((ttl + time.Second - 1) / time.Second)
	var id dcs.LeaseID
	// A repeated grant may leave an unused lease behind, which expires by itself.
	err := s.call(ctx, "grant a lease", true, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds})
		if err != nil {
			return err
		}
		id = dcs.LeaseID(resp.ID)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

// KeepAlive implements dcs.Store.
func (s *Store) KeepAlive(ctx context.Context, id dcs.LeaseID) error {
	return s.call(ctx, fmt.Sprintf("keep lease %x alive", int64(id)), true, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(ctx) // ends the stream
		defer cancel()
		stream, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
			// The stream is broken; only Recv says why.
			if _, rerr := stream.Recv(); rerr != nil {
				err = rerr
			}
			return err
		}
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if resp.TTL <= 0 {
			return dcs.ErrLeaseGone
		}
		return nil
	})
}

// Revoke implements dcs.Store.
func (s *Store) Revoke(ctx context.Context, id dcs.LeaseID) error {
	return s.call(ctx, fmt.Sprintf("revoke lease %x", int64(id)), true, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewLeaseClient(conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)})
		if err != nil && leaseGone(err) {
			return nil
		}
		return err
	})
}

// relative is a key without the prefix of the scope.
func (s *Store) relative(key []byte) (string, bool) {
	return strings.CutPrefix(string(key), s.config.Prefix)
}

func entry(kv *mvccpb.KeyValue) dcs.Entry {
	value := kv.Value
	if value == nil {
		value = []byte{}
	}
	return dcs.Entry{Value: value, ModRev: kv.ModRevision, Lease: dcs.LeaseID(kv.Lease)}
}
