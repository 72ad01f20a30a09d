// Package fresh answers questions about the present that cost something to answer: one answer at a
// time is made, each for all who asked before its making began.
//
//	asked:   a      b c    d
//	made:    |--- a ---|--- b c d ---|
//
// Nobody is given an answer whose making began before the question, and nobody waits for more than the
// one under way and the next. A question ends with its own context; the making does not, and goes on
// for the others.
package fresh

import (
	"context"
	"sync"
)

// Answers makes answers of type T. Both fields are set before the first question.
type Answers[T any] struct {
	// Make makes one answer. It bounds its own time.
	Make func() T
	// Go starts a goroutine that makes answers for as long as there are questions.
	Go func(func())

	mu   sync.Mutex
	next *answer[T] // wanted, not begun
	busy bool       // somebody is making answers
}

type answer[T any] struct {
	done  chan struct{}
	value T // set before done is closed
}

// Ask waits for an answer whose making begins after the call, or for the end of ctx, whose cause is the
// error.
func (a *Answers[T]) Ask(ctx context.Context) (T, error) {
	a.mu.Lock()
	if a.next == nil {
		a.next = &answer[T]{done: make(chan struct{})}
	}
	mine := a.next
	idle := !a.busy
	a.busy = true
	a.mu.Unlock()
	if idle {
		a.Go(a.work)
	}
	select {
	case <-mine.done:
		return mine.value, nil
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

func (a *Answers[T]) work() {
	for {
		a.mu.Lock()
		now := a.next
		a.next, a.busy = nil, now != nil
		a.mu.Unlock()
		if now == nil {
			return
		}
		now.value = a.Make()
		close(now.done)
	}
}
