package node

import (
	"maps"
	"testing"
)

func TestFailsafeWrites(t *testing.T) {
	two, three := map[string]string{"a": "A", "b": "B"}, map[string]string{"a": "A", "b": "B", "c": "C"}
	want := func(f *failsafeWrites, stored, members map[string]string, ok bool) {
		t.Helper()
		if got, enough := f.toAsk(stored); !maps.Equal(got, members) || enough != ok {
			t.Errorf("got %v, %t, want %v, %t", got, enough, members, ok)
		}
	}
	var f failsafeWrites
	want(&f, two, two, true)

	f.writing(three) // its outcome stays unknown
	want(&f, two, three, true)
	if f.settled(three) {
		t.Error("got settled by what an unknown write may have stored, want not: an earlier one may still happen")
	}
	f.writing(two) // and again, with one member less
	want(&f, two, three, true)
	f.confirmed()
	if f.settled(three) {
		t.Error("got settled by an older list, want not")
	}
	if !f.settled(two) {
		t.Error("got not settled by the list that was confirmed, want settled")
	}
	want(&f, two, two, true)

	f.writing(nil) // the mode was switched off
	want(&f, two, two, false)
	f.confirmed()
	if !f.settled(nil) {
		t.Error("got not settled by the absence of the list, want settled")
	}
}
