package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/supervise"
)

func TestSupervisor_StartsAgainWhatEnds(t *testing.T) {
	s, d := open(t, t.TempDir())
	if err := s.Start(t.Context(), child(t, "crash", "exit", "3"), child(t, "fine", "obey")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "five restarts", func() error {
		p := status(t, s, "crash")
		if p.Restarts < 5 || p.LastExit != "exit status 3" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if got := status(t, s, "fine"); got.Restarts != 0 || got.State != supervise.Running || got.PID == 0 {
		t.Errorf("got %+v, want it running since the start", got)
	}
	if got := d.names(supervise.Ended); strings.Contains(got, "fine") || strings.Count(got, "crash") < 5 {
		t.Errorf("got ends of %q, want crash five times", got)
	}
}

func TestSupervisor_StartsAgainWhatIsKilled(t *testing.T) {
	s, _ := open(t, t.TempDir())
	if err := s.Start(t.Context(), child(t, "a", "obey")); err != nil {
		t.Fatal(err)
	}
	h := hold(t, ready(t, s, "a"))
	if err := h.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, h)
	eventually(t, "a second process", func() error {
		if p := status(t, s, "a"); p.State != supervise.Running || p.PID == h.PID || p.LastExit != "signal: killed" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

func TestSupervisor_StopsTheHighestGroupFirst(t *testing.T) {
	s, d := open(t, t.TempDir())
	specs := []supervise.Spec{child(t, "router", "obey"), child(t, "etcd", "obey"), child(t, "agent", "obey")}
	specs[0].Group, specs[1].Group, specs[2].Group = 3, 1, 2
	if err := s.Start(t.Context(), specs...); err != nil {
		t.Fatal(err)
	}
	if got, want := d.names(supervise.Started), "etcd agent router"; got != want {
		t.Errorf("started: got %q, want %q", got, want)
	}
	hs := hold(t, ready(t, s, "etcd"))
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := d.names(supervise.Finished), "router agent etcd"; got != want {
		t.Errorf("stopped: got %q, want %q", got, want)
	}
	gone(t, hs)
	if err := s.Start(t.Context(), child(t, "late", "obey")); !errors.Is(err, supervise.ErrStopped) {
		t.Errorf("start after stop: got %v, want ErrStopped", err)
	}
	if err := s.Restart(t.Context(), "etcd"); !errors.Is(err, supervise.ErrStopped) {
		t.Errorf("restart after stop: got %v, want ErrStopped", err)
	}
	for _, p := range s.Status() {
		if p.State != supervise.Stopped || p.PID != 0 || p.LastExit != "signal: terminated" {
			t.Errorf("got %+v, want it stopped by SIGTERM", p)
		}
	}
}

func TestSupervisor_KillsAtTheBound(t *testing.T) {
	s, d := open(t, t.TempDir())
	spec := child(t, "deaf", "deaf")
	spec.StopWithin = 50 * time.Millisecond
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	h := hold(t, ready(t, s, "deaf"))
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, h)
	if got := d.names(supervise.Killed); got != "deaf" {
		t.Errorf("killed: got %q, want deaf", got)
	}
	if got := status(t, s, "deaf").LastExit; got != "signal: killed" {
		t.Errorf("got %q, want signal: killed", got)
	}
}

func TestSupervisor_KillsAtOnceWhenTheContextOfStopEnds(t *testing.T) {
	s, d := open(t, t.TempDir())
	a, b := child(t, "a", "deaf"), child(t, "b", "deaf")
	a.StopWithin, b.StopWithin, b.Group = time.Hour, time.Hour, 1
	if err := s.Start(t.Context(), a, b); err != nil {
		t.Fatal(err)
	}
	ready(t, s, "a")
	ready(t, s, "b")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := d.names(supervise.Killed), "b a"; got != want {
		t.Errorf("killed: got %q, want %q", got, want)
	}
}

func TestSupervisor_StopsAPausedChild(t *testing.T) {
	s, d := open(t, t.TempDir())
	spec := child(t, "a", "obey")
	spec.StopWithin = time.Hour
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if err := hold(t, ready(t, s, "a")).Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.names(supervise.Killed); got != "" {
		t.Errorf("killed: got %q, want nobody", got)
	}
}

func TestSupervisor_Restart(t *testing.T) {
	s, d := open(t, t.TempDir())
	if err := s.Start(t.Context(), child(t, "a", "obey"), child(t, "crash", "exit", "1")); err != nil {
		t.Fatal(err)
	}
	pid := ready(t, s, "a")
	if err := s.Restart(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if p := status(t, s, "a"); p.PID == pid || p.State != supervise.Running || p.Restarts != 1 {
		t.Errorf("got %+v after pid %d, want another process, restarted once", p, pid)
	}
	if err := s.Restart(t.Context(), "crash"); err != nil {
		t.Errorf("restart of one that waits: %v", err)
	}
	if err := s.Restart(t.Context(), "nobody"); !errors.Is(err, supervise.ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
	if got := d.names(supervise.Finished); !strings.HasPrefix(got, "a") {
		t.Errorf("stopped: got %q, want a first", got)
	}
}

func TestSupervisor_RefusesWhatCannotRun(t *testing.T) {
	dir := t.TempDir()
	s, d := open(t, dir)
	missing := child(t, "missing", "obey")
	missing.Argv = []string{filepath.Join(dir, "no-such-program")}
	missing.Group = 1
	if err := s.Start(t.Context(), child(t, "a", "obey"), missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that the program does not exist", err)
	}
	if got := s.Status(); len(got) != 1 || got[0].Name != "a" || got[0].State != supervise.Running {
		t.Errorf("got %+v, want a alone, running", got)
	}
	if got := d.names(supervise.Refused); got != "missing" {
		t.Errorf("refused: got %q, want missing", got)
	}
	for _, spec := range []supervise.Spec{
		child(t, "a", "obey"), child(t, "", "obey"), child(t, "../a", "obey"), child(t, "supervise", "obey"),
		child(t, ".a", "obey"), {Name: "b"}, {Name: "b", Argv: []string{"x"}, StopWithin: -1},
	} {
		if err := s.Start(t.Context(), spec); err == nil {
			t.Errorf("%+v: got nil, want an error", spec)
		}
	}
}

func TestSupervisor_ASecondOneIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	err := supervise.New(supervise.Config{Dir: dir}).Open(t.Context())
	if !errors.Is(err, supervise.ErrRunning) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("got %v, want ErrRunning with the pid", err)
	}
	if err := supervise.New(supervise.Config{Dir: "relative"}).Open(t.Context()); err == nil {
		t.Error("got nil, want an error for a relative directory")
	}
}

func TestSupervisor_RunsAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("no user nobody: %v", err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	spec := child(t, "a", "obey")
	spec.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	// A copy of this program where that user can reach it.
	bin := t.TempDir()
	for _, dir := range []string{bin, filepath.Dir(bin)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(spec.Argv[0])
	if err != nil {
		t.Fatal(err)
	}
	spec.Argv[0] = filepath.Join(bin, "child")
	if err := os.WriteFile(spec.Argv[0], b, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd, pids := supervisorProcess(t, dir, spec)
	b, err = os.ReadFile(filepath.Join(dir, "a.log"))
	if want := fmt.Sprintf("uid=%d", uid); err != nil || !strings.Contains(string(b), want) {
		t.Errorf("got %q, %v, want %s", b, err, want)
	}
	h := hold(t, pids["a"])
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, h)
}
