package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/process"
)

// leftover is a child of a supervisor that is dead.
type leftover struct {
	record
	path string
	hold *process.Handle
}

// endLeftovers ends what the pid files in dir still point to, the highest group first, and removes
// the files. The caller holds the lock, so no other supervisor works here. A pid file that cannot be
// read is left alone and told of.
func endLeftovers(ctx context.Context, dir string, log *slog.Logger) error {
	boot, err := boottime.BootID()
	if err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.pid"))
	if err != nil {
		return fmt.Errorf("look for pid files: %w", err)
	}
	var found []leftover
	defer func() {
		for _, l := range found {
			l.hold.Close()
		}
	}()
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read pid file: %w", err)
		}
		r, err := parseRecord(b)
		if err != nil {
			log.Warn("pid file not understood, left alone", "path", path, "err", err)
			continue
		}
		h, err := r.find(boot)
		if err != nil {
			return fmt.Errorf("look for the process of %s: %w", path, err)
		}
		if h == nil {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove old pid file: %w", err)
			}
			continue
		}
		found = append(found, leftover{r, path, h})
	}
	slices.SortStableFunc(found, func(a, b leftover) int { return cmp.Compare(b.Group, a.Group) })
	for rest := found; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Group == rest[0].Group {
			n++
		}
		if err := endGroup(ctx, rest[:n], log); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// endGroup ends processes that nobody here can reap.
func endGroup(ctx context.Context, group []leftover, log *slog.Logger) error {
	began := time.Now()
	for _, l := range group {
		log.Warn("ending a process that a dead supervisor left behind", "name", l.Name, "pid", l.PID)
		for _, sig := range []syscall.Signal{syscall.Signal(l.StopSignal), syscall.SIGCONT} {
			if err := l.hold.Signal(sig); err != nil && !errors.Is(err, process.ErrGone) {
				return fmt.Errorf("end %s, left behind by a dead supervisor: %w", l.Name, err)
			}
		}
	}
	for _, l := range group {
		if err := await(ctx, l.hold, l.StopWithin-time.Since(began)); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("end %s (pid %d), left behind by a dead supervisor: %w", l.Name, l.PID, err)
			}
			if err := l.hold.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, process.ErrGone) {
				return fmt.Errorf("end %s, left behind by a dead supervisor: %w", l.Name, err)
			}
			if err := await(ctx, l.hold, killPatience); err != nil {
				return fmt.Errorf("end %s (pid %d), left behind by a dead supervisor: still there after SIGKILL: %w", l.Name, l.PID, err)
			}
		}
		if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove old pid file: %w", err)
		}
	}
	return nil
}

func await(ctx context.Context, h *process.Handle, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(patience, time.Millisecond))
	defer cancel()
	return h.Wait(ctx)
}

// escapeGlob makes a path match itself in filepath.Glob.
func escapeGlob(path string) string {
	var out []byte
	for i := range len(path) {
		switch path[i] {
		case '*', '?', '[', '\\':
			out = append(out, '\\')
		}
		out = append(out, path[i])
	}
	return string(out)
}
