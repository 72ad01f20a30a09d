package etcdserver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The disk under one member fills up: that member says so and ends, or recovers; the others go on, and
// it comes back when there is room.
func TestProcess_AFullDiskStopsOneMemberOnly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk takes root")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=36m,mode=0700"); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	base := t.TempDir()
	ps := processes(t, 3, "", func(name string) string {
		if name == "pg1" {
			return disk
		}
		return filepath.Join(base, name)
	})
	for _, p := range ps {
		p.start()
	}
	settled(t, ps...)
	full, others := ps[0], ps[1:]
	c := connect(t, others...)
	awaitTB(t, func() string { return text(write(c, lockKey, "before")) })
	awaitTB(t, func() string {
		if !strings.Contains(full.said(), "the disk under etcd is nearly full") {
			return "it does not warn of a small disk before that is full: " + full.said()
		}
		return ""
	})
	ballast := filepath.Join(disk, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(chunk)
	}
	f.Close()
	// Until a log file is full and the next one must be made, or the database must grow.
	value := strings.Repeat("x", 20_000)
	deadline := time.Now().Add(patience)
	written := 0
	for full.running() && time.Now().Before(deadline) {
		if err := write(c, fmt.Sprintf("/service/demo/%d", written%20), value); err == nil {
			written++
		}
	}
	if full.running() {
		t.Fatalf("%d writes later the member with the full disk still runs", written)
	}
	t.Logf("it ended after %d writes of 20 kB: %v", written, full.err)
	said := full.said()
	if !strings.Contains(said, "no space left on device") || !strings.Contains(said, "hint=") {
		t.Errorf("got %q, want it to name the full disk and what to do", said)
	}
	settled(t, others...)
	for range 20 {
		awaitTB(t, func() string { return text(write(c, lockKey, "meanwhile")) })
	}

	// Started again by its supervisor while the disk is still full: it says so again, or runs.
	before := len(full.said())
	full.start()
	select {
	case <-full.done:
		if said := full.said()[before:]; !strings.Contains(said, "no space left on device") && !strings.Contains(said, "bytes free") {
			t.Errorf("got %q, want it to name the full disk", said)
		}
	case <-time.After(5 * time.Second):
		full.kill()
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	full.start()
	settled(t, ps...)
	own := connect(t, full)
	awaitTB(t, func() string {
		resp, err := own.Get(boundTB(t), lockKey)
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "meanwhile" {
			return fmt.Sprintf("%v, %v", resp, err)
		}
		return ""
	})
}
