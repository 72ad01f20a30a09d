package postgres

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
)

// BaseBackupOptions say how to copy.
type BaseBackupOptions struct {
	// Slot is an existing physical slot on the source that keeps the WAL for the copy; empty uses
	// a temporary one.
	Slot string
	// MaxRate bounds the transfer, in kB/s; 0 does not.
	MaxRate int
	// ExtraArgs are passed on.
	ExtraArgs []string
}

// BaseBackup makes the data directory, which must be absent or empty, as a copy of another server,
// with the WAL it needs. It works in DataDir + ".clone" and renames that when it is whole and on
// disk. progress, when not nil, gets bytes done and the source's estimate of all of them. The
// copy holds the source's configuration files: call WriteFiles before Start.
func (s *Server) BaseBackup(ctx context.Context, from From, o BaseBackupOptions, progress func(done, total int64)) error {
	if from.Username == "" {
		from.Login = s.cfg.Replication
	}
	if err := s.baseBackup(ctx, from, o, progress); err != nil {
		return fmt.Errorf("clone from %s:%d into %s: %w", from.Host, from.Port, s.cfg.DataDir, err)
	}
	return nil
}

func (s *Server) baseBackup(ctx context.Context, from From, o BaseBackupOptions, progress func(done, total int64)) error {
	if err := s.writePassFile(from.passEntry()...); err != nil {
		return err
	}
	work, err := s.beginAside(".clone")
	if err != nil {
		return err
	}
	defer s.dropAside(work)
	args := []string{"-d", from.conninfo(s.cfg.PassFile, "hathi-clone").String(), "-D", work,
		"-X", "stream", "--checkpoint=fast", "--progress", "--no-password"}
	if o.Slot != "" {
		args = append(args, "--slot="+o.Slot)
	}
	if o.MaxRate > 0 {
		args = append(args, "--max-rate="+strconv.Itoa(o.MaxRate))
	}
	args = append(args, o.ExtraArgs...)
	line := func(text string) {
		if done, total, ok := ParseBaseBackupProgress(text); ok && progress != nil {
			progress(done, total)
		}
	}
	if err := s.run(ctx, tool{program: "pg_basebackup", args: args, line: line}); err != nil {
		return err
	}
	// A role file of the source must not make the copy start as something it is not.
	for _, name := range []string{"/recovery.signal", "/standby.signal"} {
		if err := ignoreNotExist(os.Remove(work + name)); err != nil {
			return err
		}
	}
	return s.commitAside(work)
}

// passEntry is the line for a login that is not one of the server's own.
func (f From) passEntry() []PassEntry {
	if f.Password == "" {
		return nil
	}
	return []PassEntry{{Host: f.Host, Port: strconv.Itoa(f.Port), User: f.Username, Password: f.Password}}
}

var baseBackupProgress = regexp.MustCompile(`^\s*(\d+)/(\d+) kB \(\d+%\)`)

// ParseBaseBackupProgress reads a line such as "23456/42000 kB (55%), 0/1 tablespace", in bytes.
func ParseBaseBackupProgress(line string) (done, total int64, ok bool) {
	m := baseBackupProgress.FindStringSubmatch(line)
	if m == nil {
		return 0, 0, false
	}
	d, err1 := strconv.ParseInt(m[1], 10, 53)
	t, err2 := strconv.ParseInt(m[2], 10, 53)
	if err1 != nil || err2 != nil {
		return 0, 0, false
	}
	return d * 1024, max(t, d) * 1024, true
}
