package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/process"
)

// world is what all tests share.
var world struct {
	dir  string // holds the program and the clusters' directories
	exe  string
	bin  string // PostgreSQL's programs
	cred *postgres.Credential
	skip string // why nothing can run here
	fork *forker

	ports sync.Mutex
	taken map[int]bool
	next  int // the offset to try next
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := prepare(); err != nil {
		fmt.Fprintf(os.Stderr, "prepare the end-to-end tests: %v\n", err)
		return 1
	}
	code := m.Run()
	if world.fork != nil {
		world.fork.close()
	}
	if world.dir != "" && (os.Getenv("HATHI_E2E_KEEP") == "") {
		_ = os.RemoveAll(world.dir)
	}
	return code
}

// prepare finds PostgreSQL and builds the program where the user that runs PostgreSQL can reach it.
func prepare() error {
	bin, err := postgres.FindBinDir(0)
	if err != nil {
		world.skip = "PostgreSQL is not installed: " + err.Error()
		return nil
	}
	world.bin = bin
	if os.Geteuid() == 0 {
		if world.cred, err = postgres.LookupCredential("postgres"); err != nil {
			world.skip = "this runs as root, PostgreSQL does not, and there is no user postgres to run it: " + err.Error()
			return nil
		}
	}
	sweep()
	if world.dir, err = os.MkdirTemp("", prefix); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(world.dir, 0o755), os.WriteFile(filepath.Join(world.dir, "pid"), fmt.Append(nil, os.Getpid()), 0o644)); err != nil {
		return err
	}
	world.exe = filepath.Join(world.dir, "hathi")
	if err := program(world.exe); err != nil {
		return err
	}
	if err := enters(world.exe); err != nil {
		world.skip = fmt.Sprintf("the user postgres cannot run %s (%v): set TMPDIR to a place that every user can enter", world.exe, err)
	}
	world.fork = newForker()
	world.taken = map[int]bool{}
	world.next = 1000 + 10*(os.Getpid()%900)
	return nil
}

// program puts the program to test at exe: the one that HATHI_E2E_PROGRAM names, for where there is no Go, or else a new one.
func program(exe string) error {
	if built := os.Getenv("HATHI_E2E_PROGRAM"); built != "" {
		b, err := os.ReadFile(built)
		if err != nil {
			return fmt.Errorf("take the program that HATHI_E2E_PROGRAM names: %w", err)
		}
		return os.WriteFile(exe, b, 0o755)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", exe, "github.com/hathi-ha/hathi/cmd/hathi")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return nil
}

// enters runs the program as the user of the clusters.
func enters(exe string) error {
	cmd := exec.Command(exe, "--help")
	cmd.Dir = "/"
	cmd.SysProcAttr = attributes()
	_, err := cmd.CombinedOutput()
	return err
}

func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{}
	if c := world.cred; c != nil {
		a.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	}
	return a
}

// prefix begins the names of the directories of all runs.
const prefix = "hathi-e2e-"

// sweep ends and removes what a run that was killed left behind.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if p, err := process.Find(pid); err == nil && !p.Dead() || os.Getenv("HATHI_E2E_KEEP") != "" {
			continue
		}
		manifests, _ := filepath.Glob(filepath.Join(dir, "*", "demo.json"))
		for _, m := range manifests {
			if l, err := demo.Find(filepath.Dir(m)); err == nil {
				for _, n := range l.Nodes {
					endNode(l, n.Name)
				}
			}
		}
		_ = os.RemoveAll(dir)
	}
}

// need skips the test where it cannot run, and every test but the given few with -short.
func need(t *testing.T, short bool) {
	t.Helper()
	if testing.Short() && !short {
		t.Skip("takes a minute; -short was given")
	}
	if world.skip != "" {
		t.Skip(world.skip)
	}
	t.Parallel()
}

// plan makes a layout on ports that nobody listens on and no other test has.
func plan(t *testing.T, dir string, o demo.Options) *demo.Layout {
	t.Helper()
	world.ports.Lock()
	defer world.ports.Unlock()
	for range 500 {
		o.Offset = world.next
		// Below the range of ports that the kernel gives to clients, so that a server that is down
		// finds its port free when it returns.
		if world.next += 10; world.next > 20000 {
			world.next = 1000
		}
		o.WritePort, o.ReadPort = 6432+o.Offset, 6433+o.Offset
		l, err := demo.Plan(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		free := len(l.Taken()) == 0
		for _, p := range l.Ports() {
			free = free && !world.taken[p.Number]
		}
		if !free {
			continue
		}
		for _, p := range l.Ports() {
			world.taken[p.Number] = true
		}
		return l
	}
	t.Fatal("no free ports found")
	return nil
}

// release gives a layout's ports back.
func release(l *demo.Layout) {
	world.ports.Lock()
	defer world.ports.Unlock()
	for _, p := range l.Ports() {
		delete(world.taken, p.Number)
	}
}
