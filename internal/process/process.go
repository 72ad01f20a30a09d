// Package process finds and signals the processes of one PostgreSQL data directory.
//
// It never acts on a bare process id: a process is a pid together with the start time the kernel
// gave it, and it is signalled through a pidfd that was checked against both, so that a pid that
// was handed to somebody else in the meantime is left alone. It looks only at /proc, so it works
// when PostgreSQL hangs, is stopped, or has lost its postmaster.
//
// What it does not see: processes in another pid namespace, and processes of another user when
// the caller is not root.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrGone says that the process does not exist (any more), or that its pid belongs to another one.
var ErrGone = errors.New("no such process")

// Process is one process as /proc showed it.
type Process struct {
	PID  int
	PPID int
	// Start is the start time in clock ticks after boot: with PID it names the process for good.
	Start uint64
	// State is the kernel's letter: R, S, D, T (stopped), Z (dead, not yet reaped), ...
	State byte
	// Name is the program's file name, cut to 15 bytes.
	Name string
}

// Dead says whether the process has ended and only waits for its parent to notice.
func (p Process) Dead() bool { return p.State == 'Z' || p.State == 'X' }

// Find reads /proc/PID/stat. The error is ErrGone when there is none.
func Find(pid int) (Process, error) {
	if pid <= 0 {
		return Process{}, ErrGone
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return Process{}, ErrGone
		}
		return Process{}, fmt.Errorf("read the state of process %d: %w", pid, err)
	}
	return parseStat(b)
}

// parseStat reads proc(5)'s stat line. The command name is in parentheses and may hold anything,
// parentheses and newlines included, so the fields are counted from the last one.
func parseStat(b []byte) (Process, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Process{}, fmt.Errorf("parse process state: no command name in %q", clip(b))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	if err != nil {
		return Process{}, fmt.Errorf("parse process state: %w", err)
	}
	f := strings.Fields(string(b[end+1:]))
	const state, ppid, start = 0, 1, 19 // fields 3, 4 and 22 of proc(5)
	if len(f) <= start || len(f[state]) != 1 {
		return Process{}, fmt.Errorf("parse process state: want at least 22 fields, got %q", clip(b))
	}
	p := Process{PID: pid, State: f[state][0], Name: string(b[open+1 : end])}
	if p.PPID, err = strconv.Atoi(f[ppid]); err != nil {
		return Process{}, fmt.Errorf("parse process state: parent: %w", err)
	}
	if p.Start, err = strconv.ParseUint(f[start], 10, 64); err != nil {
		return Process{}, fmt.Errorf("parse process state: start time: %w", err)
	}
	return p, nil
}

func clip(b []byte) string {
	if len(b) > 80 {
		b = b[:80]
	}
	return string(b)
}

// Title is the process' command line with blanks between the words; PostgreSQL keeps it current
// ("postgres: walsender ..."). Empty when it cannot be read.
func (p Process) Title() string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/cmdline")
	return strings.TrimSpace(string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
}

// serverNames are the program names under which PostgreSQL's server runs.
var serverNames = map[string]bool{"postgres": true, "postmaster": true, "edb-postgres": true}

// isServer says whether the program of pid is PostgreSQL's server. A package upgrade leaves
// " (deleted)" behind the name. An operator's shell that stands in the data directory is none.
// One that has just been killed has no program any more, and is known by its name.
func isServer(pid int) bool {
	exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	if errors.Is(err, os.ErrNotExist) {
		p, err := Find(pid)
		return err == nil && serverNames[p.Name]
	}
	if err != nil {
		return false
	}
	return serverNames[filepath.Base(strings.TrimSuffix(exe, " (deleted)"))]
}

// InDir says whether pid runs PostgreSQL's server with dir as its current directory. A path that
// leads to the same directory counts as dir. os.ErrPermission: it may not be looked at.
func InDir(pid int, dir string) (bool, error) {
	want, err := os.Stat(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("look at data directory %s: %w", dir, err)
	}
	got, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/cwd")
	switch {
	case err == nil:
		return os.SameFile(got, want) && isServer(pid), nil
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH):
		return false, nil
	}
	return false, fmt.Errorf("look at the directory of process %d: %w", pid, err)
}

// List finds the living server processes of data directory dir: those that run PostgreSQL's
// server inside dir, and the children of postmaster (0: not known), which may have changed their
// directory. Processes that vanish meanwhile are left out; processes that may not be looked at
// belong to somebody else and are left out as well.
func List(dir string, postmaster int) ([]Process, error) {
	want, dirErr := os.Stat(dir)
	if dirErr != nil && !errors.Is(dirErr, os.ErrNotExist) {
		return nil, fmt.Errorf("look at data directory %s: %w", dir, dirErr)
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names, err := proc.Readdirnames(-1)
	proc.Close()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		inside := false
		if dirErr == nil {
			if got, err := os.Stat("/proc/" + name + "/cwd"); err == nil {
				inside = os.SameFile(got, want) && isServer(pid)
			}
		}
		if !inside && postmaster == 0 {
			continue
		}
		p, err := Find(pid)
		if err != nil || p.Dead() {
			continue
		}
		if inside || p.PPID == postmaster || p.PID == postmaster && isServer(pid) {
			out = append(out, p)
		}
	}
	return out, nil
}

// Root is the process of the list whose parent is not in it: the postmaster. With several (orphan
// backends whose postmaster died) there is none.
func Root(list []Process) (Process, bool) {
	in := make(map[int]bool, len(list))
	for _, p := range list {
		in[p.PID] = true
	}
	var root Process
	n := 0
	for _, p := range list {
		if !in[p.PPID] {
			root, n = p, n+1
		}
	}
	return root, n == 1
}
