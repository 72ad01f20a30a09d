// Package resident keeps the resident memory of a daemon at what it uses.
//
// At its start a Go program runs the initialization of every package that is linked into it, and for
// each page of code that it touches the kernel maps the sixteen pages around it. All of that stays in
// the process' resident set for good, although it only ever was in the page cache. Trim gives it back:
// what is in use comes again with minor faults, within milliseconds.
//
// It frees no page that another process maps, and takes nothing from the page cache: the gain is in
// this process' own account (RSS, and its share of PSS).
package resident

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// settle is how long a daemon gets to start before it is trimmed.
	settle = 20 * time.Second
	// again is how often it is trimmed after that: a command, a failover, a clone leave code behind.
	again = 10 * time.Minute
)

// Keep trims this process after its start and now and then, until ctx ends. It also returns the heap's
// free pages to the kernel. Errors end it: the process is as well off without.
func Keep(ctx context.Context) error {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		debug.FreeOSMemory()
		if err := Trim(); err != nil {
			return err
		}
		timer.Reset(again)
	}
}

// Trim drops the pages of this program's own file from the resident set: those of its code and its
// constants that were never written to, so that each comes back as it was. Locked memory is left alone.
func Trim() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("trim the resident memory: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("trim the resident memory: %w", err)
	}
	defer f.Close()
	list, err := clean(f, exe)
	if err != nil {
		return fmt.Errorf("trim the resident memory: %w", err)
	}
	var errs []error
	for _, m := range list {
		// Not a pointer into Go's memory: the address of the program's file, as the kernel gave it.
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
		if errno != 0 {
			errs = append(errs, fmt.Errorf("trim the resident memory at %x: %w", m.from, errno))
		}
	}
	return errors.Join(errs...)
}

// Populate reads the pages of this program's code from its beginning to past the function at pc, so
// that they are resident (and locked, where memory is locked on fault). It does nothing about more than
// most bytes. The linker puts a package behind those that it imports, so the runtime comes first.
func Populate(pc uintptr, most uintptr) error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("populate the program's code: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m, ok := parse(lines.Text())
		if !ok || pc < m.from || pc >= m.to {
			continue
		}
		size := min(pc-m.from+1<<16, m.to-m.from, most)
		const populateRead = 22 // MADV_POPULATE_READ of <linux/mman.h>, since 5.14
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, size, populateRead); errno == 0 {
			return nil
		}
		touch(m.from, size)
		return nil
	}
	return errors.Join(fmt.Errorf("populate the program's code: no mapping holds %x", pc), lines.Err())
}

// touch reads one word of each page, which kernels before 5.14 do not do by themselves.
func touch(from, size uintptr) {
	for at := from; at < from+size; at += 4096 {
		_ = atomic.LoadUint32((*uint32)(pointer(at))) // the compiler leaves an atomic load in place
	}
}

// pointer is what go vet calls a misuse of unsafe.Pointer, and it would be one for memory that the
// collector moves or frees; the program's code is neither.
func pointer(at uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&at)) }

// mapping is one of /proc/self/maps.
type mapping struct {
	from, to uintptr
	perm     string
	path     string
}

// clean finds in a text like /proc/self/smaps the mappings of the file exe that are not writable, not
// locked, and hold no page of their own. A page of its own is one that was written to: a relocation, or
// a debugger's breakpoint. The file would bring back what was there before.
func clean(smaps io.Reader, exe string) ([]mapping, error) {
	var out []mapping
	var m mapping
	ours := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		if next, ok := parse(line); ok {
			m, ours = next, next.path == exe && !strings.Contains(next.perm, "w") && strings.HasPrefix(next.perm, "r") && strings.HasSuffix(next.perm, "p")
			continue
		}
		f := strings.Fields(line)
		if !ours || len(f) == 0 {
			continue
		}
		switch f[0] {
		case "Anonymous:", "Locked:", "Swap:":
			if len(f) < 2 || f[1] != "0" {
				ours = false
			}
		case "VmFlags:": // the last line of a mapping
			if len(f) > 1 && !slices.Contains(f[1:], "lo") {
				out = append(out, m)
			}
		}
	}
	return out, lines.Err()
}

// parse reads the first line of a mapping: "00400000-011bd000 r-xp 00000000 fe:00 99 /usr/bin/hathi".
func parse(line string) (mapping, bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 5 {
		return mapping{}, false
	}
	a, b, ok := strings.Cut(f[0], "-")
	if !ok || len(f[1]) != 4 {
		return mapping{}, false
	}
	from, err1 := strconv.ParseUint(a, 16, 64)
	to, err2 := strconv.ParseUint(b, 16, 64)
	if err1 != nil || err2 != nil || to <= from {
		return mapping{}, false
	}
	m := mapping{from: uintptr(from), to: uintptr(to), perm: f[1]}
	if len(f) == 6 {
		m.path = strings.TrimLeft(f[5], " ")
	}
	return m, true
}
