package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/demo"
)

// dbOff kills PostgreSQL, agent and guardian of some nodes; their etcd members go on.
func (c *rig) dbOff(nodes ...string) {
	c.t.Helper()
	c.remember(nodes...)
	for _, n := range nodes {
		for _, pid := range guardians(c.l.DataDir(n)) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		c.kill("agent-" + n)
		if err := killDir(c.l.DataDir(n)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// dbOn starts their agents again.
func (c *rig) dbOn(nodes ...string) {
	c.t.Helper()
	for _, n := range nodes {
		c.start("agent-" + n)
	}
}

// still says that no write is acknowledged for a while.
func (w *writers) still(during time.Duration) {
	w.r.t.Helper()
	// An answer may be on its way.
	var at int64
	w.r.await(20*time.Second, "writes stop being acknowledged", func() error {
		before := at
		if at = w.count.Load(); at != before {
			return errors.New("they go on")
		}
		return nil
	})
	w.r.stays(during, "no write is acknowledged", func() error {
		if now := w.count.Load(); now != at {
			return fmt.Errorf("got %d more", now-at)
		}
		return nil
	})
}

// TestSyncModes takes one cluster through all modes of synchronous commit.
func TestSyncModes(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{Sync: "on"})
	c.sub(t, "on: the synchronous standby dies, another takes its place", func() {
		lead, w := c.leader(), c.write(4)
		first := c.view().Sync.Standbys
		if len(first) != 1 {
			t.Fatalf("got synchronous standbys %v, want one", first)
		}
		c.dbOff(first...)
		c.await(30*time.Second, "the other standby is synchronous", func() error {
			v, err := c.tryView()
			if err == nil && (len(v.Sync.Standbys) != 1 || v.Sync.Standbys[0] == first[0]) {
				err = fmt.Errorf("%v", v.Sync.Standbys)
			}
			return err
		})
		w.more(100)
		// Now the primary too: only the synchronous standby may follow it.
		second := c.view().Sync.Standbys[0]
		c.dbOff(lead)
		if got := c.newLeader(lead); got != second {
			t.Errorf("got leader %s, want the synchronous standby %s", got, second)
		}
		c.dbOn(first[0], lead)
		c.healthy(c.names()...)
		w.more(100)
		w.safe()
		c.same(c.names()...)
	})
	c.sub(t, "on: without any standby it goes on alone", func() {
		lead, w := c.leader(), c.write(2)
		c.dbOff(c.others(lead)...)
		w.more(100)
		c.await(30*time.Second, "nobody is synchronous", func() error {
			v, err := c.tryView()
			if err == nil && len(v.Sync.Standbys) > 0 {
				err = fmt.Errorf("%v", v.Sync.Standbys)
			}
			return err
		})
		c.dbOn(c.others(lead)...)
		c.healthy(c.names()...)
		w.safe()
	})
	c.sub(t, "strict: without any standby commits wait", func() {
		c.must("edit-config", "-s", "synchronous_mode_strict=true", "--force")
		lead := c.leader()
		c.await(20*time.Second, "strict mode is in force", func() error {
			if s := c.view().Config.Settings; !s.SynchronousStrict {
				return errors.New("the store does not have it")
			}
			return nil
		})
		w := c.write(2)
		c.dbOff(c.others(lead)...)
		w.still(2 * c.l.TTL)
		if got := c.leader(); got != lead {
			t.Errorf("got leader %s, want %s", got, lead)
		}
		c.dbOn(c.others(lead)[0])
		w.more(100)
		c.dbOn(c.others(lead)[1])
		c.healthy(c.names()...)
		w.safe()
		c.must("edit-config", "-s", "synchronous_mode_strict=null", "--force")
	})
	c.sub(t, "quorum: one standby down, then the primary", func() {
		c.must("edit-config", "-s", "synchronous_mode=quorum", "--force")
		c.healthy(c.names()...)
		c.ruled("ANY 1")
		lead, w := c.leader(), c.write(4)
		away := c.others(lead)[0]
		c.dbOff(away)
		w.more(200)
		c.await(30*time.Second, "the dead standby is counted out", func() error {
			v, err := c.tryView()
			if err == nil && v.Sync.Has(away) {
				err = fmt.Errorf("%v", v.Sync.Standbys)
			}
			return err
		})
		c.dbOff(lead)
		c.newLeader(lead)
		w.more(100)
		c.dbOn(away, lead)
		c.healthy(c.names()...)
		w.safe()
		c.same(c.names()...)
	})
	c.sub(t, "off: nobody leads who lags too far behind", func() {
		c.must("edit-config", "-s", "synchronous_mode=off", "-s", "maximum_lag_on_failover=1048576", "--force")
		c.ruled("")
		lead, w := c.leader(), c.write(2)
		w.end()
		c.same(c.names()...)
		rest := c.others(lead)
		for _, n := range rest {
			c.signal(sigstop, c.walreceiver(n))
		}
		at := c.view().Status.Optime
		if _, err := c.exec(c.direct(lead), "create table far as select repeat('x', 1000) as x from generate_series(1, 8000)"); err != nil {
			t.Fatal(err)
		}
		c.await(20*time.Second, "the leader has published its new position", func() error {
			if now := c.view().Status.Optime; now < at+4<<20 {
				return fmt.Errorf("%s, was %s", now, at)
			}
			return nil
		})
		var frozen []int
		for _, n := range rest {
			frozen = append(frozen, c.walreceiver(n))
		}
		c.dbOff(lead)
		// They end before they read what the leader's kernel had already sent.
		c.signal(sigterm, frozen...)
		c.signal(sigcont, frozen...)
		c.stays(2*c.l.TTL, "nobody leads", func() error {
			v, err := c.tryView()
			if err == nil && v.Lock.Node != lead && v.Lock.Node != "" {
				err = fmt.Errorf("%s leads", v.Lock.Node)
			}
			return err
		})
		c.dbOn(lead)
		if got := c.leader(); got != lead {
			t.Errorf("got leader %s, want %s, which alone has everything", got, lead)
		}
		c.healthy(c.names()...)
		if got, err := c.exec(c.l.WriteURI(), "select count(*) from far"); err != nil || got != "8000" {
			t.Errorf("got %s rows (%v), want 8000", got, err)
		}
		w.safe()
	})
}

// ruled waits until the primary's synchronous_standby_names begins so ("" for empty).
func (c *rig) ruled(begins string) {
	c.t.Helper()
	c.await(30*time.Second, fmt.Sprintf("the rule %q is in force", begins), func() error {
		got, err := c.super(c.leader(), "show synchronous_standby_names")
		switch {
		case err != nil:
			return err
		case begins == "" && got != "", !strings.HasPrefix(got, begins):
			return fmt.Errorf("it is %q", got)
		}
		if v := c.view(); begins == "" && len(v.Sync.Standbys) > 0 {
			return fmt.Errorf("the store has %v", v.Sync.Standbys)
		}
		return nil
	})
}
