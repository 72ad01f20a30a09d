package postgres

import "testing"

func TestKernelVersion(t *testing.T) {
	for release, want := range map[string][2]int{"6.1.0-18-amd64": {6, 1}, "5.8.0": {5, 8}, "5.15": {5, 15}, "4.18.0-553.el8": {4, 18}} {
		major, minor, ok := kernelVersion(release)
		if !ok || major != want[0] || minor != want[1] {
			t.Errorf("%s: got %d.%d %t, want %v", release, major, minor, ok, want)
		}
	}
	for _, release := range []string{"", "6", "x.y", "5."} {
		if _, _, ok := kernelVersion(release); ok {
			t.Errorf("%q: got a version", release)
		}
	}
}

func TestSyncAll_FollowsLinksAndMissesNothingThatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := syncAll(dir); err != nil {
		t.Errorf("a directory without pg_wal: %v", err)
	}
	if err := syncAll(dir + "/absent"); err != nil {
		t.Errorf("nothing there: %v", err)
	}
}
