package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/process"
)

func TestServer_LifeOfAPrimary(t *testing.T) {
	dir, cred := base(t)
	n := newNode(t, dir, "a", cred)
	ctx := within(t)
	if st, _, err := n.DataState(); err != nil || st != postgres.DataEmpty {
		t.Fatalf("got %v, %v, want empty", st, err)
	}
	var lines int
	if err := n.Initdb(ctx, postgres.InitdbOptions{ExtraArgs: []string{"--no-sync"}}, func(string) { lines++ }); err != nil {
		t.Fatal(err)
	}
	if lines == 0 {
		t.Error("got no progress of initdb")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*new*")); len(left) > 0 {
		t.Errorf("got %v left over", left)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".hathi*")); len(left) > 0 {
		t.Errorf("got %v left over", left)
	}
	if st, why, err := n.DataState(); err != nil || st != postgres.DataValid {
		t.Fatalf("got %v (%s), %v, want valid", st, why, err)
	}
	if err := n.Initdb(ctx, postgres.InitdbOptions{}, nil); err == nil {
		t.Fatal("got initdb over a data directory")
	}
	c, err := n.Control(ctx)
	if err != nil || c.State != postgres.ControlShutDown || c.ChecksumVersion != 1 {
		t.Fatalf("got %+v, %v, want a stopped directory with checksums", c, err)
	}
	if _, err := n.Status(ctx); !errors.Is(err, postgres.ErrNotRunning) {
		t.Fatalf("got %v, want ErrNotRunning", err)
	}
	if _, err := n.Adopt(ctx); !errors.Is(err, postgres.ErrNotRunning) {
		t.Fatalf("got %v, want ErrNotRunning", err)
	}

	pm := n.start(t, nil)
	if _, err := n.Start(ctx, postgres.StartOptions{}); !errors.Is(err, postgres.ErrRunning) {
		t.Fatalf("got %v, want ErrRunning", err)
	}
	st := n.ready(t)
	if st.InRecovery || st.Timeline != 1 || st.SystemID != c.SystemID || st.Flushed == 0 || st.Version/10000 < 13 {
		t.Fatalf("got %+v", st)
	}
	if err := n.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := n.SetAside("test"); !errors.Is(err, postgres.ErrRunning) {
		t.Fatalf("got %v, want ErrRunning", err)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pm.PID()))
	if err != nil || strings.Contains(string(env), "p'w") {
		t.Fatalf("got environment %q, %v", env, err)
	}

	// A second agent finds the same server, and its death.
	other := postgres.New(n.cfg)
	defer other.Close()
	adopted, err := other.Adopt(ctx)
	if err != nil || adopted.PID() != pm.PID() || !adopted.Adopted() {
		t.Fatalf("got %v, %v, want pid %d", adopted, err, pm.PID())
	}

	changed, err := n.EnsureRoles(ctx)
	if err != nil || len(changed) < 4 {
		t.Fatalf("got %v, %v, want two roles with passwords and grants", changed, err)
	}
	if changed, err = n.EnsureRoles(ctx); err != nil || len(changed) != 0 {
		t.Fatalf("got %v, %v the second time, want nothing", changed, err)
	}

	// One role for two purposes, with two passwords in the configuration: no see-saw.
	shared := n.cfg
	shared.Rewind = postgres.Login{Username: "postgres", Password: "another"}
	third := postgres.New(shared)
	defer third.Close()
	if changed, err = third.EnsureRoles(ctx); err != nil || len(changed) != 0 {
		t.Fatalf("got %v, %v with a shared role, want nothing", changed, err)
	}

	if r := n.stop(t, postgres.StopOptions{KillAfter: patience}); r.Last != postgres.StepFast || !r.Clean() {
		t.Fatalf("got %+v, want a fast shutdown", r)
	}
	<-pm.Exited()
	<-adopted.Exited()
	if pm.ExitStatus() != "exit status 0" || n.Postmaster() != nil {
		t.Fatalf("got %q, %v", pm.ExitStatus(), n.Postmaster())
	}
	if r := n.stop(t, postgres.StopOptions{}); r.Last != postgres.StepNotRunning {
		t.Fatalf("got %+v, want not running", r)
	}
	path, err := n.SetAside("Test run")
	if err != nil || !strings.Contains(path, ".aside-") {
		t.Fatalf("got %q, %v", path, err)
	}
	if gone, err := n.PruneAside(0); err != nil || len(gone) != 0 {
		t.Fatalf("got %v, %v, want the newest kept", gone, err)
	}
}

