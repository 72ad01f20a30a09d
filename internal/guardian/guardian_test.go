package guardian_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/guardian"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/process"
)

// TestMain plays the other processes: a guardian, an agent, and servers named postgres.
func TestMain(m *testing.M) {
	switch os.Getenv("GUARDIAN_TEST_PLAY") {
	case "guardian":
		if err := guardian.Run(context.Background(), os.Args[1], slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	case "agent": // arms the guardian, extends for ever, says so
		h, err := guardian.Open(os.Args[1], os.Args[2])
		if err != nil {
			panic(err)
		}
		if _, err := h.Arm(boottime.Now()+400*time.Millisecond, ladder); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("ready\n")
		for {
			h.Extend(boottime.Now() + 400*time.Millisecond)
			time.Sleep(20 * time.Millisecond)
		}
	case "polite": // stops when asked to, as a server without clients
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGINT, unix.SIGQUIT)
		os.Stdout.WriteString("ready\n")
		<-c
		os.Exit(0)
	case "deaf": // with a backend, and neither listens
		signal.Ignore(unix.SIGINT, unix.SIGQUIT)
		b := exec.Command("/proc/self/exe")
		b.Env = []string{"GUARDIAN_TEST_PLAY=backend"}
		b.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		if err := b.Start(); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("ready\n")
		time.Sleep(time.Hour)
	case "backend":
		signal.Ignore(unix.SIGINT, unix.SIGQUIT)
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// ladder is a quick one.
var ladder = lease.Ladder{Immediate: 100 * time.Millisecond, Kill: 200 * time.Millisecond}

// patience bounds every wait of these tests.
const patience = 30 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx := within(t)
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("still not so: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// play starts this test binary under the name name, in dir, and waits until it says ready.
func play(t *testing.T, role, name, dir string, args ...string) *process.Handle {
	t.Helper()
	exe := filepath.Join(t.TempDir(), name)
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe, args...)
	c.Dir, c.Env, c.Stderr = dir, []string{"GUARDIAN_TEST_PLAY=" + role}, os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); io.Copy(io.Discard, out); c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("got %q, %v, want ready", line, err)
	}
	h, err := process.Open(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// rig is a state file with its handle and data directory.
type rig struct {
	*guardian.Handle
	path, dir, log string
}

func open(t *testing.T) rig {
	t.Helper()
	dir := t.TempDir()
	r := rig{path: filepath.Join(dir, "guardian"), dir: filepath.Join(dir, "data"), log: filepath.Join(dir, "log")}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.reopen(t)
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(r.log)
			t.Logf("guardian's log:\n%s", b)
		}
	})
	return r
}

func (r *rig) reopen(t *testing.T) {
	t.Helper()
	h, err := guardian.Open(r.path, r.dir)
	if err != nil {
		t.Fatal(err)
	}
	r.Handle = h
	t.Cleanup(func() { h.Close() })
}

func (r *rig) start(t *testing.T) *guardian.Process {
	t.Helper()
	g, err := r.Start(within(t), guardian.StartOptions{
		Argv: []string{"/proc/self/exe", r.path}, Env: []string{"GUARDIAN_TEST_PLAY=guardian"}, LogFile: r.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Signal(unix.SIGKILL); _ = g.Wait(context.Background()); g.Close() })
	return g
}

func (r *rig) arm(t *testing.T, in time.Duration) {
	t.Helper()
	gen, err := r.Arm(boottime.Now()+in, ladder)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WaitAck(within(t), gen); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) wantFenced(t *testing.T, server *process.Handle) {
	t.Helper()
	eventually(t, "fenced", func() bool { _, ok := r.Fenced(); return ok })
	if server != nil && !server.Gone() {
		t.Fatal("got fenced with a living server")
	}
	if list, err := process.List(r.dir, 0); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v alive, want none", list, err)
	}
}

func TestGuardian_FencesAPoliteServer(t *testing.T) {
	r := open(t)
	s := play(t, "polite", "postgres", r.dir)
	r.SetPostmaster(s.PID, s.Start)
	r.start(t)
	r.arm(t, 200*time.Millisecond)
	r.wantFenced(t, s)
	if r.Extend(boottime.Now() + time.Hour) {
		t.Fatal("got an extension after the fence, want false")
	}
	if at, _ := r.Fenced(); at <= 0 || at > boottime.Now() {
		t.Fatalf("got fenced at %v, want an instant in the past", at)
	}
}

