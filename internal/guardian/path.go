package guardian

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// StatePath is the state file for a data directory: in /dev/shm, one per user and directory. It
// has to lie in memory: on a disk, a write to the shared page can wait for that disk, and then
// neither a renewal nor the fence would be on time.
func StatePath(dataDir string) string { return StatePathOf(os.Geteuid(), dataDir) }

// StatePathOf is StatePath of another user's processes.
func StatePathOf(uid int, dataDir string) string {
	if real, err := filepath.EvalSymlinks(dataDir); err == nil {
		dataDir = real
	}
	sum := sha256.Sum256([]byte(dataDir))
	return fmt.Sprintf("/dev/shm/hathi-guardian-%d-%s", uid, hex.EncodeToString(sum[:8]))
}

// InMemory says whether the state file lies in a file system that is memory (see StatePath).
func (h *Handle) InMemory() bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(h.page.path, &fs); err != nil {
		return false
	}
	return fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
}
