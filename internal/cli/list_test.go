package cli_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
	"github.com/hathi-ha/hathi/internal/rest"
)

const listed = `+ Cluster: demo (7384519283746520123) ----+-----------+----+-------------+-----+------------+-----+
| Member | Host          | Role           | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+---------------+----------------+-----------+----+-------------+-----+------------+-----+
| pg1    | 10.0.0.1:5432 | Leader         | running   |  1 |             |     |            |     |
| pg2    | 10.0.0.1:5433 | Quorum Standby | streaming |  1 |   0/5000000 |   0 |  0/4000000 |  16 |
| pg3    | 10.0.0.1:5434 | Quorum Standby | streaming |  1 |   0/5000000 |   0 |  0/4000000 |  16 |
+--------+---------------+----------------+-----------+----+-------------+-----+------------+-----+
`

func TestList_IsPatronis(t *testing.T) {
	w := demo(t)
	w.prints(listed, "list")
	w.prints(listed, "list", "demo")
	w.prints(`[{"Cluster": "demo", "Member": "pg1", "Host": "10.0.0.1:5432", "Role": "Leader", "State": "running", "TL": 1}, `+
		`{"Cluster": "demo", "Member": "pg2", "Host": "10.0.0.1:5433", "Role": "Quorum Standby", "State": "streaming", "TL": 1, "Receive LSN": "0/5000000", "Receive Lag": 0, "Replay LSN": "0/4000000", "Replay Lag": 16}, `+
		`{"Cluster": "demo", "Member": "pg3", "Host": "10.0.0.1:5434", "Role": "Quorum Standby", "State": "streaming", "TL": 1, "Receive LSN": "0/5000000", "Receive Lag": 0, "Replay LSN": "0/4000000", "Replay Lag": 16}]
`, "list", "--json")
	w.prints("Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag\tReplay LSN\tReplay Lag\n"+
		"demo\tpg1\t10.0.0.1:5432\tLeader\trunning\t1\t\t\t\t\n"+
		"demo\tpg2\t10.0.0.1:5433\tQuorum Standby\tstreaming\t1\t0/5000000\t0\t0/4000000\t16\n"+
		"demo\tpg3\t10.0.0.1:5434\tQuorum Standby\tstreaming\t1\t0/5000000\t0\t0/4000000\t16\n", "list", "-f", "tsv")
}

func TestList_ShowsWhatHasNoColumn(t *testing.T) {
	w := demo(t)
	m := w.member("pg3", 5434)
	m.PendingRestart, m.PendingReason = true, map[string]cluster.PendingReason{"max_connections": {OldValue: "100", NewValue: "200"}}
	m.Tags = cluster.Tags{"replicatefrom": "pg2", "zone": "a\x1b[31m"}
	w.put(dcs.MemberKey("pg3"), m)
	w.raw(dcs.KeyConfig, `{"pause":true,"synchronous_mode":"on"}`)
	w.put(dcs.KeyFailover, cluster.FailoverRequest{Leader: "pg1", Candidate: "pg2", ScheduledAt: "2030-01-01T00:00:00Z"})
	w.raw(dcs.KeyHistory, "junk")
	st := w.status["pg3"]
	st.Scheduled = &rest.ScheduledRestart{Schedule: "2030-01-02T00:00:00Z", PostgresVersion: "15.9"}
	st.Hathi = &rest.Own{Job: "copying from pg1: 3 of 9 MB (33 %)"}
	w.status["pg3"] = st
	w.urls["pg2"].Close()
	_, out, _ := w.run("list")
	for _, want := range []string{"| Sync Standby |", "| Pending restart | Pending restart reason    | Scheduled restart                      | Tags ",
		"| *               | max_connections: 100->200 | 2030-01-02T00:00:00Z if version < 15.9 | replicatefrom: pg2 |",
		"\n Maintenance mode: on\n Switchover scheduled at: 2030-01-01T00:00:00Z\n                     from: pg1\n                       to: pg2\n",
		" pg3: copying from pg1: 3 of 9 MB (33 %)\n", " No answer from the REST API of: pg2\n", " Unreadable in the store: key history:"} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s\nwant %q in it", out, want)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("got a control sequence of a member's tag in %q", out)
	}
	_, out, _ = w.run("topology")
	if !strings.Contains(out, "| pg1     |") || !strings.Contains(out, "| + pg2   |") || !strings.Contains(out, "|   + pg3 |") {
		t.Errorf("got\n%s\nwant pg3 below pg2 below pg1", out)
	}
}

