package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// sweepEvery is the pause between two looks at the process list while processes die.
const sweepEvery = 5 * time.Millisecond

// Sweep does one round of killing: it stops the postmaster so that it forks no more, kills every
// other server process of dir, then the postmaster, and says how many were alive when it looked.
// Processes that are on their way out are counted until they are gone.
func Sweep(dir string, postmaster int, start uint64) (alive int, err error) {
	boss, openErr := Open(postmaster, start)
	if openErr != nil {
		if !errors.Is(openErr, ErrGone) {
			err = openErr
		}
		postmaster = 0
	} else {
		defer boss.Close()
		if e := boss.Signal(unix.SIGSTOP); e != nil && !errors.Is(e, ErrGone) {
			err = e
		}
	}
	list, listErr := List(dir, postmaster)
	if listErr != nil {
		err = errors.Join(err, listErr)
	}
	if postmaster == 0 {
		// Its number was not known or is out of date: whoever is on top may fork, so it stops first.
		if root, ok := Root(list); ok {
			if h, e := Open(root.PID, root.Start); e == nil {
				_ = h.Signal(unix.SIGSTOP)
				h.Close()
				if again, e := List(dir, root.PID); e == nil {
					list = again
				}
			}
		}
	}
	for _, p := range list {
		if p.PID != postmaster {
			if e := kill(p); e != nil {
				err = errors.Join(err, e)
			}
		}
	}
	if boss != nil {
		if e := boss.Signal(unix.SIGKILL); e != nil && !errors.Is(e, ErrGone) {
			err = errors.Join(err, e)
		}
		if !boss.Gone() && !contains(list, postmaster) {
			return len(list) + 1, err
		}
	}
	return len(list), err
}

func contains(list []Process, pid int) bool {
	for _, p := range list {
		if p.PID == pid {
			return true
		}
	}
	return false
}

func kill(p Process) error {
	h, err := Open(p.PID, p.Start)
	if err != nil {
		if errors.Is(err, ErrGone) {
			return nil
		}
		return err
	}
	defer h.Close()
	if err := h.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	return nil
}

// KillAll sweeps until no server process of dir is left, and returns nil only then. It gives up
// when ctx ends: a process in an uninterruptible sleep (a dead disk) cannot be killed by anybody.
// Postmaster may be 0.
func KillAll(ctx context.Context, dir string, postmaster int, start uint64) error {
	for empty := 0; ; {
		n, err := Sweep(dir, postmaster, start)
		if n == 0 && err == nil {
			// Twice in a row, so that a process that was forked during the first look is seen.
			if empty++; empty == 2 {
				return nil
			}
			continue
		}
		empty = 0
		timer := time.NewTimer(sweepEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("kill the processes of %s: %d still alive: %w", dir, n, errors.Join(context.Cause(ctx), err))
		case <-timer.C:
		}
	}
}
