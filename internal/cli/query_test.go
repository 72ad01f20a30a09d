package cli_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
)

func TestHistory(t *testing.T) {
	w := demo(t)
	w.raw(dcs.KeyHistory, `[[1,25623960,"no recovery target specified","2026-01-02T03:04:05.000000+00:00","pg2",2],[2,123,"x\u001b"]]`)
	w.prints(`+----+----------+------------------------------+----------------------------------+------------+
| TL |      LSN | Reason                       | Timestamp                        | New Leader |
+----+----------+------------------------------+----------------------------------+------------+
|  1 | 25623960 | no recovery target specified | 2026-01-02T03:04:05.000000+00:00 | pg2        |
|  2 |      123 | x\x1B                        |                                  |            |
+----+----------+------------------------------+----------------------------------+------------+
`, "history")
	w.prints(`[{"TL": 1, "LSN": 25623960, "Reason": "no recovery target specified", "Timestamp": "2026-01-02T03:04:05.000000+00:00", "New Leader": "pg2"}, {"TL": 2, "LSN": 123, "Reason": "x\\x1B", "Timestamp": "", "New Leader": ""}]
`, "history", "demo", "--json")
}

func TestDSN(t *testing.T) {
	w := demo(t)
	m := w.member("pg3", 5434)
	m.ConnURL = "postgres://[fd00::1]:5434/postgres"
	w.put(dcs.MemberKey("pg3"), m)
	w.prints("postgresql://10.0.0.1:5432,10.0.0.1:5433,[fd00::1]:5434/postgres?target_session_attrs=read-write\n", "dsn")
	w.prints("postgresql://10.0.0.1:5432,10.0.0.1:5433,[fd00::1]:5434/postgres?target_session_attrs=prefer-standby\n", "dsn", "--read")
	w.prints("postgresql://a%20b@10.0.0.1:5433/shop\n", "dsn", "-m", "pg2", "-U", "a b", "-d", "shop")
	w.prints("postgresql://10.0.0.1:5432/postgres\n", "dsn", "-r", "primary")
	w.fails(1, "node.yml describes no router (section router)", "dsn", "--router")
	w.fails(1, "pg9 is not a member of cluster demo (members: pg1, pg2, pg3)", "dsn", "-m", "pg9")
	w.fails(2, "--member, --role, --router are mutually exclusive options, and --read goes with --router alone", "dsn", "-m", "pg2", "--read")
	w.files["node.yml"] += "router: {listen: '*', write_port: 6432, read_port: 0}\npostgresql: {authentication: {superuser: {username: admin, password: secret}}}\n"
	w.prints("postgresql://admin@127.0.0.1:6432/postgres\n", "dsn", "--router")
	w.fails(1, "the router has no such port (router.read_port is 0)", "dsn", "--router", "--read")
	if _, out, stderr := w.run("dsn"); strings.Contains(out+stderr, "secret") || stderr != "through the router: postgresql://admin@127.0.0.1:6432/postgres\n" {
		t.Errorf("got %s%s", out, stderr)
	}
}

func TestWhy_MergesWhatTheMembersSay(t *testing.T) {
	w := demo(t)
	w.answers["pg1 GET /decisions"] = answer{code: 200, text: `[{"seq":1,"at":"2030-01-01T00:00:01Z","node":"pg1","epoch":1,"state":"leading","what":"release the lock to pg2","why":"handing over","facts":{"lsn":"0/1"}},
		{"seq":2,"at":"2030-01-01T00:00:03Z","node":"pg1","epoch":2,"state":"following","what":"following","why":"following pg2","facts":{"error":"boom\u001b"}}]`}
	w.answers["pg2 GET /decisions"] = answer{code: 200, text: `[{"seq":9,"at":"2030-01-01T00:00:02Z","node":"pg2","epoch":2,"state":"candidate","what":"take the lock for epoch 2","why":"nobody leads","facts":{"b":true,"a":{"x":1},"n":5}}]`}
	w.answers["pg2 GET /problems"] = answer{code: 200, text: `[{"code":"x","severity":"warning","sentence":"the disk is almost full","hint":"make room"},{"code":"y","severity":"notice","sentence":"no","explained":true}]`}
	w.urls["pg3"].Close()
	t.Setenv("TZ", "UTC")
	code, out, stderr := w.run("why")
	var rest []string
	for _, line := range strings.Split(out, "\n") { // times are local
		if i := strings.Index(line, "  pg"); i >= 0 && strings.HasPrefix(line, "20") {
			line = line[i:]
		}
		rest = append(rest, line)
	}
	want := `  pg1  epoch 1    leading    handing over
  pg2  epoch 2    candidate  nobody leads
      did: take the lock for epoch 2
      a: {"x":1}
      b: true
      n: 5
  pg1  epoch 2    following  following pg2
      failed: boom\x1B
pg2 has a problem (warning): the disk is almost full
      hint: make room
`
	if got := strings.Join(rest, "\n"); code != 0 || got != want || !strings.HasPrefix(stderr, "pg3 did not answer: decisions on member pg3: GET http://127.0.0.1:") {
		t.Errorf("got %d\n%s%s\nwant\n%s", code, got, stderr, want)
	}
	if code, out, _ := w.run("why", "--json", "-n", "1", "--member", "pg1"); code != 0 || !strings.HasPrefix(out, `[{"seq":2,"at":"2030-01-01T00:00:03Z"`) {
		t.Errorf("got %d, %s", code, out)
	}
	w.fails(2, "-n 0: want 1 to 500", "why", "-n", "0")
	for _, s := range w.urls {
		s.Close()
	}
	if code, _, stderr := w.run("why"); code != 1 || !strings.HasSuffix(stderr, "hathi: no member of cluster demo told what it decided: are the agents running?\n") {
		t.Errorf("got %d, %s", code, stderr)
	}
}

