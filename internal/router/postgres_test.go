package router_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
)

// server is a real PostgreSQL with TLS, password login over TCP and one role, "tester".
type server struct{ port string }

const password = "a pass'word"

// startPostgres starts one; prepare, if not nil, works on its data directory before.
func startPostgres(t *testing.T, prepare func(data string)) server {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Skip("PostgreSQL is not installed under /usr/lib/postgresql")
	}
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("", "router-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := &syscall.SysProcAttr{}
	uid := os.Getuid()
	if uid == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("root cannot run PostgreSQL, and there is no user postgres")
		}
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	own := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, -1); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "router-test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := own("server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyFile := own("server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "tester", "--auth=scram-sha-256",
		"--pwfile="+own("pw", []byte(password+"\n")), "--no-sync", "--no-locale", "-E", "UTF8")
	initdb.SysProcAttr, initdb.Dir = attr, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	if prepare != nil {
		prepare(data)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	var log bytes.Buffer
	pg := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "ssl=on", "-c", "ssl_cert_file="+cert, "-c", "ssl_key_file="+keyFile)
	pg.SysProcAttr, pg.Dir, pg.Stdout, pg.Stderr = attr, dir, &log, &log
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pg.Process.Signal(syscall.SIGQUIT)
		_ = pg.Wait()
		if t.Failed() {
			t.Logf("PostgreSQL said:\n%s", log.String())
		}
	})
	s := server{port: port}
	eventually(t, "PostgreSQL answers", func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, s.uri("127.0.0.1:"+port, "disable"))
		if err != nil {
			return false, err.Error()
		}
		return c.Close(ctx) == nil, ""
	})
	return s
}

func (s server) uri(addr, sslmode string) string {
	return fmt.Sprintf("postgres://tester:%s@%s/postgres?sslmode=%s", strings.NewReplacer(" ", "%20", "'", "%27").Replace(password), addr, sslmode)
}

