package process

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// ErrDoomed says that what is left of the killed processes waits inside the kernel, as on storage that
// does not answer, with the SIGKILL pending: the kernel ends such a process before it runs another
// instruction of its own, so it answers nobody any more. It still holds files and memory.
var ErrDoomed = errors.New("killed, but still waiting inside the kernel")

// doomed says whether p is in an uninterruptible sleep with SIGKILL pending.
func doomed(p Process) bool {
	now, err := Find(p.PID)
	if err != nil || now.Start != p.Start || now.State != 'D' {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/status")
	return err == nil && killPending(string(b))
}

// killPending reads proc(5)'s status: whether signal 9 is pending for the thread or the process.
func killPending(status string) bool {
	for line := range strings.Lines(status) {
		mask, ok := strings.CutPrefix(line, "SigPnd:")
		if !ok {
			mask, ok = strings.CutPrefix(line, "ShdPnd:")
		}
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64); err == nil && n&(1<<8) != 0 {
			return true
		}
	}
	return false
}

// Doomed says whether every process that the hunt holds is doomed; false when it holds none.
func (h *Hunt) Doomed() bool {
	for _, p := range h.seen {
		if !p.Gone() && !doomed(p.Process) {
			return false
		}
	}
	return len(h.seen) > 0
}
