package demo_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hathi-ha/hathi/internal/demo"
)

func TestLayout_WhatRootWritesLiesOutOfTheReachOfTheServersUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to another user")
	}
	dir := filepath.Join(t.TempDir(), "demo")
	l, err := demo.Plan(dir, demo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := l.Write("/bin/true", demo.Owner{UID: nobody, GID: nobody}); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint32{"": 0, "log": 0, "run": 0, "pki": 0}
	for _, n := range l.Nodes {
		want[n.Name] = nobody
	}
	for name, uid := range want {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != uid {
			t.Errorf("got %q owned by %d, want %d", name, got, uid)
		}
	}
}
