// Package atomicfile replaces files so that a reader, and a machine that loses power, sees either
// the whole old content or the whole new one.
//
// It writes aside in the same folder, syncs the file, renames it into place and syncs the folder.
// When Write returns nil the new content survives a power cut (as far as the disk keeps its own
// promises). When it returns an error the old file is untouched, with one exception: if only the
// last step, the sync of the folder, went wrong, the new content is in place but a power cut may
// bring the old one back.
//
// What it does not do: it keeps neither hard links nor extended attributes of the old file, and it
// replaces a symbolic link instead of following it. Two concurrent writers of one path are safe;
// the last rename wins. A process killed in between leaves a file named ".NAME.*.tmp" behind, with
// the mode of the new file or a stricter one.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces path with data, mode perm (exactly: the umask does not apply). The folder must
// exist. The file belongs to the user of this process.
func Write(path string, data []byte, perm os.FileMode) error {
	return WriteOwned(path, data, perm, -1, -1)
}

// WriteOwned is Write with the owner set before the file can be seen under its name. -1 leaves the
// user or the group as it is. Another owner than one's own takes root.
func WriteOwned(path string, data []byte, perm os.FileMode, uid, gid int) error {
	if err := write(path, data, perm, uid, gid); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func write(path string, data []byte, perm os.FileMode, uid, gid int) (err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	if name == "" {
		return errors.New("the path names a folder")
	}
	f, err := os.CreateTemp(dir, "."+name+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	tmp := f.Name()
	closed := false
	defer func() {
		if err == nil || tmp == "" {
			return
		}
		if !closed {
			_ = f.Close()
		}
		_ = os.Remove(tmp)
	}()
	// The owner comes before the mode: a change of owner clears setuid bits, and the file must
	// never be readable to more than the final owner and mode allow.
	if uid != -1 || gid != -1 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	closed = true
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	tmp = "" // renamed: nothing to remove any more
	return SyncDir(dir)
}

// SyncDir makes creations, renames and removals in a folder survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
