package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDisk_FreezesThawsAndIsFoundByASweep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	was := nsPrefix
	t.Cleanup(func() { nsPrefix = was })
	nsPrefix = fmt.Sprintf("hathi-bench-test-%d.", os.Getpid())
	dir := t.TempDir()
	at := filepath.Join(dir, "disk")
	d, err := newDisk(filepath.Join(dir, nsPrefix+"1.img"), at, &user{})
	if err != nil {
		t.Skipf("no file system in a loop device can be made here: %v", err)
	}
	t.Cleanup(func() { _ = errors.Join(d.thaw(), d.remove()) })
	found := func() bool {
		return slices.ContainsFunc(leftDisks(), func(o *disk) bool { return o.at == at })
	}
	if !found() {
		t.Errorf("got %v, want a sweep to find the disk at %s", leftDisks(), at)
	}
	if err := d.thaw(); err != nil {
		t.Errorf("thaw what is not frozen: %v, want no error", err)
	}
	for range 2 { // again after it was thawed
		if err := d.freeze(); err != nil {
			t.Fatal(err)
		}
		if err := request(at, fiFreeze); !errors.Is(err, unix.EBUSY) {
			t.Errorf("freeze what is frozen: got %v, want that it is", err)
		}
		if d.watchdog == nil {
			t.Error("got nobody to thaw it when the program dies")
		}
		// As a sweep does, which knows no more of it than what is mounted.
		if err := (&disk{at: at}).thaw(); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(at, "file"), nil, 0o600); err != nil {
			t.Errorf("write after the thaw: %v", err)
		}
		if err := d.thaw(); err != nil {
			t.Error(err)
		}
		if d.watchdog != nil {
			t.Error("got a watchdog of what is thawed")
		}
	}
	if err := d.remove(); err != nil {
		t.Fatal(err)
	}
	if found() {
		t.Error("got the disk after it was removed")
	}
}
