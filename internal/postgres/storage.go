package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// TryStorage makes a small file durable in the data directory, and in pg_wal where that is another file
// system, and leaves nothing behind: the files have no names. It returns when the storage has
// answered, however long that takes. nil also where the file system knows no nameless files.
func TryStorage(dataDir string) error {
	var first unix.Stat_t
	if err := unix.Stat(dataDir, &first); err != nil {
		return ignoreNotExist(fmt.Errorf("look at %s: %w", dataDir, err))
	}
	if err := tryDir(dataDir); err != nil {
		return err
	}
	wal := filepath.Join(dataDir, "pg_wal")
	var second unix.Stat_t
	if err := unix.Stat(wal, &second); err != nil || second.Dev == first.Dev {
		return ignoreNotExist(err)
	}
	return tryDir(wal)
}

func tryDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("make a file in %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		return fmt.Errorf("write a file in %s: %w", dir, err)
	}
	if err := unix.Fdatasync(fd); err != nil {
		return fmt.Errorf("make a file in %s durable: %w", dir, err)
	}
	return nil
}
