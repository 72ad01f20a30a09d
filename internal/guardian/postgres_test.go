package guardian_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/process"
)

// TestGuardian_FencesRealPostgreSQL needs PostgreSQL's programs; it runs them as the user postgres
// when the tests run as root.
func TestGuardian_FencesRealPostgreSQL(t *testing.T) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		t.Skip("PostgreSQL is not installed under /usr/lib/postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	base, err := os.MkdirTemp("", "guardian")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("running as root and there is no user postgres")
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(base, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(base, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-N", "-A", "trust", "--no-locale")
	initdb.SysProcAttr, initdb.Dir = attr, base
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	pg := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+base)
	pg.SysProcAttr, pg.Dir = attr, data
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Process.Kill(); pg.Wait() })
	server, err := process.Open(pg.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	eventually(t, "backends run", func() bool {
		list, err := process.List(data, 0)
		return err == nil && len(list) > 4
	})

	r := open(t)
	r.dir = data
	r.Close()
	r.path += "2"
	r.reopen(t)
	r.start(t)
	r.SetPostmaster(server.PID, server.Start)
	r.arm(t, 100*time.Millisecond)
	r.wantFenced(t, server)
	if at, _ := r.Fenced(); boottime.Now()-at > patience {
		t.Fatalf("got fenced at %v", at)
	}
}
