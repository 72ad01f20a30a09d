package mem

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hathi-ha/hathi/internal/dcs"
)

// ErrCompacted ends a watch that asked for changes which the server has forgotten.
var ErrCompacted = errors.New("the changes asked for were compacted away")

// ErrOverrun ends a watch whose reader left more than a thousand updates unread.
var ErrOverrun = errors.New("the reader of the watch is too slow")

// watchBuffer is how many updates a reader may leave unread.
const watchBuffer = 1024

// watch is a buffered channel that only the holder of Server.mu sends to, so that its fill can be
// judged: one place is always left for the last update.
type watch struct {
	client *Client
	ch     chan dcs.Update
	stop   func() bool // stops watching the context
	silent bool        // stalled by FaultHang
	ended  bool
}

// Watch implements dcs.Store. A watch that begins in the past has its changes in the channel
// before Watch returns.
func (c *Client) Watch(ctx context.Context, after int64) <-chan dcs.Update {
	s := c.server
	fault := c.faultFor(OpWatch)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	first := len(s.history)
	for first > 0 && s.history[first-1].Revision > after {
		first--
	}
	backlog := s.history[first:]
	w := &watch{client: c, ch: make(chan dcs.Update, len(backlog)+watchBuffer+1)}
	// The context may end on another goroutine, which waits for the lock.
	w.stop = context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.endWatch(w, context.Cause(ctx))
	})
	s.watches = append(s.watches, w)
	switch {
	case c.closed():
		s.endWatch(w, dcs.ErrClosed)
	case ctx.Err() != nil:
		s.endWatch(w, context.Cause(ctx))
	case fault == FaultHang:
		w.silent = true
	case fault != FaultNone:
		s.endWatch(w, ErrInjected)
	case after+1 < s.compacted:
		s.endWatch(w, ErrCompacted)
	default:
		for _, u := range backlog {
			s.deliver(w, u)
		}
	}
	return w.ch
}

// Progress puts an update without changes into every watch of every client: alive and complete up
// to the present revision. Where a real store does this each second, here a test says when.
func (s *Server) Progress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	s.tell(dcs.Update{Revision: s.revision, Progress: true})
}

// EndWatches ends every watch of this client with err, as the loss of its connection does.
func (c *Client) EndWatches(err error) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range slices.Clone(s.watches) {
		if w.client == c {
			s.endWatch(w, err)
		}
	}
}

// tell delivers an update to every watch, with mu held.
func (s *Server) tell(u dcs.Update) {
	for _, w := range slices.Clone(s.watches) {
		s.deliver(w, u)
	}
}

func (s *Server) deliver(w *watch, u dcs.Update) {
	if w.ended || w.silent {
		return
	}
	switch w.client.faultFor(OpDeliver) {
	case FaultNone:
	case FaultHang:
		w.silent = true
		return
	default:
		s.endWatch(w, ErrInjected)
		return
	}
	if len(w.ch) >= cap(w.ch)-1 {
		s.endWatch(w, ErrOverrun)
		return
	}
	w.ch <- cloneUpdate(u)
}

func (s *Server) endWatch(w *watch, err error) {
	if w.ended {
		return
	}
	w.ended = true
	w.stop()
	s.watches = slices.DeleteFunc(s.watches, func(x *watch) bool { return x == w })
	w.ch <- dcs.Update{Revision: s.revision, Err: fmt.Errorf("watch through store client %q: %w", w.client.name, err)}
	close(w.ch)
}
