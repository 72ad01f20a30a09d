package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// SyncFSTells says whether syncfs(2) reports what could not be written: from Linux 5.8 on. Before,
// only a file's own fsync does.
func SyncFSTells() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	major, minor, ok := kernelVersion(unix.ByteSliceToString(u.Release[:]))
	return ok && (major > 5 || major == 5 && minor >= 8)
}

// kernelVersion reads the beginning of a kernel's release, such as "6.1.0-18-amd64".
func kernelVersion(release string) (major, minor int, ok bool) {
	a, rest, found := strings.Cut(release, ".")
	if !found {
		return 0, 0, false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(rest[:end])
	return major, minor, err1 == nil && err2 == nil
}

// syncAll makes everything in a data directory durable, its WAL and its tablespaces included, with
// one call for each file system that may hold a part of it.
func syncAll(dataDir string) error {
	paths := []string{dataDir, filepath.Join(dataDir, "pg_wal")}
	links, err := os.ReadDir(filepath.Join(dataDir, "pg_tblspc"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make %s durable: %w", dataDir, err)
	}
	for _, l := range links {
		paths = append(paths, filepath.Join(dataDir, "pg_tblspc", l.Name()))
	}
	done := map[uint64]bool{}
	for _, path := range paths {
		if err := syncOne(path, done); err != nil {
			return fmt.Errorf("make %s durable: %w", path, err)
		}
	}
	return nil
}

func syncOne(path string, done map[uint64]bool) error {
	d, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return err
	}
	if done[st.Dev] {
		return nil
	}
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return err
	}
	done[st.Dev] = true
	return nil
}
