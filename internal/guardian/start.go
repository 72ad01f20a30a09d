package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/process"
)

// StartOptions say how to run a guardian.
type StartOptions struct {
	// Argv is the command that calls Run for the handle's file; Argv[0] is the program's path.
	Argv []string
	// Env is the whole environment of the guardian; nil for PATH alone.
	Env []string
	// LogFile takes its output, appended; empty for nowhere.
	LogFile string
}

// Process is a running guardian, started here or found.
type Process struct {
	*process.Watcher
	// Adopted says that it ran already.
	Adopted bool
}

// startPatience bounds Start when its context does not.
const startPatience = 10 * time.Second

// Start makes sure that a guardian runs for this file and returns it: the one that runs already,
// or a new one in a session of its own, so that it outlives the agent. A guardian that holds the
// file and has not beaten for StaleAfter is killed and replaced; the new one takes the same
// deadline over. Closing the Process lets the guardian live.
func (h *Handle) Start(ctx context.Context, o StartOptions) (*Process, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if len(o.Argv) == 0 {
		return nil, errors.New("start guardian: no command given")
	}
	h.page.store(wQuit, 0)
	for {
		running, err := h.running()
		if err != nil {
			return nil, fmt.Errorf("start guardian: %w", err)
		}
		if !running {
			return h.spawn(ctx, o)
		}
		pid, start := h.PID(), uint64(h.page.load(wGuardianStart))
		if h.Alive(boottime.Now()) {
			if g, err := process.Open(pid, start); err == nil {
				return &Process{Watcher: process.Watch(g, nil), Adopted: true}, nil
			}
		} else if g, err := process.Open(pid, start); err == nil {
			_ = g.Signal(unix.SIGKILL)
			g.Close()
		}
		if err := boottime.SleepUntil(ctx, boottime.Now()+lockEvery); err != nil {
			return nil, fmt.Errorf("start guardian: pid %d holds %s.lock and does not work: %w", pid, h.page.path, err)
		}
	}
}

// running says whether somebody holds the guardian's lock.
func (h *Handle) running() (bool, error) {
	f, err := os.OpenFile(h.page.path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

func (h *Handle) spawn(ctx context.Context, o StartOptions) (*Process, error) {
	cmd := exec.Command(o.Argv[0], o.Argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = o.Env
	if cmd.Env == nil {
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if o.LogFile != "" {
		f, err := os.OpenFile(o.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("start guardian: open its log: %w", err)
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	began := int64(boottime.Now())
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guardian: %w", err)
	}
	hold, err := process.Open(cmd.Process.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("start guardian: it ended at once: %w", errors.Join(err, cmd.Wait()))
	}
	var ended atomic.Pointer[string]
	w := process.Watch(hold, func() {
		_ = cmd.Wait() // it has ended: this reaps it
		s := cmd.ProcessState.String()
		ended.Store(&s)
	})
	err = h.wait(ctx, func() bool {
		return h.page.load(wHeartbeat) >= began && h.PID() == cmd.Process.Pid || ended.Load() != nil
	})
	if s := ended.Load(); err == nil && s != nil {
		err = fmt.Errorf("start guardian: it ended with %s: see %s", *s, orNowhere(o.LogFile))
	}
	if err != nil {
		_ = w.Signal(unix.SIGKILL)
		w.Close()
		return nil, err
	}
	return &Process{Watcher: w}, nil
}

func orNowhere(path string) string {
	if path == "" {
		return "its standard error (not kept)"
	}
	return path
}
