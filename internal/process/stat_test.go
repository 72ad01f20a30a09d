package process

import "testing"

func TestParseStat_NameWithParentheses(t *testing.T) {
	line := "42 ((a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n"
	got, err := parseStat([]byte(line))
	want := Process{PID: 42, PPID: 1, Start: 987654, State: 'S', Name: "(a) b (c)"}
	if err != nil || got != want {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (postgres) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n"))
	f.Add([]byte("1 () "))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}

func TestKillPending(t *testing.T) {
	const rest = "Name:\tpostgres\nState:\tD (disk sleep)\n"
	for text, want := range map[string]bool{
		rest + "SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n": true,
		rest + "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n": true,
		rest + "SigPnd:\t0000000000000000\nShdPnd:\t0000000000004001\n": false,
		rest + "SigBlk:\t0000000000000100\n":                            false,
		"":                                                              false,
	} {
		if got := killPending(text); got != want {
			t.Errorf("%q: got %t, want %t", text, got, want)
		}
	}
}
