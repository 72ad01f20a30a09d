package term_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/term"
)

func env(pairs ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == key {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestScreen_RedrawsInPlaceAndOnlyWhatChanged(t *testing.T) {
	var b bytes.Buffer
	s := term.NewScreen(&b)
	draw := func(want string, lines ...string) {
		t.Helper()
		b.Reset()
		if err := s.Draw(lines, 6, 3); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	draw("\x1b[?25l\x1b[2J\x1b[H\x1b[Ka\r\n\x1b[Kb\r\n\x1b[J", "a", "b")
	draw("", "a", "b")
	draw("\x1b[H\x1b[Ka\r\n\x1b[K123456\r\n\x1b[K3", "a", "1234567", "3", "cut off")
	b.Reset()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := b.String(), "\x1b[?25h"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCut_CountsColumnsAndEndsColours(t *testing.T) {
	on := term.Colours(true)
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "abc"},
		{"日本", 3, "日"},
		{on.Red("abc"), 3, "\x1b[31mabc\x1b[0m"},
		{on.Red("abc"), 2, "\x1b[31mab\x1b[0m"},
		{"e\u0301x", 1, "e\u0301"},
		{"abc", 0, ""},
	} {
		if got := term.Cut(c.text, c.width); got != c.want {
			t.Errorf("Cut(%q, %d): got %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestStyle_LeavesTextAloneOffATerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, w := range []any{null, &bytes.Buffer{}, nil} {
		s := term.NewStyle(w, env("TERM", "xterm"))
		if got := s.Red("x") + s.Bold("y"); got != "xy" || s.On() {
			t.Errorf("%T: got %q, want xy", w, got)
		}
		if term.IsTerminal(w) {
			t.Errorf("%T: got a terminal, want none", w)
		}
	}
	if w, h := term.Size(null, env("COLUMNS", "132")); w != 132 || h != 24 {
		t.Errorf("got %d x %d, want 132 x 24", w, h)
	}
	if w, h := term.Size(&bytes.Buffer{}, env("COLUMNS", "-1", "LINES", "x")); w != 80 || h != 24 {
		t.Errorf("got %d x %d, want 80 x 24", w, h)
	}
}

func TestStyle_OnATerminal(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminal: %v", err)
	}
	defer pty.Close()
	for _, c := range []struct {
		env  []string
		want bool
	}{
		{[]string{"TERM", "xterm"}, true},
		{[]string{"TERM", "xterm", "NO_COLOR", "1"}, false},
		{[]string{"TERM", "dumb"}, false},
		{nil, false},
	} {
		if got := term.NewStyle(pty, env(c.env...)).On(); got != c.want {
			t.Errorf("%v: got colours %v, want %v", c.env, got, c.want)
		}
	}
	if got := term.Colours(true).Green("ok"); !strings.HasPrefix(got, "\x1b[32m") {
		t.Errorf("got %q, want it green", got)
	}
}
