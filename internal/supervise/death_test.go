package supervise_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/process"
	"github.com/hathi-ha/hathi/internal/supervise"
)

func TestKilledSupervisor_TakesItsChildrenAlong(t *testing.T) {
	dir := t.TempDir()
	cmd, pids := supervisorProcess(t, dir, child(t, "a", "obey"), child(t, "b", "deaf"))
	a, b := hold(t, pids["a"]), hold(t, pids["b"])
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, a)
	gone(t, b)
	if _, err := supervise.Dial(t.Context(), dir); !errors.Is(err, supervise.ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
	_ = cmd.Wait()
	open(t, dir) // what it left behind is in nobody's way
}

// outliving is a child that does not die with its supervisor.
func outliving(t *testing.T, name, how string) supervise.Spec {
	spec := child(t, name, how)
	spec.DeathSignal = syscall.SIGCONT
	spec.StopWithin = 100 * time.Millisecond
	return spec
}

func TestNextSupervisor_EndsWhatADeadOneLeft(t *testing.T) {
	dir := t.TempDir()
	polite, deaf := outliving(t, "polite", "obey"), outliving(t, "deaf", "deaf")
	deaf.Group = 2
	cmd, pids := supervisorProcess(t, dir, polite, deaf)
	a, b := hold(t, pids["polite"]), hold(t, pids["deaf"])
	t.Cleanup(func() { _ = a.Signal(unix.SIGKILL); _ = b.Signal(unix.SIGKILL) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if a.Gone() || b.Gone() {
		t.Fatal("got a child that died with its supervisor, want it to live on for this test")
	}
	open(t, dir)
	gone(t, a)
	gone(t, b)
}

func TestNextSupervisor_LeavesStrangersAlone(t *testing.T) {
	boot, err := boottime.BootID()
	if err != nil {
		t.Fatal(err)
	}
	argv, env := self(t, "child", "obey")
	stranger := exec.Command(argv[0], argv[1:]...)
	stranger.Env = env
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Process.Kill(); _ = stranger.Wait() })
	p, err := process.Find(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, change func(map[string]any)) {
		m := map[string]any{"name": name, "pid": p.PID, "start": p.Start, "boot_id": boot, "argv": argv, "stop_signal": 9}
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".pid"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("pid-reused", func(m map[string]any) { m["start"] = p.Start - 1 })
	write("other-boot", func(m map[string]any) { m["boot_id"] = "00000000-0000-0000-0000-000000000000" })
	write("other-program", func(m map[string]any) { m["argv"] = []string{argv[0], "exit", "0"} })
	write("myself", func(m map[string]any) { m["pid"] = os.Getpid() })
	odd := filepath.Join(dir, "odd.pid")
	if err := os.WriteFile(odd, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	open(t, dir)
	h, err := process.Open(p.PID, p.Start)
	if err != nil {
		t.Fatalf("got %v, want the stranger alive", err)
	}
	defer h.Close()
	left, err := filepath.Glob(filepath.Join(dir, "*.pid"))
	if err != nil || len(left) != 1 || left[0] != odd {
		t.Errorf("got %v, %v, want %s alone", left, err, odd)
	}
	if err := os.Remove(odd); err != nil {
		t.Fatal(err)
	}
	if h.Gone() {
		t.Error("got the stranger dead, want it alive")
	}
}
