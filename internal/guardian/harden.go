package guardian

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/process"
	"github.com/hathi-ha/hathi/internal/resident"
)

// hardened says what the kernel granted.
type hardened struct {
	memoryLocked bool
	refused      []string
}

// memoryLimit is when the garbage collector starts to work at all. The guardian allocates a few
// hundred bytes a second, and some tens of kilobytes in a fence.
const memoryLimit = 64 << 20

// harden makes this process hard to starve: no garbage collection to speak of, memory that is not
// paged out, real-time scheduling for the calling thread, and last in line for the out-of-memory
// killer. All of it is best effort.
func harden() hardened {
	var h hardened
	refuse := func(what string, err error) {
		h.refused = append(h.refused, fmt.Sprintf("%s: %v", what, err))
	}
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	runtime.GOMAXPROCS(2)
	// What only the start needed, of a program that is much larger than the guardian, is not worth
	// locking: what the guardian needs is fetched below and by the rehearsal.
	debug.FreeOSMemory()
	if err := resident.Trim(); err != nil {
		refuse("a small resident set", err)
	}
	if err := lockMemory(); err != nil {
		refuse("locked memory (needs CAP_IPC_LOCK or LimitMEMLOCK=infinity)", err)
	} else {
		h.memoryLocked = true
	}
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		refuse("real-time scheduling (needs CAP_SYS_NICE or LimitRTPRIO=1)", err)
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
			refuse("nice -20 (needs CAP_SYS_NICE or LimitNICE=-20)", err)
		}
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0); err != nil {
		refuse("out-of-memory protection (needs CAP_SYS_RESOURCE or OOMScoreAdjust=-900)", err)
	}
	return h
}

// lockMemory keeps pages in memory once they were touched. Locking the future as well would turn
// a limit into failed allocations, which kill a Go program, so it needs a process without limit.
func lockMemory() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return err
	}
	const mclOnfault = 4 // MCL_ONFAULT of <linux/mman.h>
	flags := unix.MCL_CURRENT | mclOnfault
	if lim.Cur == unix.RLIM_INFINITY || mayLock() {
		flags |= unix.MCL_FUTURE
	}
	return unix.Mlockall(flags)
}

// mayLock says whether the process has CAP_IPC_LOCK, to which the limit does not apply.
func mayLock() bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	const capIPCLock = 14
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && caps&(1<<capIPCLock) != 0
		}
	}
	return false
}

// rehearse walks through what a fence does, harmlessly, so that its code and data are in memory
// before the day on which the disk is too busy to page them in.
func rehearse(dir string) error {
	// The runtime may need any of its code at any time, and so may the packages above it that every
	// program has; os is the highest of those.
	err := resident.Populate(reflect.ValueOf(os.ReadFile).Pointer(), populateMax)
	_, _ = process.List(dir, 0)
	if h, err := process.Open(os.Getpid(), 0); err == nil {
		_ = h.Signal(0)
		_ = h.Gone()
		h.Close()
	}
	// A directory that no process can be in.
	hunt := process.NewHunt("/proc/self/fd/none")
	defer hunt.Close()
	_, _ = hunt.Kill(0, 0)
	_, _, _ = hunt.Look(0, 0)
	return err
}

// populateMax bounds what is fetched on the suspicion that it is needed.
const populateMax = 4 << 20
