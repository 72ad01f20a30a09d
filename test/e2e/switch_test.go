package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/demo"
)

// TestSwitchover_UnderLoad: planned switchovers lose nothing, and the old primary follows without a
// rewind.
func TestSwitchover_UnderLoad(t *testing.T) {
	need(t, true)
	c := up(t, demo.Options{})
	w := c.write(4)
	for i := range 3 {
		old := c.leader()
		to := c.others(old)[i%2]
		c.must("switchover", "--to", to, "--force")
		if got := c.leader(); got != to {
			t.Fatalf("got leader %s after the command returned, want %s", got, to)
		}
		w.more(100)
		c.healthy(c.names()...)
	}
	v := w.safe()
	for kind, n := range v.errs {
		if strings.HasPrefix(kind, "connect: ") {
			t.Errorf("got %d x %q, want newcomers held during a switchover", n, kind)
		}
	}
	c.same(c.names()...)
	for _, n := range c.names() {
		if log := c.agentLog(n); strings.Contains(log, ": rewinding") {
			t.Errorf("got a rewind on %s, want none after clean stops", n)
		}
	}
	if got, want := c.view().Lock.Timeline, uint32(4); got != want {
		t.Errorf("got timeline %d, want %d", got, want)
	}
	for _, r := range []struct {
		args []string
		say  string
	}{
		{[]string{"switchover", "--to", "nobody", "--force"}, "nobody"},
		{[]string{"switchover", "--to", c.leader(), "--force"}, c.leader()},
		{[]string{"switchover", "--leader", c.replicas()[0], "--force"}, "lead"},
	} {
		if got := c.cli(r.args...); got.code != 1 && got.code != 2 || !strings.Contains(got.err, r.say) {
			t.Errorf("hathi %s: got %s, want a refusal that mentions %q", strings.Join(r.args, " "), got, r.say)
		}
	}
}

// agentLog is the text of an agent's log.
func (c *rig) agentLog(node string) string {
	b, _ := os.ReadFile(c.l.LogFile("agent-" + node))
	return string(b)
}

// TestRejoin: an old primary with WAL that nobody else has comes back.
func TestRejoin(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{Sync: "off"})

	// diverge makes the leader write what nobody receives, kills its node, and lets another lead.
	diverge := func() (old string, w *writers) {
		old = c.leader()
		w = c.write(2)
		w.end() // what was acknowledged until here is on all nodes
		c.same(c.names()...)
		c.kill("router")
		// The standbys stop receiving, and then the leader alone writes.
		for _, n := range c.others(old) {
			c.signal(sigstop, c.walreceiver(n))
		}
		if _, err := c.exec(c.direct(old), "create table alone as select generate_series(1, 1000) as id"); err != nil {
			t.Fatal(err)
		}
		frozen := map[string]int{}
		for _, n := range c.others(old) {
			frozen[n] = c.walreceiver(n)
		}
		c.powerOff(old)
		for _, pid := range frozen {
			// It ends before it reads what the old leader's kernel had already sent.
			c.signal(sigterm, pid)
			c.signal(sigcont, pid)
		}
		c.start("router")
		c.newLeader(old)
		return old, w
	}
	back := func(old string, w *writers) {
		c.startNode(old)
		c.healthy(c.names()...)
		if got, err := c.exec(c.direct(old), "select count(*) from pg_class where relname = 'alone'"); err != nil || got != "0" {
			t.Errorf("got %q tables (%v) of the lost branch on %s, want none", got, err, old)
		}
		w.safe()
		c.same(c.names()...)
	}
	c.sub(t, "by rewind", func() {
		old, w := diverge()
		back(old, w)
		if log := c.agentLog(old); !strings.Contains(log, ": rewinding") || strings.Contains(log, "copying anew") {
			t.Errorf("got no rewind, or a copy, in the log of %s", old)
		}
		if dirs := c.aside(old); len(dirs) != 0 {
			t.Errorf("got %v set aside, want nothing after a rewind", dirs)
		}
	})
	c.sub(t, "by a new copy, the old one set aside", func() {
		old, w := diverge()
		// pg_rewind needs the WAL since the last common checkpoint.
		wal, err := filepath.Glob(filepath.Join(c.l.DataDir(old), "pg_wal", "0*"))
		if err != nil || len(wal) == 0 {
			t.Fatalf("no WAL found: %v", err)
		}
		for _, f := range wal {
			if err := os.Truncate(f, 0); err != nil {
				t.Fatal(err)
			}
		}
		system := c.view().Initialize
		back(old, w)
		dirs := c.aside(old)
		if len(dirs) != 1 {
			t.Fatalf("got %v set aside, want one directory", dirs)
		}
		for _, f := range []string{"PG_VERSION", "global/pg_control", "base"} {
			if _, err := os.Stat(filepath.Join(dirs[0], f)); err != nil {
				t.Errorf("the directory that was set aside is not whole: %v", err)
			}
		}
		if got := c.sql(old, "select system_identifier from pg_control_system()"); got != system {
			t.Errorf("got system identifier %s, want %s", got, system)
		}
	})
	c.sub(t, "a standby promoted by hand", func() {
		before := c.view().Lock
		n := c.others(before.Node)[0]
		w := c.write(2)
		c.sql(n, "select pg_promote(true, 20)")
		c.await(60*time.Second, n+" follows again", func() error {
			if got, err := c.super(n, "select pg_is_in_recovery()"); err != nil || got != "t" {
				return fmt.Errorf("in recovery: %q, %v", got, err)
			}
			return c.whole(c.names()...)
		})
		if after := c.view().Lock; after.Node != before.Node || after.Epoch != before.Epoch {
			t.Errorf("got %s in epoch %d, want %s in %d: a promotion behind our back moves nothing", after.Node, after.Epoch, before.Node, before.Epoch)
		}
		w.more(50)
		w.safe()
		c.same(c.names()...)
	})
}

// walreceiver is the pid of a standby's WAL receiver.
func (c *rig) walreceiver(node string) (pid int) {
	c.t.Helper()
	c.await(20*time.Second, node+" has a WAL receiver", func() error {
		out, err := c.super(node, "select pid from pg_stat_wal_receiver")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(out, &pid); err != nil {
			return errors.New("none")
		}
		return nil
	})
	return pid
}

// aside are the data directories of a node that were set aside.
func (c *rig) aside(node string) []string {
	var out []string
	dirs, _ := filepath.Glob(c.l.DataDir(node) + ".*")
	for _, d := range dirs {
		if info, err := os.Stat(filepath.Join(d, "PG_VERSION")); err == nil && !info.IsDir() {
			out = append(out, d)
		}
	}
	return out
}
