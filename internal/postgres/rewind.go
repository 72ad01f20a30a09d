package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

// RewindOptions say how to rewind.
type RewindOptions struct {
	// RestoreTargetWAL lets pg_rewind fetch WAL that this node no longer has with the
	// restore_command of its configuration.
	RestoreTargetWAL bool
}

// RewindError is a rewind that did not succeed. Its Unwrap leads to a *ToolError with the whole
// output.
type RewindError struct {
	// Touched says that files were changed: the data directory cannot be started, only rewound
	// again or set aside. Otherwise it is as it was.
	Touched bool
	Err     error
}

func (e *RewindError) Error() string {
	if e.Touched {
		return fmt.Sprintf("rewind (files were changed, so the directory cannot be used as it is): %v", e.Err)
	}
	return fmt.Sprintf("rewind (nothing was changed): %v", e.Err)
}

// Unwrap gives Err.
func (e *RewindError) Unwrap() error { return e.Err }

// Rewind makes the stopped data directory a copy of the server from, by taking over only what
// differs since their histories parted. It lets pg_rewind finish a crash recovery first. While
// files are changed a mark lies beside the directory (DataHalfRewound). Afterwards the
// configuration files are the source's, and standby.signal is there: call WriteFiles before Start.
// needed reports false when the
// histories had not parted and nothing was to be done.
func (s *Server) Rewind(ctx context.Context, from From, o RewindOptions, progress func(done, total int64)) (needed bool, err error) {
	if from.Username == "" {
		from.Login = s.cfg.Rewind
	}
	if err := s.wantIdle(); err != nil {
		return false, &RewindError{Touched: exists(s.rewindMark()), Err: err}
	}
	_ = os.Remove(s.pidPath()) // no process is left; pg_rewind would refuse a stale one
	if err := s.writePassFile(from.passEntry()...); err != nil {
		return false, &RewindError{Touched: exists(s.rewindMark()), Err: err}
	}
	mark := s.rewindMark()
	before := exists(mark)
	if err := atomicfile.Write(mark, []byte("pg_rewind is changing the directory beside this file, or was interrupted while it did.\n"), 0o600); err != nil {
		return false, &RewindError{Touched: before, Err: err}
	}
	conn := append(from.conninfo(s.cfg.PassFile, "hathi-rewind"), [2]string{"dbname", "postgres"})
	args := []string{"-D", s.cfg.DataDir, "--source-server=" + conn.String(), "--progress"}
	atOnce := SyncFSTells()
	if atOnce {
		// It would sync file after file; below, one call does.
		args = append(args, "--no-sync")
	}
	if o.RestoreTargetWAL {
		args = append(args, "--restore-target-wal")
	}
	// The crash recovery that pg_rewind may have to do first runs in single-user mode, which
	// refuses to be a standby. The mark keeps anybody from starting what is no standby meanwhile.
	wasStandby := s.HasStandbySignal()
	if _, err := s.SetStandby(false); err != nil {
		if !before {
			err = errors.Join(err, ignoreNotExist(os.Remove(mark)))
		}
		return false, &RewindError{Touched: before, Err: err}
	}
	var out strings.Builder
	touched := before
	err = s.run(ctx, tool{program: "pg_rewind", args: args, line: func(text string) {
		if out.Len() < maxToolOutput {
			out.WriteString(text + "\n")
		}
		// What pg_rewind says just before it begins to look for and to change files.
		if strings.Contains(text, "rewinding from last common checkpoint") {
			touched = true
		}
		if done, total, ok := ParseRewindProgress(text); ok && progress != nil {
			progress(done, total)
		}
	}})
	if atOnce && err == nil {
		err = syncAll(s.cfg.DataDir)
	}
	if wasStandby || err == nil {
		_, e := s.SetStandby(true)
		if e != nil {
			return true, &RewindError{Touched: true, Err: errors.Join(err, e)}
		}
	}
	if err != nil {
		if !touched {
			err = errors.Join(err, ignoreNotExist(os.Remove(mark)))
		}
		return true, &RewindError{Touched: touched, Err: err}
	}
	if err := os.Remove(mark); err != nil {
		return true, &RewindError{Touched: true, Err: err}
	}
	if err := atomicfile.SyncDir(filepath.Dir(mark)); err != nil {
		return true, &RewindError{Touched: true, Err: err}
	}
	return !strings.Contains(out.String(), "no rewind required"), nil
}

var rewindProgress = regexp.MustCompile(`^\s*(\d+)/(\d+) kB \(\d+%\) copied`)

// ParseRewindProgress reads a line such as "1234/5678 kB (21%) copied", in bytes.
func ParseRewindProgress(line string) (done, total int64, ok bool) {
	m := rewindProgress.FindStringSubmatch(line)
	if m == nil {
		return 0, 0, false
	}
	d, err1 := strconv.ParseInt(m[1], 10, 53)
	t, err2 := strconv.ParseInt(m[2], 10, 53)
	if err1 != nil || err2 != nil {
		return 0, 0, false
	}
	return d * 1024, t * 1024, true
}
