package supervise

import (
	"os/exec"
	"runtime"
)

// forker starts processes from one thread. A parent-death signal fires when the thread that forked
// ends, and Go ends threads as it pleases, unless a goroutine holds them.
type forker struct {
	jobs chan forkJob
	done chan struct{}
}

type forkJob struct {
	cmd *exec.Cmd
	err chan error
}

func newForker() *forker {
	f := &forker{jobs: make(chan forkJob), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		runtime.LockOSThread()
		// Not unlocked at the end: that ends the thread, and what the last children are owed (their
		// death signal) with it.
		for j := range f.jobs {
			j.err <- j.cmd.Start()
		}
	}()
	return f
}

// start is cmd.Start in the forker's thread.
func (f *forker) start(cmd *exec.Cmd) error {
	j := forkJob{cmd, make(chan error, 1)}
	f.jobs <- j
	return <-j.err
}

// close ends the thread. Nobody may be in start any more.
func (f *forker) close() {
	close(f.jobs)
	<-f.done
}
