package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

// InitdbOptions say how to make a data directory.
type InitdbOptions struct {
	Encoding string // empty: UTF8
	Locale   string // empty: C.UTF-8
	// NoChecksums leaves data checksums out. The zero value has them.
	NoChecksums bool
	// ExtraArgs are passed on.
	ExtraArgs []string
}

// Initdb makes the data directory, which must be absent or empty, with the superuser of the
// configuration, its password, and SCRAM for every kind of connection. It works in DataDir +
// ".new" and renames that when it is whole and on disk. progress, when not nil, gets initdb's lines.
func (s *Server) Initdb(ctx context.Context, o InitdbOptions, progress func(line string)) error {
	if err := s.initdb(ctx, o, progress); err != nil {
		return fmt.Errorf("make data directory %s: %w", s.cfg.DataDir, err)
	}
	return nil
}

func (s *Server) initdb(ctx context.Context, o InitdbOptions, progress func(line string)) error {
	if s.cfg.Superuser.Password == "" {
		return errors.New("the superuser has no password: set postgresql.authentication.superuser.password")
	}
	work, err := s.beginAside(".new")
	if err != nil {
		return err
	}
	defer s.dropAside(work)
	pwfile, err := s.secretFile(s.cfg.Superuser.Password + "\n")
	if err != nil {
		return err
	}
	defer os.Remove(pwfile)
	encoding, locale := o.Encoding, o.Locale
	if encoding == "" {
		encoding = "UTF8"
	}
	if locale == "" {
		locale = "C.UTF-8"
	}
	args := []string{"-D", work, "-U", s.cfg.Superuser.Username, "--pwfile=" + pwfile,
		"--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--encoding=" + encoding, "--locale=" + locale}
	if !o.NoChecksums {
		args = append(args, "--data-checksums")
	} else if v, err := s.Version(ctx); err != nil {
		return err
	} else if v.Major >= 18 {
		args = append(args, "--no-data-checksums")
	}
	args = append(args, o.ExtraArgs...)
	if err := s.run(ctx, tool{program: "initdb", args: args, line: progress}); err != nil {
		return err
	}
	return s.commitAside(work)
}

// secretFile writes a secret for a program of PostgreSQL to read, in a directory that only its user
// can enter. The caller removes it.
func (s *Server) secretFile(secret string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(s.dataDir()), ".hathi-secret-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("write a secret for initdb: %w", err)
	}
	_, err = f.WriteString(secret)
	if err = errors.Join(err, f.Close(), s.chown(f.Name())); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("write a secret for initdb: %w", err)
	}
	return f.Name(), nil
}

// A directory in the making lies beside the data directory, with a file beside *it* that says it
// is ours: only such a one may be removed without asking.
func aside(work string) string { return work + ".hathi-unfinished" }

// beginAside makes an empty work directory DataDir + suffix, after the remains of an earlier run
// were removed.
func (s *Server) beginAside(suffix string) (work string, err error) {
	state, sentence, err := s.DataState()
	if err != nil {
		return "", err
	}
	if state != DataEmpty {
		return "", errors.New(sentence)
	}
	dir := s.dataDir()
	if info, err := os.Stat(dir); err == nil {
		if parent, err := os.Stat(filepath.Dir(dir)); err == nil &&
			info.Sys().(*syscall.Stat_t).Dev != parent.Sys().(*syscall.Stat_t).Dev {
			return "", fmt.Errorf("%s is a mount point, which cannot be replaced whole: use a directory inside it, such as %s", dir, filepath.Join(dir, "data"))
		}
	}
	work = dir + suffix
	if exists(work) && !exists(aside(work)) {
		return "", fmt.Errorf("%s is in the way and is not from hathi: move it away", work)
	}
	if err := os.RemoveAll(work); err != nil {
		return "", fmt.Errorf("remove the remains of an earlier run: %w", err)
	}
	if err := atomicfile.Write(aside(work), []byte("The directory beside this file is being made by hathi. Both may be removed.\n"), 0o600); err != nil {
		return "", err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return "", err
	}
	return work, s.chown(work)
}

// dropAside removes what is left of a work directory; after commitAside that is nothing.
func (s *Server) dropAside(work string) {
	if err := os.RemoveAll(work); err == nil {
		_ = os.Remove(aside(work))
	}
}

// commitAside puts the finished work directory in the place of the (absent or empty) data
// directory. The programs have synced its files.
func (s *Server) commitAside(work string) error {
	dir := s.dataDir()
	if !regular(filepath.Join(work, "PG_VERSION")) || !regular(filepath.Join(work, "global", "pg_control")) {
		return fmt.Errorf("%s is not whole although the program that made it succeeded", work)
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is no longer empty (%q is in it): it was left alone and the new copy is thrown away", dir, entries[0].Name())
	}
	// A mark that a rewind left is about a directory that is no longer here.
	if err := ignoreNotExist(os.Remove(rewindMarkOf(dir))); err != nil {
		return err
	}
	if err := os.Rename(work, dir); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return ignoreNotExist(os.Remove(aside(work)))
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
