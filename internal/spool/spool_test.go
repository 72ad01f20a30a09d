package spool_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hathi-ha/hathi/internal/spool"
)

func TestWriter_KeepsTheOrder(t *testing.T) {
	var got strings.Builder
	w := spool.New(func(p []byte) error { got.Write(p); return nil }, 1<<20)
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintf(w, "line %d\n", i)
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if err := w.Close(time.Minute); err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Errorf("got %d bytes, want %d in the same order", got.Len(), want.Len())
	}
	if _, err := w.Write([]byte("late")); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("got %v after the end, want %v", err, spool.ErrClosed)
	}
	if err := w.Close(time.Minute); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// A disk that stands still costs lines, not the caller's time.
func TestWriter_DoesNotWaitForWhatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		still := make(chan struct{})
		var mu sync.Mutex
		var got []string
		w := spool.New(func(p []byte) error {
			<-still
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(p))
			return nil
		}, 20)
		for range 10 {
			if n, err := w.Write([]byte("five\n")); n != 5 || err != nil {
				t.Fatalf("got %d, %v, want the piece taken", n, err)
			}
		}
		if err := w.Close(time.Second); err == nil {
			t.Error("got no error, want that it is not written yet")
		}
		close(still)
		if err := w.Close(time.Second); err != nil {
			t.Error(err)
		}
		all := strings.Join(got, "")
		if n := strings.Count(all, "five\n"); n != 4 {
			t.Errorf("got %d lines, want the 4 that fit", n)
		}
		if !strings.Contains(all, "6 lines are missing") {
			t.Errorf("got %q, want the number of those that did not", all)
		}
	})
}
