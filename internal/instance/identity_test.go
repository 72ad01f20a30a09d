package instance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/postgres"
)

func TestBinding_Judge(t *testing.T) {
	dir, control := fileID{10, 100}, fileID{20, 200}
	bound := binding{ID: "x", SystemID: "1", Dir: dir, Control: control, Timeline: 3, Checkpoint: 500}
	stopped := bound
	stopped.Stopped = true
	here := found{SystemID: "1", Dir: dir, Control: control, Timeline: 3, Checkpoint: 500}
	with := func(f found, change func(*found)) found { change(&f); return f }
	moved := with(here, func(f *found) { f.Dir, f.Control = fileID{11, 101}, fileID{21, 201} })
	for _, tt := range []struct {
		name     string
		b        binding
		f        found
		replaced string // part of the reason; "" for none
	}{
		{"unbound", binding{ID: "x"}, moved, ""},
		{"the same", bound, here, ""},
		{"further", bound, with(here, func(f *found) { f.Checkpoint = 600 }), ""},
		{"a later timeline whose checkpoint lies before", bound, with(here, func(f *found) { f.Timeline, f.Checkpoint = 4, 400 }), ""},
		{"another cluster", bound, with(here, func(f *found) { f.SystemID = "2" }), "system identifier"},
		{"an older checkpoint", bound, with(here, func(f *found) { f.Checkpoint = 499 }), "older"},
		{"an older timeline whose checkpoint lies behind", bound, with(here, func(f *found) { f.Timeline, f.Checkpoint = 2, 900 }), "older"},
		{"older, after a clean stop", stopped, with(here, func(f *found) { f.Checkpoint, f.Stopped = 400, true }), "older"},
		{"a copy put in its place", bound, with(moved, func(f *found) { f.Copy, f.Timeline, f.Checkpoint = true, 0, 0 }), "never started"},
		{"the copy that hathi made", binding{ID: "x", SystemID: "1", Dir: dir, Control: control}, with(here, func(f *found) { f.Copy, f.Timeline, f.Checkpoint = true, 0, 0 }), ""},
		{"the copy that hathi made, begun", binding{ID: "x", SystemID: "1", Dir: dir, Control: control}, with(here, func(f *found) { f.Timeline, f.Checkpoint = 2, 100 }), ""},
		{"another directory", bound, with(here, func(f *found) { f.Dir.Inode = 11 }), "another directory"},
		{"another directory with the inode of the old one", bound, with(here, func(f *found) { f.Dir.Born = 101 }), "another directory"},
		{"other files", bound, with(here, func(f *found) { f.Control.Inode = 21 }), "written anew"},
		{"other files with the inode of the old ones", bound, with(here, func(f *found) { f.Control.Born = 201 }), "written anew"},
		{"no birth now", bound, with(here, func(f *found) { f.Dir.Born, f.Control.Born = 0, 0 }), ""},
		{"moved after a crash", bound, moved, "another directory"},
		{"moved after a clean stop", stopped, with(moved, func(f *found) { f.Stopped = true }), ""},
		{"moved, and started elsewhere meanwhile", stopped, with(moved, func(f *found) { f.Checkpoint, f.Stopped = 600, true }), "another directory"},
		{"a copy of before the clean stop, with its checkpoint", stopped, moved, "another directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.b.judge(tt.f)
			if tt.replaced == "" && got != "" || !strings.Contains(got, tt.replaced) {
				t.Errorf("got %q, want %q", got, tt.replaced)
			}
			next := tt.b.seen(tt.f, got)
			if (next.ID != tt.b.ID) != (got != "") {
				t.Errorf("got identity %s after %s", next.ID, tt.b.ID)
			}
			if again := next.judge(tt.f); again != "" {
				t.Errorf("what was seen is judged as replaced at the second look: %s", again)
			}
			if next.Replaced != got {
				t.Errorf("got mark %q, want %q", next.Replaced, got)
			}
		})
	}
}

