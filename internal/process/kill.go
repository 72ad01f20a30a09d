package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Hunt ends the server processes of one data directory. It keeps hold of every process that it
// has seen until that one is really gone: one that is in the middle of its end has no program and
// no directory any more and no longer shows in a List, though its sockets may still be open.
// It is for one goroutine.
type Hunt struct {
	dir  string
	seen map[int]*Handle
}

// NewHunt begins one; it touches nothing.
func NewHunt(dir string) *Hunt { return &Hunt{dir: dir, seen: map[int]*Handle{}} }

// Close lets go of all processes. It may be called twice.
func (h *Hunt) Close() {
	for pid, p := range h.seen {
		p.Close()
		delete(h.seen, pid)
	}
}

// Look finds the processes that are alive now, or were seen before and are not gone, and counts
// them. Boss is the postmaster: the one that was named (0: none) if it lives, else the one process
// that is nobody's child, else nil. It stays the hunt's.
func (h *Hunt) Look(postmaster int, start uint64) (boss *Handle, alive int, err error) {
	for pid, p := range h.seen {
		if p.Gone() {
			p.Close()
			delete(h.seen, pid)
		}
	}
	if boss, err = h.hold(postmaster, start); boss == nil {
		postmaster = 0
	}
	list, listErr := List(h.dir, postmaster)
	err = errors.Join(err, listErr)
	for _, p := range list {
		if _, e := h.hold(p.PID, p.Start); e != nil {
			err = errors.Join(err, e)
		}
	}
	if root, ok := Root(list); ok && boss == nil {
		boss = h.seen[root.PID]
	}
	return boss, len(h.seen), err
}

// hold takes hold of a process, once; nil when it is gone.
func (h *Hunt) hold(pid int, start uint64) (*Handle, error) {
	if p, ok := h.seen[pid]; ok && p.Start == start {
		return p, nil
	}
	p, err := Open(pid, start)
	if errors.Is(err, ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if old := h.seen[pid]; old != nil {
		old.Close() // the number changed hands, so that one is gone
	}
	h.seen[pid] = p
	return p, nil
}

// Kill does one round: it stops the postmaster so that it forks no more, kills every other
// process, then the postmaster, and returns how many were alive when it looked.
func (h *Hunt) Kill(postmaster int, start uint64) (alive int, err error) {
	boss, alive, err := h.Look(postmaster, start)
	if alive == 0 {
		return 0, err
	}
	if boss != nil {
		err = errors.Join(err, ignoreGone(boss.Signal(unix.SIGSTOP)))
		// What it forked between the look and the stop.
		_, alive, _ = h.Look(boss.PID, boss.Start)
	}
	for _, p := range h.seen {
		if p != boss {
			err = errors.Join(err, ignoreGone(p.Signal(unix.SIGKILL)))
		}
	}
	if boss != nil && h.seen[boss.PID] == boss {
		err = errors.Join(err, ignoreGone(boss.Signal(unix.SIGKILL)))
	}
	return max(alive, 1), err
}

func ignoreGone(err error) error {
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// sweepEvery is the pause between two rounds while processes die.
const sweepEvery = 5 * time.Millisecond

// doomedAfter is how long all that is left must have been doomed before KillAll says so: an ordinary
// write to a disk ends within that.
const doomedAfter = 300 * time.Millisecond

// KillAll kills until no server process of dir is left, and returns nil only then. It returns ErrDoomed
// when all that is left is doomed, and gives up when ctx ends. Postmaster may be 0.
func KillAll(ctx context.Context, dir string, postmaster int, start uint64) error {
	hunt := NewHunt(dir)
	defer hunt.Close()
	var doomedSince time.Time
	for empty := 0; ; {
		n, err := hunt.Kill(postmaster, start)
		if n == 0 && err == nil {
			// Twice in a row, so that a process that was forked during the first look is seen.
			if empty++; empty == 2 {
				return nil
			}
			continue
		}
		empty = 0
		switch {
		case err != nil || !hunt.Doomed():
			doomedSince = time.Time{}
		case doomedSince.IsZero():
			doomedSince = time.Now()
		case time.Since(doomedSince) >= doomedAfter:
			return fmt.Errorf("kill the processes of %s: %d of them: %w", dir, n, ErrDoomed)
		}
		timer := time.NewTimer(sweepEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("kill the processes of %s: %d still alive: %w", dir, n, errors.Join(context.Cause(ctx), err))
		case <-timer.C:
		}
	}
}
