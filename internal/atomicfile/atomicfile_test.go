package atomicfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	return got
}

func TestWrite_ReplacesContentAndModeAndLeavesNothingAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for i, perm := range []os.FileMode{0o644, 0o600, 0o666} {
		want := bytes.Repeat([]byte{byte('a' + i)}, 100_000)
		if err := atomicfile.Write(path, want, perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, want %d bytes of %q", len(got), len(want), want[0])
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Mode().Perm(); got != perm {
			t.Errorf("got mode %v, want %v", got, perm)
		}
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("got files %v, want only f", got)
	}
}

func TestWrite_RelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := atomicfile.Write("f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile("f"); string(got) != "x" {
		t.Errorf("got %q, want x", got)
	}
}

func TestWrite_ErrorKeepsTheOldFileAndRemovesTheNew(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("x"), 0o600); err == nil {
		t.Error("got no error for a path that is a folder")
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("got files %v, want only taken", got)
	}
	if err := atomicfile.Write(filepath.Join(dir, "none", "f"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want a wrapped %v", err, os.ErrNotExist)
	}
	if err := atomicfile.Write(dir+"/", nil, 0o600); err == nil {
		t.Error("got no error for a path that ends in a slash")
	}
}

func TestWrite_ReplacesASymbolicLinkNotItsTarget(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(target); string(got) != "old" {
		t.Errorf("got target %q, want old", got)
	}
	if got, _ := os.ReadFile(link); string(got) != "new" {
		t.Errorf("got link %q, want new", got)
	}
}

func TestWriteOwned_SetsTheOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("changing the owner takes root")
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := atomicfile.WriteOwned(path, []byte("x"), 0o640, 65534, 65533); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if st.Uid != 65534 || st.Gid != 65533 || fi.Mode().Perm() != 0o640 {
		t.Errorf("got %d:%d %v, want 65534:65533 0640", st.Uid, st.Gid, fi.Mode().Perm())
	}
}

func TestWrite_ConcurrentWritersNeverMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				if err := atomicfile.Write(path, bytes.Repeat([]byte(fmt.Sprint(i)), 4096), 0o600); err != nil {
					t.Error(err)
				}
				got, err := os.ReadFile(path)
				if err != nil || len(got) != 4096 || bytes.Count(got, got[:1]) != 4096 {
					t.Errorf("got a mixed file of %d bytes (%v), want 4096 equal bytes", len(got), err)
				}
			}
		})
	}
	wg.Wait()
}