// rig is a data directory with a real server, as its node sees it.
type rig struct {
	t    *testing.T
	base string
	data string
	cfg  postgres.Config
	pg   *postgres.Server
	*Instance
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("runs PostgreSQL, which takes seconds")
	}
	if _, err := postgres.FindBinDir(0); err != nil {
		t.Skip(err)
	}
	base, err := os.MkdirTemp("", "hathi-instance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	var cred *postgres.Credential
	if os.Geteuid() == 0 {
		if cred, err = postgres.LookupCredential("postgres"); err != nil {
			t.Skip("running as root and there is no user postgres")
		}
		if err := os.Chown(base, int(cred.UID), int(cred.GID)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	r := &rig{t: t, base: base, data: filepath.Join(base, "data")}
	r.cfg = postgres.Config{DataDir: r.data, SocketDir: base, Port: port, ListenAddresses: "127.0.0.1", RunAs: cred,
		Superuser: postgres.Login{Username: "postgres", Password: "secret"}, Logger: slog.New(slog.DiscardHandler)}
	r.pg = postgres.New(r.cfg)
	t.Cleanup(func() {
		if err := r.pg.KillAll(context.Background()); err != nil {
			t.Error(err)
		}
		r.pg.Close()
	})
	if err := r.pg.Initdb(within(t), postgres.InitdbOptions{ExtraArgs: []string{"--no-sync"}}, nil); err != nil {
		t.Fatal(err)
	}
	r.agent()
	return r
}

// agent is a new process of the agent on the same files.
func (r *rig) agent() {
	r.t.Helper()
	if r.Instance != nil {
		r.cancel()
		r.wg.Wait()
	}
	r.Instance = New(Config{Server: r.pg, DataDir: r.data, Fence: noFence{}, Now: boottime.Now, Log: slog.New(slog.DiscardHandler)})
	i := r.Instance
	r.t.Cleanup(func() { i.cancel(); i.wg.Wait() })
	if err := r.Identify(within(r.t)); err != nil {
		r.t.Fatal(err)
	}
}

// run starts the server, writes, checkpoints, and leaves it running.
func (r *rig) run() {
	r.t.Helper()
	ctx := within(r.t)
	if err := r.identity.started(); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.pg.Start(ctx, postgres.StartOptions{Settings: map[string]string{"fsync": "off", "shared_buffers": "1MB"}}); err != nil {
		r.t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		err := r.pg.Checkpoint(ctx)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("PostgreSQL does not answer: %v", err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (r *rig) stop() {
	r.t.Helper()
	if _, err := r.pg.Stop(within(r.t), postgres.StopOptions{Mode: postgres.StopFast}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) crash() {
	r.t.Helper()
	if err := r.pg.KillAll(within(r.t)); err != nil {
		r.t.Fatal(err)
	}
}

// look is one observation of the stopped server.
func (r *rig) look() ha.Database {
	r.t.Helper()
	db := r.Observe(within(r.t))
	r.wg.Wait() // what it notes is on the disk
	if db.Phase != ha.Down {
		r.t.Fatalf("PostgreSQL is %s, want it down", db.Phase)
	}
	return db
}

// sh runs a command in the directory above the data.
func (r *rig) sh(script string) {
	r.t.Helper()
	c := exec.Command("sh", "-ec", script)
	c.Dir = r.base
	if out, err := c.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// What an operator and hathi do to a data directory, with real files.
func TestIdentity_OfRealDirectories(t *testing.T) {
	r := newRig(t)
	r.sh("cp -a data template")
	for _, tt := range []struct {
		name     string
		do       func(r *rig)
		replaced string // part of the reason; "" for a directory that is still the one
	}{
		{"a clean stop", func(r *rig) { r.run(); r.stop() }, ""},
		{"a crash", func(r *rig) { r.run(); r.crash() }, ""},
		{"a crash, unseen by the agent", func(r *rig) { r.run(); r.crash(); r.agent() }, ""},
		{"set aside and put back", func(r *rig) {
			r.run()
			r.crash()
			r.look()
			path, err := r.pg.SetAside("test")
			if err != nil {
				r.t.Fatal(err)
			}
			r.look()
			if err := os.Rename(path, r.data); err != nil {
				r.t.Fatal(err)
			}
		}, ""},
		{"moved to another disk after a clean stop", func(r *rig) {
			r.run()
			r.stop()
			r.look()
			r.sh("cp -a data disk2 && rm -rf data && mv disk2 data")
		}, ""},
		{"moved to another disk behind a symbolic link, the agent stopped", func(r *rig) {
			r.run()
			r.stop()
			r.look()
			r.sh("cp -a data disk2 && rm -rf data && ln -s disk2 data")
			r.agent()
		}, ""},
		{"moved to another disk after a crash", func(r *rig) {
			r.run()
			r.crash()
			r.look()
			r.sh("cp -a data disk2 && rm -rf data && mv disk2 data")
		}, "another directory"},
		{"an old backup in its place", func(r *rig) {
			r.sh("cp -a data backup")
			r.run()
			r.stop()
			r.look()
			r.sh("rm -rf data && cp -a backup data")
		}, "older"},
		{"an old backup unpacked into it, the agent stopped", func(r *rig) {
			r.sh("tar -C data -cf backup.tar .")
			r.run()
			r.crash()
			r.look()
			r.sh("find data -mindepth 1 -delete && tar -C data -xpf backup.tar")
			r.agent()
		}, "older"},
		{"an old backup written over it in place", func(r *rig) {
			r.sh("cp -a data backup")
			r.run()
			r.stop()
			r.look()
			r.sh("cat backup/global/pg_control > data/global/pg_control")
		}, "older"},
		{"a snapshot of the last checkpoint unpacked into it", func(r *rig) {
			r.run()
			r.sh("tar -C data -cf snapshot.tar .")
			r.crash()
			r.look()
			r.sh("find data -mindepth 1 -delete && tar -C data -xpf snapshot.tar && rm -f data/postmaster.pid")
		}, "written anew"},
		{"a snapshot of the last checkpoint in its place, the agent stopped", func(r *rig) {
			r.run()
			r.sh("cp -a data snapshot")
			r.crash()
			r.look()
			r.sh("rm -rf data && mv snapshot data && rm -f data/postmaster.pid")
			r.agent()
		}, "another directory"},
		{"the state of an earlier clean stop, after a crash", func(r *rig) {
			r.run()
			r.stop()
			r.look()
			r.sh("cp -a data backup")
			r.run()
			r.crash()
			r.sh("rm -rf data && mv backup data") // before the agent looked
		}, "another directory"},
		{"another cluster's data", func(r *rig) {
			id := r.identity.get().SystemID
			r.sh("mv data old")
			if err := r.pg.Initdb(within(r.t), postgres.InitdbOptions{ExtraArgs: []string{"--no-sync"}}, nil); err != nil {
				r.t.Fatal(err)
			}
			if id == "" {
				r.t.Fatal("it was not bound")
			}
		}, "system identifier"},
		{"restored twice", func(r *rig) {
			r.sh("cp -a data backup")
			r.run()
			r.stop()
			r.look()
			r.sh("rm -rf data && cp -a backup data")
			r.look()
			r.sh("rm -rf data && cp -a backup data")
		}, "older"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.t = t
			r.sh("rm -rf data* backup* snapshot* disk2 old && cp -a template data")
			r.agent()
			before := r.ID()
			if b := r.identity.get(); b.SystemID == "" || b.Replaced != "" {
				t.Fatalf("a new directory is not bound: %+v", b)
			}
			tt.do(r)
			db := r.look()
			if tt.replaced == "" && db.Replaced != "" || !strings.Contains(db.Replaced, tt.replaced) {
				t.Errorf("got %q, want %q", db.Replaced, tt.replaced)
			}
			if same := r.ID() == before; same != (tt.replaced == "") {
				t.Errorf("got the same identity: %v", same)
			}
			// The next agent sees it in the same way.
			id := r.ID()
			r.agent()
			if db := r.look(); r.ID() != id || (db.Replaced == "") != (tt.replaced == "") {
				t.Errorf("after a start of the agent: got %s, replaced %q, want %s", r.ID(), db.Replaced, id)
			}
		})
	}
}

// What ends the mark of a replaced directory: hathi made it anew, or it follows a leader.
func TestIdentity_TheMarkEnds(t *testing.T) {
	r := newRig(t)
	mark := func() {
		t.Helper()
		r.sh("rm -rf copy && cp -a data copy && rm -rf data && mv copy data && touch data/global/pg_control")
		if err := r.identity.started(); err != nil { // it was not stopped cleanly, as far as is known
			t.Fatal(err)
		}
		if db := r.look(); db.Replaced == "" {
			t.Fatal("a copy in its place is not known as one")
		}
	}
	ended := func(what string) {
		t.Helper()
		id := r.ID()
		r.agent()
		if db := r.look(); db.Replaced != "" || r.ID() != id {
			t.Errorf("after %s: got %q, identity %s, want no mark and %s", what, db.Replaced, r.ID(), id)
		}
	}
	r.look()
	mark()
	r.accept()
	ended("it followed a leader")
	mark()
	r.bind(within(t))
	ended("a copy by hathi")
	// A job that makes the directory is not taken for somebody's hand.
	r.making.Store(true)
	id := r.ID()
	r.sh("cp -a data copy && rm -rf data && mv copy data")
	r.look()
	r.bind(within(t))
	r.making.Store(false)
	if db := r.look(); db.Replaced != "" || r.ID() != id {
		t.Errorf("got %q, want a copy by hathi to be its own", db.Replaced)
	}
}

// How far a running server has come is taken down, so that a state before it is known as older.
func TestIdentity_FollowsTheRunningServer(t *testing.T) {
	r := newRig(t)
	r.run()
	before := r.identity.get().Checkpoint
	deadline := time.Now().Add(patience)
	for r.identity.get().Checkpoint == before {
		if time.Now().After(deadline) {
			t.Fatalf("the checkpoint of %s is still the newest that was taken down", before)
		}
		r.look2()
		<-time.After(20 * time.Millisecond)
	}
	if r.identity.get().Stopped {
		t.Error("a running server is taken for a stopped one")
	}
}

// look2 is one observation as if the last note were long ago.
func (r *rig) look2() {
	r.Instance.look.Lock()
	r.last.notedAt = -time.Hour
	r.Instance.look.Unlock()
	r.Observe(within(r.t))
}

func TestIdentity_Files(t *testing.T) {
	dir := t.TempDir()
	open := func(content string) *identity {
		t.Helper()
		d := &identity{path: filepath.Join(dir, "sub", "data.instance"), dir: filepath.Join(dir, "sub", "data")}
		if content != "" {
			if err := os.WriteFile(d.path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.load(); err != nil {
			t.Fatal(err)
		}
		return d
	}
	made := open("").get()
	if uuid.Validate(made.ID) != nil || made.SystemID != "" {
		t.Errorf("got %+v, want a new identity, bound to nothing", made)
	}
	if again := open("").get(); again != made {
		t.Errorf("got %+v, want what was made before: %+v", again, made)
	}
	old := "475d46d0-0000-4000-8000-000000000001"
	if b := open(old + "\n").get(); b.ID != old || b.SystemID != "" || b.Replaced != "" {
		t.Errorf("a file of an earlier version: got %+v, want its identity, bound to nothing", b)
	}
	for _, junk := range []string{"junk", "{}", `{"id":"no uuid"}`, `{"id":`, "\x00\x00"} {
		if b := open(junk).get(); uuid.Validate(b.ID) != nil || b.ID == old || b.SystemID != "" {
			t.Errorf("%q: got %+v, want a new identity", junk, b)
		}
	}
	// An identity of an earlier version is bound to what is found first, and holds from then on.
	d := open(old)
	for _, sub := range []string{"sub/data/global", "sub/copy/global"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, sub, "pg_control"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cd := postgres.ControlData{SystemID: "1", State: postgres.ControlInProduction, Timeline: 1, Checkpoint: cluster.LSN(500)}
	if why, err := d.check(cd, d.generation()); why != "" || err != nil || d.get().ID != old {
		t.Errorf("first sight: got %q %v, identity %s", why, err, d.get().ID)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "sub/copy"), d.dir); err != nil {
		t.Fatal(err)
	}
	if why, err := d.check(cd, d.generation()); why == "" || err != nil || d.get().ID == old {
		t.Errorf("another directory: got %q %v, identity %s, want another one", why, err, d.get().ID)
	}
}

// A control file that was read before a start tells nothing about the stop after it.
func TestIdentity_AStartEndsACleanStop(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(controlFile(data), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := &identity{path: data + ".instance", dir: data}
	if err := d.load(); err != nil {
		t.Fatal(err)
	}
	cd := postgres.ControlData{SystemID: "1", State: postgres.ControlShutDown, Timeline: 1, Checkpoint: 500}
	if _, err := d.check(cd, d.generation()); err != nil || !d.get().Stopped {
		t.Fatalf("got %+v %v, want a clean stop", d.get(), err)
	}
	before := d.generation()
	if err := d.started(); err != nil || d.get().Stopped {
		t.Fatalf("got %+v %v, want the stop to be over", d.get(), err)
	}
	late := cd
	late.Checkpoint = 900
	if err := d.note(late, before); err != nil || d.get().Stopped || d.get().Checkpoint != 500 {
		t.Errorf("got %+v %v, want what was read before the start not to be noted", d.get(), err)
	}
	if _, err := d.check(cd, before); err != nil || d.get().Stopped {
		t.Errorf("got %+v %v, want what was read before the start not to count", d.get(), err)
	}
}

// A server that starts from a backup label sets its control file back to what the label says. pg_rewind
// leaves one, and so does a copy: that is no older directory.
func TestIdentity_ABackupLabelSetsTheControlFileBack(t *testing.T) {
	r := newRig(t)
	r.run()
	old, err := r.pg.Control(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // what came after the label
		if err := r.pg.Checkpoint(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	r.crash()
	id := r.ID()
	segment := fmt.Sprintf("%08X%08X%08X", old.Timeline, uint64(old.Redo)>>32, uint64(old.Redo)&0xffffffff/uint64(old.WALSegmentSize))
	label := fmt.Sprintf("START WAL LOCATION: %s (file %s)\nCHECKPOINT LOCATION: %s\nBACKUP METHOD: pg_rewind\nBACKUP FROM: standby\nSTART TIME: 2030-01-01 00:00:00 UTC\n",
		old.Redo, segment, old.Checkpoint)
	r.sh("cat > data/backup_label <<'E'\n" + label + "E\nchown --reference=data data/backup_label; chmod 600 data/backup_label; : > data/standby.signal; chown --reference=data data/standby.signal")
	// pg_rewind leaves the state of the source, a running primary's or standby's; this one was a primary.
	r.sh("sed -i 's/FROM: standby/FROM: primary/' data/backup_label")
	r.bind(within(t)) // as after a rewind
	if _, err := r.pg.Start(within(t), postgres.StartOptions{Settings: map[string]string{"fsync": "off", "shared_buffers": "1MB", "hot_standby": "on"}}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		if _, err := os.Lstat(filepath.Join(r.data, "backup_label")); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server did not take the label")
		}
		<-time.After(20 * time.Millisecond)
	}
	r.crash()
	back, err := r.pg.Control(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if back.Checkpoint != old.Checkpoint {
		t.Fatalf("the control file is at %s, want it set back to %s: the test shows nothing", back.Checkpoint, old.Checkpoint)
	}
	if db := r.look(); db.Replaced != "" || r.ID() != id {
		t.Errorf("got %q, want the directory that hathi rewound to be its own", db.Replaced)
	}
}
