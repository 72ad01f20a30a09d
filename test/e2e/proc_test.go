package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/guardian"
	"github.com/hathi-ha/hathi/internal/process"
)

// forker starts processes from one thread that lives as long as the tests: the death signal of a
// child fires when the thread that forked it ends.
type forker struct {
	jobs chan func()
	done chan struct{}
}

func newForker() *forker {
	f := &forker{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		runtime.LockOSThread()
		for job := range f.jobs {
			job()
		}
	}()
	return f
}

func (f *forker) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	f.jobs <- func() { err <- cmd.Start() }
	return <-err
}

func (f *forker) close() {
	close(f.jobs)
	<-f.done
}

// proc is one process that a test started.
type proc struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// launch starts a process whose output is appended to a file.
func launch(name, log string, argv ...string) (*proc, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/"}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attributes()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := world.fork.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &proc{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

func (p *proc) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill sends SIGKILL and waits.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop asks it to end, and kills it after a minute.
func (p *proc) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(time.Minute):
		p.kill()
		return fmt.Errorf("%s did not end within a minute of SIGTERM", p.name)
	}
}

// guardians finds the guardian of a data directory.
func guardians(dataDir string) []int {
	state := guardian.StatePath(dataDir)
	suffix := state[strings.LastIndexByte(state, '-'):]
	var out []int
	entries, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, e := range entries {
		b, _ := os.ReadFile(e)
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		if len(args) > 3 && args[1] == "guardian" && strings.HasSuffix(args[3], suffix) {
			pid, _ := strconv.Atoi(strings.Split(e, "/")[2])
			out = append(out, pid)
		}
	}
	return out
}

// postmaster is the pid in a data directory's postmaster.pid, 0 when there is none.
func postmaster(dataDir string) int {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(line))
	return pid
}

// killDir kills every PostgreSQL process of a data directory, as a loss of power does.
func killDir(dataDir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pid := postmaster(dataDir)
	var start uint64
	if p, err := process.Find(pid); err == nil {
		start = p.Start
	} else {
		pid = 0
	}
	return process.KillAll(ctx, dataDir, pid, start)
}

// endNode ends what is left of a node whose agent is gone, and removes its traces in memory.
func endNode(l *demo.Layout, name string) {
	dir := l.DataDir(name)
	for _, pid := range guardians(dir) {
		_ = unix.Kill(pid, unix.SIGCONT)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	dirs, _ := filepath.Glob(dir + "*")
	for _, d := range dirs {
		if pid := postmaster(d); pid > 0 {
			// PostgreSQL itself knows best which shared memory is its own.
			if in, err := process.InDir(pid, d); err == nil && in {
				_ = unix.Kill(pid, unix.SIGCONT)
				_ = unix.Kill(pid, unix.SIGQUIT)
				for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
					if p, err := process.Find(pid); err != nil || p.Dead() {
						break
					}
				}
			}
		}
		if info, err := os.Stat(d); err == nil && info.IsDir() {
			_ = killDir(d)
		}
		forgetShared(d)
	}
	state := guardian.StatePath(dir)
	left, _ := filepath.Glob("/dev/shm/hathi-guardian-*" + state[strings.LastIndexByte(state, '-'):] + "*")
	for _, f := range left {
		_ = os.Remove(f)
	}
}

// forgetShared removes the System V segment that a killed postmaster left: the last but one line of
// postmaster.pid names it.
func forgetShared(dataDir string) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return
	}
	if f := strings.Fields(lines[6]); len(f) == 2 {
		if id, err := strconv.Atoi(f[1]); err == nil {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		}
	}
}

// segments are the shared memory files that a process has mapped.
func segments(pid int) []string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
	seen := map[string]bool{}
	var out []string
	for _, line := range strings.Split(string(b), "\n") {
		if i := strings.Index(line, "/dev/shm/PostgreSQL."); i > 0 {
			if f := strings.TrimSuffix(line[i:], " (deleted)"); !seen[f] {
				seen[f] = true
				out = append(out, f)
			}
		}
	}
	return out
}

// postgresLives says whether a pid is a living process, not one that waits to be reaped.
func postgresLives(pid int) bool {
	p, err := process.Find(pid)
	return err == nil && !p.Dead()
}
