package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/process"
)

// StopMode is how a stop begins.
type StopMode int

// The modes, as pg_ctl names them. A smart stop waits for clients for ever, so there is none.
const (
	StopFast StopMode = iota
	StopImmediate
)

// StopStep is a rung of the stop ladder.
type StopStep string

// The rungs, in order.
const (
	StepFast       StopStep = "fast shutdown"
	StepWALSenders StopStep = "terminating WAL senders"
	StepImmediate  StopStep = "immediate shutdown"
	StepKill       StopStep = "killing all processes"
	StepNotRunning StopStep = "was not running"
)

// StopOptions are a ladder: each duration counts from the beginning of Stop, and zero leaves the
// rung out. Without KillAfter the stop ends with its context at the latest.
type StopOptions struct {
	Mode StopMode
	// WALSendersAfter ends replication connections, which a fast shutdown otherwise waits for
	// until they have received everything (a hung logical receiver never does).
	WALSendersAfter time.Duration
	ImmediateAfter  time.Duration
	KillAfter       time.Duration
	// Progress, when not nil, is told of each rung as it is taken.
	Progress func(StopStep)
}

// StopResult is how a stop ended.
type StopResult struct {
	Last StopStep
	Took time.Duration
}

// Clean says whether the server had the time to write its shutdown checkpoint.
func (r StopResult) Clean() bool { return r.Last == StepFast || r.Last == StepWALSenders }

// Stop stops the server and returns when no process of it is left. It is nil and StepNotRunning
// when none ran. When ctx ends first, the server may still be stopping.
func (s *Server) Stop(ctx context.Context, o StopOptions) (StopResult, error) {
	began := time.Now()
	result := func(step StopStep) StopResult { return StopResult{Last: step, Took: time.Since(began)} }
	pm, err := s.Adopt(ctx)
	if errors.Is(err, ErrNotRunning) {
		list, listErr := process.List(s.cfg.DataDir, 0)
		if listErr == nil && len(list) > 0 {
			return result(StepKill), s.KillAll(ctx)
		}
		return result(StepNotRunning), listErr
	}
	if err != nil {
		return result(StepNotRunning), fmt.Errorf("stop PostgreSQL: %w", err)
	}
	s.dropConn() // ours must not be among those it waits for

	step := StepFast
	if o.Mode == StopImmediate {
		step = StepImmediate
	}
	timer := func(after time.Duration) <-chan time.Time {
		if after <= 0 {
			return nil
		}
		return time.After(max(after-time.Since(began), 0))
	}
	senders, immediate, kill := timer(o.WALSendersAfter), timer(o.ImmediateAfter), timer(o.KillAfter)
	if step == StepImmediate {
		senders, immediate = nil, nil
	}
	take := func(next StopStep) error {
		step = next
		if o.Progress != nil {
			o.Progress(step)
		}
		switch step {
		case StepFast:
			return ignoreGone(pm.watch.Signal(unix.SIGINT))
		case StepWALSenders:
			return s.terminateWALSenders(pm)
		case StepImmediate:
			return ignoreGone(pm.watch.Signal(unix.SIGQUIT))
		}
		return s.KillAll(ctx)
	}
	if err := take(step); err != nil {
		return result(step), fmt.Errorf("stop PostgreSQL: %s: %w", step, err)
	}
	for {
		var next StopStep
		select {
		case <-pm.Exited():
			// The postmaster waits for its backends, but not for all of them in an immediate stop.
			sweep, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := process.KillAll(sweep, s.cfg.DataDir, 0, 0); err != nil {
				return result(step), fmt.Errorf("stop PostgreSQL: %w", err)
			}
			return result(step), nil
		case <-ctx.Done():
			return result(step), fmt.Errorf("stop PostgreSQL: it has not ended %s after the %s: %w", time.Since(began).Round(time.Millisecond), step, context.Cause(ctx))
		case <-senders:
			next = StepWALSenders
		case <-immediate:
			next, senders = StepImmediate, nil
		case <-kill:
			next, senders, immediate = StepKill, nil, nil
		}
		if err := take(next); err != nil {
			return result(step), fmt.Errorf("stop PostgreSQL: %s: %w", step, err)
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	return err
}

// terminateWALSenders finds them by their title, without SQL: a server that is shutting down takes
// no connections.
func (s *Server) terminateWALSenders(pm *Postmaster) error {
	list, err := process.List(s.cfg.DataDir, pm.PID())
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range list {
		if !strings.Contains(p.Title(), "walsender") {
			continue
		}
		h, err := process.Open(p.PID, p.Start)
		if err != nil {
			errs = append(errs, ignoreGone(err))
			continue
		}
		errs = append(errs, ignoreGone(h.Signal(unix.SIGTERM)))
		h.Close()
	}
	return errors.Join(errs...)
}

// KillAll ends every process of the server with SIGKILL, the postmaster being stopped first so that
// it starts no other, and returns nil only when none is left. process.ErrDoomed when the postmaster has
// ended and what is left will not run again, but cannot end before its storage answers. Crash recovery
// follows at the next start.
func (s *Server) KillAll(ctx context.Context) error {
	s.dropConn()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	pid, start := 0, uint64(0)
	pm := s.Postmaster()
	if pm != nil {
		pid, start = pm.PID(), pm.StartTicks()
	}
	err := process.KillAll(ctx, s.cfg.DataDir, pid, start)
	if err != nil && !errors.Is(err, process.ErrDoomed) {
		return err
	}
	if pm != nil {
		if err != nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Second) // it may be doomed itself
			defer cancel()
		}
		select {
		case <-pm.Exited():
		case <-ctx.Done():
			return fmt.Errorf("kill PostgreSQL: its postmaster has not ended: %w", errors.Join(err, context.Cause(ctx)))
		}
	}
	return err
}
