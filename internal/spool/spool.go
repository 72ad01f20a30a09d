// Package spool writes without making its caller wait.
//
// A log or a journal lies on some disk, and a disk can stand still. Whoever keeps a lease must not wait
// for it to tell what happened. A Writer takes what it is given into memory, and a goroutine of its own
// passes it on in order. What does not fit into the bound is dropped, counted, and reported in its place.
// What it does not promise: that anything is on the disk, or written at all when the process is killed.
package spool

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed: the Writer was closed.
var ErrClosed = errors.New("the writer was closed")

// Writer is an io.Writer whose Write does not block. It is safe for concurrent use.
type Writer struct {
	write func([]byte) error
	limit int

	mu      sync.Mutex
	queue   [][]byte
	size    int
	dropped int
	closed  bool
	wake    chan struct{} // holds a token when there is something to do
	done    chan struct{} // closed when the goroutine has ended
}

// New begins a Writer that passes every piece to write, at most limit bytes waiting. The errors of write
// are its own business. Close ends it.
func New(write func([]byte) error, limit int) *Writer {
	w := &Writer{write: write, limit: limit, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes p, whole or not at all. The error is ErrClosed or nil.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return 0, ErrClosed
	case w.size+len(p) > w.limit:
		w.dropped++
	default:
		w.queue = append(w.queue, append([]byte{}, p...))
		w.size += len(p)
	}
	w.poke()
	return len(p), nil
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) run() {
	defer close(w.done)
	for range w.wake {
		for {
			pieces, dropped, closed := w.take()
			for _, p := range pieces {
				_ = w.write(p)
				w.mu.Lock()
				w.size -= len(p)
				w.mu.Unlock()
			}
			if dropped > 0 {
				_ = w.write(fmt.Appendf(nil, "(%d lines are missing here: what they are written to did not take them in time)\n", dropped))
			}
			if len(pieces) == 0 && dropped == 0 {
				if closed {
					return
				}
				break
			}
		}
	}
}

func (w *Writer) take() (pieces [][]byte, dropped int, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pieces, dropped = w.queue, w.dropped
	w.queue, w.dropped = nil, 0
	return pieces, dropped, w.closed
}

// Close takes nothing more, and waits until all is written, at most for within. It may be called twice.
func (w *Writer) Close(within time.Duration) error {
	w.mu.Lock()
	w.closed = true
	w.poke()
	w.mu.Unlock()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-w.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("write what was left: not done within %s", within)
	}
}
