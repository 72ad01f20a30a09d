package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

const (
	// watchTick is the unit in which the silence of a watch is counted.
	watchTick = 200 * time.Millisecond
	// askAfter is how many ticks a watch hears nothing before it asks its member for a sign of life; a
	// leader that renews its lock makes that needless.
	askAfter = 3
	// silenceMax is how long a watch may hear nothing before it ends. When a member vanishes, whoever
	// watches there has to watch elsewhere before the lock changes hands, about a second later.
	silenceMax = 5 * watchTick
)

// The ends of a watch that are not an error of the connection.
var (
	// ErrCompacted: the changes asked for are not kept any more.
	ErrCompacted = errors.New("the changes asked for were compacted away")
	// ErrSilent: the member gave no sign of life.
	ErrSilent = fmt.Errorf("no sign of life from the member for %v", silenceMax)
)

// Watch implements dcs.Store. It uses one stream on one member and never resumes by itself. While
// nothing changes it delivers an Update with Progress set about every 0.6 s.
func (s *Store) Watch(ctx context.Context, after int64) <-chan dcs.Update {
	// One place in the channel lets the last update be delivered without waiting for the reader.
	ch := make(chan dcs.Update, 1)
	run := func() {
		err := s.watch(ctx, after, ch)
		finish(ch, dcs.Update{Err: fmt.Errorf("watch %s: %w", s.config.Prefix, err)})
	}
	if !s.begin(run) {
		finish(ch, dcs.Update{Err: fmt.Errorf("watch %s: %w", s.config.Prefix, dcs.ErrClosed)})
	}
	return ch
}

// finish delivers the last update and closes the channel. If the reader has left an update unread,
// that one is dropped: the watch ends there, so no change is skipped before a later one.
func finish(ch chan dcs.Update, last dcs.Update) {
	defer close(ch)
	for {
		select {
		case ch <- last:
			return
		default:
		}
		select {
		case <-ch:
		default:
		}
	}
}

func (s *Store) watch(parent context.Context, after int64, ch chan<- dcs.Update) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	err := s.watchOn(ctx, after, ch)
	switch {
	case s.ctx.Err() != nil:
		return dcs.ErrClosed
	case parent.Err() != nil:
		return context.Cause(parent)
	}
	return err
}

func (s *Store) watchOn(ctx context.Context, after int64, ch chan<- dcs.Update) error {
	pctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	e, conn, err := s.pick(pctx, nil)
	cancel()
	if err != nil {
		return fmt.Errorf("%w: %w", dcs.ErrUnavailable, s.trouble())
	}
	ctx, cancel = context.WithCancel(ctx) // ends the stream and the goroutine that reads it
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(clientv3.WithRequireLeader(ctx), grpc.WaitForReady(false))
	if err != nil {
		e.failed(plain(err))
		return fmt.Errorf("endpoint %s: %w", e.url, plain(err))
	}
	// The member confirms progress only once the store has reached the revision at which the watch
	// starts; a start at after+1 would look silent for as long as nothing changes. So it starts one
	// revision early, and that one is skipped.
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:            []byte(s.config.Prefix),
		RangeEnd:       []byte(clientv3.GetPrefixRangeEnd(s.config.Prefix)),
		StartRevision:  max(after, 1),
		ProgressNotify: true,
	}}}

	// A member that falls silent also stops reading, so sending can block; it has a goroutine of
	// its own, which ends with the stream.
	progress := make(chan struct{}, 1)
	received := make(chan *pb.WatchResponse)
	failed := make(chan error, 2)
	both := make(chan struct{}, 2)
	go func() {
		defer func() { both <- struct{}{} }()
		if err := stream.Send(create); err != nil {
			return // Recv says why
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-progress:
				if s.current(ctx, conn) != nil {
					continue // it falls silent, and the watch ends
				}
				ask := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
				if err := stream.Send(ask); err != nil {
					return
				}
			}
		}
	}()
	go func() {
		defer func() { both <- struct{}{} }()
		for {
			resp, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case received <- resp:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { cancel(); <-both; <-both }()

	w := &watcher{store: s, start: after, after: after, ch: ch}
	// Silence is counted in ticks, not by the clock: a process that was itself stopped, or starved,
	// comes back to one tick and must not blame the member.
	silent := 0
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			if ctx.Err() == nil {
				e.failed(plain(err))
			}
			return fmt.Errorf("endpoint %s: %w", e.url, plain(err))
		case resp := <-received:
			if err := w.deliver(ctx, resp); err != nil {
				return fmt.Errorf("endpoint %s: %w", e.url, err)
			}
			silent = 0 // after the delivery: a slow reader is not a silent member
			e.good()
		case <-tick.C:
			if silent++; silent > int(silenceMax/watchTick) {
				e.failed(ErrSilent)
				return fmt.Errorf("endpoint %s: %w", e.url, ErrSilent)
			}
			if silent < askAfter {
				continue
			}
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	}
}

// current says whether a member knows the present: it reads linearizably, so it must reach a majority.
// One whose disk stands still, or that was cut off while it led, goes on serving watches and would
// confirm progress for ever, at a revision that the others have left behind.
func (s *Store) current(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), silenceMax)
	defer cancel()
	_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(s.config.Prefix), CountOnly: true})
	return err
}

// watcher turns the answers of one watch stream into updates.
type watcher struct {
	store *Store
	start int64 // the caller wants what came after this revision
	after int64 // everything up to here was delivered or is not wanted
	ch    chan<- dcs.Update
}

func (w *watcher) deliver(ctx context.Context, resp *pb.WatchResponse) error {
	switch {
	case resp.CompactRevision != 0:
		return fmt.Errorf("%w (revision %d is the first one kept)", ErrCompacted, resp.CompactRevision)
	case resp.Canceled:
		return fmt.Errorf("the member cancelled the watch: %s", resp.CancelReason)
	case resp.Created:
		return nil
	}
	if len(resp.Events) == 0 {
		rev := resp.Header.GetRevision()
		if rev < w.after {
			return nil // a member that lags behind the start of the watch has nothing to say yet
		}
		w.after = rev
		return w.send(ctx, dcs.Update{Revision: rev, Progress: true})
	}
	for i := 0; i < len(resp.Events); {
		rev := resp.Events[i].Kv.ModRevision
		u := dcs.Update{Revision: rev}
		for ; i < len(resp.Events) && resp.Events[i].Kv.ModRevision == rev; i++ {
			if c, ok := w.change(resp.Events[i]); ok {
				u.Changes = append(u.Changes, c)
			}
		}
		if rev <= w.start {
			continue
		}
		if rev <= w.after {
			return fmt.Errorf("the member sent revision %d after revision %d", rev, w.after)
		}
		w.after = rev
		w.store.saw(rev)
		if err := w.send(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) change(ev *mvccpb.Event) (dcs.Change, bool) {
	key, ok := w.store.relative(ev.Kv.Key)
	if !ok {
		return dcs.Change{}, false
	}
	if ev.Type == mvccpb.Event_DELETE {
		return dcs.Change{Key: key, Entry: dcs.Entry{ModRev: ev.Kv.ModRevision}, Deleted: true}, true
	}
	return dcs.Change{Key: key, Entry: entry(ev.Kv)}, true
}

func (w *watcher) send(ctx context.Context, u dcs.Update) error {
	select {
	case w.ch <- u:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
