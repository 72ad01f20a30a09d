package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/atomicfile"
	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/lease"
)

// The errors of a Handle that callers decide on.
var (
	// ErrFencing: the deadline has passed and the guardian is killing PostgreSQL now.
	ErrFencing = errors.New("the guardian is fencing PostgreSQL")
	// ErrInUse: another agent has the state file open.
	ErrInUse = errors.New("another agent uses this guardian state file")
	// ErrNoAck: no guardian answered in time.
	ErrNoAck = errors.New("the guardian does not answer")
)

// StaleAfter is how old a heartbeat may be before Alive calls the guardian dead. A guardian beats
// at least every 100 ms.
const StaleAfter = time.Second

// pollEvery is how often the agent looks at the page while it waits for the guardian.
const pollEvery = 5 * time.Millisecond

// Handle is the agent's side of the state file. Safe for concurrent use, until Close.
type Handle struct {
	mu   sync.Mutex // orders Arm, Disarm and SetPostmaster of this agent
	page *page
	once sync.Once
	err  error
}

// Open maps the state file at path for dataDir (an absolute path), making it if need be. A file
// of another boot, and one that is not a state file of this release, is replaced: whatever it
// guarded is dead. A file of this boot for another data directory is replaced when it is not
// armed and is an error when it is. A deadline that is found in the file stays in force.
//
// ErrInUse when another agent has it open.
func Open(path, dataDir string) (*Handle, error) {
	boot, err := boottime.BootID()
	if err != nil {
		return nil, fmt.Errorf("open guardian state %s: %w", path, err)
	}
	for range 3 {
		p, err := mapPage(path)
		switch {
		case errors.Is(err, os.ErrNotExist) || errors.Is(err, errInvalid):
			if err := renew(path, boot, dataDir); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		if err := unix.Flock(int(p.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			p.close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("open guardian state %s: %w", path, ErrInUse)
			}
			return nil, fmt.Errorf("lock guardian state %s: %w", path, err)
		}
		sameBoot, sameDir := p.bootID() == boot, p.dataDir() == dataDir
		if sameBoot && sameDir && p.current() {
			return &Handle{page: p}, nil
		}
		armed := sameBoot && p.current() && p.load(wDeadline) != 0 && p.load(wFenced) == 0
		old := p.dataDir()
		if armed {
			p.close()
			return nil, fmt.Errorf("open guardian state %s: it is armed for data directory %s, not %s: stop the agent of that directory first, or give this one another state file", path, old, dataDir)
		}
		err = nil
		if p.current() {
			err = renew(path, boot, dataDir)
		}
		p.close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("open guardian state %s: somebody replaces it again and again", path)
}

// renew puts a fresh file in place. A guardian of the old one sees that and exits.
func renew(path, boot, dataDir string) error {
	b, err := blank(boot, dataDir)
	if err != nil {
		return fmt.Errorf("make guardian state %s: %w", path, err)
	}
	if err := atomicfile.Write(path, b, 0o600); err != nil {
		return fmt.Errorf("make guardian state %s: %w", path, err)
	}
	return nil
}

// Arm puts the fence in force: at deadline (CLOCK_BOOTTIME) the guardian begins the ladder. It
// also replaces the deadline of a guardian that is armed already, and clears Fenced. It returns
// the generation to WaitAck for. ErrFencing while a fence is under way.
func (h *Handle) Arm(deadline time.Duration, ladder lease.Ladder) (generation int64, err error) {
	if deadline <= 0 || ladder.Immediate < 0 || ladder.Kill < ladder.Immediate {
		return 0, fmt.Errorf("arm the guardian: deadline %v and ladder %v, %v: want a positive instant and rising steps", deadline, ladder.Immediate, ladder.Kill)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		old := h.page.load(wDeadline)
		if old == claimed && h.page.load(wFenced) == 0 {
			return 0, fmt.Errorf("arm the guardian: %w", ErrFencing)
		}
		// The ladder is written before the deadline that it belongs to. Should the old deadline pass
		// in between, the old fence runs with the new ladder.
		h.page.store(wImmediate, int64(ladder.Immediate))
		h.page.store(wKill, int64(ladder.Kill))
		if old == claimed {
			h.page.store(wStep, int64(StepNone))
		}
		if h.page.swap(wDeadline, old, int64(deadline)) {
			h.page.store(wFenced, 0)
			generation = h.page.add(wGeneration, 1)
			h.wake()
			return generation, nil
		}
	}
}

// Extend moves the deadline forward. It returns false, and changes nothing, when the guardian is
// not armed or the old deadline has passed: then it is too late and PostgreSQL is being stopped.
// A deadline that is not later than the one in force is accepted and changes nothing.
func (h *Handle) Extend(deadline time.Duration) bool {
	for {
		old := h.page.load(wDeadline)
		if old <= 0 || boottime.Now() >= time.Duration(old) {
			return false
		}
		if int64(deadline) <= old || h.page.swap(wDeadline, old, int64(deadline)) {
			return true
		}
	}
}

// Disarm takes the fence out of force, and clears Fenced. ErrFencing while a fence is under way.
// The caller has made sure that PostgreSQL is stopped or read-only.
func (h *Handle) Disarm() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		old := h.page.load(wDeadline)
		if old == 0 {
			return nil
		}
		if old == claimed && h.page.load(wFenced) == 0 {
			return fmt.Errorf("disarm the guardian: %w", ErrFencing)
		}
		if h.page.swap(wDeadline, old, 0) {
			h.page.store(wFenced, 0)
			h.page.add(wGeneration, 1)
			h.wake()
			return nil
		}
	}
}

