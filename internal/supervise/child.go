package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// killPatience is how long after SIGKILL a process counts as one that nobody can kill.
const killPatience = 10 * time.Second

// child is one Spec at work. Its state changes in set and nowhere else.
type child struct {
	spec Spec
	sup  *Supervisor

	quit     chan struct{} // closed: stop
	quitOnce sync.Once
	hurry    <-chan struct{} // closed: stop at once, SIGKILL
	restart  chan chan error
	done     chan struct{} // closed: run has returned, no process is left

	mu     sync.Mutex
	status ProcStatus
}

// life is one process of a child.
type life struct {
	cmd   *exec.Cmd
	began time.Time
	ended chan struct{} // closed after the process was reaped
}

func newChild(s *Supervisor, spec Spec) *child {
	return &child{
		spec: spec, sup: s, hurry: s.hurry,
		quit: make(chan struct{}), restart: make(chan chan error), done: make(chan struct{}),
		status: ProcStatus{Name: spec.Name, Group: spec.Group, State: Stopped, Since: s.now(), LogFile: spec.LogFile},
	}
}

func (c *child) stop() { c.quitOnce.Do(func() { close(c.quit) }) }

func (c *child) get() ProcStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// set moves to a state and tells. Kind "" tells nobody.
func (c *child) set(state State, kind EventKind, text string, change func(*ProcStatus)) {
	now := c.sup.now()
	c.mu.Lock()
	pid := c.status.PID
	c.status.State, c.status.Since = state, now
	if change != nil {
		change(&c.status)
	}
	if c.status.PID != 0 {
		pid = c.status.PID
	}
	c.mu.Unlock()
	if kind != "" {
		c.sup.tell(Event{Time: now, Name: c.spec.Name, PID: pid, Kind: kind, Text: text})
	}
}

// spawn starts a process.
func (c *child) spawn(again bool) (*life, error) {
	l, err := c.fork()
	if err != nil {
		err = fmt.Errorf("start %s: %w", c.spec.Name, err)
		c.set(Waiting, Refused, err.Error(), func(s *ProcStatus) { s.PID, s.LastExit = 0, err.Error() })
		return nil, err
	}
	pid := l.cmd.Process.Pid
	c.set(Running, Started, fmt.Sprintf("%s started (pid %d)", c.spec.Name, pid), func(s *ProcStatus) {
		s.PID = pid
		if again {
			s.Restarts++
		}
	})
	return l, nil
}

func (c *child) fork() (*life, error) {
	log, err := openLog(c.spec.LogFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(c.spec.Argv[0], c.spec.Argv[1:]...)
	cmd.Dir, cmd.Env = c.spec.Dir, c.spec.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true, // Ctrl-C at a terminal is for the supervisor, which stops its children in order
		Pdeathsig:  c.spec.DeathSignal,
		Credential: c.spec.Credential,
	}
	if err := c.sup.forker.start(cmd); err != nil {
		return nil, err
	}
	l := &life{cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	if err := writePidFile(c.sup.cfg.Dir, c.spec, cmd.Process.Pid); err != nil {
		// The child works without; only a leftover of it could not be found again.
		c.sup.log.Warn("pid file not written", "name", c.spec.Name, "pid", cmd.Process.Pid, "err", err)
	}
	go func() {
		defer close(l.ended)
		_ = cmd.Wait() // ProcessState tells it better
		removePidFile(c.sup.cfg.Dir, c.spec.Name)
	}()
	return l, nil
}

// run keeps the child alive, beginning with l, until it is stopped.
func (c *child) run(l *life) {
	defer close(c.done)
	var pause time.Duration
	for {
		var reply chan error
		if l != nil {
			select {
			case <-l.ended:
				pause = c.spec.Backoff.next(pause, time.Since(l.began))
				exit := l.cmd.ProcessState.String()
				c.set(Waiting, Ended, fmt.Sprintf("%s (pid %d) ended: %s; starting it again in %v; its log is %s",
					c.spec.Name, l.cmd.Process.Pid, exit, pause, c.spec.LogFile),
					func(s *ProcStatus) { s.PID, s.LastExit = 0, exit })
			case reply = <-c.restart:
				c.end(l)
				pause = 0
			case <-c.quit:
				c.end(l)
			}
			l = nil
		} else {
			pause = c.spec.Backoff.next(pause, 0)
		}
		if pause > 0 && !c.quitting() {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case reply = <-c.restart:
				pause = 0
			case <-c.quit:
			}
			timer.Stop()
		}
		if c.quitting() {
			if reply != nil {
				reply <- ErrStopped
			}
			if c.get().State != Stopped {
				c.set(Stopped, "", "", func(s *ProcStatus) { s.PID = 0 })
			}
			return
		}
		var err error
		l, err = c.spawn(true)
		if reply != nil {
			reply <- err
		}
	}
}

func (c *child) quitting() bool {
	select {
	case <-c.quit:
		return true
	default:
		return false
	}
}

// end stops the process of l and returns when it has ended.
func (c *child) end(l *life) {
	pid := l.cmd.Process.Pid
	c.set(Stopping, "", "", nil)
	// Signals go through a descriptor of the process, so they never reach a stranger.
	_ = l.cmd.Process.Signal(c.spec.StopSignal)
	_ = l.cmd.Process.Signal(syscall.SIGCONT) // one that somebody has paused could not obey
	timer := time.NewTimer(c.spec.StopWithin)
	defer timer.Stop()
	select {
	case <-l.ended:
	case <-timer.C:
		c.kill(l, fmt.Sprintf("%s (pid %d) did not stop within %v: killed", c.spec.Name, pid, c.spec.StopWithin))
	case <-c.hurry:
		c.kill(l, fmt.Sprintf("%s (pid %d) killed: the time to stop was up", c.spec.Name, pid))
	}
	exit := l.cmd.ProcessState.String()
	c.set(Stopped, Finished, fmt.Sprintf("%s (pid %d) stopped: %s", c.spec.Name, pid, exit),
		func(s *ProcStatus) { s.PID, s.LastExit = 0, exit })
}

func (c *child) kill(l *life, text string) {
	if err := l.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		text += ": " + err.Error()
	}
	c.set(Stopping, Killed, text, nil)
	timer := time.NewTimer(killPatience)
	defer timer.Stop()
	select {
	case <-l.ended:
		return
	case <-timer.C:
	}
	c.set(Stopping, NotKilled, fmt.Sprintf("%s (pid %d) is still there %v after SIGKILL: it hangs in the kernel, most often on a dead disk", c.spec.Name, l.cmd.Process.Pid, killPatience), nil)
	<-l.ended
}

// ask tells the child to restart and waits until it has.
func (c *child) ask(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case c.restart <- reply:
	case <-c.done:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
