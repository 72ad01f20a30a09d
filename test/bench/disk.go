package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diskSize is the size of an image, which is sparse.
	diskSize = 2 << 30
	// frozenAtMost is when a frozen disk is thawed by a process of its own, should this program have
	// been killed meanwhile.
	frozenAtMost = 90 * time.Second
	// The requests FIFREEZE and FITHAW of linux/fs.h.
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// disk is an ext4 file system in an image, mounted through a loop device. While it is frozen whoever
// writes to it hangs, and cannot be killed: as with storage that no longer answers.
type disk struct {
	at       string
	watchdog *exec.Cmd
}

// newDisk makes and mounts one. Its image bears the lab's name, by which sweep finds it.
func newDisk(image, at string, u *user) (*disk, error) {
	d := &disk{at: at}
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close(), os.MkdirAll(at, 0o700)); err != nil {
		return nil, err
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return d, errors.Join(os.Chown(at, int(u.uid), int(u.gid)), os.Chmod(at, 0o700))
}

// freeze returns when the file system is frozen, its dirty pages written.
func (d *disk) freeze() error {
	d.watchdog = exec.Command("sh", "-c", fmt.Sprintf("sleep %d; exec fsfreeze -u '%s'", int(frozenAtMost.Seconds()), d.at))
	d.watchdog.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.watchdog.Start(); err != nil {
		return fmt.Errorf("watch over a frozen disk: %w", err)
	}
	if err := request(d.at, fiFreeze); err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", d.at, err), d.thaw())
	}
	return nil
}

// thaw may be called when nothing is frozen.
func (d *disk) thaw() error {
	err := request(d.at, fiThaw)
	if errors.Is(err, unix.EINVAL) {
		err = nil // it is not frozen
	}
	if w := d.watchdog; w != nil {
		d.watchdog = nil
		_ = syscall.Kill(-w.Process.Pid, syscall.SIGKILL)
		_ = w.Wait()
	}
	if err != nil {
		return fmt.Errorf("thaw %s: %w", d.at, err)
	}
	return nil
}

// remove unmounts it. The image stays where it is, with the rest of the folder.
func (d *disk) remove() error { return unmount(d.at) }

func request(dir string, req uint) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), req, 0)
}

func unmount(at string) error {
	var err error
	for range 50 {
		if err = unix.Unmount(at, 0); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond) // the dead still hold it
	}
	return errors.Join(fmt.Errorf("unmount %s: %w", at, err), unix.Unmount(at, unix.MNT_DETACH))
}

// leftDisks are the mounted images of this lab, innermost first.
func leftDisks() []*disk {
	text, _ := os.ReadFile("/proc/self/mounts")
	var out []*disk
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[0], "/dev/loop") {
			continue
		}
		b, _ := os.ReadFile("/sys/block/" + filepath.Base(f[0]) + "/loop/backing_file")
		image := strings.TrimSpace(string(b))
		if strings.HasPrefix(filepath.Base(image), nsPrefix) {
			out = append(out, &disk{at: f[1]})
		}
	}
	slices.Reverse(out)
	return out
}
