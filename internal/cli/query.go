package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/spf13/cobra"
	xterm "golang.org/x/term"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/term"
)

// Bounds of a query.
const (
	connectWithin = 5 * time.Second
	maxRows       = 100_000
	maxRowBytes   = 64 << 20
)

// queryCommand runs SQL on a member.
type queryCommand struct {
	app       *App
	find      finder
	watch     watching
	form      formatFlags
	role      string
	member    string
	user, db  string
	prompt    bool
	command   string
	file      string
	delimiter string
}

func (a *App) queryCommand() *cobra.Command {
	q := &queryCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "query [-m MEMBER | -r ROLE] -- SQL", Args: cobra.ArbitraryArgs, Long: `hathi query [-m MEMBER | -r primary|replica|any] [-d DATABASE] [-U USER] -- SQL

Run SQL on the primary, on a replica, or on one member, and print the result. For a demo you are
signed in as its application role; else as PGUSER with PGPASSWORD or a password file, or as the
superuser of the configuration, which works on the node itself. -W asks for the password. SQL may
also come from a file (--file, - for standard input).

Examples:
  hathi query --dir /tmp/demo -- "select now(), pg_is_in_recovery()"
  hathi query --dir /tmp/demo -r replica --json -- "select * from pg_stat_wal_receiver"
  hathi query -c /etc/hathi/node.yml -m pg2 -U me -W -d shop -w -- "select count(*) from orders"`,
		RunE: func(c *cobra.Command, args []string) error { return q.run(c, args) }}
	q.find.bind(c, actionWithin)
	q.watch.bind(c, false)
	q.form.bind(c)
	fl := c.Flags()
	fl.StringVarP(&q.role, "role", "r", "", "on a member with this `ROLE`: primary (the default), replica, any")
	fl.StringVarP(&q.member, "member", "m", "", "on this `MEMBER`")
	fl.StringVarP(&q.db, "dbname", "d", "", "in this `DATABASE`")
	fl.StringVarP(&q.user, "username", "U", "", "as this database `USER`")
	fl.BoolVarP(&q.prompt, "password", "W", false, "ask for the password")
	fl.StringVar(&q.command, "command", "", "the `SQL`")
	fl.StringVar(&q.file, "file", "", "run the SQL of this `FILE`")
	fl.StringVar(&q.delimiter, "delimiter", "\t", "between the columns of -f tsv")
	_ = fl.MarkHidden("delimiter")
	return c
}

// sql takes the statement from the arguments, --command or --file; what is left of the arguments is
// the cluster's name, as patronictl has it.
func (q *queryCommand) sql(c *cobra.Command, args []string) (string, []string, error) {
	var found []string
	if dash := c.ArgsLenAtDash(); dash >= 0 {
		found, args = append(found, strings.Join(args[dash:], " ")), args[:dash]
	} else if q.command == "" && q.file == "" && len(args) > 0 {
		found, args = append(found, args[len(args)-1]), args[:len(args)-1]
	}
	if q.command != "" {
		found = append(found, q.command)
	}
	if q.file != "" {
		var text []byte
		var err error
		if q.file == "-" {
			text, err = io.ReadAll(io.LimitReader(q.app.Stdin, 16<<20))
		} else {
			text, err = q.app.ReadFile(q.file)
		}
		if err != nil {
			return "", nil, fmt.Errorf("read the SQL: %w", err)
		}
		found = append(found, string(text))
	}
	if len(found) != 1 || strings.TrimSpace(found[0]) == "" {
		return "", nil, usagef("one piece of SQL is wanted: hathi query ... -- \"select 1\", or --command, or --file")
	}
	return found[0], args, nil
}

func (q *queryCommand) run(c *cobra.Command, args []string) error {
	f, err := q.form.parse(c)
	if err != nil {
		return err
	}
	sql, args, err := q.sql(c, args)
	if err != nil {
		return err
	}
	every, args, err := q.watch.interval(c, args)
	if err != nil {
		return err
	}
	if q.role != "" && q.member != "" {
		return usagef("--role and --member are mutually exclusive options")
	}
	role, err := parseRole(q.role)
	if err != nil {
		return err
	}
	if role == "" && q.member == "" {
		role = "primary"
	}
	ctx := c.Context()
	t, _, err := q.find.open(ctx, args, false)
	if err != nil {
		return err
	}
	defer t.Close()
	var password *string
	if q.prompt {
		p, err := q.app.password()
		if err != nil {
			return err
		}
		password = &p
	}
	show := func(ctx context.Context) (string, error) {
		ctx, cancel := q.find.bounded(ctx)
		defer cancel()
		return q.once(ctx, t, sql, role, password, f)
	}
	if every > 0 {
		return q.app.repeat(ctx, every, f != term.Pretty, show)
	}
	text, err := show(ctx)
	if _, writeErr := io.WriteString(q.app.Stdout, text); writeErr != nil {
		return writeErr
	}
	return err
}

