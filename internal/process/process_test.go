package process_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/process"
)

// TestMain plays a postmaster with two backends when it is told to: processes named postgres, in
// their own sessions, deaf to polite signals.
func TestMain(m *testing.M) {
	switch os.Getenv("PROCESS_TEST_PLAY") {
	case "postmaster":
		for range 2 {
			c := exec.Command("/proc/self/exe")
			c.Env = []string{"PROCESS_TEST_PLAY=backend"}
			c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
			if err := c.Start(); err != nil {
				panic(err)
			}
		}
		os.Stdout.WriteString("ready\n")
		io.Copy(io.Discard, os.Stdin)
		time.Sleep(time.Hour)
	case "backend":
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// play starts the test binary under the name name in dir and returns it once it is ready.
func play(t *testing.T, dir, name string) *exec.Cmd {
	t.Helper()
	exe := filepath.Join(t.TempDir(), name)
	if err := os.Link("/proc/self/exe", exe); err != nil {
		b, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(exe, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(exe)
	c.Dir = dir
	c.Env = []string{"PROCESS_TEST_PLAY=postmaster"}
	c.Stderr = os.Stderr
	if _, err := c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("got %q, %v, want ready", line, err)
	}
	return c
}

func TestKillAll_EndsTheWholeFamily(t *testing.T) {
	dir := t.TempDir()
	c := play(t, dir, "postgres")
	list, err := process.List(dir, 0)
	if err != nil || len(list) != 3 {
		t.Fatalf("got %v, %v, want three processes", list, err)
	}
	root, ok := process.Root(list)
	if !ok || root.PID != c.Process.Pid {
		t.Fatalf("got root %+v %v, want pid %d", root, ok, c.Process.Pid)
	}
	h, err := process.Open(root.PID, root.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := process.KillAll(ctx, dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Signal(unix.SIGTERM); err != nil && !errors.Is(err, process.ErrGone) {
		t.Fatalf("got %v, want nil or ErrGone", err)
	}
	if list, err := process.List(dir, 0); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v, want none", list, err)
	}
}

func TestKillAll_OrphansWithoutPostmaster(t *testing.T) {
	dir := t.TempDir()
	c := play(t, dir, "postgres")
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	if list, err := process.List(dir, 0); err != nil || len(list) != 2 {
		t.Fatalf("got %v, %v, want two orphans", list, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := process.KillAll(ctx, dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if list, err := process.List(dir, 0); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v, want none", list, err)
	}
}

func TestList_LeavesStrangersInTheDirectoryAlone(t *testing.T) {
	dir := t.TempDir()
	play(t, dir, "shell")
	if list, err := process.List(dir, 0); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v, want none", list, err)
	}
}

func TestOpen_RefusesAReusedPID(t *testing.T) {
	me, err := process.Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process.Open(me.PID, me.Start+1); !errors.Is(err, process.ErrGone) {
		t.Fatalf("got %v, want ErrGone", err)
	}
	h, err := process.Open(me.PID, me.Start)
	if err != nil {
		t.Fatal(err)
	}
	if h.Gone() {
		t.Fatal("got gone, want alive")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the context's end", err)
	}
	if err := errors.Join(h.Close(), h.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestWait_SeesADeathThatIsNotReaped(t *testing.T) {
	c := play(t, t.TempDir(), "postgres")
	h, err := process.Open(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.Wait(ctx) }()
	if err := h.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := process.Open(c.Process.Pid, h.Start); !errors.Is(err, process.ErrGone) {
		t.Fatalf("got %v, want ErrGone for one that is dead and not reaped", err)
	}
}
