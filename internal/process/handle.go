package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Handle is a hold on one process (a pidfd): its signals reach that process or nobody. Safe for
// concurrent use.
type Handle struct {
	Process
	file *os.File
	once sync.Once
	err  error
}

// Open takes hold of pid if it is still the process that began at start (0: whichever it is).
// ErrGone when it is dead or the pid is another's.
func Open(pid int, start uint64) (*Handle, error) {
	if pid <= 0 {
		return nil, ErrGone
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			return nil, ErrGone
		}
		return nil, fmt.Errorf("take hold of process %d: %w", pid, err)
	}
	// The descriptor holds one process; now see whether it is the right one. The pid cannot change
	// hands between here and there without the descriptor's process being dead, which the state
	// shows: a dead one's descriptor is readable.
	p, err := Find(pid)
	if err == nil && (start != 0 && p.Start != start || p.Dead() || ended(fd)) {
		err = ErrGone
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Handle{Process: p, file: os.NewFile(uintptr(fd), "pidfd")}, nil
}

func ended(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0
	}
}

// control runs f with the descriptor, or reports that the handle was closed.
func (h *Handle) control(f func(fd int)) error {
	rc, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) { f(int(fd)) })
}

// Signal sends sig. ErrGone when the process has ended.
func (h *Handle) Signal(sig unix.Signal) error {
	var sent error
	if err := h.control(func(fd int) { sent = unix.PidfdSendSignal(fd, sig, nil, 0) }); err != nil {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), h.PID, err)
	}
	if errors.Is(sent, unix.ESRCH) {
		return ErrGone
	}
	if sent != nil {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), h.PID, sent)
	}
	return nil
}

// Gone says whether the process has ended (reaped or not).
func (h *Handle) Gone() bool {
	gone := false
	if err := h.control(func(fd int) { gone = ended(fd) }); err != nil {
		return false
	}
	return gone
}

// Wait returns nil when the process has ended, within a millisecond or so; ctx's cause when ctx
// ends first; os.ErrClosed when the handle is closed meanwhile. One caller at a time.
func (h *Handle) Wait(ctx context.Context) error {
	if err := h.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for process %d: %w", h.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = h.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	rc, err := h.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", h.PID, err)
	}
	err = rc.Read(func(fd uintptr) bool { return ended(int(fd)) })
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("wait for process %d: %w", h.PID, err)
}

// Close lets go of the process and ends a Wait. It may be called twice.
func (h *Handle) Close() error {
	h.once.Do(func() { h.err = h.file.Close() })
	return h.err
}
