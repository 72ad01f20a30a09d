package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/postgres"
)

// runAs is the user that the demo's processes run as: another one than root, who must not run
// PostgreSQL. nil means the user that runs this program.
type runAs struct {
	name string
	cred *postgres.Credential
}

// demoUsers are tried in order; the last one is made when none exists.
var demoUsers = []string{"postgres", "hathi"}

func demoUser() (*runAs, error) {
	if os.Geteuid() != 0 {
		return &runAs{}, nil
	}
	// What the processes inherit: the guardians may lock their memory and run before everything else.
	// Refused in a container without the right; the guardian then says so in its log.
	for _, limit := range []int{unix.RLIMIT_MEMLOCK, unix.RLIMIT_RTPRIO, unix.RLIMIT_NICE} {
		_ = unix.Setrlimit(limit, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	}
	for _, name := range demoUsers {
		if _, err := user.Lookup(name); err != nil {
			continue
		}
		c, err := postgres.LookupCredential(name)
		if err != nil {
			return nil, err
		}
		return &runAs{name: name, cred: c}, nil
	}
	name := demoUsers[len(demoUsers)-1]
	out, err := exec.Command("useradd", "--system", "--user-group", "--home-dir", "/", "--shell", "/usr/sbin/nologin", name).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("make the system user %s, because PostgreSQL does not run as root: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	c, err := postgres.LookupCredential(name)
	if err != nil {
		return nil, err
	}
	return &runAs{name: name, cred: c}, nil
}

func (r *runAs) uid() int {
	if r.cred == nil {
		return -1
	}
	return int(r.cred.UID)
}

func (r *runAs) gid() int {
	if r.cred == nil {
		return -1
	}
	return int(r.cred.GID)
}

func (r *runAs) home() string {
	if r.cred == nil {
		if h, err := os.UserHomeDir(); err == nil {
			return h
		}
		return "/"
	}
	return r.cred.Home
}

func (r *runAs) credential() *syscall.Credential {
	if r.cred == nil {
		return nil
	}
	return &syscall.Credential{Uid: r.cred.UID, Gid: r.cred.GID, Groups: r.cred.Groups}
}

// reach says whether the user can enter the folders that lead to dir.
func (r *runAs) reach(dir string) error {
	if r.cred == nil {
		return nil
	}
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if errors.Is(err, os.ErrNotExist) {
			continue // it will be made
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", p, err)
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is not a directory: choose another --dir", p)
		}
		if !r.enters(info) {
			return fmt.Errorf("the user %s, who runs PostgreSQL, cannot enter %s (mode %s): choose another --dir, such as /var/lib/hathi-demo", r.name, p, info.Mode().Perm())
		}
		if p == "/" {
			return nil
		}
	}
}

func (r *runAs) enters(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	mode := info.Mode().Perm()
	if st.Uid == r.cred.UID {
		return mode&0o100 != 0
	}
	for _, g := range append([]uint32{r.cred.GID}, r.cred.Groups...) {
		if st.Gid == g {
			return mode&0o010 != 0
		}
	}
	return mode&0o001 != 0
}

// ownDir says whether dir is this user's: in a directory of somebody else's, that one could exchange
// what the demo puts there, keys and passwords among it, before it is given to its owner.
func ownDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user: choose a --dir that does not exist yet, or one of your own", dir)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("everybody may write to %s (mode %s): choose another --dir, or take that right away", dir, info.Mode().Perm())
	}
	return nil
}

// perNode is the room that a node takes before a user writes anything: data directory, WAL, etcd.
const perNode = 200 << 20

// room says whether the file system of dir has space for the nodes.
func room(dir string, nodes int) error {
	p := dir
	for {
		var st unix.Statfs_t
		err := unix.Statfs(p, &st)
		if errors.Is(err, unix.ENOENT) && p != "/" {
			p = filepath.Dir(p)
			continue
		}
		if err != nil {
			return fmt.Errorf("look for free space at %s: %w", p, err)
		}
		if free, need := st.Bavail*uint64(st.Bsize), uint64(nodes)*perNode; free < need {
			return fmt.Errorf("%s has %d MB free, and a demo of %d nodes takes at least %d MB: make room, or choose another --dir", p, free>>20, nodes, need>>20)
		}
		return nil
	}
}

// program is the path of the program that the demo's processes run: a copy in the demo's directory
// where they run as another user, who may not be able to reach the original.
func (d *demoCmd) program(who *runAs) string {
	if who.cred == nil {
		return d.a.Exe
	}
	return filepath.Join(d.dir, "bin", "hathi")
}

// installProgram makes the copy, unless it is the same already.
func (d *demoCmd) installProgram(who *runAs) error {
	to := d.program(who)
	if to == d.a.Exe {
		return nil
	}
	src, err := os.Open(d.a.Exe)
	if err != nil {
		return fmt.Errorf("copy the program to %s: %w", to, err)
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("copy the program to %s: %w", to, err)
	}
	tmp := to + ".new"
	dst, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("copy the program to %s: %w", to, err)
	}
	_, err = io.Copy(dst, src)
	if err := errors.Join(err, dst.Close()); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("copy the program to %s: %w", to, err)
	}
	// A rename leaves running processes with the file that they were started from.
	return os.Rename(tmp, to)
}
