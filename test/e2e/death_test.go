package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/process"
)

// TestBootstrap_OneWinnerAndReplicas: three empty nodes race, one makes the cluster, two copy it.
func TestBootstrap_OneWinnerAndReplicas(t *testing.T) {
	need(t, true)
	c := up(t, demo.Options{})
	v := c.view()
	if v.Lock.Epoch != 1 || v.Lock.Timeline != 1 || len(v.Members) != 3 {
		t.Errorf("got epoch %d, timeline %d and %d members, want 1, 1 and 3", v.Lock.Epoch, v.Lock.Timeline, len(v.Members))
	}
	if want := c.l.TTL.Milliseconds(); v.Lock.TTL != want {
		t.Errorf("got a lock of %d ms after the bootstrap, want the configured %d ms: everybody would wait so long", v.Lock.TTL, want)
	}
	lead := c.leader()
	for _, n := range c.names() {
		for sql, want := range map[string]string{
			"select system_identifier from pg_control_system()": v.Initialize,
			"show data_checksums":                               "on",
			"show password_encryption":                          "scram-sha-256",
			"select pg_is_in_recovery()":                        map[bool]string{true: "f", false: "t"}[n == lead],
			"select count(*) from pg_hba_file_rules where auth_method in ('trust', 'password', 'md5') or error != ''": "0",
		} {
			if got := c.sql(n, sql); got != want {
				t.Errorf("%s on %s: got %q, want %q", sql, n, got, want)
			}
		}
	}
	if got := c.sql(lead, "select count(*) from pg_replication_slots where active"); got != "2" {
		t.Errorf("got %s active replication slots, want 2", got)
	}
	w := c.write(4)
	w.more(200)
	w.safe()
	c.same(c.names()...)
	c.secretsNowhere()
}

// TestDeath_Quorum: one cluster in quorum mode loses one thing after another under load.
func TestDeath_Quorum(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{Sync: "quorum"})
	sub := func(name string, f func()) { c.sub(t, name, f) }

	sub("postmaster killed: handed over", func() {
		old, epoch, w := c.leader(), c.view().Lock.Epoch, c.write(4)
		c.kill9(old)
		c.newLeader(old)
		w.more(100)
		c.healthy(c.names()...)
		if got := c.view().Lock.Epoch; got != epoch+1 {
			t.Errorf("got epoch %d, want %d: one failover", got, epoch+1)
		}
		w.safe()
		c.same(c.names()...)
	})
	sub("agent killed and back: adopted", func() {
		lead, w := c.leader(), c.write(4)
		before, pid := c.view().Lock, c.postmaster(lead)
		c.kill("agent-" + lead)
		c.start("agent-" + lead)
		c.await(20*time.Second, "the new agent renews the lock", func() error {
			v, err := c.tryView()
			if err == nil && v.Lock.Seq < before.Seq+10 {
				err = fmt.Errorf("seq %d, was %d", v.Lock.Seq, before.Seq)
			}
			return err
		})
		w.more(100)
		after := c.view().Lock
		if after.Epoch != before.Epoch || after.Node != lead || c.postmaster(lead) != pid {
			t.Errorf("got %s in epoch %d with postmaster %d, want %s in %d with %d", after.Node, after.Epoch, c.postmaster(lead), lead, before.Epoch, pid)
		}
		if v := w.safe(); len(v.errs) > 0 {
			t.Errorf("got errors %s, want none: PostgreSQL went on", tally(v.errs))
		}
	})
	sub("agent killed for good: fenced, another leads", func() {
		old, w := c.leader(), c.write(4)
		pid := c.postmaster(old)
		c.remember(old)
		killed := time.Now()
		c.kill("agent-" + old)
		c.await(30*time.Second, "the guardian ends PostgreSQL", func() error {
			if p, err := process.Find(pid); err == nil && !p.Dead() {
				return errors.New("the postmaster lives")
			}
			return nil
		})
		t.Logf("PostgreSQL was gone after %s", time.Since(killed).Round(time.Millisecond))
		c.newLeader(old)
		w.more(100)
		c.start("agent-" + old)
		c.healthy(c.names()...)
		w.safe()
		c.same(c.names()...)
	})
	sub("agent and guardian frozen: nothing acknowledged through the router", func() {
		old, w := c.leader(), c.write(4)
		frozen := []int{c.procs["agent-"+old].pid(), c.guardian(old)}
		c.signal(unix.SIGSTOP, frozen...)
		c.newLeader(old)
		w.more(200)
		c.signal(unix.SIGCONT, frozen...)
		w.more(100)
		c.healthy(c.names()...)
		w.safe()
		c.same(c.names()...)
	})
	sub("node killed and back", func() {
		old, w := c.leader(), c.write(4)
		c.powerOff(old)
		c.newLeader(old)
		w.more(100)
		c.healthy(c.others(old)...)
		c.startNode(old)
		c.healthy(c.names()...)
		w.safe()
		c.same(c.names()...)
	})
	for _, who := range []string{"follower", "leader"} {
		sub("etcd "+who+" killed: nothing happens", func() {
			c.quiet(func(w *writers) {
				etcd := c.etcdMember(who == "leader")
				c.kill("etcd-" + etcd)
				w.more(300)
				c.stays(c.l.TTL, "the lock stays", c.sameLock())
				c.start("etcd-" + etcd)
				w.more(100)
			})
		})
	}
	sub("router killed: the others do not care", func() {
		c.quiet(func(w *writers) {
			c.kill("router")
			c.stays(time.Second, "the lock stays", c.sameLock())
			c.start("router")
			w.more(100)
			clear(w.errs)
		})
	})
	c.secretsNowhere()
}

