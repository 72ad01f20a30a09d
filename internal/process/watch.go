package process

import (
	"context"
	"sync"
)

// Watcher tells when one process has ended.
type Watcher struct {
	*Handle
	exited chan struct{}
	done   chan struct{}
	cancel context.CancelFunc
	once   sync.Once
}

// Watch takes h over and watches it. When the process has ended it calls onExit (nil: nothing; for
// a child: reap it, which then does not block) and closes Exited.
func Watch(h *Handle, onExit func()) *Watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{Handle: h, exited: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	go func() {
		defer close(w.done)
		if h.Wait(ctx) != nil {
			return
		}
		if onExit != nil {
			onExit()
		}
		close(w.exited)
	}()
	return w
}

// Exited is closed within a millisecond or so of the process' end. It stays open when the watcher
// is closed first.
func (w *Watcher) Exited() <-chan struct{} { return w.exited }

// Close ends the watch and lets go of the process, which lives on. It may be called twice.
func (w *Watcher) Close() error {
	w.once.Do(func() {
		w.cancel()
		<-w.done
	})
	return w.Handle.Close()
}
