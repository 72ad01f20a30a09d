package cli_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/rest"
)

func (w *world) leads(name string, epoch uint64) func() {
	return func() {
		w.put(dcs.KeyLock, cluster.Lock{Node: name, Epoch: epoch, Timeline: 2, TTL: 3000, Ready: true})
		w.mu.Lock()
		defer w.mu.Unlock()
		st := w.status[name]
		st.Role = cluster.RolePrimary
		w.status[name] = st
	}
}

func TestSwitchover_ReturnsWhenTheNewLeaderAcceptsWrites(t *testing.T) {
	w := demo(t)
	w.answers["pg1 POST /switchover"] = answer{code: 200, text: `Successfully switched over to "pg2"`, do: w.leads("pg2", 2)}
	code, out, stderr := w.run("switchover", "demo", "--primary", "pg1", "--candidate", "pg2", "--force")
	if code != 0 || stderr != "" {
		t.Fatalf("got %d, %s", code, stderr)
	}
	before, after, ok := strings.Cut(out, ` Successfully switched over to "pg2"`+"\n")
	if !ok || !strings.HasPrefix(before, "Current cluster topology\n"+listed) || !strings.HasPrefix(after, "pg2 leads and accepts writes, ") ||
		!strings.Contains(after, "| pg2    | 10.0.0.1:5433 | Leader ") {
		t.Errorf("got\n%s", out)
	}
	if got, want := w.actions(), []string{`pg1 POST /switchover {"candidate":"pg2","leader":"pg1"}`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSwitchover_AnotherMemberIsAskedWhenTheLeaderCannotBeReached(t *testing.T) {
	w := demo(t)
	w.urls["pg1"].Close()
	w.answers["pg2 POST /switchover"] = answer{code: 412, text: "switchover is not possible: no good candidates have been found"}
	code, _, stderr := w.run("switchover", "--force")
	if code != 1 || stderr != "hathi: switchover refused by pg2 (412): switchover is not possible: no good candidates have been found\n" {
		t.Errorf("got %d, %s", code, stderr)
	}
	for _, s := range w.urls {
		s.Close()
	}
	if code, _, stderr := w.run("switchover", "--force"); code != 1 || !strings.HasPrefix(stderr, "hathi: switchover: no member of cluster demo can be reached:\n  switchover on member pg1: POST http://127.0.0.1:") {
		t.Errorf("got %d, %s", code, stderr)
	}
}

func TestSwitchover_Refusals(t *testing.T) {
	w := demo(t)
	w.fails(1, "Member pg1 is already the leader of cluster demo", "switchover", "--to", "pg1", "--force")
	w.fails(1, "Member pg9 does not exist in cluster demo or is tagged as nofailover (candidates: pg2, pg3)", "switchover", "--to", "pg9", "--force")
	w.fails(1, "Member pg2 is not the leader of cluster demo: pg1 is", "switchover", "--leader", "pg2", "--force")
	w.fails(2, "Failover could be performed only to a specific candidate: name it with --to MEMBER", "failover", "--force")
	w.fails(2, `nobody can be asked, since standard input is no terminal: add --force to go on without the question "Are you sure you want to switchover cluster demo, demoting current leader pg1?"`, "switchover")
	w.answers["pg1 POST /switchover"] = answer{code: 401, text: "no auth header received"}
	w.fails(1, "switchover refused by pg1 (401): no auth header received\nhint: state the user and password of the REST API in ctl.authentication (or restapi.authentication) of the configuration", "switchover", "--force")
	w.answers["pg1 POST /switchover"] = answer{code: 500, text: "\x1b[2J"}
	w.fails(1, `switchover refused by pg1 (500): \x1B[2J`, "switchover", "--force")
	for _, name := range []string{"pg2", "pg3"} {
		m := w.member(name, 5433)
		m.Tags = cluster.Tags{"nofailover": true}
		w.put(dcs.MemberKey(name), m)
	}
	w.fails(1, "No candidates found to switchover to", "switchover", "--force")
	w.put(dcs.KeyLock, cluster.Lock{Epoch: 2})
	w.fails(1, "This cluster has no leader: a switchover needs one that works (see `hathi why -c node.yml`, or `hathi failover --to MEMBER -c node.yml`)", "switchover", "--force")
	w = demo(t)
	w.raw(dcs.KeyConfig, `{"pause":true}`)
	w.fails(1, "Can't schedule switchover in the paused state", "switchover", "--scheduled", "2030-01-01T00:00Z", "--force")
	w.fails(1, "Switchover is possible only to a specific candidate in a paused state: name it with --to MEMBER", "switchover", "--force")
	if got := len(w.actions()); got != 0 {
		t.Errorf("got %d requests, want none", got)
	}
}

func TestSwitchover_AsksFirst(t *testing.T) {
	w := demo(t)
	w.tty, w.stdin = true, "perhaps\nno\n"
	code, _, stderr := w.run("switchover")
	want := "Are you sure you want to switchover cluster demo, demoting current leader pg1? [y/N]: Please answer y or n.\n" +
		"Are you sure you want to switchover cluster demo, demoting current leader pg1? [y/N]: hathi: not confirmed: nothing was changed\n"
	if code != 1 || stderr != want || len(w.actions()) != 0 {
		t.Errorf("got %d, %q, want %q", code, stderr, want)
	}
	w.stdin = "y\n"
	w.answers["pg1 POST /switchover"] = answer{code: 200, do: w.leads("pg3", 2)}
	if code, _, stderr := w.run("switchover"); code != 0 {
		t.Errorf("got %d, %s", code, stderr)
	}
}

func TestSwitchover_IsScheduledAndTakenBack(t *testing.T) {
	w := demo(t)
	w.answers["pg1 POST /switchover"] = answer{code: 202, text: "Switchover scheduled"}
	code, out, stderr := w.run("switchover", "--scheduled", "2030-01-01 03:00:00.000000+00:00", "--force")
	if code != 0 || !strings.HasSuffix(out, "\nSwitchover scheduled at 2030-01-01T03:00:00Z\n") {
		t.Errorf("got %d\n%s%s", code, out, stderr)
	}
	if got, want := w.actions(), []string{`pg1 POST /switchover {"leader":"pg1","scheduled_at":"2030-01-01T03:00:00Z"}`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	w.prints("No pending scheduled switchover\n", "flush", "switchover")
	w.put(dcs.KeyFailover, cluster.FailoverRequest{Leader: "pg1", ScheduledAt: "2030-01-01T03:00:00Z"})
	w.answers["pg1 DELETE /switchover"] = answer{code: 200, text: "scheduled switchover deleted"}
	w.prints("Success: scheduled switchover deleted\n", "flush", "demo", "switchover")
	w.fails(2, "flush what? `hathi flush switchover` or `hathi flush restart [MEMBER...]`", "flush", "everything")
}

func TestSwitchover_WhatMayStillHappenIsSaid(t *testing.T) {
	w := demo(t)
	release := make(chan struct{})
	w.answers["pg1 POST /switchover"] = answer{code: 200, do: func() {
		w.put(dcs.KeyFailover, cluster.FailoverRequest{Leader: "pg1", ID: "x"})
		<-release
	}}
	code, _, stderr := w.run("switchover", "--force", "--timeout", "0.3")
	close(release)
	want := "hathi: switchover: no answer within 300ms (--timeout): the member that was asked may still carry it out\nthe request stands in the store: watch with `hathi list -w -c node.yml`, see `hathi why -c node.yml`\n"
	if code != 1 || stderr != want {
		t.Errorf("got %d, %s, want %s", code, stderr, want)
	}
}

func TestFailover_SaysWhatMayBeLost(t *testing.T) {
	w := demo(t)
	w.put(dcs.KeySync, cluster.SyncState{Leader: "pg1", Standbys: []string{"pg2"}})
	w.urls["pg1"].Close()
	w.answers["pg2 POST /failover"] = answer{code: 412, text: "failover is not possible: it may miss commits"}
	w.fails(1, "failover refused by pg2 (412): failover is not possible: it may miss commits", "failover", "--to", "pg3", "--yes")
	w.answers["pg2 POST /failover"] = answer{code: 200, text: "ok", do: w.leads("pg3", 2)}
	w.tty, w.stdin = true, "yes\n"
	code, _, stderr := w.run("failover", "--candidate", "pg3", "--force")
	want := "pg3 does not answer: its last published position is 0/5000000\n" +
		"pg3 is not one of the synchronous standbys of pg1 (pg2): it may miss commits that were acknowledged\n" +
		"pg3 is at 0/5000000, 0 bytes behind the last position that the leader published (0/5000000)\n" +
		"Are you sure you want to failover cluster demo to pg3, demoting current leader pg1? Acknowledged commits may be lost. [y/N]: "
	if code != 0 || stderr != want {
		t.Errorf("got %d\n%s\nwant\n%s", code, stderr, want)
	}
	if got := w.actions(); !slices.Contains(got, `pg2 POST /failover {"candidate":"pg3","force":true}`) {
		t.Errorf("got %q", got)
	}
}

func TestRestart_GoesThroughTheMembersWithTheLeaderLast(t *testing.T) {
	w := demo(t)
	w.prints("Success: restart on member pg2\nSuccess: restart on member pg3\nSuccess: restart on member pg1\n", "restart", "demo", "--force")
	w.prints("Success: restart on member pg1\n", "restart", "--role", "primary", "--force")
	w.prints("Success: restart on member pg2\nSuccess: restart on member pg3\n", "restart", "-r", "replica", "--force")
	w.prints("Success: restart on member pg2\n", "restart", "demo", "pg2", "--force", "--timeout", "10")
	w.prints("No member to restart\n", "restart", "--pending", "--force")
	if got, want := w.actions()[6], `pg2 POST /restart {"timeout":10}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.answers["pg2 POST /restart"] = answer{code: 503, text: "restart failed: out of luck"}
	w.fails(1, "restart refused by pg2 (503): restart failed: out of luck\nnot restarted: pg3, pg1", "restart", "--role", "any", "--force")
	w.fails(1, "pg9 is not a member of cluster demo (members: pg1, pg2, pg3)", "restart", "pg9", "--force")
	w.fails(1, "No primary among provided members", "restart", "pg2", "--role", "primary", "--force")
	w.fails(2, "restart: which member? name one of pg1, pg2, pg3, or use --role", "restart", "--force")
	w.fails(2, `--role "boss": want primary, replica, standby-leader or any`, "restart", "--role", "boss")
	w.fails(2, `--pg-version "x": want a version such as 15.4`, "restart", "pg2", "--pg-version", "x")
	w.fails(2, `nobody can be asked, since standard input is no terminal: add --force to go on without the question "Are you sure you want to restart members pg2?"`, "restart", "pg2")
}

func TestRestart_IsScheduledAndTakenBack(t *testing.T) {
	w := demo(t)
	w.answers["pg2 POST /restart"] = answer{code: http.StatusAccepted, text: "Restart scheduled"}
	w.prints("Success: restart scheduled on member pg2\n", "restart", "pg2", "--force", "--scheduled", "2030-01-01T03:00:00+00:00")
	w.answers["pg2 POST /restart"] = answer{code: http.StatusConflict, text: "Another restart is already scheduled"}
	w.fails(1, "another restart is already scheduled on member pg2: `hathi flush restart pg2 -c node.yml` takes it back", "restart", "pg2", "--force", "--scheduled", "2030-01-01T03:00Z")
	w.answers["pg2 DELETE /restart"] = answer{code: 404, text: "no restarts are scheduled"}
	w.prints("No scheduled restart for member pg2\n", "flush", "restart", "pg2")
	w.answers["pg2 DELETE /restart"] = answer{code: 200, text: "scheduled restart deleted"}
	w.prints("Success: flush scheduled restart for member pg2\n", "flush", "demo", "pg2", "restart")
	code, _, stderr := w.run("restart", "pg2", "--scheduled", "tomorrow")
	if code != 2 || !strings.HasPrefix(stderr, "hathi: Unable to parse scheduled timestamp (tomorrow). It should be in an unambiguous format (e.g. ISO 8601: ") {
		t.Errorf("got %d, %s", code, stderr)
	}
}

func TestReload(t *testing.T) {
	w := demo(t)
	w.answers["pg2 POST /reload"] = answer{code: 202, text: "reload scheduled"}
	w.urls["pg3"].Close()
	code, out, stderr := w.run("reload")
	if code != 1 || out != "Reload request received for member pg2 and will be processed within 1 seconds\nNo changes to apply on member pg1\n" ||
		!strings.HasPrefix(stderr, "hathi: reload on member pg3: POST http://127.0.0.1:") {
		t.Errorf("got %d\n%s%s", code, out, stderr)
	}
}

func TestReinit_WaitsForTheNewCopy(t *testing.T) {
	w := demo(t)
	old := rest.Timestamp{Time: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	status := func(s rest.Status) {
		w.mu.Lock()
		defer w.mu.Unlock()
		s.Patroni.Name = "pg2"
		w.status["pg2"] = s
	}
	status(rest.Status{State: cluster.StateRunning, PostmasterStart: old, ReplState: "streaming", Hathi: &rest.Own{Epoch: 1}})
	// The copy has begun and PostgreSQL of before still answers; then it is copied; then it runs anew.
	w.answers["pg2 POST /reinitialize"] = answer{code: 200, text: "reinitialize started", do: func() {
		status(rest.Status{State: cluster.StateCreatingReplica, Hathi: &rest.Own{Job: "copying from pg1: 29 MB"}})
		time.AfterFunc(200*time.Millisecond, func() {
			status(rest.Status{State: cluster.StateRunning, PostmasterStart: rest.Timestamp{Time: old.Add(time.Minute)}, ReplState: "streaming", Hathi: &rest.Own{Epoch: 1}})
		})
	}}
	code, out, stderr := w.run("reinit", "pg2", "--force", "--wait")
	if code != 0 || out != "Success: reinitialize for member pg2\nWaiting for reinitialize to complete on: pg2\nReinitialize is completed on: pg2\n" ||
		stderr != "pg2: copying from pg1: 29 MB\n" {
		t.Errorf("got %d\n%s%s", code, out, stderr)
	}
	w.answers["pg2 POST /reinitialize"] = answer{code: 200}
	code, _, stderr = w.run("reinit", "pg2", "--force", "--wait", "--wait-timeout", "0.1")
	if code != 1 || !strings.HasSuffix(stderr, "hathi: reinitialize of pg2: not done yet when the wait ended; it goes on there: see `hathi list -c node.yml`\n") {
		t.Errorf("got %d\n%s, want the PostgreSQL of before not to count", code, stderr)
	}
}

func TestReinit_Refusals(t *testing.T) {
	w := demo(t)
	w.fails(1, "pg1 is the leader, and the leader is not copied anew: switch over first (`hathi switchover -c node.yml`)", "reinit", "pg1", "--force")
	w.answers["pg2 POST /reinitialize"] = answer{code: 503, text: "Cluster has no leader, can not reinitialize"}
	w.fails(1, "reinitialize refused by pg2 (503): Cluster has no leader, can not reinitialize", "reinit", "pg2", "--force")
	w.answers["pg2 POST /reinitialize"] = answer{code: 200, text: "reinitialize started"}
	w.prints("Success: reinitialize for member pg2\n", "reinit", "demo", "pg2", "--force", "--from-leader")
	if got, want := w.actions()[1], `pg2 POST /reinitialize {"force":true,"from_leader":true}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
