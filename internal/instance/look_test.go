package instance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/postgres"
)

const patience = 20 * time.Second

// A look that began before a question is no answer to it: what it shows may be older than the question.
func TestLooks_AnAnswerBeginsAfterTheQuestion(t *testing.T) {
	var l looks
	runs := 0
	run := func() { runs++ }
	first := l.join(run)
	if l.take() != first {
		t.Fatal("the first question has no look")
	}
	second, third := l.join(run), l.join(run)
	if second == first {
		t.Error("a question that came during a look was given that look")
	}
	if second != third {
		t.Error("two questions that wait for the next look were given two")
	}
	l.finish(first, ha.Database{LSN: 1})
	if got := l.take(); got != second {
		t.Error("the next look is not the one that is waited for")
	}
	l.finish(second, ha.Database{LSN: 2})
	if l.take() != nil {
		t.Error("a look that nobody wants")
	}
	if runs != 1 {
		t.Errorf("got %d makers at a time, want 1", runs)
	}
	if l.join(run); runs != 2 {
		t.Errorf("got %d makers started, want another after the first went", runs)
	}
}

// What is said when the time is up must not be taken for the present: no position, and no death of a
// server that merely was not asked.
func TestLooks_NothingIsClaimedWhenTheTimeIsUp(t *testing.T) {
	var l looks
	now := 100 * time.Second
	o := l.join(func() {})
	l.take()
	l.finish(o, ha.Database{Phase: ha.Up, PhaseAt: time.Second, Primary: true, Timeline: 3, LSN: 7, Replayed: 7, Streaming: true, RuleKnown: true})
	got := l.unanswered(now)
	if got.LSN != 0 || got.Replayed != 0 || got.Streaming || got.RuleKnown {
		t.Errorf("an old answer is given for the present: %+v", got)
	}
	if got.Phase != ha.Mute || got.PhaseAt != now || !got.Primary {
		t.Errorf("got phase %v since %v, primary %v; want mute since just now, still a primary", got.Phase, got.PhaseAt, got.Primary)
	}
}

type noFence struct{}

func (noFence) SetPostmaster(int, uint64)     {}
func (noFence) Fenced() (time.Duration, bool) { return 0, false }

// The deadline of one who asks ends his wait, and nobody else's look.
func TestInstance_AQuestionEndsAtItsOwnDeadline(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "holiday-photos"), 0o700); err != nil {
		t.Fatal(err)
	}
	i := New(Config{Server: postgres.New(postgres.Config{DataDir: data}), DataDir: data, Fence: noFence{}, Now: boottime.Now})
	defer i.Close()
	i.look.Lock() // a look hangs
	locked := true
	defer func() {
		if locked {
			i.look.Unlock()
		}
	}()
	tick := make(chan ha.Database, 1)
	go func() { tick <- i.Observe(context.Background()) }()
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("the peer's time is up"))
	if db := i.Observe(ctx); db.LSN != 0 || db.Phase == ha.Up || db.Dir != ha.DirForeign {
		t.Errorf("got %+v, want nothing about the present", db)
	}
	i.look.Unlock()
	locked = false
	select {
	case db := <-tick:
		if !strings.Contains(db.DirWhy, "holiday-photos") {
			t.Errorf("got %q, want what the look found", db.DirWhy)
		}
	case <-time.After(patience):
		t.Fatal("the look that went on was not delivered")
	}
}
