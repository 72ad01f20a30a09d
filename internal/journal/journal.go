// Package journal keeps what a node decided: what, when, on which facts, in one sentence.
//
// The newest entries are held in memory; all are appended to a file of JSON lines of bounded size
// (the file and one predecessor). A crash can lose the entries of the last moment and leave a torn
// line, which is skipped when the file is read again; it never spoils the others. A file that cannot
// be written does not stop the node: the entry stays in memory and the error is returned.
//
// Callers put no secrets into entries. As a second line of defence, facts whose names say that they
// are secret, and passwords inside connection strings, are replaced.
package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Bounds of a journal.
const (
	DefaultRing  = 500     // entries held in memory
	DefaultBytes = 1 << 20 // size at which the file is set aside; two files exist at most
	maxLine      = 64 << 10
)

// Entry is one decision.
type Entry struct {
	Seq uint64 `json:"seq"` // grows by one; given by Add
	// At is wall time, for people only.
	At time.Time `json:"at"`
	// Boottime is the node's CLOCK_BOOTTIME; it starts anew with the machine.
	Boottime time.Duration  `json:"boottime_ns"`
	Node     string         `json:"node"`
	Epoch    uint64         `json:"epoch,omitempty"`
	What     string         `json:"what"` // constant-like, as in "promote"
	Why      string         `json:"why"`  // the sentence
	Facts    map[string]any `json:"facts,omitempty"`
	State    string         `json:"state,omitempty"`
}

// Journal is an open journal. It is safe for concurrent use.
type Journal struct {
	path string
	max  int64

	disk sync.Mutex // guards file and size; held while the disk is waited for
	file *os.File
	size int64

	mu   sync.Mutex // guards seq and ring
	seq  uint64
	ring []Entry // oldest first, at most cap
	cap  int
}

// New prepares a journal; it touches nothing. An empty path keeps it in memory only. Zero for ring
// or maxBytes takes the default.
func New(path string, ring int, maxBytes int64) *Journal {
	if ring <= 0 {
		ring = DefaultRing
	}
	if maxBytes <= 0 {
		maxBytes = DefaultBytes
	}
	return &Journal{path: path, max: maxBytes, cap: ring}
}

// Open reads what earlier lives left (torn and foreign lines are skipped) and opens the file for
// appending. On an error the journal still works in memory.
func (j *Journal) Open() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.path == "" || j.file != nil {
		return nil
	}
	for _, p := range []string{j.path + ".1", j.path} {
		if err := j.read(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read decision journal: %w", err)
		}
	}
	return j.open()
}

func (j *Journal) open() error {
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open decision journal: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open decision journal: %w", err), f.Close())
	}
	j.file, j.size = f, info.Size()
	if j.size == 0 {
		return nil
	}
	// A torn last line gets its end here, so that the next entry begins on a line of its own.
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, j.size-1); err == nil && last[0] != '\n' {
		n, err := f.Write([]byte{'\n'})
		j.size += int64(n)
		if err != nil {
			return fmt.Errorf("mend decision journal: %w", err)
		}
	}
	return nil
}

func (j *Journal) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.LimitReader(f, 4*j.max+maxLine), maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) { // not one of ours: skip to its end
				_, err = r.ReadSlice('\n')
			}
			line = nil
		}
		var e Entry
		if len(line) > 0 && json.Unmarshal(line, &e) == nil && e.Seq > 0 && e.Seq < 1<<62 {
			j.keep(e)
			j.seq = max(j.seq, e.Seq)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (j *Journal) keep(e Entry) {
	if len(j.ring) == j.cap {
		copy(j.ring, j.ring[1:])
		j.ring = j.ring[:j.cap-1]
	}
	j.ring = append(j.ring, e)
}

// Add numbers the entry, keeps it and appends it to the file. The returned entry is what was kept.
// An error means that the file could not be written.
func (j *Journal) Add(e Entry) (Entry, error) {
	e, line := j.Keep(e)
	return e, j.Append(line)
}

// Keep numbers the entry and keeps it in memory. The line is what Append writes to the file.
func (j *Journal) Keep(e Entry) (kept Entry, line []byte) {
	e = clean(e)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	e.Seq = j.seq
	line, err := json.Marshal(e)
	if err != nil || len(line) >= maxLine {
		e.Facts = map[string]any{"omitted": "the facts could not be written or were too long"}
		e.Why, e.What, e.State = shorten(e.Why), shorten(e.What), shorten(e.State)
		line, _ = json.Marshal(e) // strings and numbers alone
	}
	j.keep(e)
	return e, append(line, '\n')
}

// Append writes a line of Keep to the file. It takes as long as the disk does.
func (j *Journal) Append(line []byte) error {
	if j.path == "" {
		return nil
	}
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.file == nil {
		if err := j.open(); err != nil {
			return err
		}
	}
	if j.size > 0 && j.size+int64(len(line)) > j.max {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	n, err := j.file.Write(line)
	j.size += int64(n)
	if err != nil {
		// The next Append opens the file anew and ends a torn line.
		err = errors.Join(err, j.file.Close())
		j.file = nil
		return fmt.Errorf("write decision journal: %w", err)
	}
	return nil
}

func (j *Journal) rotate() error {
	err := j.file.Close()
	j.file = nil
	if err == nil {
		err = os.Rename(j.path, j.path+".1")
	}
	if err != nil {
		return fmt.Errorf("set decision journal %s aside: %w", filepath.Base(j.path), err)
	}
	return j.open()
}

// Tail are the newest n entries, oldest first; n below 1 or above the ring's size means all that
// are held in memory.
func (j *Journal) Tail(n int) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n <= 0 || n > len(j.ring) {
		n = len(j.ring)
	}
	return append([]Entry{}, j.ring[len(j.ring)-n:]...)
}

// Close syncs and closes the file. It may be called twice; an Add afterwards opens it again.
func (j *Journal) Close() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Sync(), j.file.Close())
	j.file = nil
	if err != nil {
		return fmt.Errorf("close decision journal: %w", err)
	}
	return nil
}
