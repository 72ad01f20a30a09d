package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/lease"
)

// A holder that fenced itself may be back, read-only, while the router's view of its lock is still
// within the lease: the view counts from when the router saw the last renewal, the fence from when the
// holder sent the last one that it knows to be confirmed, and the fence leaves a margin. A newcomer on
// the write port must not land there. So when the lock was not seen to change for a few renewals the
// holder's agent is asked, and it is asked after the connection to its PostgreSQL stands: that connection
// belongs to a server that was there before the answer, so either the answer is about that server, or
// the server has ended and the connection with it. This holds whatever the client speaks, TLS included.

// errReadOnly: a backend on the write port turned out to be a standby.
var errReadOnly = errors.New("the backend is in recovery")

// word is what the holder of the lock said when it was asked.
type word struct {
	lock  cluster.Lock
	asked time.Duration // when it was asked
	err   error         // it gave no answer
	no    string        // why its answer does not make it the primary; "" when it does
}

// askNow asks the holder of the lock, as the view shows it, in at most half a margin.
func (r *Router) askNow() (w word) {
	r.mu.Lock()
	w.lock, w.asked = r.view.lock, r.cfg.Now()
	m, known := r.view.cluster.Members[w.lock.Node]
	good := lease.Margin(r.view.lease())
	r.mu.Unlock()
	if !known {
		w.err = fmt.Errorf("%q publishes no address", w.lock.Node)
		return w
	}
	ctx, cancel := context.WithTimeout(r.ctx, good/2)
	defer cancel()
	st, err := r.cfg.Confirm(ctx, m)
	w.err = err
	switch l := w.lock; {
	case err != nil:
	case st.Name != l.Node || l.Instance != "" && st.Instance != l.Instance:
		w.no = "another member answers in its place"
	case !st.HoldsLock || st.Epoch != l.Epoch:
		w.no = fmt.Sprintf("it says that it does not hold the lock in epoch %d", l.Epoch)
	case !st.Running:
		w.no = "it says that its PostgreSQL does not answer"
	case st.InRecovery:
		w.no = "it says that its PostgreSQL is in recovery"
	}
	return w
}

// prove says why a connection that stands may not be to the primary of t, nil when it is. See above.
func (r *Router) prove(ctx context.Context, t *tenure) error {
	now := r.cfg.Now()
	if r.cfg.Confirm == nil || int64(now) < t.fresh.Load() {
		return nil
	}
	w, err := r.holder.Ask(ctx)
	switch {
	case err != nil:
		return err
	case w.lock.Node != t.backend.Name || w.lock.Epoch != t.backend.Epoch:
		return errDeposed
	case w.err != nil && int64(r.cfg.Now()) < t.sure.Load():
		return nil // its agent may be away for a moment; the fence can not have begun
	case w.err != nil:
		return fmt.Errorf("the lock was not renewed lately, and the agent of %s does not answer: %w", t.backend.Name, w.err)
	case w.no != "":
		return fmt.Errorf("the lock was not renewed lately, and %s was asked: %s", t.backend.Name, w.no)
	}
	return nil
}

// readOnly is the body of the ParameterStatus by which PostgreSQL 14 and later tells a client that the
// server is a standby.
var readOnly = []byte("in_hot_standby\x00on\x00")

// guardLogin is the last look on the write port, where the login can be read: of a server that says that
// it is a standby nothing more is passed on. The client gets an error in its place, at the beginning of
// the message that said so (b[at:]); when that lies in an earlier chunk (at < 0), only the end of the
// connection.
func (s *session) guardLogin(sn *snoop, down *direction, b []byte) error {
	if s.port != portWrite || !sn.standby {
		return nil
	}
	to := s.target.backend
	s.r.log.Warn("a backend on the write port is a standby; its session is ended", "backend", to.Name, "epoch", to.Epoch)
	if at := sn.saidAt; at >= 0 && down.send(b[:at]) == nil {
		s.tell("57P03", fmt.Sprintf("%s holds the lock in epoch %d, and its PostgreSQL is in recovery: it is not the primary any more", to.Name, to.Epoch),
			"Connect again: newcomers wait until there is a primary.")
	}
	return errReadOnly
}

func isReadOnly(body []byte) bool { return bytes.Equal(body, readOnly) }