func TestRouter_RealPostgres(t *testing.T) {
	s := startPostgres(t, nil)
	w := newWorld(t, nil)
	w.put(dcs.MemberKey("pg1"), cluster.Member{ConnURL: "postgres://127.0.0.1:" + s.port + "/postgres", Role: cluster.RolePrimary, State: cluster.StateRunning})
	w.hold("pg1", 1, lease)
	w.waitWrite("pg1")
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()

	for _, mode := range []string{"disable", "prefer", "require"} {
		for _, addr := range []string{w.r.WriteAddr().String(), w.r.ReadAddr().String()} {
			uri := s.uri(addr, mode)
			out, err := exec.CommandContext(ctx, "psql", "-X", "-At", "-c", "select ssl, repeat('x', 200000) = repeat('x', 200000) from pg_stat_ssl where pid = pg_backend_pid()", uri).CombinedOutput()
			if want := map[string]string{"disable": "f|t\n"}[mode]; err != nil || want != "" && string(out) != want || want == "" && string(out) != "t|t\n" {
				t.Errorf("psql with sslmode=%s: got %q %v", mode, out, err)
			}
		}
	}

	for _, mode := range []string{"disable", "require"} {
		t.Run("cancel by the driver, sslmode="+mode, func(t *testing.T) {
			c, err := pgx.Connect(ctx, s.uri(w.r.WriteAddr().String(), mode))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(ctx)
			slept := make(chan error, 1)
			go func() { _, err := c.Exec(ctx, "select pg_sleep(60)"); slept <- err }()
			s.waitAsleep(ctx, t)
			if err := c.PgConn().CancelRequest(ctx); err != nil {
				t.Fatalf("cancel: %v", err)
			}
			var e *pgconn.PgError
			if err := <-slept; !errors.As(err, &e) || e.Code != "57014" {
				t.Errorf("got %v, want query_canceled", err)
			}
		})
		t.Run("Ctrl-C in psql, sslmode="+mode, func(t *testing.T) {
			var out bytes.Buffer
			psql := exec.CommandContext(ctx, "psql", "-X", "-At", "-c", "select pg_sleep(60)", s.uri(w.r.ReadAddr().String(), mode))
			psql.Stdout, psql.Stderr = &out, &out
			if err := psql.Start(); err != nil {
				t.Fatal(err)
			}
			s.waitAsleep(ctx, t)
			if err := psql.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			_ = psql.Wait()
			if !strings.Contains(out.String(), "canceling statement due to user request") {
				t.Errorf("psql said %q, want the statement cancelled", out.String())
			}
		})
	}

	t.Run("replication through the write port", func(t *testing.T) {
		c, err := pgconn.Connect(ctx, s.uri(w.r.WriteAddr().String(), "disable")+"&replication=database")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll(); err != nil {
			t.Error(err)
		}
		_ = c.Close(ctx)
	})

	t.Run("COPY in and out", func(t *testing.T) {
		c, err := pgx.Connect(ctx, s.uri(w.r.WriteAddr().String(), "require"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, "create table t(a int, b text)"); err != nil {
			t.Fatal(err)
		}
		row := strings.Repeat("z", 1000)
		n, err := c.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"a", "b"}, pgx.CopyFromSlice(20000, func(i int) ([]any, error) { return []any{i, row}, nil }))
		if err != nil || n != 20000 {
			t.Fatalf("got %d rows, %v, want 20000", n, err)
		}
		var sum bytes.Buffer
		if _, err := c.PgConn().CopyTo(ctx, &sum, "copy t to stdout"); err != nil || bytes.Count(sum.Bytes(), []byte("\n")) != 20000 {
			t.Errorf("got %d lines, %v, want 20000", bytes.Count(sum.Bytes(), []byte("\n")), err)
		}
	})

	t.Run("the last words of a backend arrive", func(t *testing.T) {
		c, err := pgx.Connect(ctx, s.uri(w.r.WriteAddr().String(), "disable"))
		if err != nil {
			t.Fatal(err)
		}
		var e *pgconn.PgError
		if _, err := c.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())"); !errors.As(err, &e) || e.Code != "57P01" {
			t.Errorf("got %v, want 57P01", err)
		}
		_ = c.Close(ctx)
	})

	t.Run("a new epoch cuts a running statement", func(t *testing.T) {
		c, err := pgx.Connect(ctx, s.uri(w.r.WriteAddr().String(), "require"))
		if err != nil {
			t.Fatal(err)
		}
		slept := make(chan error, 1)
		go func() { _, err := c.Exec(ctx, "select pg_sleep(60)"); slept <- err }()
		s.waitAsleep(ctx, t)
		w.hold("pg2", 2, lease)
		if err := <-slept; err == nil || ctx.Err() != nil {
			t.Errorf("got %v, want a broken connection", err)
		}
		_ = c.Close(ctx)
	})
}

// What a real standby says at the login is what the last look on the write port goes by.
func TestRouter_RealStandby(t *testing.T) {
	s := startPostgres(t, func(data string) {
		if v, err := os.ReadFile(filepath.Join(data, "PG_VERSION")); err != nil || strings.TrimSpace(string(v)) == "13" {
			t.Skipf("version %q %v: only 14 and later say it", v, err)
		}
		if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	})
	w := newWorld(t, nil)
	w.put(dcs.MemberKey("pg1"), cluster.Member{ConnURL: "postgres://127.0.0.1:" + s.port + "/postgres", Role: cluster.RolePrimary, State: cluster.StateRunning})
	w.hold("pg1", 1, lease)
	w.waitWrite("pg1")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := pgx.Connect(ctx, s.uri(w.r.WriteAddr().String(), "disable"))
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != "57P03" {
		t.Errorf("write port: got %v, want 57P03", err)
	}
	c, err := pgx.Connect(ctx, s.uri(w.r.ReadAddr().String(), "disable"))
	if err != nil {
		t.Fatalf("read port: %v", err)
	}
	if got := c.PgConn().ParameterStatus("in_hot_standby"); got != "on" {
		t.Errorf("read port: got in_hot_standby %q, want on", got)
	}
	_ = c.Close(ctx)
}

// waitAsleep waits until exactly one statement sleeps in the server.
func (s server) waitAsleep(ctx context.Context, t *testing.T) {
	t.Helper()
	c, err := pgx.Connect(ctx, s.uri("127.0.0.1:"+s.port, "disable"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	eventually(t, "a statement sleeps", func() (bool, string) {
		var n int
		err := c.QueryRow(ctx, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'").Scan(&n)
		return err == nil && n == 1, fmt.Sprint(n, err)
	})
}
