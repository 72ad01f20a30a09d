package journal_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/journal"
)

func open(t *testing.T, path string, ring int, size int64) *journal.Journal {
	t.Helper()
	j := journal.New(path, ring, size)
	if err := j.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func add(t *testing.T, j *journal.Journal, why string) journal.Entry {
	t.Helper()
	e, err := j.Add(journal.Entry{At: time.Unix(1, 0).UTC(), Node: "pg1", What: "promote", Why: why, Facts: map[string]any{"lsn": "0/1"}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestJournal_SurvivesRestartAndTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	j := open(t, path, 0, 0)
	add(t, j, "one")
	add(t, j, "two")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"why":"tor`); err != nil {
		t.Fatal(err)
	}
	f.Close()

	j = open(t, path, 0, 0)
	if got := j.Tail(0); len(got) != 2 || got[1].Why != "two" || got[1].Seq != 2 {
		t.Fatalf("got %+v, want entries one and two", got)
	}
	if e := add(t, j, "three"); e.Seq != 3 {
		t.Errorf("got seq %d, want 3", e.Seq)
	}
	j.Close()
	j = open(t, path, 0, 0)
	if got := j.Tail(1); len(got) != 1 || got[0].Why != "three" {
		t.Errorf("got %+v after the torn line, want three", got)
	}
}

func TestJournal_IsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "decisions.jsonl")
	j := open(t, path, 5, 1000)
	for range 200 {
		add(t, j, strings.Repeat("x", 50))
	}
	if got := j.Tail(100); len(got) != 5 || got[4].Seq != 200 || got[0].Seq != 196 {
		t.Errorf("got %d entries in memory ending at %d, want 5 ending at 200", len(got), got[len(got)-1].Seq)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("got files %v %v, want two", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Size() > 1000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %d bytes mode %v (%v), want at most 1000 and 0600", f.Name(), info.Size(), info.Mode(), err)
		}
	}
	j.Close()
	if got := open(t, path, 5, 1000).Tail(0); len(got) != 5 || got[4].Seq != 200 {
		t.Errorf("reopened: got %d entries, want the last 5", len(got))
	}
}

func TestJournal_HidesSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	j := open(t, path, 0, 0)
	_, err := j.Add(journal.Entry{What: "x", Why: "cannot connect to postgres://u:hunter2@h:1/db", Facts: map[string]any{
		"conninfo": "host=a password='hun''ter2' user=b", "Password": "hunter2",
		"nested": map[string]any{"secret": "hunter2"}, "err": errors.New("passwd=hunter2 bad"), "list": []string{"password = hunter2"}}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	held, _ := json.Marshal(j.Tail(1))
	for _, b := range [][]byte{text, held} {
		if strings.Contains(string(b), "hunter2") {
			t.Errorf("got a secret in %s", b)
		}
	}
}

func TestJournal_OddEntries(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "d"), 0, 0)
	if _, err := j.Add(journal.Entry{What: "x", Facts: map[string]any{"f": func() {}}}); err != nil {
		t.Errorf("a fact that JSON cannot hold: got %v, want it left out", err)
	}
	if e, err := j.Add(journal.Entry{What: "x", Why: strings.Repeat("ä", 200_000)}); err != nil || len(e.Why) > 5000 {
		t.Errorf("a long sentence: got %d bytes %v, want it shortened", len(e.Why), err)
	}
}

func TestJournal_WorksInMemoryWithoutItsFile(t *testing.T) {
	j := journal.New(filepath.Join(t.TempDir(), "missing", "d"), 0, 0)
	if err := j.Open(); err == nil {
		t.Error("got no error for a folder that does not exist")
	}
	if _, err := j.Add(journal.Entry{What: "x"}); err == nil {
		t.Error("got no error from Add, want one")
	}
	if got := j.Tail(0); len(got) != 1 {
		t.Errorf("got %d entries in memory, want 1", len(got))
	}
}

func TestJournal_ConcurrentUse(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "d"), 10, 4000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := j.Add(journal.Entry{What: "x"}); err != nil {
					t.Error(err)
				}
				j.Tail(3)
			}
		})
	}
	wg.Wait()
	if got := j.Tail(1)[0].Seq; got != 400 {
		t.Errorf("got last seq %d, want 400", got)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("{\"seq\":1}\n{\"seq\":"))
	f.Add([]byte("{\"seq\":18446744073709551615}\n"))
	f.Add([]byte("\x00\n\n[]\n{\"seq\":-1}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "d")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, path, 3, 0)
		if _, err := j.Add(journal.Entry{What: "x"}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		again := open(t, path, 3, 0).Tail(1)
		if len(again) != 1 || again[0].What != "x" {
			t.Errorf("got %+v, want the entry just added", again)
		}
	})
}
