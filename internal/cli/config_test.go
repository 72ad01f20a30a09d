package cli_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
)

func TestShowConfig(t *testing.T) {
	w := demo(t)
	w.raw(dcs.KeyConfig, `{"ttl":6,"synchronous_mode":"quorum","maximum_lag_on_failover":1048576,"old":null,"slots":{},"ratio":1.50,"text":"on","postgresql":{"pg_hba":["local all all peer"],"parameters":{"work_mem":"8MB"}}}`)
	w.prints(`maximum_lag_on_failover: 1048576
old: null
postgresql:
  parameters:
    work_mem: 8MB
  pg_hba:
  - local all all peer
ratio: 1.50
slots: {}
synchronous_mode: quorum
text: "on"
ttl: 6
`, "show-config")
	code, out, _ := w.run("show-config", "--json")
	var doc map[string]any
	if err := json.Unmarshal([]byte(out), &doc); code != 0 || err != nil || doc["ttl"] != 6.0 {
		t.Errorf("got %d, %v, %s", code, err, out)
	}
	w.raw(dcs.KeyConfig, "junk")
	w.fails(1, "the configuration in the store cannot be read: invalid character 'j' looking for beginning of value\nhint: replace it with `hathi edit-config --replace FILE -c node.yml`", "show-config")
}