// After a power cut the number in the lock of the socket can be that of any process.
func TestServer_StartsBesideALockOfItsOwnThatIsStale(t *testing.T) {
	dir, cred := base(t)
	n := newNode(t, dir, "a", cred)
	if err := n.Initdb(within(t), postgres.InitdbOptions{ExtraArgs: []string{"--no-sync"}}, nil); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("sleep", "60")
	if cred != nil {
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: cred.UID, Gid: cred.GID}}
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	lock := filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d.lock", n.cfg.Port))
	text := fmt.Sprintf("%d\n%s\n1\n%d\n%s\n", other.Process.Pid, n.cfg.DataDir, n.cfg.Port, dir)
	if err := os.WriteFile(lock, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if cred != nil {
		if err := os.Chown(lock, int(cred.UID), int(cred.GID)); err != nil {
			t.Fatal(err)
		}
	}
	n.start(t, nil)
}

// The clock of a machine can be years behind after a start; what is set aside now is the newest all the same.
func TestSetAside_ComesAfterThoseThatAreThere(t *testing.T) {
	dir := t.TempDir()
	n := postgres.New(postgres.Config{DataDir: filepath.Join(dir, "data"), SocketDir: dir, Port: 1, Superuser: postgres.Login{Username: "postgres"}})
	defer n.Close()
	future := filepath.Join(dir, "data.aside-20991231T235959Z-diverged")
	for _, d := range []string{future, n.DataDir()} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	path, err := n.SetAside("crash loop")
	if err != nil {
		t.Fatal(err)
	}
	list, err := n.Aside()
	if err != nil || len(list) != 2 || list[1] != path {
		t.Errorf("got %v, %v, want %s last", list, err, path)
	}
}

func TestServer_RefusesForeignDirectories(t *testing.T) {
	dir, cred := base(t)
	n := newNode(t, dir, "a", cred)
	if err := os.Mkdir(n.DataDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.DataDir(), "holiday.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, why, err := n.DataState(); err != nil || st != postgres.DataForeign || !strings.Contains(why, "holiday.jpg") {
		t.Fatalf("got %v, %q, %v, want foreign", st, why, err)
	}
	if err := n.Initdb(within(t), postgres.InitdbOptions{}, nil); err == nil || !strings.Contains(err.Error(), "holiday.jpg") {
		t.Fatalf("got %v, want a refusal", err)
	}
	if err := os.Remove(filepath.Join(n.DataDir(), "holiday.jpg")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.DataDir()+".clone", 0o700); err != nil {
		t.Fatal(err)
	}
	err := n.BaseBackup(within(t), postgres.From{Host: "127.0.0.1", Port: 1}, postgres.BaseBackupOptions{}, nil)
	if err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Fatalf("got %v, want a refusal of a .clone that is not ours", err)
	}
	if err := os.Remove(n.DataDir() + ".clone"); err != nil {
		t.Fatal(err)
	}
	err = n.BaseBackup(within(t), postgres.From{Host: "127.0.0.1", Port: 1}, postgres.BaseBackupOptions{}, nil)
	var te *postgres.ToolError
	if !errors.As(err, &te) || te.Output == "" || strings.Contains(err.Error(), secret) {
		t.Fatalf("got %v, want pg_basebackup's error without a password", err)
	}
	if left, _ := filepath.Glob(n.DataDir() + ".*clone*"); len(left) > 0 {
		t.Fatalf("got %v left over", left)
	}
}