func TestTopology_ShowsMembersThatFollowEachOther(t *testing.T) {
	w := demo(t)
	for _, p := range [][2]string{{"pg2", "pg3"}, {"pg3", "pg2"}} {
		m := w.member(p[0], 5433)
		m.Tags = cluster.Tags{"replicatefrom": p[1]}
		w.put(dcs.MemberKey(p[0]), m)
	}
	_, out, _ := w.run("topology")
	if !strings.Contains(out, "pg2") || !strings.Contains(out, "pg3") {
		t.Errorf("got\n%s\nwant all members", out)
	}
}

func TestList_DoesNotBelieveALeaderThatDoesNotRenew(t *testing.T) {
	w := demo(t)
	w.urls["pg1"].Close()
	_, out, _ := w.run("list")
	if !strings.Contains(out, "running, lock not renewed for ") || !strings.Contains(out, " pg1 holds the lock of epoch 1 and has not renewed it for ") {
		t.Errorf("got\n%s\nwant it said that the lock was not renewed", out)
	}
	// Its key in the store is gone as well.
	if _, err := w.store.Client("x").Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: dcs.MemberKey("pg1"), Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	_, out, _ = w.run("list", "--json")
	if !strings.Contains(out, `{"Cluster": "demo", "Member": "pg1", "Role": "Leader", "State": "no sign of life, lock not renewed for `) {
		t.Errorf("got\n%s\nwant the holder of the lock in the list", out)
	}
}