// backend is a PostgreSQL that knows two statements.
func backend(t *testing.T, standby bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); talk(c, standby) })
		}
	})
	return l.Addr().String()
}

func talk(c net.Conn, standby bool) {
	b := pgproto3.NewBackend(c, c)
	for {
		m, err := b.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, ok := m.(*pgproto3.StartupMessage); ok {
			break
		}
		if _, err := c.Write([]byte("N")); err != nil { // no TLS
			return
		}
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for b.Flush() == nil {
		m, err := b.Receive()
		if err != nil {
			return
		}
		q, ok := m.(*pgproto3.Query)
		if !ok {
			continue
		}
		field := func(name string, oid uint32) pgproto3.FieldDescription {
			return pgproto3.FieldDescription{Name: []byte(name), DataTypeOID: oid}
		}
		switch {
		case strings.Contains(q.String, "pg_is_in_recovery"):
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{field("pg_is_in_recovery", 16)}})
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(map[bool]string{true: "t", false: "f"}[standby])}})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		case q.String == "table x":
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{field("n", 23), field("ok", 16), field("s", 25), field("j", 114)}})
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("7"), []byte("t"), []byte("a\x1b"), []byte(`{"k":1}`)}})
			b.Send(&pgproto3.DataRow{Values: [][]byte{nil, nil, nil, nil}})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 2")})
		case q.String == "insert":
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")})
		default:
			b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "syntax error", Detail: "d", Hint: "h"})
		}
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	}
}

func TestQuery(t *testing.T) {
	w := demo(t)
	for _, name := range []string{"pg1", "pg2", "pg3"} {
		m := w.member(name, 0)
		m.ConnURL = fmt.Sprintf("postgres://%s/postgres", backend(t, name != "pg1"))
		if name == "pg3" {
			m.State = cluster.StateStopped
		}
		w.put(dcs.MemberKey(name), m)
	}
	w.prints(`+---+----+-------+---------+
| n | ok | s     | j       |
+---+----+-------+---------+
| 7 | t  | a\x1B | {"k":1} |
|   |    |       |         |
+---+----+-------+---------+
`, "query", "-U", "me", "--", "table x")
	w.prints(`[{"n": 7, "ok": true, "s": "a\u001b", "j": {"k": 1}}, {"n": null, "ok": null, "s": null, "j": null}]`+"\n", "query", "-U", "me", "--json", "table x")
	w.prints("n;ok;s;j\n7;t;a\\x1B;{\"k\":1}\n;;;\n", "query", "-U", "me", "-f", "tsv", "--delimiter", ";", "--command", "table x")
	w.prints("pg_is_in_recovery\nt\n", "query", "demo", "-U", "me", "-r", "replica", "-f", "tsv", "--", "select pg_is_in_recovery()")
	w.prints("pg_is_in_recovery\nf\n", "query", "-U", "me", "-f", "tsv", "--", "select pg_is_in_recovery()")
	w.files["q.sql"] = "insert"
	if code, out, stderr := w.run("query", "-U", "me", "--file", "q.sql"); code != 0 || out != "" || stderr != "INSERT 0 1\n" {
		t.Errorf("got %d, %q, %q", code, out, stderr)
	}
	w.fails(1, "ERROR: syntax error (SQLSTATE 42601)\n  detail: d\n  hint: h", "query", "-U", "me", "--", "selec")
	w.fails(2, `one piece of SQL is wanted: hathi query ... -- "select 1", or --command, or --file`, "query")
	w.fails(2, `one piece of SQL is wanted: hathi query ... -- "select 1", or --command, or --file`, "query", "--command", "a", "--file", "q.sql")
	w.fails(2, "--role and --member are mutually exclusive options", "query", "-r", "any", "-m", "pg1", "--", "x")
	w.fails(2, "-W asks for the password, and standard input is no terminal: set PGPASSWORD or use a password file", "query", "-W", "--", "x")
	w.put(dcs.KeyLock, cluster.Lock{Epoch: 2})
	w.fails(1, "No connection to role=primary is available: nobody leads in cluster demo", "query", "--", "x")
}
