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

// What is said when the time is up must not be taken for the present: no position, and no death of a
// server that merely was not asked.
func TestUnanswered_NothingIsClaimedWhenTheTimeIsUp(t *testing.T) {
	now := 100 * time.Second
	got := unanswered(&ha.Database{Phase: ha.Up, PhaseAt: time.Second, Primary: true, Timeline: 3, LSN: 7, Replayed: 7, Streaming: true, RuleKnown: true}, now)
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