func TestGuardian_KillsADeafServerAndItsBackends(t *testing.T) {
	r := open(t)
	s := play(t, "deaf", "postgres", r.dir)
	r.SetPostmaster(s.PID, s.Start)
	r.start(t)
	r.arm(t, 200*time.Millisecond)
	r.wantFenced(t, s)
	if got, want := r.Reason(), "the lease was not renewed before its deadline: all processes killed"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestGuardian_FindsAServerItWasNotToldOf(t *testing.T) {
	r := open(t)
	s := play(t, "deaf", "postgres", r.dir)
	r.start(t)
	r.arm(t, 100*time.Millisecond)
	r.wantFenced(t, s)
}

func TestGuardian_FencesAfterTheAgentWasKilled(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			r := open(t)
			s := play(t, "polite", "postgres", r.dir)
			r.SetPostmaster(s.PID, s.Start)
			r.start(t)
			r.Close()
			agent := play(t, "agent", "agent", "/", r.path, r.dir)
			began := boottime.Now()
			for boottime.Now() < began+600*time.Millisecond { // longer than one deadline
				if s.Gone() {
					t.Fatal("got the server fenced while the agent extended")
				}
				boottime.NapUntil(boottime.Now() + 10*time.Millisecond)
			}
			if err := agent.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := s.Wait(within(t)); err != nil {
				t.Fatal(err)
			}
			if sig == unix.SIGKILL {
				if err := agent.Wait(within(t)); err != nil {
					t.Fatal(err)
				}
				r.reopen(t)
				r.wantFenced(t, s)
			}
		})
	}
}