func TestServer_DiesAndStartsOverItsRemains(t *testing.T) {
	dir, cred := base(t)
	n := primary(t, dir, cred)
	pm := n.Postmaster()
	// Only the postmaster dies: its backends are orphans for a while, and stopped ones for ever.
	list, err := process.List(n.DataDir(), pm.PID())
	if err != nil || len(list) < 4 {
		t.Fatalf("got %v, %v, want backends", list, err)
	}
	for _, p := range list {
		if p.PID != pm.PID() {
			h, err := process.Open(p.PID, p.Start)
			if err != nil {
				continue
			}
			if err := h.Signal(unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			h.Close()
		}
	}
	h, err := process.Open(pm.PID(), pm.StartTicks())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-pm.Exited():
	case <-within(t).Done():
		t.Fatal("got no word of the postmaster's death")
	}
	if got := pm.ExitStatus(); got != "signal: killed" {
		t.Fatalf("got %q, want it killed", got)
	}
	if left, err := process.List(n.DataDir(), 0); err != nil || len(left) == 0 {
		t.Fatalf("got %v, %v, want orphans", left, err)
	}
	if _, err := n.Start(within(t), postgres.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if st := n.ready(t); st.InRecovery {
		t.Fatalf("got %+v, want a primary", st)
	}

	// A postmaster.pid whose number belongs to a stranger is stale.
	if err := n.KillAll(within(t)); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(n.DataDir(), "postmaster.pid")
	if err := os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n%s\n1\n5432\n", os.Getpid(), n.DataDir()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Adopt(within(t)); !errors.Is(err, postgres.ErrNotRunning) {
		t.Fatalf("got %v, want ErrNotRunning", err)
	}
	if _, err := n.Start(within(t), postgres.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	n.ready(t)
}

func TestStart_SaysWhyItFailed(t *testing.T) {
	dir, cred := base(t)
	n := primary(t, dir, cred)
	n.stop(t, postgres.StopOptions{})
	pm, err := n.Start(within(t), postgres.StartOptions{Settings: map[string]string{"shared_buffers": "many"}})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-pm.Exited():
	case <-within(t).Done():
		t.Fatal("got a server with nonsense in its settings")
	}
	if got := pm.Failure(); !strings.Contains(got, "shared_buffers") || pm.ExitStatus() != "exit status 1" {
		t.Fatalf("got %q, %q, want the setting named", got, pm.ExitStatus())
	}
}

func TestStop_ClimbsTheLadderWhenThePostmasterIsFrozen(t *testing.T) {
	dir, cred := base(t)
	n := primary(t, dir, cred)
	pm := n.Postmaster()
	h, err := process.Open(pm.PID(), pm.StartTicks())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var steps []postgres.StopStep
	r := n.stop(t, postgres.StopOptions{WALSendersAfter: 20 * time.Millisecond, ImmediateAfter: 50 * time.Millisecond,
		KillAfter: 100 * time.Millisecond, Progress: func(s postgres.StopStep) { steps = append(steps, s) }})
	want := []postgres.StopStep{postgres.StepFast, postgres.StepWALSenders, postgres.StepImmediate, postgres.StepKill}
	if !slices.Equal(steps, want) || r.Last != postgres.StepKill || r.Clean() {
		t.Fatalf("got %v, %+v, want %v", steps, r, want)
	}
	if list, err := process.List(n.DataDir(), 0); err != nil || len(list) > 0 {
		t.Fatalf("got %v, %v alive", list, err)
	}
}

func TestReload_UntilInForce(t *testing.T) {
	dir, cred := base(t)
	n := primary(t, dir, cred)
	ctx := within(t)
	f := n.files(nil, "synchronous_standby_names = 'ANY 1 (\"B\")'", "max_connections = 25")
	changed, err := n.WriteFiles(f)
	if err != nil || !changed.Conf || changed.HBA || changed.Signal {
		t.Fatalf("got %+v, %v, want the configuration changed", changed, err)
	}
	if changed, err := n.WriteFiles(f); err != nil || changed.Any() {
		t.Fatalf("got %+v, %v the second time, want nothing", changed, err)
	}
	if err := n.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitSetting(ctx, "synchronous_standby_names", `ANY 1 ("B")`); err != nil {
		t.Fatal(err)
	}
	// Our own writes do not wait for the standby that is missing.
	if err := n.CreateSlot(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	st := n.ready(t)
	if st.SynchronousStandbyNames != `ANY 1 ("B")` || len(st.PendingRestart) != 1 {
		t.Fatalf("got %+v", st)
	}
	if got, want := st.PendingRestart[0], (postgres.PendingSetting{Name: "max_connections", Old: "20", New: "25"}); got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	// Slots are idempotent.
	if err := n.CreateSlot(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	if err := n.AdvanceSlot(ctx, "s", st.Flushed); err != nil {
		t.Fatal(err)
	}
	st = n.ready(t)
	if len(st.Slots) != 1 || st.Slots[0].Name != "s" || st.Slots[0].Type != "physical" || st.Slots[0].RestartLSN == 0 || st.Slots[0].WALStatus == "" {
		t.Fatalf("got %+v", st.Slots)
	}
	for range 2 {
		if err := n.DropSlot(ctx, "s"); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
}