// password asks for a password without showing it.
func (a *App) password() (string, error) {
	f, ok := a.Stdin.(term.File)
	if !ok || !term.IsTerminal(a.Stdin) {
		return "", usagef("-W asks for the password, and standard input is no terminal: set PGPASSWORD or use a password file")
	}
	fmt.Fprint(a.Stderr, "Password: ")
	b, err := xterm.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.Stderr)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(b), nil
}

// once connects, runs the SQL and formats its results.
func (q *queryCommand) once(ctx context.Context, t *target, sql, role string, password *string, f term.Format) (string, error) {
	v, err := t.view(ctx)
	if err != nil {
		return "", err
	}
	conn, err := q.connect(ctx, t, v, role, password)
	if err != nil {
		return "", err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	var out bytes.Buffer
	err = results(ctx, conn, sql, f, q.delimiter, &out, q.app.Stderr)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: the statement was cancelled", q.find.ended(ctx, "query"))
	}
	return out.String(), err
}

// candidates are the members to try, the best first.
func (q *queryCommand) candidates(t *target, v cluster.View, role string) ([]cluster.Member, error) {
	leader := leaderOf(v)
	if q.member != "" {
		m, err := t.member(v, q.member)
		return []cluster.Member{m}, err
	}
	var out []cluster.Member
	for _, name := range memberNames(v) {
		m := v.Members[name]
		if role == "any" || (name == leader) == (role != "replica") {
			out = append(out, m)
		}
	}
	lag := func(m cluster.Member) int64 {
		if m.State != cluster.StateRunning {
			return 1 << 62
		}
		return m.ReplayLSN.Behind(v.Status.Optime)
	}
	slices.SortStableFunc(out, func(a, b cluster.Member) int {
		switch {
		case a.Name == leader:
			return -1
		case b.Name == leader:
			return 1
		case lag(a) < lag(b):
			return -1
		case lag(a) > lag(b):
			return 1
		}
		return 0
	})
	if len(out) == 0 {
		why := "there is none"
		if role == "primary" {
			why = "nobody leads"
		}
		return nil, saidf("No connection to role=%s is available: %s in cluster %s", role, why, t.name)
	}
	return out, nil
}

func (q *queryCommand) connect(ctx context.Context, t *target, v cluster.View, role string, password *string) (*pgconn.PgConn, error) {
	members, err := q.candidates(t, v, role)
	if err != nil {
		return nil, err
	}
	var failed []string
	for _, m := range members {
		conn, err := q.connectTo(ctx, t, m, role, password)
		if err == nil {
			return conn, nil
		}
		var no *pgconn.PgError
		failed = append(failed, fmt.Sprintf("%s: %s", m.Name, printable(sqlError(err))))
		if errors.As(err, &no) && strings.HasPrefix(no.Code, "28") { // the others would say the same
			break
		}
		if ctx.Err() != nil {
			break
		}
	}
	hint := "-U USER or PGUSER says as whom, PGPASSWORD, -W or a password file with which password, -d in which database"
	if t.cfg.PostgreSQL.DataDir != "" && q.user == "" && t.app.Env["PGUSER"] == "" {
		hint = "the superuser of the configuration signs in on the node itself alone, from the account that PostgreSQL runs in: use that account and -m " + t.cfg.Name + ", or another user (-U USER)"
	}
	return nil, fmt.Errorf("connect to PostgreSQL:\n  %s\nhint: %s", strings.Join(failed, "\n  "), hint)
}

