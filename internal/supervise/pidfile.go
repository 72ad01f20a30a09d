package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/atomicfile"
	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/process"
)

// record is what a pid file holds: enough to find the process again and never another one.
type record struct {
	Name  string `json:"name"`
	Group int    `json:"group"`
	PID   int    `json:"pid"`
	// Start is the start time in clock ticks after the boot that BootID names.
	Start  uint64 `json:"start"`
	BootID string `json:"boot_id"`
	// Argv is the command line as the kernel shows it.
	Argv       []string      `json:"argv"`
	StopSignal int           `json:"stop_signal"`
	StopWithin time.Duration `json:"stop_within_ns"`
}

func pidPath(dir, name string) string { return filepath.Join(dir, name+".pid") }

// writePidFile records a child that has just been started and not been reaped.
func writePidFile(dir string, spec Spec, pid int) error {
	p, err := process.Find(pid)
	if err != nil {
		if errors.Is(err, process.ErrGone) {
			return nil
		}
		return err
	}
	argv, err := settledCommandLine(pid)
	if err != nil {
		return err
	}
	if len(argv) == 0 {
		argv = spec.Argv
	}
	boot, err := boottime.BootID()
	if err != nil {
		return err
	}
	b, err := json.Marshal(record{
		Name: spec.Name, Group: spec.Group, PID: pid, Start: p.Start, BootID: boot, Argv: argv,
		StopSignal: int(spec.StopSignal), StopWithin: spec.StopWithin,
	})
	if err != nil {
		return err
	}
	return atomicfile.Write(pidPath(dir, spec.Name), append(b, '\n'), 0o600)
}

func removePidFile(dir, name string) { _ = os.Remove(pidPath(dir, name)) }

// settledCommandLine waits, for an instant, until the kernel shows the command line of a process that
// has just been started: exec reports success before it has put the words in place. A process that
// has ended by then has none.
func settledCommandLine(pid int) ([]string, error) {
	for range 100 {
		argv, err := commandLine(pid)
		if err != nil || len(argv) > 0 {
			return argv, err
		}
		if p, err := process.Find(pid); err != nil || p.Dead() {
			return nil, nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil, nil
}

// commandLine is the words of pid's command line; none for a process that has ended.
func commandLine(pid int) ([]string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the command line of process %d: %w", pid, err)
	}
	if len(b) == 0 {
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

// parseRecord reads a pid file. Whatever it says is checked against the process before any signal.
func parseRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, err
	}
	if r.PID <= 1 || r.Start == 0 || r.BootID == "" || len(r.Argv) == 0 {
		return record{}, errors.New("pid, start time, boot or command line missing")
	}
	if r.StopSignal <= 0 || r.StopSignal > 64 {
		r.StopSignal = int(syscall.SIGTERM)
	}
	r.StopWithin = min(max(r.StopWithin, 0), time.Minute)
	return r, nil
}

// find takes hold of the recorded process. Nil: it is gone, or what has its pid now is a stranger.
func (r record) find(boot string) (*process.Handle, error) {
	if r.BootID != boot || r.PID == os.Getpid() {
		return nil, nil
	}
	h, err := process.Open(r.PID, r.Start)
	if errors.Is(err, process.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	argv, err := commandLine(r.PID)
	// The handle was taken first: if it has not ended by now, the command line was its own.
	if err != nil || h.Gone() || !slices.Equal(argv, r.Argv) {
		h.Close()
		return nil, err
	}
	return h, nil
}
