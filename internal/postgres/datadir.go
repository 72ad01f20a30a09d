package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/atomicfile"
	"github.com/hathi-ha/hathi/internal/cluster"
)

// DataState says what a data directory is good for.
type DataState int

// The states of a data directory on disk.
const (
	// DataUnknown: it could not be looked at.
	DataUnknown DataState = iota
	// DataEmpty: absent or empty. One can be made here.
	DataEmpty
	// DataValid: a data directory of PostgreSQL.
	DataValid
	// DataForeign: something else, or half a data directory that hathi did not make.
	DataForeign
	// DataHalfRewound: a rewind was interrupted after it had begun to change files. Only another
	// rewind or a new clone makes it usable.
	DataHalfRewound
)

func (d DataState) String() string {
	return [...]string{"unknown", "empty", "valid", "foreign", "half rewound"}[d]
}

// DataState looks at the data directory and says in a sentence what it found.
func (s *Server) DataState() (DataState, string, error) {
	dir := s.cfg.DataDir
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return DataEmpty, fmt.Sprintf("data directory %s does not exist", dir), nil
	case err != nil:
		return DataUnknown, "", fmt.Errorf("look at data directory: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "lost+found" })
	if len(entries) == 0 {
		return DataEmpty, fmt.Sprintf("data directory %s is empty", dir), nil
	}
	hasVersion := regular(filepath.Join(dir, "PG_VERSION"))
	hasControl := regular(filepath.Join(dir, "global", "pg_control"))
	switch {
	case exists(s.rewindMark()):
		return DataHalfRewound, fmt.Sprintf("a rewind of %s was interrupted: its files are from two servers", dir), nil
	case hasVersion && hasControl:
		major, err := s.DataMajor()
		if err != nil {
			return DataForeign, fmt.Sprintf("%s has a file PG_VERSION without a version: it is damaged", dir), nil
		}
		return DataValid, fmt.Sprintf("%s is a data directory of PostgreSQL %d", dir, major), nil
	case hasVersion:
		return DataForeign, fmt.Sprintf("%s has PG_VERSION but no global/pg_control: it is the remains of an unfinished initdb or copy; move it away if nothing in it is needed", dir), nil
	}
	return DataForeign, fmt.Sprintf("%s is not empty and is not a PostgreSQL data directory (%q is in it): give hathi another directory, or move its content away", dir, entries[0].Name()), nil
}

func regular(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// rewindMark lies beside the data directory while pg_rewind changes it.
func (s *Server) rewindMark() string { return rewindMarkOf(s.dataDir()) }

func rewindMarkOf(dir string) string { return dir + ".rewinding" }

// HasStandbySignal says whether the directory would start as a standby.
func (s *Server) HasStandbySignal() bool {
	return exists(filepath.Join(s.cfg.DataDir, "standby.signal"))
}

// ReadHistoryFile reads the history of timeline tl from pg_wal. Timeline 1 has none: the result is
// empty. os.ErrNotExist when it is not there.
func (s *Server) ReadHistoryFile(tl uint32) (cluster.History, error) {
	if tl <= 1 {
		return nil, nil
	}
	name := fmt.Sprintf("%08X.history", tl)
	b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "pg_wal", name))
	if err != nil {
		return nil, fmt.Errorf("read timeline history: %w", err)
	}
	h, err := cluster.ParseTimelineHistory(string(b))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return h, nil
}

const (
	asideInfix = ".aside-"
	asideTime  = "20060102T150405Z"
)

// SetAside renames the data directory, which must not be in use, to one that tells when and why,
// and returns its new path. Nothing is deleted. ErrRunning when processes of PostgreSQL are in it.
func (s *Server) SetAside(reason string) (string, error) {
	dir := s.dataDir()
	if err := s.wantIdle(); err != nil {
		return "", fmt.Errorf("set %s aside: %w", dir, err)
	}
	// The time in the name orders the directories, and old ones are deleted first: it is never before that
	// of one that is there, whatever the clock says.
	at := time.Now().UTC()
	others, err := s.Aside()
	if err != nil {
		return "", fmt.Errorf("set %s aside: %w", dir, err)
	}
	for _, o := range others {
		_, rest, _ := strings.Cut(filepath.Base(o), asideInfix)
		text, _, _ := strings.Cut(rest, "-")
		if t, err := time.Parse(asideTime, text); err == nil && !at.Truncate(time.Second).After(t) {
			at = t.Add(time.Second)
		}
	}
	base := dir + asideInfix + at.Format(asideTime) + "-" + slug(reason)
	path := base
	for i := 2; exists(path); i++ {
		path = fmt.Sprintf("%s-%d", base, i)
	}
	if err := os.Rename(dir, path); err != nil {
		if errors.Is(err, syscall.EBUSY) {
			err = fmt.Errorf("%w (it is a mount point: use a directory inside it as data directory)", err)
		}
		return "", fmt.Errorf("set %s aside: %w", dir, err)
	}
	// The mark goes after the directory: in between, an absent directory needs no mark.
	_ = os.Remove(rewindMarkOf(dir))
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return path, fmt.Errorf("set %s aside: %w", dir, err)
	}
	return path, nil
}

func slug(reason string) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, reason)
	if len(out) > 40 {
		out = out[:40]
	}
	if out = strings.Trim(out, "-"); out == "" {
		out = "unknown"
	}
	return out
}

// Aside are the directories that were set aside, oldest first.
func (s *Server) Aside() ([]string, error) {
	dir := s.dataDir()
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil {
		return nil, fmt.Errorf("list the directories set aside: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), filepath.Base(dir)+asideInfix) {
			out = append(out, filepath.Join(filepath.Dir(dir), e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// PruneAside deletes all but the newest keep directories that were set aside, and returns what it
// deleted. A keep below 1 counts as 1: the newest may be the only copy of something.
func (s *Server) PruneAside(keep int) ([]string, error) {
	all, err := s.Aside()
	if err != nil {
		return nil, err
	}
	keep = max(keep, 1)
	if len(all) <= keep {
		return nil, nil
	}
	var gone []string
	for _, path := range all[:len(all)-keep] {
		if err := os.RemoveAll(path); err != nil {
			return gone, fmt.Errorf("prune the directories set aside: %w", err)
		}
		gone = append(gone, path)
	}
	return gone, nil
}