func TestEditConfig_ShowsTheDifferenceWithTypedValues(t *testing.T) {
	w := demo(t)
	w.prints(`---
+++
@@ -2,6 +2,7 @@
 postgresql:
   parameters:
     max_connections: 100
+    superuser_reserved_connections: 6
 retry_timeout: 2
 synchronous_mode: quorum
-ttl: 6
+ttl: 20
Configuration changed
`, "edit-config", "demo", "-s", "ttl=20", "-p", "superuser_reserved_connections=6", "--force")
	if got, want := w.stored(dcs.KeyConfig), `{"loop_wait":1,"postgresql":{"parameters":{"max_connections":100,"superuser_reserved_connections":6}},"retry_timeout":2,"synchronous_mode":"quorum","ttl":20}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.prints("Not changed\n", "edit-config", "-s", "ttl=20", "--force")
	w.prints("Configuration changed\n", "edit-config", "-q", "-s", "postgresql=null", "-s", "failsafe_mode=on", "-p", "auto_explain.log_min_duration=5s", "--force")
	if got, want := w.stored(dcs.KeyConfig), `{"failsafe_mode":true,"loop_wait":1,"postgresql":{"parameters":{"auto_explain.log_min_duration":"5s"}},"retry_timeout":2,"synchronous_mode":"quorum","ttl":20}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEditConfig_Refusals(t *testing.T) {
	w := demo(t)
	before := w.stored(dcs.KeyConfig)
	w.fails(1, "the configuration is refused and was not changed:\n  ttl: want 3 to 600 seconds, got 1\n  postgresql.parameters.max_connections: want a whole number of at least 25, got 5",
		"edit-config", "-s", "ttl=1", "-p", "max_connections=5", "--force")
	w.fails(2, "Invalid parameter setting ttl: want -s KEY=VALUE", "edit-config", "-s", "ttl")
	w.fails(2, "Invalid parameter setting =3: want -p KEY=VALUE", "edit-config", "-p", "=3")
	w.fails(2, "-s a..b=3: a part of the path is empty", "edit-config", "-s", "a..b=3")
	w.fails(2, "-s a=*b: the value is no YAML: yaml: unknown anchor 'b' referenced", "edit-config", "-s", "a=*b")
	w.fails(2, "edit-config opens an editor, and standard input is no terminal: state the change with -s, -p or --apply", "edit-config")
	w.fails(2, `nobody can be asked, since standard input is no terminal: add --force to go on without the question "Apply these changes?"`, "edit-config", "-s", "ttl=20")
	w.stdin = "ttl: 20\n"
	w.fails(2, "the configuration came from standard input, so nobody can be asked: Use --force option to apply changes", "edit-config", "--apply", "-")
	w.fails(2, "--apply - and --replace - both want standard input", "edit-config", "--apply", "-", "--replace", "-")
	w.files["list.yml"], w.files["twice.yml"], w.files["alias.yml"] = "- a\n", "ttl: 6\nttl: 7\n", "a: &x [1]\nb: *x\n"
	w.fails(1, "list.yml: want a YAML mapping (KEY: VALUE)", "edit-config", "--apply", "list.yml")
	w.fails(1, "twice.yml: line 2: the key ttl occurs twice", "edit-config", "--apply", "twice.yml")
	w.fails(1, "alias.yml: line 2: aliases are not supported here: write the value out", "edit-config", "--replace", "alias.yml")
	if got := w.stored(dcs.KeyConfig); got != before {
		t.Errorf("got %s, want it unchanged", got)
	}
	code, _, stderr := w.run("edit-config", "-s", "loop_wiat=2", "--force")
	if want := "hathi: warning: loop_wiat: unknown setting, kept and ignored (did you mean loop_wait?)\n"; code != 0 || stderr != want {
		t.Errorf("got %d, %s, want %s", code, stderr, want)
	}
}

func TestEditConfig_FromFiles(t *testing.T) {
	w := demo(t)
	w.stdin = "ttl: 20\npostgresql:\n  parameters: {max_connections: null, work_mem: 8MB}\n"
	w.run("edit-config", "--apply", "-", "--force")
	if got, want := w.stored(dcs.KeyConfig), `{"loop_wait":1,"postgresql":{"parameters":{"work_mem":"8MB"}},"retry_timeout":2,"synchronous_mode":"quorum","ttl":20}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.raw(dcs.KeyConfig, "junk")
	w.files["new.yml"] = "ttl: 9\nwhen: 2026-01-01\nn: 12345678901234567890\n"
	w.run("edit-config", "--replace", "new.yml", "--force")
	if got, want := w.stored(dcs.KeyConfig), `{"n":12345678901234567890,"ttl":9,"when":"2026-01-01"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEditConfig_InTheEditor(t *testing.T) {
	w := demo(t)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	editor := func(script string) {
		file := filepath.Join(dir, "editor")
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		w.env["EDITOR"] = file + " -x"
	}
	w.tty, w.stdin = true, "y\n"
	editor(`sed -i s/ttl:.6/ttl:\ 12/ "$2"`)
	if code, out, stderr := w.run("edit-config"); code != 0 || !strings.HasSuffix(out, "-ttl: 6\n+ttl: 12\nConfiguration changed\n") || stderr != "Apply these changes? [y/N]: " {
		t.Errorf("got %d\n%s%s", code, out, stderr)
	}
	editor(`echo 'ttl: 1' > "$2"`)
	w.stdin = "n\n"
	code, _, stderr := w.run("edit-config")
	if code != 1 || !strings.HasPrefix(stderr, "hathi: the configuration is refused and was not changed:\n  ttl: want 3 to 600 seconds, got 1\nEdit it again? [Y/n]: hathi: nothing was changed; your text is in "+dir) {
		t.Errorf("got %d, %s", code, stderr)
	}
	editor("exit 3")
	if code, _, stderr := w.run("edit-config"); code != 1 || !strings.HasSuffix(stderr, "editor: exit status 3: nothing was changed\n") {
		t.Errorf("got %d, %s", code, stderr)
	}
	editor(":")
	w.prints("Not changed\n", "edit-config")
}

// confirms plays a leader that puts its fence down and takes it up again.
func (w *world) confirms() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			d, _ := cluster.ParseDynamic([]byte(w.stored(dcs.KeyConfig)))
			if l, err := cluster.ParseLock([]byte(w.stored(dcs.KeyLock))); err == nil && l.Paused != d.Pause {
				l.Paused = d.Pause
				w.put(dcs.KeyLock, l)
				w.mu.Lock()
				for name, st := range w.status {
					st.Pause = d.Pause
					w.status[name] = st
				}
				w.mu.Unlock()
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
}

func TestPauseAndResume(t *testing.T) {
	w := demo(t)
	w.confirms()
	w.prints("Success: cluster management is paused\n", "pause")
	w.fails(1, "Cluster is already paused", "pause")
	w.prints("'resume' request sent, waiting until it is recognized by all nodes\nSuccess: cluster management is resumed\n", "resume", "--wait")
	w.fails(1, "Cluster is not paused", "resume", "demo")
	if got, want := w.stored(dcs.KeyConfig), `{"loop_wait":1,"postgresql":{"parameters":{"max_connections":100}},"retry_timeout":2,"synchronous_mode":"quorum","ttl":6}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPause_WhoDoesNotKnowYetIsSaid(t *testing.T) {
	w := demo(t)
	code, out, stderr := w.run("pause", "--wait", "--timeout", "0.3")
	if code != 1 || out != "'pause' request sent, waiting until it is recognized by all nodes\n" || stderr != "hathi: pg1, pg2, pg3 members didn't recognize the paused state within 300ms\n" {
		t.Errorf("got %d\n%s%s", code, out, stderr)
	}
}

func TestResume_NotWhileTheFenceIsDownAndItsHolderSilent(t *testing.T) {
	w := demo(t)
	w.raw(dcs.KeyConfig, `{"pause":true}`)
	w.put(dcs.KeyLock, cluster.Lock{Node: "pg1", Epoch: 3, TTL: 3000, Paused: true})
	w.answers["pg1 GET /patroni"] = answer{code: 503, text: "no"}
	code, _, stderr := w.run("resume")
	if code != 1 || !strings.HasPrefix(stderr, "hathi: pg1 led when the cluster was paused, put its fence down, and does not answer (GET http://127.0.0.1:") ||
		!strings.HasSuffix(stderr, "got 503 no): nobody but you can tell whether its PostgreSQL still accepts writes, so nobody will take over after the pause\n"+
			"hint: start its agent again; or make sure that pg1 is off and order another leader, `hathi failover --to MEMBER --force -c node.yml`; `hathi resume --force -c node.yml` resumes nevertheless\n") {
		t.Errorf("got %d, %s", code, stderr)
	}
	if got := w.stored(dcs.KeyConfig); got != `{"pause":true}` {
		t.Errorf("got %s, want it still paused", got)
	}
	_, out, _ := w.run("list")
	if !strings.Contains(out, " pg1 put its fence down for the pause and does not answer: only you can tell whether its PostgreSQL still accepts writes\n") {
		t.Errorf("got\n%s", out)
	}
	code, out, stderr = w.run("resume", "--force", "--timeout", "0.3")
	if code != 0 || out != "Success: cluster management is resumed\n" || !strings.HasPrefix(stderr, "hathi: warning: pg1 led when") {
		t.Errorf("got %d\n%s%s", code, out, stderr)
	}
}
