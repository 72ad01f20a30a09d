package supervise_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/process"
	"github.com/hathi-ha/hathi/internal/supervise"
)

const role = "SUPERVISE_TEST_ROLE"

// TestMain plays children, supervisors and daemons when it is told to.
func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "child":
		playChild(os.Args[1:])
	case "supervisor":
		playSupervisor(os.Args[1])
	case "daemon":
		playDaemon(os.Args[1:])
	}
}

func playChild(args []string) {
	switch args[0] {
	case "obey":
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "exit":
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	}
	fmt.Printf("ready pid=%d uid=%d\n", os.Getpid(), os.Getuid())
	time.Sleep(time.Hour) // the test ends it
}

// playSupervisor runs the specs of a JSON file, next to which it works.
func playSupervisor(file string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	b, err := os.ReadFile(file)
	fail(err)
	var specs []supervise.Spec
	fail(json.Unmarshal(b, &specs))
	starter := supervise.FindStarter()
	s := supervise.New(supervise.Config{Dir: filepath.Dir(file)})
	fail(s.Open(context.Background()))
	fail(s.Start(context.Background(), specs...))
	starter.Ready()
	<-s.StopRequested()
	fail(s.Close())
}

func playDaemon(args []string) {
	s := supervise.FindStarter()
	if os.Getenv("HATHI_READY_FD") != "" {
		fmt.Println("the variable is still there")
		os.Exit(1)
	}
	s.Progress("making\nup my mind")
	switch args[0] {
	case "ready":
		s.Ready()
		s.Progress("too late")
	case "fail":
		s.Failed(errors.New("port 5432 is in use"))
		os.Exit(1)
	case "die":
		fmt.Println("first word")
		fmt.Println("last word")
		os.Exit(7)
	}
	time.Sleep(time.Hour)
}

// self is the test binary in a role.
func self(t *testing.T, r string, args ...string) (argv, env []string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{exe}, args...), append(os.Environ(), role+"="+r)
}

// child is a Spec of the test binary.
func child(t *testing.T, name string, args ...string) supervise.Spec {
	t.Helper()
	argv, env := self(t, "child", args...)
	return supervise.Spec{Name: name, Argv: argv, Env: env,
		Backoff: supervise.Backoff{Min: time.Millisecond, Max: 4 * time.Millisecond}}
}

// diary collects events.
type diary struct {
	mu     sync.Mutex
	events []supervise.Event
}

func (d *diary) add(e supervise.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

// names of the children of events of that kind, in order.
func (d *diary) names(kind supervise.EventKind) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, e := range d.events {
		if e.Kind == kind {
			out = append(out, e.Name)
		}
	}
	return strings.Join(out, " ")
}

// open opens a supervisor in dir; the test fails when it leaves goroutines or pid files behind.
func open(t *testing.T, dir string) (*supervise.Supervisor, *diary) {
	t.Helper()
	before := runtime.NumGoroutine()
	d := new(diary)
	s := supervise.New(supervise.Config{Dir: dir, OnEvent: d.add})
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		eventually(t, "all goroutines to end", func() error {
			if n := runtime.NumGoroutine(); n > before {
				return fmt.Errorf("%d run, %d did before", n, before)
			}
			return nil
		})
		if files, _ := filepath.Glob(filepath.Join(dir, "*.pid")); len(files) != 0 {
			t.Errorf("got pid files %v after Close, want none", files)
		}
	})
	return s, d
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ready waits until the child's present process has installed its signal handlers, and returns its pid.
func ready(t *testing.T, s *supervise.Supervisor, name string) int {
	t.Helper()
	pid := 0
	eventually(t, name+" to be ready", func() error {
		p := status(t, s, name)
		b, err := os.ReadFile(p.LogFile)
		if err != nil {
			return err
		}
		if p.PID == 0 || !strings.Contains(string(b), fmt.Sprintf("ready pid=%d ", p.PID)) {
			return fmt.Errorf("%+v, log %q", p, b)
		}
		pid = p.PID
		return nil
	})
	return pid
}

func status(t *testing.T, s *supervise.Supervisor, name string) supervise.ProcStatus {
	t.Helper()
	for _, p := range s.Status() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no status of %s", name)
	return supervise.ProcStatus{}
}

// hold takes hold of a process, to see whether it lives.
func hold(t *testing.T, pid int) *process.Handle {
	t.Helper()
	h, err := process.Open(pid, 0)
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func gone(t *testing.T, h *process.Handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := h.Wait(ctx); err != nil {
		t.Fatalf("process %d lives on: %v", h.PID, err)
	}
}

// supervisorProcess starts a supervisor in a process of its own and returns it with its children's pids.
func supervisorProcess(t *testing.T, dir string, specs ...supervise.Spec) (*exec.Cmd, map[string]int) {
	t.Helper()
	b, err := json.Marshal(specs)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "specs.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	argv, env := self(t, "supervisor", file)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stderr = env, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pids := make(map[string]int)
	eventually(t, "the supervisor's children", func() error {
		c, err := supervise.Dial(t.Context(), dir)
		if err != nil {
			return err
		}
		r, err := c.Status(t.Context())
		if err != nil {
			return err
		}
		for _, p := range r.Processes {
			b, _ := os.ReadFile(p.LogFile)
			if p.PID != 0 && strings.Contains(string(b), fmt.Sprintf("ready pid=%d ", p.PID)) {
				pids[p.Name] = p.PID
			}
		}
		if len(pids) != len(specs) {
			return fmt.Errorf("%d of %d are ready", len(pids), len(specs))
		}
		return nil
	})
	return cmd, pids
}
