package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// pause is the time between two rounds through all endpoints that refused a request.
const pause = 50 * time.Millisecond

// blameAfter is how long a request must have waited before its timeout is the endpoint's fault
// and not that of a caller in a hurry.
const blameAfter = 200 * time.Millisecond

// call runs one request on the best endpoint, within RequestTimeout.
//
// If it surely was not carried out, the next endpoint is tried, round after round, until the time
// is up. If its outcome is unknown the call ends there, unless the request may be repeated
// (repeatable: reads and what is idempotent): then the next endpoint is tried as well, and each
// attempt but the last gets half of the time that is left, so that one silent endpoint does not
// eat it all.
func (s *Store) call(ctx context.Context, op string, repeatable bool, request func(context.Context, *grpc.ClientConn) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	if s.ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, dcs.ErrClosed)
	}

	tried := map[*endpoint]bool{}
	sent := false // whether any attempt may have been carried out
	var last, past error
	for {
		e, conn, err := s.pick(ctx, tried)
		if err != nil {
			return s.giveUp(op, sent, last, err)
		}
		if e == nil { // every connected endpoint was tried in this round
			if past != nil {
				// Nobody has a newer answer. What is true of one frozen member passes by the next call.
				return s.giveUp(op, sent, past, nil)
			}
			clear(tried)
			if !sleep(ctx, pause) {
				return s.giveUp(op, sent, last, ctx.Err())
			}
			continue
		}
		tried[e] = true
		attempt, done := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok && repeatable && len(tried) < len(s.endpoints) {
			attempt, done = context.WithTimeout(ctx, time.Until(deadline)/2)
		}
		marked, mark := withSentMark(clientv3.WithRequireLeader(attempt))
		began := time.Now()
		if err = s.ping(attempt, e, conn); err == nil {
			began = time.Now()
			err = request(marked, conn)
		}
		ended := attempt.Err() != nil
		done()
		if err == nil {
			e.good()
			return nil
		}
		var stale *staleError
		switch {
		case leaseGone(err):
			e.good()
			return fmt.Errorf("%s: %w", op, dcs.ErrLeaseGone)
		case refused(err):
			e.good()
			return fmt.Errorf("%s: %w: %w", op, dcs.ErrUnavailable, plain(err))
		case errors.As(err, &stale):
			e.failed(err)
		case errors.Is(ctx.Err(), context.Canceled):
			// A caller that went away says nothing about the endpoint.
		case !timedOut(err) && !ended || time.Since(began) >= blameAfter:
			e.failed(plain(err))
		}
		last = fmt.Errorf("endpoint %s: %w", e.url, plain(err))
		if stale != nil {
			past = last
		}
		if mark.Load() && !surelyNotApplied(err) {
			sent = true
			if !repeatable {
				return s.giveUp(op, sent, last, ctx.Err())
			}
		}
		if ctx.Err() != nil {
			return s.giveUp(op, sent, last, ctx.Err())
		}
	}
}

// freshFor is how long after its last answer a member is trusted to answer again.
const freshFor = time.Second

// ping asks a member that has not answered lately for a sign of life before a request is entrusted to
// it: a linearizable read. The request may be one that must not be repeated, and a member that vanished,
// that knows of no leader, or that has just started and lags behind, would swallow it.
func (s *Store) ping(ctx context.Context, e *endpoint, conn *grpc.ClientConn) error {
	if e.answeredWithin(freshFor) {
		return nil
	}
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), max(s.config.RequestTimeout/6, blameAfter))
	defer cancel()
	_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(s.config.Prefix), CountOnly: true})
	if err == nil {
		e.good()
	}
	return err
}

// giveUp words the end of a call. end is why it ended: the context's error or nil.
func (s *Store) giveUp(op string, sent bool, last, end error) error {
	if s.ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, dcs.ErrClosed)
	}
	if last == nil {
		last = s.trouble()
	}
	if errors.Is(last, dcs.ErrWentBack) {
		return fmt.Errorf("%s: %w: %w", op, dcs.ErrWentBack, last)
	}
	// The context's error is the end that the caller asks for (errors.Is), the other one says why.
	err := last
	if end != nil && !errors.Is(last, end) {
		err = fmt.Errorf("%w (%w)", last, end)
	}
	if !sent {
		return fmt.Errorf("%s: %w: %w", op, dcs.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: outcome unknown: %w", op, err)
}

// trouble says for each endpoint what is wrong with it.
func (s *Store) trouble() error {
	var errs []error
	for _, e := range s.endpoints {
		if err := e.trouble(); err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", e.url, err))
		}
	}
	if len(errs) == 0 {
		return errors.New("no endpoint connected in time")
	}
	return errors.Join(errs...)
}

// pick chooses the best connected endpoint that is not in tried: the first unsuspected one in the
// order of the configuration, else the suspect whose last failure is longest ago. It waits for a
// connection while there is none. A nil endpoint says that all connected ones were tried.
func (s *Store) pick(ctx context.Context, tried map[*endpoint]bool) (*endpoint, *grpc.ClientConn, error) {
	for {
		changed := s.changes()
		var (
			best         *endpoint
			bestConn     *grpc.ClientConn
			bestSuspect  bool
			bestFailedAt time.Time
			anyReady     bool
		)
		for _, e := range s.endpoints {
			conn, ok := e.ready()
			if !ok {
				continue
			}
			anyReady = true
			if tried[e] {
				continue
			}
			suspect, failedAt := e.standing()
			better := best == nil || bestSuspect && (!suspect || failedAt.Before(bestFailedAt))
			if better {
				best, bestConn, bestSuspect, bestFailedAt = e, conn, suspect, failedAt
			}
		}
		if best != nil || anyReady {
			return best, bestConn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}
