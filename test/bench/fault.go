package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fault is what happens to the primary in a round.
type fault string

// The faults.
const (
	cable        fault = "cable pulled"
	power        fault = "power cut"
	sigkill      fault = "postmaster SIGKILL"
	sigstop      fault = "postmaster SIGSTOP"
	walwriter    fault = "walwriter SIGSTOP"
	checkpointer fault = "checkpointer SIGSTOP"
	storage      fault = "data volume frozen"
	wholeDisk    fault = "whole disk frozen"
	agentKill    fault = "agent SIGKILL, stays down"
	agentBack    fault = "agent SIGKILL, restarted"
	switchover   fault = "planned switchover"
)

const (
	// unnoticed is when a fault that only some systems notice counts as not noticed. A node loss gets as
	// long as the system's own timings may take.
	unnoticed = 30 * time.Second
	// restartDelay is systemd's default between the death of a service and its next start (RestartSec).
	restartDelay = 100 * time.Millisecond
)

// bound is how long a system with longest may take to write again.
func (f fault) bound(longest time.Duration) time.Duration {
	switch f {
	case sigstop, storage, wholeDisk:
		return min(longest, unnoticed)
	}
	return longest
}

// mayPass says that the fault need not stop any client.
func (f fault) mayPass() bool {
	return f == walwriter || f == checkpointer || f == agentBack
}

// window is how long a fault that may pass is watched: longer than its goal, or than the lease.
func (f fault) window() time.Duration {
	if f == agentBack {
		return 8 * time.Second
	}
	return 6 * time.Second
}

// sessionsGoOn says that sessions which exist may be served by the old primary all along, so that the
// longest gap says nothing about those who want a new one.
func (f fault) sessionsGoOn() bool { return f == sigstop }

// silences says that nothing the old primary decides afterwards is heard by anyone.
func (f fault) silences() bool { return f == cable || f == power }

// harm is a fault that is ready to happen.
type harm struct {
	// do makes it happen.
	do func() error
	// undo ends it; nil where there is nothing to end. It may be called again.
	undo func() error
	// returns says that the old primary can come back only from undo on; else it can as soon as another
	// has taken over.
	returns bool
}

// prepare looks up what a fault needs, so that the fault itself takes no time.
func prepare(ctx context.Context, s system, f fault, old, next string, calls chan<- error) (harm, error) {
	h := s.host(old)
	stop := func(pid int, err error) (harm, error) {
		return harm{
			do: func() error { return syscall.Kill(pid, syscall.SIGSTOP) },
			undo: func() error {
				if slices.Contains(h.cg.pids(), pid) { // not somebody else's by now
					return syscall.Kill(pid, syscall.SIGCONT)
				}
				return nil
			},
		}, err
	}
	switch f {
	case cable:
		return harm{do: h.cut, undo: h.plug, returns: true}, nil
	case power:
		return harm{
			do: func() error {
				err := h.powerOff()
				s.forget(old)
				return err
			},
			undo:    func() error { return errors.Join(h.plug(), s.powerOn(old)) },
			returns: true,
		}, nil
	case sigkill:
		pid, err := postmaster(s.dataDir(old))
		return harm{do: func() error { return syscall.Kill(pid, syscall.SIGKILL) }}, err
	case sigstop:
		return stop(postmaster(s.dataDir(old)))
	case walwriter, checkpointer:
		kind, _, _ := strings.Cut(string(f), " ")
		return stop(auxiliary(h, s.dataDir(old), kind))
	case storage, wholeDisk:
		disks := s.disksOf(old)
		if len(disks) != 2 {
			return harm{}, fmt.Errorf("%s has no disks of its own", old)
		}
		if f == storage {
			disks = disks[1:]
		}
		return harm{
			do: func() error {
				for _, d := range disks {
					if err := d.freeze(); err != nil {
						return err
					}
				}
				return nil
			},
			undo: func() error {
				var errs []error
				for _, d := range disks {
					errs = append(errs, d.thaw())
				}
				return errors.Join(errs...)
			},
			returns: true,
		}, nil
	case agentKill, agentBack:
		p := h.procs["agent"]
		if p == nil {
			return harm{}, fmt.Errorf("%s has no agent", old)
		}
		kill := func() error {
			err := p.cmd.Process.Kill()
			p.wait()
			return err
		}
		if f == agentKill {
			return harm{do: kill, undo: func() error { return s.startAgent(old) }, returns: true}, nil
		}
		return harm{do: func() error {
			if err := errors.Join(kill(), pause(ctx, restartDelay)); err != nil {
				return err
			}
			return s.startAgent(old)
		}}, nil
	case switchover:
		return harm{do: func() error {
			go func() { calls <- s.switchover(ctx, old, next) }()
			return nil
		}}, nil
	}
	return harm{}, fmt.Errorf("unknown fault %q", f)
}

// postmaster is the process that runs in a data directory.
func postmaster(dataDir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s/postmaster.pid begins with %q", dataDir, first)
	}
	return pid, nil
}

// auxiliary is the process of a kind (walwriter, checkpointer) that a host's postmaster keeps.
func auxiliary(h *host, dataDir, kind string) (int, error) {
	parent, err := postmaster(dataDir)
	if err != nil {
		return 0, err
	}
	for _, pid := range h.cg.pids() {
		title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if isAuxiliary(string(title), string(stat), parent, kind) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("the postmaster %d has no %s", parent, kind)
}

// isAuxiliary reads a process's title and its line in /proc: "postgres: walwriter", with the cluster's
// name before the kind where there is one.
func isAuxiliary(title, stat string, parent int, kind string) bool {
	title = strings.TrimRight(title, "\x00 ")
	if title != "postgres: "+kind && !(strings.HasPrefix(title, "postgres: ") && strings.HasSuffix(title, ": "+kind)) {
		return false
	}
	f := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // a name may hold spaces and parentheses
	return len(f) > 1 && f[1] == strconv.Itoa(parent)
}
