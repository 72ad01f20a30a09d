package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/ha"
)

// ErrTryAgain marks the failure of a job that lies outside this node, so that trying again can help.
var ErrTryAgain = errors.New("trying again can help")

// Runner runs jobs in a goroutine.
type Runner struct {
	now func() time.Duration

	mu     sync.Mutex
	job    ha.Job
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when the present job has ended
	done   chan struct{} // token for the loop
}

// NewRunner makes a runner.
func NewRunner(now func() time.Duration) *Runner {
	return &Runner{now: now, done: make(chan struct{}, 1)}
}

// Start begins a job unless one runs.
func (r *Runner) Start(kind ha.JobKind, bound time.Duration, work func(context.Context) error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.job.Running() {
		return false
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	tctx, stop := context.WithTimeout(ctx, bound)
	r.job = ha.Job{Kind: kind, Began: r.now()}
	r.cancel, r.ended = cancel, make(chan struct{})
	go func(ended chan struct{}) {
		defer close(ended)
		defer stop()
		err := protect(tctx, work)
		if err != nil && tctx.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%s took longer than %s: %w", kind, bound, err)
		}
		cancel(nil)
		r.mu.Lock()
		r.job.Done = true
		if err != nil {
			r.job.Failure, r.job.Transient = err.Error(), errors.Is(err, ErrTryAgain)
		}
		r.mu.Unlock()
		select {
		case r.done <- struct{}{}:
		default:
		}
	}(r.ended)
	return true
}

func protect(ctx context.Context, work func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a job: %v", p)
		}
	}()
	return work(ctx)
}

// Poll is the running job, or the one that ended, once.
func (r *Runner) Poll() ha.Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.job
	if j.Done {
		r.job = ha.Job{}
	}
	return j
}

// Cancel ends the running job and waits for it.
func (r *Runner) Cancel(why string) {
	r.mu.Lock()
	running, cancel, ended := r.job.Running(), r.cancel, r.ended
	r.mu.Unlock()
	if !running {
		return
	}
	cancel(errors.New(why))
	<-ended
	r.Poll()
}

// Done delivers a token when a job ends.
func (r *Runner) Done() <-chan struct{} { return r.done }
