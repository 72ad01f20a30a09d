package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
)

// status is a publication: what PostgreSQL does, the role shown, the state of the node.
func status(phase ha.Phase, role cluster.Role, state ha.State, stopFor ha.StopReason) *node.Status {
	st := &node.Status{At: 1, D: ha.Decision{State: state}}
	st.O.DB.Phase, st.Member.Role, st.O.Memory.StopFor = phase, role, stopFor
	st.O.DB.Primary = role == cluster.RolePrimary
	return st
}

func TestCallbacks_TellEachChangeOnce(t *testing.T) {
	up, down := ha.Up, ha.Down
	replica, primary := cluster.RoleReplica, cluster.RolePrimary
	for _, c := range []struct {
		name  string
		story []*node.Status
		want  []string
	}{
		{"a standby starts, is promoted, and stops with the agent", []*node.Status{
			status(down, replica, ha.StateWaiting, ""), status(up, replica, ha.StateFollowing, ""), status(up, replica, ha.StateFollowing, ""),
			status(up, primary, ha.StateLeading, ""), status(up, primary, ha.StateLeading, ""), status(down, replica, ha.StateStopped, "")},
			[]string{"on_start replica", "on_role_change primary", "on_stop primary"}},
		{"an agent that adopts a running server tells nothing", []*node.Status{
			status(up, primary, ha.StateLeading, ""), status(up, primary, ha.StateLeading, "")}, nil},
		{"a restart asked for", []*node.Status{
			status(up, replica, ha.StateFollowing, ""), status(down, replica, ha.StateRestarting, ha.StopRestart), status(down, replica, ha.StateRestarting, ""),
			status(up, replica, ha.StateFollowing, "")}, []string{"on_restart replica"}},
		{"a former primary comes back as a replica", []*node.Status{
			status(up, primary, ha.StateLeading, ""), status(down, replica, ha.StateDemoting, ""), status(up, replica, ha.StateFollowing, "")},
			[]string{"on_role_change replica"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s seen
			var got []string
			for _, st := range c.story {
				for _, call := range s.next(st) {
					got = append(got, call[0]+" "+call[1])
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestCallbacks_RunOneAtATimeInOrderAndTheRestAtTheEnd(t *testing.T) {
	var mu sync.Mutex
	var got []string
	running := 0
	run := func(_ context.Context, _, command string, args ...string) error {
		mu.Lock()
		defer mu.Unlock()
		if running++; running > 1 {
			t.Error("two callbacks at once")
		}
		got = append(got, fmt.Sprint(command, args))
		running--
		return nil
	}
	c := newCallbacks(map[string]string{"on_start": "a", "on_stop": "b"}, "demo", run, slog.New(slog.DiscardHandler))
	c.add("on_start", "replica")
	c.add("on_reload", "replica") // not configured
	c.add("on_stop", "primary")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan struct{})
	go func() { c.serve(ctx); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("serve does not end")
	}
	if want := []string{"a[on_start replica demo]", "b[on_stop primary demo]"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