// connectTo connects to one member. Environment variables of libpq count where the command line and
// the configuration say nothing.
func (q *queryCommand) connectTo(ctx context.Context, t *target, m cluster.Member, role string, password *string) (*pgconn.PgConn, error) {
	host, port, err := m.HostPort()
	if err != nil {
		return nil, err
	}
	user := q.user
	if user == "" {
		user = t.app.Env["PGUSER"]
	}
	db := q.db
	if db == "" {
		db = t.app.Env["PGDATABASE"]
	}
	l := t.login().as(user, db)
	pg := t.cfg.PostgreSQL
	if pg.DataDir != "" && m.Name == t.cfg.Name { // on the node itself
		super := pg.Authentication.Superuser
		if l.user == "" {
			l.user = super.Username
		}
		if l.user == super.Username {
			l.password = super.Password
			host = t.socketDir()
			if _, p, err := pg.ListenHosts(); err == nil {
				port = strconv.Itoa(p)
			}
		}
	}
	words := map[string]string{"host": host, "port": port, "dbname": l.db, "user": l.user, "sslmode": l.sslMode, "sslrootcert": l.sslRootCert,
		"sslcert": l.sslCert, "sslkey": l.sslKey, "passfile": l.passFile, "application_name": "hathi query"}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(words)) {
		if words[k] != "" {
			b.WriteString(k + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(words[k]) + "' ")
		}
	}
	c, err := pgconn.ParseConfig(b.String())
	if err != nil {
		return nil, err
	}
	switch {
	case password != nil:
		c.Password = *password
	case l.password != "":
		c.Password = l.password.Reveal()
	}
	if q.member == "" {
		switch role {
		case "primary":
			c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
		case "replica", "standby-leader":
			c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsStandby
		}
	}
	c.ConnectTimeout = connectWithin
	return pgconn.ConnectConfig(ctx, c)
}

// socketDir is where the node's own PostgreSQL listens.
func (t *target) socketDir() string {
	dir := t.cfg.RuntimeDir
	if v, ok := cluster.ParameterText(t.cfg.PostgreSQL.Parameters["unix_socket_directories"]); ok && v != "" {
		dir, _, _ = strings.Cut(v, ",")
	}
	if !filepath.IsAbs(dir) {
		return net.IPv4(127, 0, 0, 1).String()
	}
	return strings.TrimSpace(dir)
}

// sqlError spells an error of PostgreSQL for people.
func sqlError(err error) string {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return err.Error()
	}
	text := fmt.Sprintf("%s: %s (SQLSTATE %s)", e.Severity, e.Message, e.Code)
	if e.Detail != "" {
		text += "\n  detail: " + e.Detail
	}
	if e.Hint != "" {
		text += "\n  hint: " + e.Hint
	}
	return text
}

// results runs the SQL, which may be several statements, and writes what they return: rows to out,
// the tags of the others to tags.
func results(ctx context.Context, conn *pgconn.PgConn, sql string, f term.Format, delimiter string, out, tags io.Writer) error {
	many := conn.Exec(ctx, sql)
	rows, size := 0, 0
	for many.NextResult() {
		r := many.ResultReader()
		fields := r.FieldDescriptions()
		table := term.Table{}
		for _, d := range fields {
			c := term.Column{Name: printable(d.Name)}
			if numeric(d.DataTypeOID) {
				c.Align = term.Right
			}
			table.Columns = append(table.Columns, c)
		}
		for r.NextRow() {
			cells := make([]any, len(fields))
			for i, v := range r.Values() {
				size += len(v)
				cells[i] = cell(v, fields[i].DataTypeOID, f)
			}
			if rows++; rows > maxRows || size > maxRowBytes {
				_ = conn.Close(ctx)
				return fmt.Errorf("the result has more than %d rows or %d bytes: use psql for it", maxRows, maxRowBytes)
			}
			table.Rows = append(table.Rows, cells)
		}
		tag, err := r.Close()
		if err != nil {
			break // the multi-result has it too
		}
		if len(fields) == 0 {
			if tag.String() != "" {
				fmt.Fprintln(tags, tag)
			}
			continue
		}
		if f == term.TSV && delimiter != "\t" {
			err = writeDelimited(out, &table, delimiter)
		} else {
			err = table.Write(out, f)
		}
		if err != nil {
			return err
		}
	}
	if err := many.Close(); err != nil {
		return errors.New(printable(sqlError(err)))
	}
	return nil
}

func writeDelimited(w io.Writer, t *term.Table, delimiter string) error {
	var b strings.Builder
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	b.WriteString(strings.Join(names, delimiter) + "\n")
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = fmt.Sprint(c)
		}
		b.WriteString(strings.Join(cells, delimiter) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func numeric(oid uint32) bool {
	switch oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
		return true
	}
	return false
}

// cell is one value as the format wants it: PostgreSQL's own text for people, values for programs.
func cell(v []byte, oid uint32, f term.Format) any {
	if f != term.JSON && f != term.YAML {
		return printable(string(v)) // NULL is empty, as in psql
	}
	if v == nil {
		return nil
	}
	text := string(v)
	switch oid {
	case pgtype.BoolOID:
		return text == "t"
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	case pgtype.Float4OID, pgtype.Float8OID:
		if x, err := strconv.ParseFloat(text, 64); err == nil && x == x && x-x == 0 {
			return x
		}
	case pgtype.JSONOID, pgtype.JSONBOID:
		var doc any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if d.Decode(&doc) == nil {
			return doc
		}
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
