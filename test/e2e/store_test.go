package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/process"
)

const (
	sigstop = unix.SIGSTOP
	sigcont = unix.SIGCONT
	sigterm = unix.SIGTERM
)

// TestStoreLost: etcd loses its majority, with and without failsafe.
func TestStoreLost(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{Sync: "quorum"})
	cut := func() (dead []string) {
		dead = []string{"etcd-pg1", "etcd-pg2"}
		c.kill(dead...)
		return dead
	}
	var lead string
	var pid int
	lives := func() error {
		if p, err := process.Find(pid); err != nil || p.Dead() {
			return fmt.Errorf("the postmaster of %s is gone", lead)
		}
		return nil
	}
	recovered := func(w *writers) {
		c.t.Helper()
		c.healthy(c.names()...)
		w.more(100)
		w.safe()
		c.same(c.names()...)
	}
	follows := func(n string, w *writers) {
		c.t.Helper()
		read := func() string {
			out, err := c.super(n, "select pg_last_wal_receive_lsn()")
			if err != nil {
				c.t.Fatal(err)
			}
			return out
		}
		at := read()
		w.more(50)
		c.await(10*time.Second, n+" goes on following", func() error {
			if read() == at {
				return errors.New("still at " + at)
			}
			return nil
		})
	}
	c.sub(t, "failsafe: the primary stays while all members promise", func() {
		lead, pid = c.leader(), c.postmaster(c.leader())
		w := c.write(2)
		dead := cut()
		c.stays(2*c.l.TTL, "PostgreSQL stays", lives)
		w.more(100)
		for _, n := range c.others(lead) {
			follows(n, w)
		}
		c.start(dead...)
		recovered(w)
		if got := c.postmaster(lead); got != pid {
			t.Errorf("got postmaster %d on %s, want %d as before", got, lead, pid)
		}
	})
	c.sub(t, "failsafe: a member lost, fenced", func() {
		lead, pid = c.leader(), c.postmaster(c.leader())
		w := c.write(2)
		c.remember(lead)
		dead := cut()
		c.stays(c.l.TTL*3/2, "PostgreSQL stays", lives)
		gone := "agent-" + c.others(lead)[0]
		c.kill(gone)
		c.await(30*time.Second, "the primary is fenced", func() error { return inverse(lives(), "it lives") })
		c.start(append(dead, gone)...)
		recovered(w)
	})
	c.sub(t, "no failsafe: fenced, and back with the store", func() {
		// A longer lease, so that the old primary is back long before the router's view of it has ended.
		c.must("edit-config", "-s", "failsafe_mode=false", "-s", "ttl=14", "--force")
		lead, pid = c.leader(), c.postmaster(c.leader())
		w := c.write(2)
		c.remember(lead)
		c.stays(time.Second, "PostgreSQL stays while the members read the configuration", lives)
		replica := c.others(lead)[0]
		standby := c.postmaster(replica)
		n := c.newcomers()
		dead := cut()
		c.await(30*time.Second, "the primary is fenced", func() error { return inverse(lives(), "it lives") })
		if got := c.postmaster(replica); got != standby {
			t.Errorf("got postmaster %d on the replica %s, want %d as before", got, replica, standby)
		}
		c.await(30*time.Second, "the old primary is back, read-only", func() error {
			if got, err := c.super(lead, "select pg_is_in_recovery()"); err != nil || got != "t" {
				return fmt.Errorf("in recovery: %q, %v", got, err)
			}
			return nil
		})
		// It may be back before the router's lease on it has passed.
		c.stays(c.l.TTL, "newcomers on the write port are not led to a standby", n.fault)
		c.start(dead...)
		recovered(w)
		n.end()
		if err := n.fault(); err != nil {
			t.Error(err)
		}
		if n.held.Load() == 0 || n.served.Load() == 0 {
			t.Errorf("got %d newcomers that waited and %d that were served, want some of both", n.held.Load(), n.served.Load())
		}
	})
}

func inverse(err error, text string) error {
	if err != nil {
		return nil
	}
	return errors.New(text)
}

