package dcstest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
)

// next is the next update that is not mere progress.
func next(t *testing.T, w <-chan dcs.Update) dcs.Update {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case u, ok := <-w:
			if !ok {
				t.Fatal("the watch closed without an error")
			}
			if u.Progress {
				if len(u.Changes) != 0 || u.Err != nil {
					t.Fatalf("got %+v, want progress without changes", u)
				}
				continue
			}
			return u
		case <-timeout:
			t.Fatalf("no update in %v", patience)
		}
	}
}

// wantEnd reads to the end of a watch, which must be an update with an error.
func wantEnd(t *testing.T, w <-chan dcs.Update, want error) {
	t.Helper()
	timeout := time.After(patience)
	var last dcs.Update
	for {
		select {
		case u, ok := <-w:
			if ok {
				last = u
				continue
			}
			if last.Err == nil || want != nil && !errors.Is(last.Err, want) {
				t.Errorf("got a watch that ended with %v, want %v", last.Err, want)
			}
			return
		case <-timeout:
			t.Fatalf("the watch did not end in %v", patience)
		}
	}
}

func testWatchOrder(t *testing.T, open Open) {
	a, b, _ := open(t)
	start := load(t, b).Revision
	w := b.Watch(t.Context(), start)
	const n = 200
	revs := make([]int64, n)
	for i := range n {
		txn := puts(put("even", fmt.Sprint(i)), put(fmt.Sprintf("k%d", i), "x"))
		if i%2 == 1 {
			txn = puts(dcs.Op{Key: fmt.Sprintf("k%d", i-1), Delete: true})
		}
		revs[i] = must(t, a, txn)
	}
	for i, rev := range revs {
		u := next(t, w)
		if u.Err != nil {
			t.Fatalf("update %d: %v", i, u.Err)
		}
		if u.Revision != rev {
			t.Fatalf("update %d: got revision %d, want %d", i, u.Revision, rev)
		}
		if i%2 == 1 {
			if len(u.Changes) != 1 || !u.Changes[0].Deleted || u.Changes[0].Key != fmt.Sprintf("k%d", i-1) {
				t.Fatalf("update %d: got %+v, want one deletion", i, u.Changes)
			}
			continue
		}
		if len(u.Changes) != 2 {
			t.Fatalf("update %d: got %d changes, want the 2 of one transaction together", i, len(u.Changes))
		}
		c := u.Changes[0]
		if c.Key != "even" || string(c.Entry.Value) != fmt.Sprint(i) || c.Entry.ModRev != rev || c.Deleted {
			t.Fatalf("update %d: got %+v, want even = %d at %d", i, c, i, rev)
		}
	}
}

func testWatchResume(t *testing.T, open Open) {
	a, b, _ := open(t)
	start := load(t, a).Revision
	var revs []int64
	for i := range 10 {
		revs = append(revs, must(t, a, puts(put("k", fmt.Sprint(i)))))
	}
	for _, tt := range []struct {
		after int64
		want  []int64
	}{{start, revs}, {revs[0], revs[1:]}, {revs[6], revs[7:]}, {revs[9], nil}} {
		ctx, cancel := context.WithCancel(t.Context())
		w := b.Watch(ctx, tt.after)
		for _, rev := range tt.want {
			if u := next(t, w); u.Revision != rev || u.Err != nil {
				t.Fatalf("watch after %d: got %+v, want revision %d", tt.after, u, rev)
			}
		}
		marker := must(t, a, puts(put("marker", "x")))
		revs = append(revs, marker)
		// Markers of the rounds before lie in between for a watch that began at the end.
		for {
			u := next(t, w)
			if u.Err != nil || u.Revision > marker {
				t.Fatalf("watch after %d: got %+v, want revision %d", tt.after, u, marker)
			}
			if u.Revision == marker {
				break
			}
		}
		cancel()
		wantEnd(t, w, context.Canceled)
	}
}

func testWatchContext(t *testing.T, open Open) {
	a, b, _ := open(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	w := b.Watch(ctx, load(t, b).Revision)
	must(t, a, puts(put("k", "v")))
	if u := next(t, w); u.Err != nil {
		t.Fatal(u.Err)
	}
	cause := errors.New("role ended")
	cancel(cause)
	wantEnd(t, w, cause)
	wantEnd(t, b.Watch(ctx, 1), cause)
}

func testWatchClose(t *testing.T, open Open) {
	a, b, _ := open(t)
	w := b.Watch(t.Context(), load(t, b).Revision)
	must(t, a, puts(put("k", "v")))
	if u := next(t, w); u.Err != nil {
		t.Fatal(u.Err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, w, dcs.ErrClosed)
	wantEnd(t, b.Watch(t.Context(), 1), dcs.ErrClosed)
}

// Nobody reads the watch: Close must not wait for a reader, and the last update still tells why.
func testWatchAbandoned(t *testing.T, open Open) {
	a, b, _ := open(t)
	w := b.Watch(t.Context(), load(t, b).Revision)
	for range 20 {
		must(t, a, puts(put("k", "v")))
	}
	closed := make(chan error, 1)
	go func() { closed <- b.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Errorf("close: got %v, want nil", err)
		}
	case <-time.After(patience):
		t.Fatal("close waits for a reader that is gone")
	}
	wantEnd(t, w, dcs.ErrClosed)
}
