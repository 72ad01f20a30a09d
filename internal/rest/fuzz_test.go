package rest_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/rest"
)

func FuzzParseObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,{"b":"]\""}]}`, `null`, `{"a":1e999}`, strings.Repeat("[", 100), "{\"\xff\":1}", `{"a":1}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		obj, err := rest.ParseObject(b)
		if err != nil {
			return
		}
		if obj == nil {
			t.Fatalf("%q: got nil without an error", b)
		}
		if _, err := json.Marshal(obj); err != nil {
			t.Errorf("%q: got %v writing it again", b, err)
		}
	})
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"2031-02-03T04:05:06.000007+00:00", "2031-02-03 04:05+01", "2031-02-03T04:05:06 UTC", "9999", ""} {
		f.Add(s)
	}
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if at, ok := rest.ParseSchedule(s, start); ok && (at.Before(start) || at.Year() > 2041) {
			t.Errorf("%q: got %v, want from now to ten years ahead", s, at)
		}
	})
}
