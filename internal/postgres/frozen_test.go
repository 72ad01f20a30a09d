package postgres_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/process"
)

// frozenDisk mounts a file system of its own on a new directory within dir, and returns it with what
// freezes and thaws it. It skips where that cannot be done.
func frozenDisk(t *testing.T, dir string, cred *postgres.Credential) (at string, freeze, thaw func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	at = filepath.Join(dir, "disk")
	image := filepath.Join(dir, "disk.img")
	run := func(name string, args ...string) error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			return errors.New(name + " " + strings.Join(args, " ") + ": " + strings.TrimSpace(string(out)))
		}
		return nil
	}
	for _, step := range [][]string{{"truncate", "-s", "256M", image}, {"mkfs.ext4", "-q", "-F", image}, {"mkdir", at}, {"mount", "-o", "loop", image, at}} {
		if err := run(step[0], step[1:]...); err != nil {
			t.Skip("no file system to freeze: " + err.Error())
		}
	}
	frozen := false
	thaw = func() {
		if frozen {
			frozen = false
			if err := run("fsfreeze", "-u", at); err != nil {
				t.Error(err)
			}
		}
	}
	freeze = func() {
		if err := run("fsfreeze", "-f", at); err != nil {
			t.Skip("this file system cannot be frozen: " + err.Error())
		}
		frozen = true
	}
	t.Cleanup(func() {
		thaw()
		eventually(t, "the file system is let go", func() error { return run("umount", at) })
	})
	if cred != nil {
		if err := os.Chown(at, int(cred.UID), int(cred.GID)); err != nil {
			t.Fatal(err)
		}
	}
	return at, freeze, thaw
}

// A server on storage that does not answer: old connections answer, a write does not end, and what is
// killed cannot end, but will not run again.
func TestFrozenStorage_ShowsAndItsServerIsDoomed(t *testing.T) {
	dir, cred := base(t)
	at, freeze, thaw := frozenDisk(t, dir, cred)
	n := newNode(t, at, "a", cred)
	if err := n.Initdb(within(t), postgres.InitdbOptions{ExtraArgs: []string{"--no-sync"}}, nil); err != nil {
		t.Fatal(err)
	}
	n.start(t, nil, "fsync = on")
	if err := postgres.TryStorage(n.cfg.DataDir); err != nil {
		t.Fatalf("storage that works: %v", err)
	}
	if err := n.ProbeWrite(within(t)); err != nil {
		t.Fatalf("a write that works: %v", err)
	}
	freeze()
	tried := make(chan error, 1)
	go func() { tried <- postgres.TryStorage(n.cfg.DataDir) }()
	short, cancel := context.WithTimeout(within(t), 2*time.Second)
	defer cancel()
	if err := n.ProbeWrite(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write on frozen storage: got %v, want no answer in time", err)
	}
	if _, err := n.Status(within(t)); err != nil {
		t.Errorf("the old connection: %v", err)
	}
	select {
	case err := <-tried:
		t.Errorf("frozen storage: got %v, want no answer", err)
	default:
	}
	if err := n.KillAll(within(t)); !errors.Is(err, process.ErrDoomed) {
		t.Errorf("kill on frozen storage: got %v, want %v", err, process.ErrDoomed)
	}
	if n.Postmaster() != nil {
		t.Error("got a live postmaster after the kill")
	}
	thaw()
	if err := <-tried; err != nil {
		t.Errorf("thawed storage: %v", err)
	}
	eventually(t, "every process is gone", func() error { return n.KillAll(within(t)) })
}
