package fresh_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/fresh"
)

const patience = 20 * time.Second

// maker makes 1, 2, 3, ..., each when it is let.
type maker struct {
	fresh.Answers[int]
	wg    sync.WaitGroup
	begun chan int
	let   chan struct{}
	made  int
}

func newMaker(t *testing.T) *maker {
	m := &maker{begun: make(chan int, 10), let: make(chan struct{}, 10)}
	m.Go = m.wg.Go
	m.Make = func() int {
		m.made++
		m.begun <- m.made
		<-m.let
		return m.made
	}
	t.Cleanup(m.wg.Wait)
	return m
}

// ask asks in a goroutine of its own.
func (m *maker) ask(ctx context.Context) <-chan any {
	out := make(chan any, 1)
	go func() {
		n, err := m.Ask(ctx)
		if err != nil {
			out <- err
			return
		}
		out <- n
	}()
	return out
}

func want[T any](t *testing.T, what string, c <-chan T, want T, equal func(a, b T) bool) {
	t.Helper()
	select {
	case got := <-c:
		if !equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	case <-time.After(patience):
		t.Fatalf("%s: nothing within %s", what, patience)
	}
}

func same[T comparable](a, b T) bool { return a == b }

func TestAsk_TheMakingBeginsAfterTheQuestion(t *testing.T) {
	m := newMaker(t)
	first := m.ask(context.Background())
	want(t, "the first making", m.begun, 1, same)
	second := m.ask(context.Background()) // during the first
	m.let <- struct{}{}
	want(t, "the first answer", first, any(1), same)
	// Whether the second question came before the first making ended is chance; its answer may not be
	// the first in either case.
	m.let <- struct{}{}
	want(t, "the second answer", second, any(2), same)
}

func TestAsk_OneMakingForAllWhoWait(t *testing.T) {
	var makings, wrong atomic.Int64
	var wg sync.WaitGroup
	a := fresh.Answers[int64]{Go: wg.Go, Make: func() int64 { return makings.Add(1) }}
	var askers sync.WaitGroup
	for range 200 {
		askers.Go(func() {
			before := makings.Load()
			got, err := a.Ask(context.Background())
			if err != nil || got <= before {
				wrong.Add(1) // it was made before the question
			}
		})
	}
	askers.Wait()
	wg.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d answers were older than their questions", n)
	}
	if n := makings.Load(); n > 200 {
		t.Errorf("got %d makings for 200 questions", n)
	}
}

func TestAsk_AQuestionEndsWithItsContextAndNobodyElses(t *testing.T) {
	m := newMaker(t)
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(context.Background())
	impatient := m.ask(ctx)
	want(t, "the making", m.begun, 1, same)
	patient := m.ask(context.Background())
	cancel(gaveUp)
	want(t, "the impatient one", impatient, any(gaveUp), same)
	m.let <- struct{}{}
	m.let <- struct{}{}
	want(t, "the patient one", patient, any(2), same)
}