// TestAllOff: everything dies at once, and the nodes come back in several orders.
func TestAllOff(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{Sync: "quorum"})
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		c.sub(t, fmt.Sprint("order ", order), func() {
			// The leader first in the list of nodes, so that an order says when it returns.
			w, nodes, _ := c.blackout()
			// Two nodes are a majority of etcd and of the quorum; the third comes late.
			c.startNode(nodes[order[0]])
			c.stays(time.Second, "one node of three does not lead", func() error {
				if n, err := c.leads(); err == nil {
					return errors.New(n + " leads")
				}
				return nil
			})
			c.startNode(nodes[order[1]])
			w.held(c.renewing())
			c.healthy(nodes[order[0]], nodes[order[1]])
			c.startNode(nodes[order[2]])
			c.healthy(c.names()...)
			w.safe()
			c.same(c.names()...)
		})
	}
	c.sub(t, "the primary and one standby stay away: read-only, and it says why", func() {
		lead := c.leader()
		rest := c.others(lead)
		w := c.write(2)
		c.powerOff(lead, rest[0])
		w.end()
		c.stays(c.l.TTL*3/2, "the last node does not lead", func() error {
			if got, err := c.super(rest[1], "select pg_is_in_recovery()"); err != nil || got != "t" {
				return fmt.Errorf("in recovery: %q, %v", got, err)
			}
			return nil
		})
		c.startNode(rest[0])
		c.newLeader(lead)
		c.startNode(lead)
		c.healthy(c.names()...)
		w.safe()
	})
}

// TestAllOff_Async: without synchronous commit only the last leader surely has everything. It is waited
// for, and leads again whatever the order.
func TestAllOff_Async(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{Sync: "off"})
	for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {1, 2, 0}} {
		c.sub(t, fmt.Sprint("order ", order), func() {
			w, nodes, before := c.blackout()
			lead := nodes[0]
			for _, k := range order {
				if nodes[k] == lead && k != order[0] {
					c.stays(2*time.Second, "nobody leads while the last leader is away", func() error {
						v, err := c.tryView()
						if l := v.Lock; err == nil && (l.Node != before.Node || l.Epoch != before.Epoch) {
							return fmt.Errorf("%q took the lock in epoch %d", l.Node, l.Epoch)
						}
						return nil
					})
				}
				c.startNode(nodes[k])
			}
			if got := c.renewing(); got != lead {
				t.Errorf("got %s as the leader, want the last one, %s", got, lead)
			}
			w.held(lead)
			c.healthy(c.names()...)
			w.safe()
			c.same(c.names()...)
		})
	}
}

// blackout kills everything under load. The last leader is the first of the nodes; the lock stays in the
// store as it was.
func (c *rig) blackout() (w *writers, nodes []string, before cluster.Lock) {
	c.t.Helper()
	lead := c.leader()
	nodes = append([]string{lead}, c.others(lead)...)
	w = c.write(4)
	w.more(100)
	before = c.view().Lock
	c.powerOff(nodes...)
	w.end()
	return w, nodes, before
}

// renewing waits until somebody leads who is there: his lock changes.
func (c *rig) renewing() (name string) {
	c.t.Helper()
	var first cluster.Lock
	c.await(60*time.Second, "somebody leads and renews the lock", func() error {
		v, err := c.tryView()
		switch l := v.Lock; {
		case err != nil:
			return err
		case first.Epoch == 0:
			first = l
			return errors.New("looked at once")
		case l.Epoch == first.Epoch && l.Seq == first.Seq:
			return fmt.Errorf("the lock of %s stands still", l.Node)
		case !l.Held() || !l.Ready:
			return fmt.Errorf("%q holds the lock and does not accept writes yet", l.Node)
		default:
			name = l.Node
			return nil
		}
	})
	return name
}

// held fails when a node has not every write that was acknowledged.
func (w *writers) held(node string) {
	w.r.t.Helper()
	var have map[int64]int
	w.r.await(30*time.Second, "the table can be read on "+node, func() (err error) {
		have, err = w.r.table(w.r.direct(node))
		return err
	})
	lost := 0
	for _, a := range w.acks {
		if have[a.id] == 0 {
			lost++
		}
	}
	if lost > 0 {
		w.r.t.Errorf("%s leads and lacks %d of %d acknowledged writes", node, lost, len(w.acks))
	}
}