func TestList_BelievesALeaderWhoseLockIsRenewedThoughItDoesNotAnswer(t *testing.T) {
	w := demo(t)
	w.urls["pg1"].Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seq := uint64(8); ctx.Err() == nil; seq++ {
			w.put(dcs.KeyLock, cluster.Lock{Node: "pg1", Epoch: 1, Seq: seq, Timeline: 1, TTL: 3000, Ready: true})
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	_, out, _ := w.run("list")
	stop()
	<-done
	if strings.Contains(out, "not renewed") {
		t.Errorf("got\n%s\nwant a leader like any other", out)
	}
}

func TestList_SaysWhoLeadsNot(t *testing.T) {
	w := demo(t)
	w.put(dcs.KeyLock, cluster.Lock{Epoch: 4, Successor: "pg2"})
	if _, out, _ := w.run("list"); !strings.Contains(out, " No leader: the lock was given back in epoch 4 for pg2\n") || strings.Contains(out, "| Leader") {
		t.Errorf("got\n%s", out)
	}
	w.raw(dcs.KeyLock, "junk")
	if _, out, _ := w.run("list"); !strings.Contains(out, " The lock cannot be read: nobody may lead until it is repaired\n") {
		t.Errorf("got\n%s", out)
	}
	w.put(dcs.KeyLock, cluster.Lock{Node: "pg1", Epoch: 5, TTL: 3000})
	if _, out, _ := w.run("list"); !strings.Contains(out, " pg1 leads in epoch 5 and does not accept writes yet\n") {
		t.Errorf("got\n%s", out)
	}
}

func TestList_Watches(t *testing.T) {
	w := demo(t)
	for _, args := range [][]string{{"list", "-c", "node.yml", "-w", "0.1"}, {"list", "-c", "node.yml", "--watch=100ms"}, {"list", "-c", "node.yml", "-W", "-i", "0.1"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		code, out, _ := w.runIn(ctx, args...)
		cancel()
		if n := strings.Count(out, "| pg1 "); code != 0 || n < 2 {
			t.Errorf("%q: got code %d and %d tables, want 0 and several", args, code, n)
		}
	}
	w.fails(2, "--watch: 10ms is too short: want 0.1 or more", "list", "-w=0.01")
	w.fails(2, `--watch: "soon": want a time such as 30, 30s, 5min`, "list", "--watch=soon")
	w.fails(2, "--interval belongs to --watch: add -w", "list", "-i", "3")
}

func TestTarget_WhatCannotBeFoundIsSaid(t *testing.T) {
	w := demo(t)
	for _, c := range []struct {
		code int
		text string
		args []string
	}{
		{2, "which cluster? name a configuration file with -c FILE or $HATHI_CONFIG, or the directory of a demo with --dir DIR", []string{"list"}},
		{2, "--config and --dir are both given: name one", []string{"list", "-c", "node.yml", "--dir", "/x"}},
		{1, "read the configuration: open gone.yml: file does not exist", []string{"list", "-c", "gone.yml"}},
		{1, "/x is no directory of a demo: open /x/ctl.yml: file does not exist\nhint: `hathi demo --detach --dir DIR` makes one in a new or empty DIR", []string{"list", "--dir", "/x"}},
		{1, "no such cluster in the store: the store at http://127.0.0.1:1 holds no key below /service/other/\nhint: the argument other was taken as the name of a cluster; --help tells how a member is named", []string{"list", "-c", "node.yml", "other"}},
		{2, `the name of the cluster: unusable name "../x": character '.' at byte 0; want letters, digits, and after the first also . - _`, []string{"list", "-c", "node.yml", "../x"}},
		{2, `too many arguments: ["b"]`, []string{"list", "-c", "node.yml", "a", "b"}},
		{2, `unknown output format "xml": use pretty, topology, tsv, json or yaml`, []string{"list", "-c", "node.yml", "-f", "xml"}},
		{2, "hathi list: unknown flag: --nope: see `hathi list --help`", []string{"list", "--nope"}},
	} {
		code, _, stderr := w.runIn(t.Context(), c.args...)
		if code != c.code || stderr != "hathi: "+c.text+"\n" {
			t.Errorf("%q: got %d and\n%s\nwant %d and\nhathi: %s", c.args, code, stderr, c.code, c.text)
		}
	}
	w.client.SetFault(func(string) mem.Fault { return mem.FaultUnavailable })
	w.fails(1, "read cluster demo: the store at http://127.0.0.1:1 does not answer as it should:\n  load through store client \"test\": store unavailable\n"+
		"hint: look whether etcd runs there and more than half of its members are up, and whether the addresses and certificates in node.yml are right", "list")
	w.client.SetFault(func(string) mem.Fault { return mem.FaultHang })
	if code, _, stderr := w.run("list", "--timeout", "0.2"); code != 1 || !strings.Contains(stderr, "context deadline exceeded") {
		t.Errorf("a store that hangs: got %d, %s", code, stderr)
	}
}

func TestTarget_FlagsBeforeTheCommand(t *testing.T) {
	w := demo(t)
	if code, out, stderr := w.runIn(t.Context(), "-c", "node.yml", "list"); code != 0 || out != listed {
		t.Errorf("got %d\n%s%s", code, out, stderr)
	}
	if code, _, stderr := w.runIn(t.Context(), "-c", "node.yml", "lst"); code != 2 || stderr != "hathi: unknown command \"lst\": see `hathi --help`\n" {
		t.Errorf("got %d, %s", code, stderr)
	}
	if code, _, stderr := w.runIn(t.Context(), "--nope", "list"); code != 2 || stderr != "hathi: hathi: unknown flag: --nope: see `hathi --help`\n" {
		t.Errorf("got %d, %s", code, stderr)
	}
}

func TestTarget_EnvironmentAlone(t *testing.T) {
	w := demo(t)
	w.env["HATHI_CONFIG"] = "node.yml"
	if code, out, stderr := w.runIn(t.Context(), "list"); code != 0 || out != listed {
		t.Errorf("HATHI_CONFIG: got %d\n%s%s", code, out, stderr)
	}
	w.env = map[string]string{"PATRONI_ETCD3_HOST": "localhost:2379"}
	if code, out, stderr := w.runIn(t.Context(), "list", "demo"); code != 0 || out != listed {
		t.Errorf("the scope as an argument: got %d\n%s%s", code, out, stderr)
	}
	if code, _, stderr := w.runIn(t.Context(), "list"); code != 2 || stderr != "hathi: the environment does not say which cluster: set PATRONI_SCOPE, or name the cluster as the first argument\n" {
		t.Errorf("no scope: got %d %s", code, stderr)
	}
	if code, out, stderr := w.runIn(t.Context(), "restart", "demo", "pg2", "--force"); code != 0 || out != "Success: restart on member pg2\n" {
		t.Errorf("scope and member: got %d\n%s%s", code, out, stderr)
	}
}
