package daemon

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/rest"
)

const patience = 20 * time.Second

func at(t time.Time) rest.RestartRequest { return rest.RestartRequest{Schedule: t} }

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not within %s", what, patience)
	}
}

func TestSchedule_RunsWhenItsTimeHasCome(t *testing.T) {
	var s schedule
	ran := make(chan struct{})
	s.set(at(time.Now()), func(_ context.Context, r rest.RestartRequest) {
		if !r.Schedule.IsZero() {
			t.Error("the restart that runs is scheduled again")
		}
		close(ran)
	})
	await(t, "the restart", ran)
	if _, ok := s.pending(); ok {
		t.Error("a restart that ran still waits")
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func TestSchedule_OneAtATime(t *testing.T) {
	var s schedule
	defer s.close()
	never := func(context.Context, rest.RestartRequest) { t.Error("it ran") }
	later := time.Now().Add(time.Hour)
	if a := s.set(at(later), never); a.Code != http.StatusAccepted {
		t.Errorf("the first: got %d", a.Code)
	}
	if a := s.set(at(later), never); a.Code != http.StatusConflict {
		t.Errorf("the second: got %d, want %d", a.Code, http.StatusConflict)
	}
	if !s.drop() || s.drop() {
		t.Error("want one to drop, and only one")
	}
	if a := s.set(at(later), never); a.Code != http.StatusAccepted {
		t.Errorf("after the drop: got %d", a.Code)
	}
}

func TestSchedule_CloseLeavesNothingBehind(t *testing.T) {
	var s schedule
	begun, ended := make(chan struct{}), make(chan struct{})
	s.set(at(time.Now()), func(ctx context.Context, _ rest.RestartRequest) {
		close(begun)
		<-ctx.Done()
		close(ended)
	})
	await(t, "the restart", begun)
	s.set(at(time.Now().Add(time.Hour)), func(context.Context, rest.RestartRequest) { t.Error("it ran") })
	if err := s.close(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	default:
		t.Error("close did not wait for the restart under way")
	}
	if a := s.set(at(time.Now()), func(context.Context, rest.RestartRequest) { t.Error("it ran after close") }); a.Code != http.StatusServiceUnavailable {
		t.Errorf("after close: got %d, want %d", a.Code, http.StatusServiceUnavailable)
	}
}