// SetPostmaster tells whom to signal first: a pid with its start time in ticks. Zeros when
// PostgreSQL is stopped. The guardian also finds the processes by their directory.
func (h *Handle) SetPostmaster(pid int, start uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// A reader of the new pid with the old start time finds nobody, which is what we want.
	h.page.store(wPID, 0)
	h.page.store(wStart, int64(start))
	h.page.store(wPID, int64(pid))
}

// Deadline is the one in force; 0 when disarmed, when fencing and when fenced.
func (h *Handle) Deadline() time.Duration { return time.Duration(max(h.page.load(wDeadline), 0)) }

// Alive says whether the guardian's heartbeat is at most StaleAfter old at now (CLOCK_BOOTTIME).
func (h *Handle) Alive(now time.Duration) bool {
	beat := time.Duration(h.page.load(wHeartbeat))
	return beat > 0 && now-beat <= StaleAfter
}

// PID is the guardian's process id; 0 when none ever ran for this file.
func (h *Handle) PID() int { return int(h.page.load(wGuardian)) }

// MemoryLocked says whether the guardian could lock its memory.
func (h *Handle) MemoryLocked() bool { return h.page.load(wLocked) == 1 }

// WaitAck waits until a guardian has seen generation (from Arm). Before it returns nil nobody may
// count on the fence. ErrNoAck when ctx ends first.
func (h *Handle) WaitAck(ctx context.Context, generation int64) error {
	return h.wait(ctx, func() bool {
		if h.page.load(wAck) >= generation {
			return true
		}
		h.wake() // again: the first time may have been an instant before its nap began
		return false
	})
}

func (h *Handle) wait(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the guardian (pid %d): %w: %w", h.PID(), ErrNoAck, context.Cause(ctx))
		}
	}
	return nil
}

// Fencing says that the deadline has passed, whether or not the work is done.
func (h *Handle) Fencing() bool { return h.page.load(wDeadline) == claimed }

// Fenced says whether a fence was completed since the last Arm, and when (CLOCK_BOOTTIME).
func (h *Handle) Fenced() (at time.Duration, ok bool) {
	if !h.Fencing() {
		return 0, false
	}
	at = time.Duration(h.page.load(wFenced))
	return at, at != 0
}

// Reason says for people how far a fence went; empty when there was none.
func (h *Handle) Reason() string {
	if !h.Fencing() {
		return ""
	}
	return "the lease was not renewed before its deadline: " + Step(h.page.load(wStep)).String()
}

// Quit tells the guardian to exit. It obeys when it is disarmed or has fenced, never before.
func (h *Handle) Quit() {
	h.page.store(wQuit, 1)
	h.wake()
}

// wake ends the guardian's nap, so that it sees at once what was changed. It is a kindness: the
// guardian looks at the page by itself every 100 ms, and at the deadline that it saw last. SIGURG does
// nothing to a Go program, nor to any other that does not ask for it, should the number be another's
// by now.
func (h *Handle) wake() {
	pid, thread := int(h.page.load(wGuardian)), int(h.page.load(wThread))
	if pid > 0 && thread > 0 {
		_ = unix.Tgkill(pid, thread, unix.SIGURG)
	}
}

// Close unmaps the file. Guardian and deadline stay as they are. The handle must not be used after;
// Close itself may be called twice.
func (h *Handle) Close() error {
	h.once.Do(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err = h.page.close()
	})
	return h.err
}
