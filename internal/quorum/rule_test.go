package quorum_test

import (
	"testing"

	"github.com/hathi-ha/hathi/internal/quorum"
)

func TestParseRule(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{" ", ""},
		{`"pg-1"`, `"pg-1"`},
		{`pg1`, `"pg1"`},
		{`pg2, pg1`, `1 ("pg1","pg2")`},
		{`1 (pg2,pg1)`, `1 ("pg1","pg2")`},
		{`FIRST 2 (a, b)`, `2 ("a","b")`},
		{`any 1 ("a","b")`, `ANY 1 ("a","b")`},
		{`ANY 1 (__patroni_strict_sync_replica_placeholder__)`, `ANY 1 (__patroni_strict_sync_replica_placeholder__)`},
		{`*`, `*`},
		{`"a""b"`, `"a""b"`},
		{`ANY 5 (a)`, `ANY 5 ("a")`},
	}
	for _, tt := range tests {
		got, err := quorum.ParseRule(tt.in)
		if err != nil || got.String() != tt.want {
			t.Errorf("%q: got %s %v, want %s", tt.in, got, err, tt.want)
		}
	}
	for _, bad := range []string{`"a`, `ANY (a)`, `ANY 0 (a)`, `1 (a`, `a,,b`, `a,`, `ANY 1 ()`, `ANY x (a)`, `(a)`, `1 a`, `)`} {
		if r, err := quorum.ParseRule(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, r)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"", `ANY 1 ("a","b")`, `2 (a,b)`, "*", `"x""y"`, "first", "any 1 (", "a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := quorum.ParseRule(s)
		if err != nil {
			return
		}
		again, err := quorum.ParseRule(r.String())
		if err != nil || !again.Equal(r) {
			t.Errorf("%q: got %v (%v) after a round trip, want %v", s, again, err, r)
		}
	})
}
