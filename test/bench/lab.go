package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lab names what this run makes on the machine: namespaces, a cgroup, a lock file. A later run of
// the same name removes whatever bears it. HATHI_BENCH_LAB gives another name, so that two runs can go
// on side by side (and spoil one another's figures).
var lab = func() string {
	if s := os.Getenv("HATHI_BENCH_LAB"); s != "" {
		return s
	}
	return "hathi-bench"
}()

var (
	nsPrefix = lab + "."
	clientNS = nsPrefix + "client"
	lockFile = "/run/" + lab + ".lock"
)

const nsDir = "/run/netns"

// freezerRoot is the folder that the lab's cgroups are made in, and whether it is version 2.
func freezerRoot() (dir string, v2 bool, err error) {
	if _, err := os.Stat("/sys/fs/cgroup/freezer/cgroup.procs"); err == nil {
		return filepath.Join("/sys/fs/cgroup/freezer", lab), false, nil
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return filepath.Join("/sys/fs/cgroup", lab), true, nil
	}
	return "", false, errors.New("there is no cgroup freezer at /sys/fs/cgroup (version 1 or 2): power cuts cannot be made here")
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// makeClientNS makes the namespace that the rest of the program runs in.
func makeClientNS() error {
	for _, args := range [][]string{
		{"netns", "add", clientNS},
		{"-n", clientNS, "link", "set", "lo", "up"},
		{"-n", clientNS, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"},
		{"-n", clientNS, "link", "set", "br0", "up"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes what this or an earlier run left: processes, cgroups, namespaces (with them their
// links).
func sweep() (err error) {
	var errs []error
	disks := leftDisks()
	for _, d := range disks { // what hangs on a frozen one cannot be killed
		errs = append(errs, d.thaw())
	}
	defer func() {
		for _, d := range disks {
			err = errors.Join(err, d.remove())
		}
	}()
	if root, _, err := freezerRoot(); err == nil {
		entries, _ := os.ReadDir(root)
		for _, e := range entries {
			if e.IsDir() {
				errs = append(errs, (&cgroup{dir: filepath.Join(root, e.Name())}).remove())
			}
		}
		if err := os.Remove(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	names, _ := os.ReadDir(nsDir)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), nsPrefix) {
			errs = append(errs, ip("netns", "del", n.Name()))
		}
	}
	return errors.Join(errs...)
}

// cgroup holds the processes of one host.
type cgroup struct {
	dir string
}

func newCgroup(name string) (*cgroup, error) {
	root, _, err := freezerRoot()
	if err != nil {
		return nil, err
	}
	c := &cgroup{dir: filepath.Join(root, name)}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	return c, nil
}

func (c *cgroup) pids() []int {
	b, _ := os.ReadFile(filepath.Join(c.dir, "cgroup.procs"))
	var out []int
	for _, f := range strings.Fields(string(b)) {
		if p, err := strconv.Atoi(f); err == nil && p > 0 {
			out = append(out, p)
		}
	}
	return out
}

func (c *cgroup) set(frozen bool) error {
	file, value, want := "cgroup.freeze", "0", "frozen 0"
	if frozen {
		value, want = "1", "frozen 1"
	}
	state := "cgroup.events"
	if _, err := os.Stat(filepath.Join(c.dir, "freezer.state")); err == nil {
		file, state = "freezer.state", "freezer.state"
		value, want = "THAWED", "THAWED"
		if frozen {
			value, want = "FROZEN", "FROZEN"
		}
	}
	if err := os.WriteFile(filepath.Join(c.dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("freeze or thaw %s: %w", c.dir, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := os.ReadFile(filepath.Join(c.dir, state))
		if err != nil {
			return err
		}
		if strings.Contains(string(b), want) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is still %s after 10 s", c.dir, strings.TrimSpace(string(b)))
		}
		time.Sleep(time.Millisecond)
	}
}

// sharedMemory are the files of PostgreSQL in /dev/shm that the processes use. They would outlive
// SIGKILL; a power cut wipes them.
func (c *cgroup) sharedMemory() []string {
	var out []string
	for _, p := range c.pids() {
		maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p))
		for line := range strings.Lines(string(maps)) {
			if i := strings.Index(line, "/dev/shm/PostgreSQL."); i > 0 {
				if f := strings.TrimSpace(line[i:]); !strings.Contains(f, " ") && !slices.Contains(out, f) {
					out = append(out, f)
				}
			}
		}
	}
	return out
}

// kill ends every process with SIGKILL and waits until none is left.
func (c *cgroup) kill() error {
	_ = c.set(true) // so that none starts another meanwhile
	segments := c.sharedMemory()
	defer func() {
		for _, f := range segments {
			_ = os.Remove(f)
		}
	}()
	for _, p := range c.pids() {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	if _, err := os.Stat(c.dir); err == nil {
		_ = c.set(false)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		left := c.pids()
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v in %s do not end", left, c.dir)
		}
		for _, p := range left {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *cgroup) remove() error {
	if _, err := os.Stat(c.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := c.kill(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		err := os.Remove(c.dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) || i == 100 {
			return err
		}
		time.Sleep(10 * time.Millisecond) // the dead are still being counted
	}
}

// host is one machine of the lab: a namespace with a cable, and a cgroup. The host of the clients
// has no cable.
type host struct {
	name, ip string
	ns, veth string
	cg       *cgroup
	procs    map[string]*proc
}

// newHost makes a host on the bridge. name is at most 10 characters long.
func newHost(name, addr string) (*host, error) {
	h := &host{name: name, ip: addr, ns: nsPrefix + name, veth: "v" + name, procs: map[string]*proc{}}
	var err error
	if h.cg, err = newCgroup(name); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"netns", "add", h.ns},
		{"-n", h.ns, "link", "set", "lo", "up"},
		{"-n", clientNS, "link", "add", h.veth, "type", "veth", "peer", "name", "eth0", "netns", h.ns},
		{"-n", clientNS, "link", "set", h.veth, "master", "br0", "up"},
		{"-n", h.ns, "addr", "add", addr + "/24", "dev", "eth0"},
		{"-n", h.ns, "link", "set", "eth0", "up"},
	} {
		if err := ip(args...); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// newClientHost is the host of a router, in the clients' namespace; addr becomes an address of the
// bridge.
func newClientHost(name, addr string) (*host, error) {
	h := &host{name: name, ip: addr, ns: clientNS, procs: map[string]*proc{}}
	var err error
	if h.cg, err = newCgroup(name); err != nil {
		return nil, err
	}
	return h, ip("-n", clientNS, "addr", "add", addr+"/24", "dev", "br0")
}

// newHostless is a cgroup in the clients' namespace, without an address.
func newHostless(name string) (*host, error) {
	cg, err := newCgroup(name)
	return &host{name: name, ns: clientNS, cg: cg, procs: map[string]*proc{}}, err
}

// cut pulls the cable, plug puts it back.
func (h *host) cut() error  { return ip("-n", clientNS, "link", "set", h.veth, "down") }
func (h *host) plug() error { return ip("-n", clientNS, "link", "set", h.veth, "up") }

// powerOff cuts the cable first, so that nothing leaks, then ends everything.
func (h *host) powerOff() error {
	if err := h.cut(); err != nil {
		return err
	}
	if err := h.cg.kill(); err != nil {
		return err
	}
	var errs []error
	for n, p := range h.procs {
		errs = append(errs, p.end(n, h))
		delete(h.procs, n)
	}
	return errors.Join(errs...)
}

// remove ends the host.
func (h *host) remove() error {
	err := h.cg.remove()
	for n, p := range h.procs {
		err = errors.Join(err, p.end(n, h))
	}
	if h.ns == clientNS {
		return errors.Join(err, ip("-n", clientNS, "addr", "del", h.ip+"/24", "dev", "br0"))
	}
	return errors.Join(err, ip("netns", "del", h.ns))
}

// proc is a process that the program started on a host.
type proc struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *proc) wait() { <-p.done }

// end kills the process, which may not have been in its host's cgroup, and waits for it. Its name and
// its host are for the error.
func (p *proc) end(name string, h *host) error {
	_ = p.cmd.Process.Kill()
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s on %s (process %d) has not ended 30 s after SIGKILL: look at its state in /proc/%[3]d/status", name, h.name, p.cmd.Process.Pid)
	}
}

// user is whom a process runs as.
type user struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// start runs a program on a host as a user, its output appended to logFile.
func (h *host) start(name string, u *user, logFile string, argv ...string) (*proc, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := h.command(context.Background(), u, argv...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, h.name, err)
	}
	p := &proc{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	if old := h.procs[name]; old != nil {
		_ = old.cmd.Process.Kill()
	}
	h.procs[name] = p
	return p, nil
}

// command is a program on a host as a user. This program itself is started first: it enters the
// cgroup and the namespace, becomes the user and then the program (see launch).
func (h *host) command(ctx context.Context, u *user, argv ...string) *exec.Cmd {
	var groups []string
	for _, g := range u.groups {
		groups = append(groups, strconv.Itoa(int(g)))
	}
	self := []string{launchWord, h.cg.dir, filepath.Join(nsDir, h.ns), strconv.Itoa(int(u.uid)), strconv.Itoa(int(u.gid)), strings.Join(groups, ",")}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append(self, argv...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + u.home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// launchWord as the first argument makes this program a launcher.
const launchWord = "launch"

// launch becomes argv[5:] in a cgroup and a network namespace, as a user; it returns only on failure.
func launch(argv []string) error {
	if len(argv) < 6 {
		return errors.New("launch: arguments are missing")
	}
	runtime.LockOSThread()
	if err := os.WriteFile(filepath.Join(argv[0], "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("enter the cgroup: %w", err)
	}
	ns, err := os.Open(argv[1])
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	ns.Close()
	uid, _ := strconv.Atoi(argv[2])
	gid, _ := strconv.Atoi(argv[3])
	var groups []int
	for _, g := range strings.Split(argv[4], ",") {
		if n, err := strconv.Atoi(g); err == nil {
			groups = append(groups, n)
		}
	}
	if err := errors.Join(syscall.Setgroups(groups), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	prog, err := exec.LookPath(argv[5])
	if err != nil {
		return err
	}
	return syscall.Exec(prog, argv[5:], os.Environ())
}
