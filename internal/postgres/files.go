package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

// Files are the generated files of a data directory. A nil one is left alone.
type Files struct {
	Conf, HBA, Ident []byte
	// Standby says whether the server is to start as a standby: standby.signal is made or removed.
	// recovery.signal is removed either way.
	Standby bool
}

// FilesChanged says what WriteFiles had to do.
type FilesChanged struct{ Conf, HBA, Ident, Signal bool }

// Any says whether anything changed.
func (f FilesChanged) Any() bool { return f.Conf || f.HBA || f.Ident || f.Signal }

// WriteFiles installs the generated files, each one atomically, and the password file. A file that
// is already as wanted is not touched. The server reads them at Reload or at its next start.
func (s *Server) WriteFiles(f Files) (FilesChanged, error) {
	var changed FilesChanged
	if err := s.writePassFile(); err != nil {
		return changed, err
	}
	for _, one := range []struct {
		name    string
		data    []byte
		changed *bool
	}{
		{"pg_hba.conf", f.HBA, &changed.HBA},
		{"pg_ident.conf", f.Ident, &changed.Ident},
		{"postgresql.conf", f.Conf, &changed.Conf}, // last: it names the others
	} {
		if one.data == nil {
			continue
		}
		did, err := s.install(filepath.Join(s.cfg.DataDir, one.name), one.data, 0o600)
		if err != nil {
			return changed, fmt.Errorf("write %s: %w", one.name, err)
		}
		*one.changed = did
	}
	did, err := s.SetStandby(f.Standby)
	changed.Signal = did
	return changed, err
}

// SetStandby makes or removes standby.signal and says whether that changed anything.
func (s *Server) SetStandby(standby bool) (changed bool, err error) {
	dir := s.cfg.DataDir
	path := filepath.Join(dir, "standby.signal")
	if standby && !exists(path) {
		changed, err = s.install(path, nil, 0o600)
	}
	gone := func(path string) {
		if e := os.Remove(path); e == nil {
			changed = true
			err = errors.Join(err, atomicfile.SyncDir(dir))
		} else if !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if !standby {
		gone(path)
	}
	gone(filepath.Join(dir, "recovery.signal"))
	if err != nil {
		return changed, fmt.Errorf("set the role files of %s: %w", dir, err)
	}
	return changed, nil
}

// owns says whether a file belongs to the user that PostgreSQL runs as.
func (s *Server) owns(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	uid := uint32(os.Geteuid())
	if s.cfg.RunAs != nil {
		uid = s.cfg.RunAs.UID
	}
	return st.Uid == uid
}

// Reload tells the server to read its files again (SIGHUP). It does not wait for that.
func (s *Server) Reload(ctx context.Context) error {
	if _, err := s.Adopt(ctx); err != nil {
		return fmt.Errorf("reload PostgreSQL: %w", err)
	}
	if err := s.signal(unix.SIGHUP); err != nil {
		return fmt.Errorf("reload PostgreSQL: %w", err)
	}
	return nil
}

// reloadPoll is how often WaitSetting asks.
const reloadPoll = 10 * time.Millisecond

// WaitSetting waits until the server itself says that setting name has the value want (in the form
// of SHOW), at most SQLTimeout. A session takes over a reloaded file between two statements, so
// from then on every statement that begins uses it; a commit that is already waiting for
// standbys is woken by the checkpointer at about the same time, and pg_stat_replication's
// sync_state is what tells that.
func (s *Server) WaitSetting(ctx context.Context, name, want string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.SQLTimeout)
	defer cancel()
	tick := time.NewTicker(reloadPoll)
	defer tick.Stop()
	for {
		got, err := s.Setting(ctx, name)
		if err == nil && got == want {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("wait for %s to be in force: %w", name, err)
			}
			return fmt.Errorf("wait for %s to be in force: got %q, want %q: see the server's log for a line it refused: %w", name, got, want, context.Cause(ctx))
		}
	}
}
