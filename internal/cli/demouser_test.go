package cli

import (
	"os"
	"testing"
)

func TestOwnDir_RefusesOneThatOthersMayWriteTo(t *testing.T) {
	dir := t.TempDir()
	if err := ownDir(dir); err != nil {
		t.Errorf("got %v, want an own directory accepted", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := ownDir(dir); err == nil {
		t.Error("got a directory that everybody may write to accepted, want an error")
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, -1); err != nil {
		t.Fatal(err)
	}
	if err := ownDir(dir); err == nil {
		t.Error("got a directory of another user's accepted, want an error")
	}
}
