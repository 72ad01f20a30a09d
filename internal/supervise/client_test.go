package supervise_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/supervise"
)

func TestClient_AsksRestartsAndStops(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40)) // longer than a socket's address
	if _, err := supervise.Dial(t.Context(), dir); !errors.Is(err, supervise.ErrNotRunning) {
		t.Errorf("no directory: got %v, want ErrNotRunning", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := supervise.Dial(t.Context(), dir); !errors.Is(err, supervise.ErrNotRunning) {
		t.Errorf("no supervisor: got %v, want ErrNotRunning", err)
	}
	cmd, pids := supervisorProcess(t, dir, child(t, "a", "obey"), child(t, "b", "obey"))
	c, err := supervise.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "supervise.sock")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got socket %v, %v, want mode 0600", st, err)
	}
	if err := c.Restart(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	r, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.PID != cmd.Process.Pid || r.Stopping || len(r.Processes) != 2 || r.Processes[0].PID == pids["a"] || r.Processes[0].Restarts != 1 || r.Processes[1].PID != pids["b"] {
		t.Errorf("got %+v, want supervisor %d with a restarted and b as before (%v)", r, cmd.Process.Pid, pids)
	}
	if err := c.Restart(t.Context(), "nobody"); !errors.Is(err, supervise.ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
	b := hold(t, pids["b"])
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, b)
	// The directory is free at once.
	next := supervise.New(supervise.Config{Dir: dir})
	if err := next.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); !errors.Is(err, supervise.ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
}

func TestClient_StopTellsWhenTheSupervisorDied(t *testing.T) {
	dir := t.TempDir()
	spec := child(t, "deaf", "deaf")
	spec.StopWithin = time.Hour
	cmd, _ := supervisorProcess(t, dir, spec)
	c, err := supervise.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- c.Stop(t.Context()) }()
	eventually(t, "the stop to begin", func() error {
		r, err := c.Status(t.Context())
		if err == nil && !r.Stopping {
			err = errors.New("it runs on")
		}
		return err
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil || !strings.Contains(err.Error(), "before it had stopped everything") {
		t.Errorf("got %v, want that it ended too early", err)
	}
}

func TestControl_AnswersNonsenseAndHoldsNobody(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	path := filepath.Join(dir, "supervise.sock")
	var d net.Dialer
	dial := func() net.Conn {
		conn, err := d.DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial() // says nothing; Close at the end of the test must not wait for it
	for _, c := range []struct{ line, want string }{
		{"hello\n", "not a request"},
		{`{"do":"reboot"}` + "\n", "unknown request"},
		{`{"do":"restart"}` + "\n", "restart whom"},
		{`{"do":"status","x":1}` + "\n", "not a request"},
		{strings.Repeat(" ", 5000) + "\n", "more than 4096 bytes"},
	} {
		conn := dial()
		if _, err := conn.Write([]byte(c.line)); err != nil {
			t.Fatal(err)
		}
		got, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil && got == "" || !strings.Contains(got, c.want) || !strings.HasPrefix(got, `{"ok":false`) {
			t.Errorf("%.20q: got %q, %v, want %q", c.line, got, err, c.want)
		}
	}
}

func TestDaemonize(t *testing.T) {
	for _, c := range []struct {
		how  string
		want []string // in the error; none: no error
	}{
		{"ready", nil},
		{"fail", []string{"port 5432 is in use", "daemon.log"}},
		{"die", []string{"exit status 7", "last word", "daemon.log"}},
		{"hang", []string{"deadline exceeded"}},
	} {
		t.Run(c.how, func(t *testing.T) {
			argv, env := self(t, "daemon", c.how)
			log := filepath.Join(t.TempDir(), "daemon.log")
			if err := os.WriteFile(log, []byte("an old word\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if c.how == "hang" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			var said []string
			pid, err := supervise.Daemonize(ctx, supervise.DaemonOptions{Argv: argv, Env: env, LogFile: log,
				Progress: func(text string) { said = append(said, text) }})
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					p, _ := os.FindProcess(pid)
					_ = p.Kill()
					_, _ = p.Wait()
				}()
				h := hold(t, pid)
				if h.Gone() {
					t.Error("got it gone, want it to live")
				}
			}
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "an old word") {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
			if c.how != "hang" && strings.Join(said, "|") != "making; up my mind" {
				t.Errorf("got progress %q, want one line", said)
			}
		})
	}
}
