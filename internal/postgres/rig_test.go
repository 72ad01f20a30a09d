package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/postgres"
)

// secret is a password that needs every kind of quoting.
const secret = `p'w\ :%"ü$`

// patience bounds every wait of these tests.
const patience = 60 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, cond func() error) {
	t.Helper()
	ctx := within(t)
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("still not so: %s: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// base is a directory that PostgreSQL's user may enter, and that user (nil for one's own).
func base(t *testing.T) (string, *postgres.Credential) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs PostgreSQL, which takes seconds")
	}
	if _, err := postgres.FindBinDir(0); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "hathi-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() != 0 {
		return dir, nil
	}
	cred, err := postgres.LookupCredential("postgres")
	if err != nil {
		t.Skip("running as root and there is no user postgres")
	}
	if err := os.Chown(dir, int(cred.UID), int(cred.GID)); err != nil {
		t.Fatal(err)
	}
	return dir, cred
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func config(t *testing.T, dir, name string, cred *postgres.Credential) postgres.Config {
	return postgres.Config{
		DataDir: filepath.Join(dir, name), SocketDir: dir, Port: freePort(t), ListenAddresses: "127.0.0.1",
		RunAs:       cred,
		Superuser:   postgres.Login{Username: "postgres", Password: secret},
		Replication: postgres.Login{Username: "replicator", Password: secret + "r", SSLMode: "disable"},
		Rewind:      postgres.Login{Username: "rewind user", Password: secret + "w", SSLMode: "disable"},
		Logger:      slog.New(slog.DiscardHandler),
	}
}

// node is a server with what its tests need.
type node struct {
	*postgres.Server
	cfg postgres.Config
}

func newNode(t *testing.T, dir, name string, cred *postgres.Credential) *node {
	t.Helper()
	n := &node{cfg: config(t, dir, name, cred)}
	n.Server = postgres.New(n.cfg)
	t.Cleanup(func() {
		if err := n.KillAll(context.Background()); err != nil {
			t.Error(err)
		}
		n.Close()
		log, _ := os.ReadFile(n.cfg.DataDir + ".log")
		if strings.Contains(string(log), secret) {
			t.Error("got the password in the server's log")
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, log)
		}
	})
	return n
}

const hba = `local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
`

// files are small generated ones; follow is nil for a primary.
func (n *node) files(follow *node, more ...string) postgres.Files {
	conf := "fsync = off\nshared_buffers = 1MB\nmax_connections = 20\nwal_level = replica\nhot_standby = on\nwal_retrieve_retry_interval = 100ms\nwal_keep_size = 64MB\n" + strings.Join(more, "\n") + "\n"
	if follow != nil {
		info := n.PrimaryConninfo(postgres.From{Host: "127.0.0.1", Port: follow.cfg.Port}, filepath.Base(n.cfg.DataDir))
		conf += "primary_conninfo = '" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(info) + "'\n"
	}
	return postgres.Files{Conf: []byte(conf), HBA: []byte(hba), Standby: follow != nil}
}

func (n *node) start(t *testing.T, follow *node, more ...string) *postgres.Postmaster {
	t.Helper()
	if _, err := n.WriteFiles(n.files(follow, more...)); err != nil {
		t.Fatal(err)
	}
	pm, err := n.Start(within(t), postgres.StartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.ready(t)
	return pm
}

func (n *node) ready(t *testing.T) postgres.Status {
	t.Helper()
	var st postgres.Status
	eventually(t, "PostgreSQL answers", func() (err error) {
		st, err = n.Status(within(t))
		return err
	})
	return st
}

// primary is a new one with its roles.
func primary(t *testing.T, dir string, cred *postgres.Credential) *node {
	t.Helper()
	n := newNode(t, dir, "a", cred)
	if err := n.Initdb(within(t), postgres.InitdbOptions{ExtraArgs: []string{"--no-sync"}}, nil); err != nil {
		t.Fatal(err)
	}
	n.start(t, nil)
	if _, err := n.EnsureRoles(within(t)); err != nil {
		t.Fatal(err)
	}
	return n
}

// standby is a new one that streams from p.
func standby(t *testing.T, dir string, cred *postgres.Credential, p *node) *node {
	t.Helper()
	n := newNode(t, dir, "b", cred)
	from := postgres.From{Host: "127.0.0.1", Port: p.cfg.Port}
	if err := n.BaseBackup(within(t), from, postgres.BaseBackupOptions{ExtraArgs: []string{"--no-sync"}}, nil); err != nil {
		t.Fatal(err)
	}
	n.start(t, p)
	n.streams(t)
	return n
}

func (n *node) streams(t *testing.T) {
	t.Helper()
	eventually(t, "it streams", func() error {
		st, err := n.Status(within(t))
		if err == nil && !st.Receiver.Streaming() {
			err = fmt.Errorf("receiver %+v", st.Receiver)
		}
		return err
	})
}

func (n *node) stop(t *testing.T, o postgres.StopOptions) postgres.StopResult {
	t.Helper()
	r, err := n.Stop(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
