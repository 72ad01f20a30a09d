package mem

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
)

// Client is one handle to a Server: a dcs.Store. Make one with Server.Client.
type Client struct {
	server *Server
	name   string

	mu    sync.Mutex
	fault func(op string) Fault
	done  chan struct{} // closed by Close
	once  sync.Once
}

var _ dcs.Store = (*Client)(nil)

// SetFault sets the hook that decides how each request of this client fares (see the Op constants
// for what op can be). nil heals it. For OpDeliver the hook is called with the server's lock held
// and must not call back into the server or a client.
func (c *Client) SetFault(hook func(op string) Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = hook
}

func (c *Client) faultFor(op string) Fault {
	c.mu.Lock()
	hook := c.fault
	c.mu.Unlock()
	if hook == nil {
		return FaultNone
	}
	return hook(op)
}

func (c *Client) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// do carries out one request as its fault wants it. apply is called with the server's lock held,
// perhaps after do has returned, and delivers its outcome through variables of the caller, which
// the caller reads only when do returns nil.
func (c *Client) do(ctx context.Context, op string, apply func()) error {
	if c.closed() {
		return c.wrap(op, dcs.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return c.wrap(op, err)
	}
	s := c.server
	switch f := c.faultFor(op); f {
	case FaultNone, FaultLost:
		s.mu.Lock()
		apply()
		s.mu.Unlock()
		if f == FaultLost {
			return c.wrap(op, ErrInjected)
		}
		return nil
	case FaultUnavailable:
		return c.wrap(op, dcs.ErrUnavailable)
	case FaultHang:
		select {
		case <-ctx.Done():
			return c.wrap(op, ctx.Err())
		case <-c.done:
			return c.wrap(op, dcs.ErrClosed)
		}
	case FaultDelayed:
		if op != OpLoad {
			s.mu.Lock()
			s.delayed = append(s.delayed, apply)
			s.mu.Unlock()
		}
		return c.wrap(op, ErrInjected)
	default: // FaultDropped
		return c.wrap(op, ErrInjected)
	}
}

func (c *Client) wrap(op string, err error) error {
	return fmt.Errorf("%s through store client %q: %w", op, c.name, err)
}

// Load implements dcs.Store.
func (c *Client) Load(ctx context.Context) (dcs.Snapshot, error) {
	var snap dcs.Snapshot
	if err := c.do(ctx, OpLoad, func() { snap = c.server.load() }); err != nil {
		return dcs.Snapshot{}, err
	}
	return snap, nil
}

// Commit implements dcs.Store.
func (c *Client) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	t = cloneTxn(t) // it may be applied after the caller has gone on
	var (
		res dcs.Result
		err error
	)
	if lost := c.do(ctx, OpCommit, func() { res, err = c.server.commit(t) }); lost != nil {
		return dcs.Result{}, lost
	}
	if err != nil {
		return dcs.Result{}, c.wrap(OpCommit, err)
	}
	return res, nil
}

// Grant implements dcs.Store.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (dcs.LeaseID, error) {
	var (
		id  dcs.LeaseID
		err error
	)
	if lost := c.do(ctx, OpGrant, func() { id, err = c.server.grant(ttl) }); lost != nil {
		return 0, lost
	}
	if err != nil {
		return 0, c.wrap(OpGrant, err)
	}
	return id, nil
}

// KeepAlive implements dcs.Store.
func (c *Client) KeepAlive(ctx context.Context, id dcs.LeaseID) error {
	var err error
	if lost := c.do(ctx, OpKeepAlive, func() { err = c.server.keepAlive(id) }); lost != nil {
		return lost
	}
	if err != nil {
		return c.wrap(OpKeepAlive, err)
	}
	return nil
}

// Revoke implements dcs.Store.
func (c *Client) Revoke(ctx context.Context, id dcs.LeaseID) error {
	return c.do(ctx, OpRevoke, func() { c.server.revoke(id) })
}

// Close implements dcs.Store. Requests that were put aside are still carried out at Server.Flush.
func (c *Client) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.EndWatches(dcs.ErrClosed)
	})
	return nil
}

func cloneTxn(t dcs.Txn) dcs.Txn {
	out := dcs.Txn{If: append([]dcs.Cond(nil), t.If...), Then: append([]dcs.Op(nil), t.Then...)}
	for i := range out.Then {
		out.Then[i].Value = append([]byte{}, out.Then[i].Value...)
	}
	return out
}
