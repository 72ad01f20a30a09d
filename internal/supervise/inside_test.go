package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBackoff_DoublesAndBeginsAnew(t *testing.T) {
	spec, err := Spec{Name: "a", Argv: []string{"x"}}.withDefaults("/run")
	if err != nil {
		t.Fatal(err)
	}
	const ms = time.Millisecond
	var pause time.Duration
	for i, step := range []struct{ life, want time.Duration }{
		{0, 200 * ms}, {0, 400 * ms}, {time.Second, 800 * ms}, {0, 1600 * ms}, {0, 3200 * ms},
		{9 * time.Second, 5 * time.Second}, {0, 5 * time.Second}, {10 * time.Second, 200 * ms}, {0, 400 * ms},
	} {
		if pause = spec.Backoff.next(pause, step.life); pause != step.want {
			t.Errorf("step %d: got %v, want %v", i, pause, step.want)
		}
	}
}

func TestRotate_KeepsTwoFilesAndTheOpenOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	say := func(s string) {
		t.Helper()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
		if err := rotate(path, 10); err != nil {
			t.Fatal(err)
		}
	}
	look := func(name, want string) {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v, want %q", filepath.Base(name), b, err, want)
		}
	}
	say("short")
	look(path, "short")
	say("-and-long")
	look(path, "")
	look(path+".1", "short-and-long")
	say("next")
	look(path, "next")
	say("-fills-it")
	look(path+".1", "next-fills-it")
	// A full disk, or anything else in the way: the log is bounded all the same.
	if err := os.Mkdir(path+".1.tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(strings.Repeat("x", 15)); err != nil {
		t.Fatal(err)
	}
	if err := rotate(path, 10); err == nil {
		t.Error("got nil, want an error")
	}
	look(path, strings.Repeat("x", 15))
	if _, err := f.WriteString(strings.Repeat("x", 5)); err != nil {
		t.Fatal(err)
	}
	if err := rotate(path, 10); err == nil {
		t.Error("got nil, want an error")
	}
	look(path, "")
	if err := rotate(filepath.Join(t.TempDir(), "none"), 10); err != nil {
		t.Errorf("no file: got %v, want nil", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{`{"do":"status"}`, `{"do":"stop"}`, `{"do":"restart","name":"pg1"}`, `{"do":"restart","name":"../x"}`, `{}`, `[]`, "\x00", `{"do":"stop"}{"do":"stop"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err == nil && (r.Do == "restart") != goodName.MatchString(r.Name) {
			t.Errorf("got %+v from %q, want a good name with restart and none without", r, b)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"name":"a","pid":12,"start":5,"boot_id":"x","argv":["a"],"stop_signal":15,"stop_within_ns":5}`))
	f.Add([]byte(`{"pid":-1}`))
	f.Add([]byte(`1234`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if r.PID <= 1 || r.Start == 0 || len(r.Argv) == 0 || r.StopSignal < 1 || r.StopSignal > 64 || r.StopWithin < 0 || r.StopWithin > time.Minute {
			t.Errorf("got %+v from %q, want a pid above 1, a start, a command, a signal and a bound", r, b)
		}
		if h, err := r.find("another boot"); h != nil || err != nil {
			t.Errorf("got %v, %v, want nobody of another boot", h, err)
		}
	})
}