// TestDeath_Async: without synchronous commit a dead postmaster is started again where it was.
func TestDeath_Async(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{Sync: "off"})
	c.sub(t, "postmaster killed: restarted in place", func() {
		before, w := c.view().Lock, c.write(4)
		c.kill9(before.Node)
		w.more(200)
		c.healthy(c.names()...)
		after := c.view().Lock
		if after.Node != before.Node || after.Timeline != before.Timeline {
			t.Errorf("got %s on timeline %d, want %s on %d", after.Node, after.Timeline, before.Node, before.Timeline)
		}
		w.safe() // what was acknowledged is on its disk
		c.same(c.names()...)
	})
	c.sub(t, "backend killed: crash recovery, no failover", func() {
		before, w := c.view().Lock, c.write(4)
		pid := c.sql(before.Node, "select pid from pg_stat_activity where datname = 'app' and query like 'insert%' limit 1")
		var n int
		if _, err := fmt.Sscan(pid, &n); err != nil {
			t.Fatalf("got pid %q of a backend", pid)
		}
		c.signal(unix.SIGKILL, n)
		w.more(200)
		c.healthy(c.names()...)
		if after := c.view().Lock; after.Node != before.Node || after.Epoch != before.Epoch {
			t.Errorf("got %s in epoch %d, want %s in %d", after.Node, after.Epoch, before.Node, before.Epoch)
		}
		w.safe()
	})
	c.sub(t, "node killed: the loss is bounded and counted", func() {
		old, w := c.leader(), c.write(4)
		c.powerOff(old)
		c.newLeader(old)
		w.more(100)
		c.startNode(old)
		c.healthy(c.names()...)
		v := w.stop()
		t.Logf("asynchronous: %d of %d acknowledged writes lost", v.lost, v.acked)
		c.same(c.names()...)
	})
}

// sub runs a scenario on a cluster that is healthy before; a failed one ends the test, because what
// follows would stand on its ruins.
func (c *rig) sub(t *testing.T, name string, f func()) {
	t.Helper()
	outer := c.t
	ok := t.Run(name, func(t *testing.T) {
		c.t = t
		defer func() { c.t = outer }()
		c.healthy(c.names()...)
		began := time.Now()
		f()
		t.Logf("took %s", time.Since(began).Round(100*time.Millisecond))
	})
	if !ok {
		c.t = outer
		t.FailNow()
	}
}

// kill9 kills a node's postmaster.
func (c *rig) kill9(node string) {
	c.t.Helper()
	c.remember(node)
	c.signal(unix.SIGKILL, c.postmaster(node))
}

// sameLock is a condition: the lock is held as it is now.
func (c *rig) sameLock() func() error {
	c.t.Helper()
	want := c.view().Lock
	return func() error {
		v, err := c.tryView()
		if err != nil {
			return nil // an election of etcd may be going on
		}
		if v.Lock.Node != want.Node || v.Lock.Epoch != want.Epoch {
			return fmt.Errorf("got %s in epoch %d, want %s in %d", v.Lock.Node, v.Lock.Epoch, want.Node, want.Epoch)
		}
		return nil
	}
}

// quiet runs something that clients and leadership must not notice.
func (c *rig) quiet(f func(*writers)) {
	c.t.Helper()
	before, w := c.view().Lock, c.write(4)
	pid := c.postmaster(before.Node)
	f(w)
	c.healthy(c.names()...)
	after := c.view().Lock
	if after.Node != before.Node || after.Epoch != before.Epoch || c.postmaster(after.Node) != pid {
		c.t.Errorf("got %s in epoch %d, want %s in %d, with the same postmaster", after.Node, after.Epoch, before.Node, before.Epoch)
	}
	if v := w.safe(); len(v.errs) > 0 {
		c.t.Errorf("got errors %s, want none", tally(v.errs))
	}
}

// etcdMember names etcd's leader, or a member that is not.
func (c *rig) etcdMember(leader bool) (name string) {
	c.t.Helper()
	c.await(15*time.Second, "etcd says who leads it", func() error {
		for _, n := range c.names() {
			is, err := c.etcdLeads(n)
			if err != nil {
				return err
			}
			if is == leader {
				name = n
				return nil
			}
		}
		return errors.New("none found")
	})
	return name
}
