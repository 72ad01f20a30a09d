package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/demo"
)

// TestRouter: what clients see of the two ports.
func TestRouter(t *testing.T) {
	need(t, true)
	c := up(t, demo.Options{})
	lead := c.leader()
	from := func() (string, error) { return c.exec(c.l.ReadURI(), "select inet_server_port()") }
	port := func(n string) string { return fmt.Sprint(c.node(n).PostgreSQL) }

	c.sub(t, "reads go to the replicas", func() {
		seen := map[string]bool{}
		c.await(20*time.Second, "both replicas serve reads", func() error {
			p, err := from()
			if err != nil {
				return err
			}
			if p == port(lead) {
				return errors.New("the primary served one")
			}
			if seen[p] = true; len(seen) < 2 {
				return fmt.Errorf("only %v", seen)
			}
			return nil
		})
	})
	c.sub(t, "a cancel request reaches the right server", func() {
		ctx, cancel := context.WithTimeout(context.Background(), clientBound)
		defer cancel()
		conn, err := connect(ctx, c.l.WriteURI(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		done := make(chan error, 1)
		go func() {
			_, err := conn.Exec(ctx, "select pg_sleep(600)", pgx.QueryExecModeSimpleProtocol)
			done <- err
		}()
		c.await(10*time.Second, "the statement runs", func() error {
			n, err := c.super(lead, "select count(*) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid() and state = 'active'")
			if err == nil && n != "1" {
				err = errors.New(n + " run")
			}
			return err
		})
		if err := conn.PgConn().CancelRequest(ctx); err != nil {
			t.Fatal(err)
		}
		err = <-done
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "57014" {
			t.Errorf("got %v, want 57014: cancelled at the user's request", err)
		}
	})
	c.sub(t, "noloadbalance keeps a replica out of the read port", func() {
		n := c.others(lead)[0]
		b, err := os.ReadFile(c.l.NodeFile(n))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.l.NodeFile(n), append(b, "tags:\n  noloadbalance: true\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
		c.must("reload", n, "--force")
		c.await(20*time.Second, n+" is out of the read port", func() error {
			for range 8 {
				if p, err := from(); err != nil || p == port(n) {
					return fmt.Errorf("port %s, %v", p, err)
				}
			}
			return nil
		})
		if err := os.WriteFile(c.l.NodeFile(n), b, 0o600); err != nil {
			t.Fatal(err)
		}
		c.must("reload", n, "--force")
	})
	c.sub(t, "without replicas reads go to the primary", func() {
		c.dbOff(c.others(lead)...)
		c.await(30*time.Second, "the primary serves reads", func() error {
			if p, err := from(); err != nil || p != port(lead) {
				return fmt.Errorf("port %s, %v", p, err)
			}
			return nil
		})
		c.dbOn(c.others(lead)...)
		c.healthy(c.names()...)
	})
}

// TestOperate: what an operator does to a running cluster.
func TestOperate(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{})
	everywhere := func(sql, want string) {
		t.Helper()
		c.await(30*time.Second, sql+" is "+want+" on all nodes", func() error {
			for _, n := range c.names() {
				if got, err := c.super(n, sql); err != nil || got != want {
					return fmt.Errorf("%q (%v) on %s", got, err, n)
				}
			}
			return nil
		})
	}
	c.sub(t, "edit-config: a setting that takes a reload", func() {
		c.must("edit-config", "-p", "work_mem=9MB", "--force")
		everywhere("show work_mem", "9MB")
	})
	c.sub(t, "edit-config: a setting that takes a restart", func() {
		for _, want := range []string{"110", "90"} { // up: standbys first; down: the primary first
			c.must("edit-config", "-p", "max_connections="+want, "--force")
			c.await(30*time.Second, "all members show the pending restart", func() error {
				for n, m := range c.view().Members {
					if r, ok := m.PendingReason["max_connections"]; !m.PendingRestart || !ok || r.NewValue != want {
						return fmt.Errorf("%s: %v %v", n, m.PendingRestart, m.PendingReason)
					}
				}
				return nil
			})
			if out := c.must("list"); !strings.Contains(out, "max_connections") {
				t.Errorf("got no reason in the list:\n%s", out)
			}
			c.must("restart", "--pending", "--force")
			everywhere("show max_connections", want)
			c.healthy(c.names()...)
			c.await(30*time.Second, "no restart is pending", func() error {
				for n, m := range c.view().Members {
					if m.PendingRestart {
						return fmt.Errorf("%s: %v", n, m.PendingReason)
					}
				}
				return nil
			})
		}
	})
	c.sub(t, "edit-config: what cannot work is refused", func() {
		before := c.must("show-config")
		for _, args := range [][]string{{"-s", "ttl=1"}, {"-p", "max_connections=many"}, {"-s", "synchronous_mode=perhaps"}, {"-p", "wal_level=minimal"}, {"-s", "maximum_lag_on_failover=-1"}} {
			if r := c.cli(append([]string{"edit-config", "--force"}, args...)...); r.code == 0 {
				t.Errorf("edit-config %v: got %s, want a refusal", args, r)
			} else if !strings.Contains(r.err, strings.Split(args[1], "=")[0]) {
				t.Errorf("edit-config %v: got %s, want the setting named", args, r)
			}
		}
		if after := c.must("show-config"); after != before {
			t.Errorf("got configuration\n%s, want it unchanged\n%s", after, before)
		}
	})
	c.sub(t, "edit-config: another lease", func() {
		c.quiet(func(w *writers) {
			c.must("edit-config", "-s", "ttl=5", "--force")
			c.await(20*time.Second, "the lock has it", func() error {
				if got := c.view().Lock.TTL; got != 5000 {
					return fmt.Errorf("%d ms", got)
				}
				return nil
			})
			c.must("edit-config", "-s", "ttl=6", "--force")
			c.await(20*time.Second, "the lock has the old one again", func() error {
				if got := c.view().Lock.TTL; got != 6000 {
					return fmt.Errorf("%d ms", got)
				}
				return nil
			})
			w.more(100)
		})
	})
	c.sub(t, "restart", func() {
		before := map[string]int{}
		for _, n := range c.names() {
			before[n] = c.postmaster(n)
		}
		lead, replica := c.leader(), c.replicas()[0]
		w := c.write(2)
		c.must("restart", replica, "--force")
		c.must("restart", lead, "--force")
		c.healthy(c.names()...)
		if got := c.leader(); got != lead {
			t.Errorf("got leader %s after the restart, want %s", got, lead)
		}
		for _, n := range []string{lead, replica} {
			if c.postmaster(n) == before[n] {
				t.Errorf("got the same postmaster on %s after its restart", n)
			}
		}
		w.more(50)
		w.safe()
	})
	c.sub(t, "reinit", func() {
		n := c.replicas()[1]
		c.must("reinit", n, "--force", "--wait")
		c.healthy(c.names()...)
		if dirs := c.aside(n); len(dirs) != 1 {
			t.Errorf("got %v set aside, want the old directory", dirs)
		}
		if r := c.cli("reinit", c.leader(), "--force"); r.code == 0 {
			t.Errorf("reinit of the leader: got %s, want a refusal", r)
		}
	})
	c.sub(t, "pause: nothing is done, and resume mends it", func() {
		lead := c.leader()
		rest := c.others(lead)
		c.must("pause", "--wait")
		before := c.view().Lock
		c.remember(lead, rest[0])
		pid := c.postmaster(rest[1])
		c.kill("agent-" + rest[1])
		c.start("agent-" + rest[1])
		killed := []int{c.postmaster(lead), c.postmaster(rest[0])}
		c.signal(unix.SIGKILL, killed...)
		c.await(20*time.Second, "they are dead", func() error {
			for _, p := range killed {
				if postgresLives(p) {
					return fmt.Errorf("process %d lives", p)
				}
			}
			return nil
		})
		c.stays(c.l.TTL*3/2, "nothing is started and nobody takes over", func() error {
			if v, err := c.tryView(); err != nil || v.Lock.Epoch != before.Epoch {
				return fmt.Errorf("epoch %d, %v", v.Lock.Epoch, err)
			}
			for _, n := range []string{lead, rest[0]} {
				if p := postmaster(c.l.DataDir(n)); p != 0 && postgresLives(p) {
					return fmt.Errorf("PostgreSQL of %s runs again", n)
				}
			}
			return nil
		})
		c.must("resume", "--wait", "--force")
		c.healthy(c.names()...)
		if got := c.postmaster(rest[1]); got != pid {
			t.Errorf("got postmaster %d on %s, want %d: its agent was restarted in the pause and adopts it", got, rest[1], pid)
		}
	})
	c.sub(t, "pause: switchover on request", func() {
		old := c.leader()
		c.must("pause", "--wait")
		w := c.write(2)
		to := c.others(old)[0]
		c.must("switchover", "--to", to, "--force")
		if got := c.leader(); got != to {
			t.Errorf("got leader %s, want %s", got, to)
		}
		w.more(50)
		c.must("resume", "--wait")
		c.healthy(c.names()...)
		w.safe()
	})
	c.sub(t, "pause: failover by order, the leader being dead", func() {
		old, w := c.leader(), c.write(2)
		w.end()
		c.same(c.names()...)
		c.must("pause", "--wait")
		c.dbOff(old)
		to := c.others(old)[1]
		c.must("failover", "--to", to, "--force", "--yes")
		c.await(30*time.Second, to+" leads", func() error {
			if got, err := c.leads(); err != nil || got != to {
				return fmt.Errorf("%q, %v", got, err)
			}
			return nil
		})
		c.must("resume", "--force")
		c.dbOn(old)
		c.healthy(c.names()...)
		w.safe()
	})
	for _, cmd := range [][]string{{"list"}, {"topology"}, {"history"}, {"why"}, {"show-config"}, {"dsn"}, {"query", "--command", "select 1"}} {
		if r := c.cli(cmd...); r.code != 0 || r.out == "" {
			t.Errorf("hathi %v: got %s, want output", cmd, r)
		}
	}
	c.secretsNowhere()
}
