package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/atomicfile"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/postgres"
)

// The identity of a data directory as this node's is what the lock names: by right of it the last leader
// leads again without asking anybody. So it has to end when the data is not what it was. It lies beside
// the directory (DATA.instance), where no backup takes it along, and is bound to what it was given to:
//
//	the system identifier                   another cluster's data
//	inode and birth of the directory and    a directory put in its place; files unpacked into it
//	of global/pg_control in it              (PostgreSQL writes its control file in place)
//	checkpoint and timeline, never older    files written over in place; a volume rolled back
//
// What does not fit gets another identity and is marked as replaced, until it has streamed from a
// leader, is copied or rewound from one, or was promoted. Device numbers are left out: they change when
// a machine starts again. A directory that was moved is still the one it was when the control file shows
// the very clean stop that was seen here last.

// binding is the content of the file.
type binding struct {
	ID       string `json:"id"`
	SystemID string `json:"system_id,omitempty"` // empty: not bound yet
	Dir      fileID `json:"directory"`
	Control  fileID `json:"control_file"`
	// Timeline and Checkpoint are those of the newest control file seen; 0 after a copy or a rewind, until
	// the server has written its own.
	Timeline   uint32      `json:"timeline,omitempty"`
	Checkpoint cluster.LSN `json:"checkpoint,omitempty"`
	// Stopped says that it showed the clean stop of a primary, and that nothing was started since.
	Stopped bool `json:"stopped,omitempty"`
	// Replaced is why the directory is not the one that this member had; empty when it is.
	Replaced string `json:"replaced,omitempty"`
}

// fileID tells a file from one that was made later under its name. Inode numbers are used again; the
// time of birth is zero where the file system does not keep it.
type fileID struct {
	Inode uint64 `json:"inode"`
	Born  int64  `json:"born,omitempty"` // nanoseconds
}

func (a fileID) same(b fileID) bool {
	return a.Inode == b.Inode && (a.Born == b.Born || a.Born == 0 || b.Born == 0)
}

// found is a data directory as it lies there.
type found struct {
	SystemID     string
	Dir, Control fileID
	Timeline     uint32
	Checkpoint   cluster.LSN
	Stopped      bool // cleanly, as a primary: a standby may have received more than its control file tells
	// Copy says that a backup label is there, of a copy or a rewind: the server will begin at what the
	// label says and set the control file back to it. Timeline and Checkpoint tell nothing, and are 0.
	Copy bool
}

// judge says why f is not the directory of b; "" when it is.
func (b binding) judge(f found) (replaced string) {
	older := f.Timeline < b.Timeline || f.Timeline == b.Timeline && f.Checkpoint < b.Checkpoint
	switch {
	case b.SystemID == "":
		return ""
	case f.SystemID != b.SystemID:
		return fmt.Sprintf("its system identifier is %s, and was %s", f.SystemID, b.SystemID)
	case older && f.Copy:
		return "it is a copy that was never started"
	case older:
		return fmt.Sprintf("its last checkpoint is at %s on timeline %d, older than the one seen here before, at %s on timeline %d", f.Checkpoint, f.Timeline, b.Checkpoint, b.Timeline)
	case b.Stopped && f.Stopped && f.Timeline == b.Timeline && f.Checkpoint == b.Checkpoint:
		return "" // moved, or copied after the stop: nothing can be missing
	case !f.Dir.same(b.Dir):
		return "it is another directory than the one that was here"
	case !f.Control.same(b.Control):
		return "its files were written anew"
	}
	return ""
}

// seen is the binding after f was seen and judged.
func (b binding) seen(f found, replaced string) binding {
	if replaced != "" {
		b.ID, b.Replaced = uuid.NewString(), replaced
	}
	b.SystemID, b.Dir, b.Control, b.Timeline, b.Checkpoint, b.Stopped = f.SystemID, f.Dir, f.Control, f.Timeline, f.Checkpoint, f.Stopped
	return b
}

// identity keeps the file.
type identity struct {
	path, dir string

	now atomic.Pointer[binding] // read without waiting for the disk

	mu     sync.Mutex // held by those who change it, and while it is written
	starts int        // of the server by this process, and directories made anew
}

// load reads the file, and makes one where there is none. That of an earlier version holds the identity
// alone; it is bound to what is found first.
func (d *identity) load() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now.Load() != nil {
		return nil
	}
	raw, err := os.ReadFile(d.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the identity of the data directory: %w", err)
	}
	var b binding
	if text := strings.TrimSpace(string(raw)); uuid.Validate(text) == nil {
		b.ID = text
	} else if err == nil {
		if jerr := json.Unmarshal(raw, &b); jerr != nil || uuid.Validate(b.ID) != nil {
			b = binding{} // damaged: it is not known whose the directory is
		}
	}
	if b.ID == "" {
		b.ID = uuid.NewString()
		if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
			return fmt.Errorf("keep the identity of the data directory: %w", err)
		}
		if err := d.write(b); err != nil {
			return err
		}
	}
	d.now.Store(&b)
	return nil
}

