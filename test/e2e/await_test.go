package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
)

// poll is the pause between two looks at a condition.
const poll = 50 * time.Millisecond

// await waits until a condition holds; its error is the reason why it does not.
func (c *rig) await(within time.Duration, what string, holds func() error) {
	c.t.Helper()
	end := time.Now().Add(within)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(poll)
	}
}

// stays looks at a condition again and again for a while; it must hold every time.
func (c *rig) stays(during time.Duration, what string, holds func() error) {
	c.t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(poll) {
		if err := holds(); err != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

// tryView is what the store says, or why it cannot be read.
func (c *rig) tryView() (cluster.View, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s, err := c.open().Load(ctx)
	if err != nil {
		return cluster.View{}, err
	}
	v := dcs.Decode(s)
	if len(v.Problems) > 0 {
		return v, fmt.Errorf("unreadable keys: %s", strings.Join(v.Problems, "; "))
	}
	return v, nil
}

// view is what the store says; it waits for a store that is between two leaders.
func (c *rig) view() (v cluster.View) {
	c.t.Helper()
	c.await(15*time.Second, "the store answers", func() (err error) {
		v, err = c.tryView()
		return err
	})
	return v
}

// leads says who leads: the holder of a lock that is ready.
func (c *rig) leads() (string, error) {
	v, err := c.tryView()
	switch {
	case err != nil:
		return "", err
	case v.Lock.Node == "":
		return "", errors.New("nobody holds the lock")
	case !v.Lock.Ready:
		return "", fmt.Errorf("%s holds the lock in epoch %d and does not accept writes yet", v.Lock.Node, v.Lock.Epoch)
	}
	return v.Lock.Node, nil
}

// leader waits for one.
func (c *rig) leader() (name string) {
	c.t.Helper()
	c.await(30*time.Second, "somebody leads", func() (err error) {
		name, err = c.leads()
		return err
	})
	return name
}

// newLeader waits until somebody else than old leads, and accepts a write.
func (c *rig) newLeader(old string) (name string) {
	c.t.Helper()
	c.await(60*time.Second, "somebody else than "+old+" leads", func() (err error) {
		if name, err = c.leads(); err == nil && name == old {
			err = errors.New(old + " leads")
		}
		return err
	})
	return name
}

// whole says why the cluster is not healthy with exactly these nodes, or nil.
func (c *rig) whole(nodes ...string) error {
	lead, err := c.leads()
	if err != nil {
		return err
	}
	if !slices.Contains(nodes, lead) {
		return fmt.Errorf("%s leads", lead)
	}
	v, err := c.tryView()
	if err != nil {
		return err
	}
	out, err := c.super(lead, "select application_name || ':' || state from pg_stat_replication")
	if err != nil {
		return err
	}
	rows := strings.Fields(out)
	for _, n := range nodes {
		m, ok := v.Member(n)
		switch {
		case !ok:
			return fmt.Errorf("%s is not a member", n)
		case m.State != cluster.StateRunning:
			return fmt.Errorf("%s is %s", n, m.State)
		case n == lead:
			continue
		case !slices.Contains(rows, n+":streaming"):
			return fmt.Errorf("%s does not stream from %s (which sees %v)", n, lead, rows)
		case m.Timeline != v.Lock.Timeline:
			return fmt.Errorf("%s is on timeline %d, %s on %d", n, m.Timeline, lead, v.Lock.Timeline)
		}
		if s := v.Config.Settings; s.SynchronousMode == cluster.SyncQuorum && len(nodes) > 1 && !v.Sync.Has(n) {
			return fmt.Errorf("%s is not in the quorum (%v)", n, v.Sync.Standbys)
		}
	}
	if s := v.Config.Settings; s.SynchronousMode == cluster.SyncOn && len(nodes) > 1 && len(v.Sync.Standbys) == 0 {
		return errors.New("no standby is synchronous")
	}
	return nil
}

// healthy waits until one of the nodes leads and all others stream from it on one timeline, counted
// in where commits wait for somebody.
func (c *rig) healthy(nodes ...string) {
	c.t.Helper()
	c.await(150*time.Second, fmt.Sprintf("%v are healthy", nodes), func() error { return c.whole(nodes...) })
}

// super runs SQL as the superuser on a node, through its socket, which admits only the system user
// that runs PostgreSQL.
func (c *rig) super(node, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, world.bin+"/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", c.l.Path(node, "run"), "-p", fmt.Sprint(c.node(node).PostgreSQL), "-U", "postgres", "-d", "postgres", "-c", sql)
	cmd.Dir = "/"
	cmd.Env = []string{"PGCONNECT_TIMEOUT=5", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = attributes()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("on %s: %s: %w: %s", node, sql, err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// sql is super for statements that must succeed.
func (c *rig) sql(node, sql string) string {
	c.t.Helper()
	out, err := c.super(node, sql)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// replicas are all nodes apart from the leader.
func (c *rig) replicas() []string {
	c.t.Helper()
	return c.others(c.leader())
}
