package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
)

// callbackWithin bounds one callback.
const callbackWithin = 5 * time.Minute

// maxCallbacks bounds the queue: older calls are dropped when a callback hangs for long.
const maxCallbacks = 64

// callbacks runs the commands of postgresql.callbacks after what they tell of has happened: one at a
// time, in order, each once, with action, role and scope appended (patroni/postgresql/callback_executor.py).
type callbacks struct {
	commands map[string]string
	scope    string
	run      func(ctx context.Context, what, command string, args ...string) error
	log      *slog.Logger

	mu    sync.Mutex
	queue [][2]string // action, role
	more  chan struct{}
}

func newCallbacks(commands map[string]string, scope string, run func(context.Context, string, string, ...string) error, log *slog.Logger) *callbacks {
	return &callbacks{commands: commands, scope: scope, run: run, log: log, more: make(chan struct{}, 1)}
}

func (c *callbacks) add(action, role string) {
	if c.commands[action] == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == maxCallbacks {
		c.log.Warn("callback dropped: too many are waiting", "action", c.queue[0][0], "role", c.queue[0][1])
		c.queue = c.queue[1:]
	}
	c.queue = append(c.queue, [2]string{action, role})
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// lastCallbacks bounds what is still run when the agent ends.
const lastCallbacks = 10 * time.Second

// serve runs what is queued until ctx ends, and then, for a moment, what is left.
func (c *callbacks) serve(ctx context.Context) {
	run := context.WithoutCancel(ctx)
	for {
		c.mu.Lock()
		var next [2]string
		if len(c.queue) > 0 {
			next, c.queue = c.queue[0], c.queue[1:]
		}
		c.mu.Unlock()
		if next[0] == "" {
			select {
			case <-c.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		limit := callbackWithin
		if ctx.Err() != nil {
			limit = lastCallbacks
		}
		cctx, cancel := context.WithTimeout(run, limit)
		if err := c.run(cctx, "callback "+next[0], c.commands[next[0]], next[0], next[1], c.scope); err != nil {
			c.log.Warn("callback failed", "action", next[0], "role", next[1], "err", err)
		}
		cancel()
	}
}

// watch turns changes of the node's publication into callbacks until ctx ends.
func (c *callbacks) watch(ctx context.Context, n *node.Node) {
	var s seen
	for {
		st, changed := n.Status()
		if st.At != 0 {
			for _, call := range s.next(st) {
				c.add(call[0], call[1])
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// seen is what the callbacks so far have told.
type seen struct {
	known      bool
	up         bool
	role       string
	restarting bool
}

// next says which callbacks a publication gives rise to.
func (s *seen) next(st *node.Status) [][2]string {
	up := st.O.DB.Phase == ha.Up
	role := string(cluster.RoleReplica)
	if up && st.Member.Role == cluster.RolePrimary {
		role = string(cluster.RolePrimary)
	}
	if st.D.State == ha.StateBootstrapping || up && st.O.DB.Primary && role != string(cluster.RolePrimary) {
		return nil // on the way to a role: it is told when it is reached
	}
	was := *s
	restart := st.D.State == ha.StateRestarting && st.O.Memory.StopFor == ha.StopRestart
	s.known, s.up, s.restarting = true, up, !up && (was.restarting || restart)
	var out [][2]string
	switch {
	case !was.known:
		if up {
			s.role = role // adopted as it was
		}
		return nil
	case up && !was.up && was.restarting && was.role == role:
		out = append(out, [2]string{"on_restart", role})
	case up && !was.up && (was.role == "" || was.role == role):
		out = append(out, [2]string{"on_start", role})
	case up && was.role != role:
		out = append(out, [2]string{"on_role_change", role})
	case !up && was.up && !s.restarting && st.D.State == ha.StateStopped:
		out = append(out, [2]string{"on_stop", was.role})
	}
	if up {
		s.role = role
	}
	return out
}
