package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// rotateEvery is the pause between two looks at the sizes.
const rotateEvery = 5 * time.Second

// openLog opens a log file for a child. Appending is what makes rotation by truncation work: the
// child's next line lands at the new end.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	return f, nil
}

// logKeeper keeps log files below a size. The children write to the files directly, not through the
// supervisor, so that none of them ever waits for it.
type logKeeper struct {
	max    int64
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	paths []string
}

func keepLogs(max int64, log *slog.Logger) *logKeeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &logKeeper{max: max, log: log, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(k.done)
		tick := time.NewTicker(rotateEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				k.look()
			}
		}
	}()
	return k
}

func (k *logKeeper) add(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Contains(k.paths, path) {
		k.paths = append(k.paths, path)
	}
}

func (k *logKeeper) close() {
	k.cancel()
	<-k.done
}

func (k *logKeeper) look() {
	k.mu.Lock()
	paths := slices.Clone(k.paths)
	k.mu.Unlock()
	for _, path := range paths {
		if err := rotate(path, k.max); err != nil {
			k.log.Warn("log file not rotated", "path", path, "err", err)
		}
	}
}

// rotate copies path to path.1 and empties it when it holds max bytes or more. The file stays the
// same file: the child has it open. When the copy cannot be made (a full disk) the file is emptied
// all the same once it is twice as large, because a log must not fill the disk.
func rotate(path string, max int64) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && (st.Size() < max || !st.Mode().IsRegular()) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// What is written meanwhile is copied too, but a child that writes faster than the disk copies
	// must not keep us here for ever.
	copyErr := setAside(io.LimitReader(f, 2*st.Size()), path+".1")
	if copyErr != nil && st.Size() < 2*max {
		return copyErr
	}
	return errors.Join(copyErr, f.Truncate(0))
}

func setAside(f io.Reader, path string) (err error) {
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	if _, err := io.Copy(out, f); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