func TestGuardian_DisarmedItLeavesTheServerAlone(t *testing.T) {
	r := open(t)
	s := play(t, "polite", "postgres", r.dir)
	r.SetPostmaster(s.PID, s.Start)
	g := r.start(t)
	r.arm(t, 300*time.Millisecond)
	deadline := r.Deadline()
	if err := r.Disarm(); err != nil {
		t.Fatal(err)
	}
	if r.Extend(boottime.Now() + time.Hour) {
		t.Fatal("got an extension while disarmed, want false")
	}
	if err := boottime.SleepUntil(within(t), deadline+ladder.Kill+100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if s.Gone() || r.Fencing() {
		t.Fatal("got the server fenced, want it alone")
	}
	r.Quit()
	select {
	case <-g.Exited():
	case <-within(t).Done():
		t.Fatal("got a guardian that stays after Quit")
	}
}

func TestGuardian_LeavesAStrangerWithTheSamePIDAlone(t *testing.T) {
	r := open(t)
	s := play(t, "polite", "postgres", t.TempDir())
	r.SetPostmaster(s.PID, s.Start+1)
	r.start(t)
	r.arm(t, 50*time.Millisecond)
	r.wantFenced(t, nil)
	if s.Gone() {
		t.Fatal("got a stranger killed")
	}
	if got, want := r.Reason(), "the lease was not renewed before its deadline: nothing was running"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestGuardian_ANewOneTakesTheDeadlineOver(t *testing.T) {
	r := open(t)
	s := play(t, "polite", "postgres", r.dir)
	r.SetPostmaster(s.PID, s.Start)
	first := r.start(t)
	r.arm(t, 700*time.Millisecond)
	deadline := r.Deadline()
	if err := first.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-first.Exited()
	second := r.start(t)
	if second.Adopted || second.PID == first.PID {
		t.Fatalf("got pid %d adopted %v, want a new guardian", second.PID, second.Adopted)
	}
	if got := r.Deadline(); got != deadline && !r.Fencing() {
		t.Fatalf("got deadline %v, want %v", got, deadline)
	}
	r.wantFenced(t, s)
}

func TestGuardian_OnePerFile(t *testing.T) {
	r := open(t)
	first := r.start(t)
	again := r.start(t)
	if !again.Adopted || again.PID != first.PID {
		t.Fatalf("got pid %d adopted %v, want the first one, %d", again.PID, again.Adopted, first.PID)
	}
	if err := guardian.Run(within(t), r.path, slog.New(slog.DiscardHandler)); !errors.Is(err, guardian.ErrRunning) {
		t.Fatalf("got %v, want ErrRunning", err)
	}
	if !r.Alive(boottime.Now()) || r.Alive(boottime.Now()+2*guardian.StaleAfter) {
		t.Fatal("got a heartbeat that does not say when it was")
	}
}

func TestGuardian_FrozenPastTheLadderItKillsAtOnce(t *testing.T) {
	r := open(t)
	s := play(t, "deaf", "postgres", r.dir)
	r.SetPostmaster(s.PID, s.Start)
	g := r.start(t)
	r.arm(t, 150*time.Millisecond)
	deadline := r.Deadline()
	if err := g.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := boottime.SleepUntil(within(t), deadline+ladder.Kill+50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if r.Extend(boottime.Now() + time.Hour) {
		t.Fatal("got an extension after the deadline, want false")
	}
	if s.Gone() {
		t.Fatal("got a server killed by a frozen guardian")
	}
	if err := g.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.wantFenced(t, s)
}

func TestGuardian_AFrozenOneIsReplaced(t *testing.T) {
	r := open(t)
	first := r.start(t)
	if err := first.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "heartbeat out of date", func() bool { return !r.Alive(boottime.Now()) })
	if second := r.start(t); second.Adopted {
		t.Fatal("got the frozen one adopted")
	}
}

func TestGuardian_ArmsAgainAfterAFence(t *testing.T) {
	r := open(t)
	r.start(t)
	r.arm(t, time.Millisecond)
	r.wantFenced(t, nil)
	r.arm(t, time.Hour)
	if _, ok := r.Fenced(); ok || r.Fencing() {
		t.Fatal("got fenced after a new Arm")
	}
	if !r.Extend(boottime.Now() + 2*time.Hour) {
		t.Fatal("got no extension, want one")
	}
	before := r.Deadline()
	if !r.Extend(boottime.Now()+time.Minute) || r.Deadline() != before {
		t.Fatalf("got deadline %v, want %v: never back", r.Deadline(), before)
	}
}

func TestGuardian_LeavesWhenItsFileIsReplaced(t *testing.T) {
	r := open(t)
	g := r.start(t)
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.Exited():
	case <-within(t).Done():
		t.Fatal("got a guardian without a file")
	}
}

func TestOpen_OneAgentPerFile(t *testing.T) {
	r := open(t)
	if _, err := guardian.Open(r.path, r.dir); !errors.Is(err, guardian.ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_RefusesAnotherDirectoryWhileArmed(t *testing.T) {
	r := open(t)
	if _, err := r.Arm(boottime.Now()+time.Hour, ladder); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if h, err := guardian.Open(r.path, "/another"); err == nil {
		h.Close()
		t.Fatal("got an armed file given to another directory")
	}
	r.reopen(t)
	if err := r.Disarm(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	h, err := guardian.Open(r.path, "/another")
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
}

func TestOpen_ReplacesJunkAndFilesOfAnotherBoot(t *testing.T) {
	r := open(t)
	if _, err := r.Arm(boottime.Now()+time.Hour, ladder); err != nil {
		t.Fatal(err)
	}
	r.Close()
	b, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[24:], "00000000-0000")
	for name, content := range map[string][]byte{"boot": b, "empty": nil, "short": b[:100], "junk": make([]byte, 4096)} {
		if err := os.WriteFile(r.path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		r.reopen(t)
		if got := r.Deadline(); got != 0 {
			t.Fatalf("%s: got deadline %v, want none", name, got)
		}
		r.Close()
	}
}

func TestStatePath_LiesInMemory(t *testing.T) {
	path := guardian.StatePath(t.TempDir())
	t.Cleanup(func() { os.Remove(path) })
	h, err := guardian.Open(path, "/data")
	if err != nil {
		t.Skipf("no usable /dev/shm: %v", err)
	}
	defer h.Close()
	if !h.InMemory() {
		t.Fatalf("got %s on a disk, want it in memory", path)
	}
}