// write puts b on the disk. mu is held.
func (d *identity) write(b binding) error {
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(d.path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the identity of the data directory: %w", err)
	}
	return nil
}

// put keeps b, on the disk first. mu is held.
func (d *identity) put(b binding) error {
	if b == d.get() {
		return nil
	}
	if err := d.write(b); err != nil {
		return err
	}
	d.now.Store(&b)
	return nil
}

// get is the present binding.
func (d *identity) get() binding {
	if b := d.now.Load(); b != nil {
		return *b
	}
	return binding{}
}

// generation counts the starts of the server and the directories made. It is asked for before a control file is read.
func (d *identity) generation() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.starts
}

// check judges what lies there, and returns why it was replaced, if that shows now.
func (d *identity) check(cd postgres.ControlData, generation int) (replaced string, err error) {
	f, err := d.find(cd)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f.Stopped = f.Stopped && d.starts == generation
	b := d.get()
	replaced = b.judge(f)
	next := b.seen(f, replaced)
	if err := d.put(next); err != nil {
		if replaced != "" {
			d.now.Store(&next) // what is known must not be forgotten because it can not be written
		}
		return replaced, err
	}
	return replaced, nil
}

// plain says that what lies there is the bound directory in its place: nothing has to be decided.
func (d *identity) plain(cd postgres.ControlData) bool {
	f, err := d.locate(cd)
	b := d.get()
	return err == nil && b.SystemID != "" && b.Dir.same(f.Dir) && b.Control.same(f.Control) && b.judge(f) == ""
}

// note takes down how far the control file is, and whether it showed a clean stop; it decides nothing.
func (d *identity) note(cd postgres.ControlData, generation int) error {
	f, err := d.find(cd)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.starts != generation {
		return nil // it was started, or made anew, since the control file was read
	}
	if b := d.get(); b.SystemID != f.SystemID || !b.Dir.same(f.Dir) || !b.Control.same(f.Control) || b.judge(f) != "" {
		return nil // that is judged when it has stopped
	}
	return d.put(d.get().seen(f, ""))
}

// bind ties the identity to what hathi itself made there: it is what this member has from now on.
func (d *identity) bind(cd postgres.ControlData) error {
	f, err := d.find(cd)
	if err != nil {
		return err
	}
	f.Stopped = false
	return d.change(func(b *binding) {
		*b = b.seen(f, "")
		b.Replaced = ""
		d.starts++
	})
}

// unbind ties it to what is found next.
func (d *identity) unbind() error { return d.change(func(b *binding) { *b = binding{ID: b.ID} }) }

// started notes that the clean stop that was seen is over.
func (d *identity) started() error {
	return d.change(func(b *binding) {
		b.Stopped = false
		d.starts++
	})
}

// accept ends a mark: the data is this member's again.
func (d *identity) accept() error { return d.change(func(b *binding) { b.Replaced = "" }) }

func (d *identity) change(f func(*binding)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.get()
	f(&next)
	return d.put(next)
}

// locate looks at the directory.
func (d *identity) locate(cd postgres.ControlData) (found, error) {
	f := found{SystemID: cd.SystemID, Timeline: cd.Timeline, Checkpoint: cd.Checkpoint, Stopped: cd.State == postgres.ControlShutDown}
	var err error
	if f.Dir, err = identify(d.dir); err != nil {
		return found{}, err
	}
	if f.Control, err = identify(controlFile(d.dir)); err != nil {
		return found{}, err
	}
	if _, err := os.Lstat(filepath.Join(d.dir, "backup_label")); err == nil {
		f.Copy, f.Stopped, f.Timeline, f.Checkpoint = true, false, 0, 0
	}
	return f, nil
}

// find is locate for what is to be kept: it is on the disk then, because a binding must not be newer
// than the control file that a power cut leaves.
func (d *identity) find(cd postgres.ControlData) (found, error) {
	f, err := d.locate(cd)
	if err != nil {
		return found{}, err
	}
	c, err := os.Open(controlFile(d.dir))
	if err != nil {
		return found{}, err
	}
	defer c.Close()
	if err := c.Sync(); err != nil {
		return found{}, fmt.Errorf("flush the control file: %w", err)
	}
	return f, nil
}

func controlFile(dir string) string { return filepath.Join(dir, "global", "pg_control") }

// identify follows symbolic links: the data directory may be one.
func identify(path string) (fileID, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return fileID{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	id := fileID{Inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}

// mark changes when the control file was written or another lies in its place.
type mark struct {
	id     fileID
	dir    fileID
	change int64
}

func (d *identity) mark() mark {
	var m mark
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, controlFile(d.dir), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st) != nil {
		return m
	}
	m.id = fileID{st.Ino, st.Btime.Sec*1e9 + int64(st.Btime.Nsec)}
	m.change = st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec)
	m.dir, _ = identify(d.dir)
	return m
}
