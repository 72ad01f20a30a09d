package guardian

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The layout of the state file. It is shared by two processes that may be of different releases of
// this program, so it only ever changes together with version; words may be added at the end, where an
// older release leaves 0. Words are 8 bytes, aligned, in the
// machine's own byte order; each is read and written atomically.
const (
	pageSize = 4096
	magic    = "hathi guardian\n\x00" // 16 bytes
	version  = 1

	offVersion = 16
	offBoot    = 24   // 40 bytes, zero padded
	offDirLen  = 64   // word
	offWords   = 128  // the words below
	offDir     = 1024 // up to maxDir bytes
	maxDir     = pageSize - offDir
)

// word numbers a word after offWords.
type word int

const (
	wDeadline   word = iota // 0: disarmed; claimed: fencing or fenced; else CLOCK_BOOTTIME in ns
	wGeneration             // grows with each Arm and Disarm
	wAck                    // the last generation that the guardian has seen
	wImmediate              // ladder, ns after the deadline
	wKill
	wPID           // postmaster, 0 when not known
	wStart         // its start time in ticks
	wBegan         // the deadline that passed, while claimed
	wFenced        // CLOCK_BOOTTIME in ns at which nothing was left alive; 0 before
	wStep          // the last step taken: Step
	wGuardian      // its pid
	wGuardianStart // its start time in ticks
	wHeartbeat     // CLOCK_BOOTTIME in ns
	wQuit
	wLocked // 1 when the guardian's memory is locked
	wThread // the guardian's thread that naps; 0 when not known
)

// claimed in wDeadline: the deadline has passed and the guardian has begun.
const claimed = -1

// page is the mapped state file.
type page struct {
	path string
	file *os.File
	mem  []byte
}

func (p *page) at(w word) *int64 {
	return (*int64)(unsafe.Pointer(&p.mem[offWords+8*int(w)]))
}
func (p *page) load(w word) int64              { return atomic.LoadInt64(p.at(w)) }
func (p *page) store(w word, v int64)          { atomic.StoreInt64(p.at(w), v) }
func (p *page) swap(w word, old, v int64) bool { return atomic.CompareAndSwapInt64(p.at(w), old, v) }
func (p *page) add(w word, n int64) int64      { return atomic.AddInt64(p.at(w), n) }

func (p *page) bootID() string {
	return string(bytes.TrimRight(p.mem[offBoot:offDirLen], "\x00"))
}

func (p *page) dataDir() string {
	n := binary.NativeEndian.Uint64(p.mem[offDirLen:])
	return string(p.mem[offDir : offDir+min(n, maxDir)])
}

// blank is the content of a fresh state file.
func blank(bootID, dataDir string) ([]byte, error) {
	if !filepath.IsAbs(dataDir) || len(dataDir) > maxDir {
		return nil, fmt.Errorf("data directory %q: want an absolute path of at most %d bytes", dataDir, maxDir)
	}
	if bootID == "" || len(bootID) > offDirLen-offBoot {
		return nil, fmt.Errorf("boot id %q: want 1 to %d bytes", bootID, offDirLen-offBoot)
	}
	b := make([]byte, pageSize)
	copy(b, magic)
	binary.NativeEndian.PutUint64(b[offVersion:], version)
	copy(b[offBoot:], bootID)
	binary.NativeEndian.PutUint64(b[offDirLen:], uint64(len(dataDir)))
	copy(b[offDir:], dataDir)
	return b, nil
}

// errInvalid says that a file is no state file of this release.
var errInvalid = errors.New("not a state file of this release")

func validate(b []byte) error {
	if len(b) != pageSize || string(b[:len(magic)]) != magic ||
		binary.NativeEndian.Uint64(b[offVersion:]) != version ||
		binary.NativeEndian.Uint64(b[offDirLen:]) > maxDir {
		return errInvalid
	}
	return nil
}

// mapPage maps the state file. os.ErrNotExist and errInvalid are told apart.
func mapPage(path string) (*page, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open guardian state: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		// Somebody else's file, perhaps laid there on purpose: a fence must not hang on it.
		err = fmt.Errorf("it belongs to user %d, not to %d: remove it or give hathi another path", info.Sys().(*syscall.Stat_t).Uid, os.Geteuid())
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() != pageSize) {
		err = errInvalid
	}
	var mem []byte
	if err == nil {
		mem, err = unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err == nil {
		if err = validate(mem); err != nil {
			unix.Munmap(mem)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("guardian state %s: %w", path, err)
	}
	return &page{path: path, file: f, mem: mem}, nil
}

// current says whether the path still leads to the mapped file.
func (p *page) current() bool {
	var mine, there unix.Stat_t
	if unix.Fstat(int(p.file.Fd()), &mine) != nil {
		return false
	}
	err := unix.Stat(p.path, &there)
	if err != nil {
		return !errors.Is(err, unix.ENOENT) // cannot tell: stay
	}
	return mine.Dev == there.Dev && mine.Ino == there.Ino
}

func (p *page) close() error {
	err := unix.Munmap(p.mem)
	p.mem = nil
	return errors.Join(err, p.file.Close())
}
