package cli

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
)

// dsnCommand prints connection strings.
type dsnCommand struct {
	app    *App
	find   finder
	read   bool
	router bool
	member string
	role   string
	user   string
	db     string
}

func (a *App) dsnCommand() *cobra.Command {
	d := &dsnCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "dsn [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi dsn [--read | --router | -m MEMBER | -r ROLE]

Print a connection string: over all members, with the driver looking for the one that accepts writes
(--read: for a standby, if there is one); through the router's ports (--router); or of one member.
It holds no password: psql takes it from PGPASSWORD or a password file.

Examples:
  psql "$(hathi dsn --dir /tmp/demo)"
  psql "$(hathi dsn --dir /tmp/demo --router --read)"
  hathi dsn -c /etc/hathi/node.yml -m pg2`,
		RunE: func(c *cobra.Command, args []string) error { return d.run(c, args) }}
	d.find.bind(c, readWithin)
	fl := c.Flags()
	fl.BoolVar(&d.read, "read", false, "for reading: a standby, if there is one")
	fl.BoolVar(&d.router, "router", false, "through the router")
	fl.StringVarP(&d.member, "member", "m", "", "of this `MEMBER`")
	fl.StringVarP(&d.role, "role", "r", "", "of a member with this `ROLE`: primary, replica, any")
	fl.StringVarP(&d.user, "username", "U", "", "with this database `USER`")
	fl.StringVarP(&d.db, "dbname", "d", "", "of this `DATABASE`")
	return c
}

func (d *dsnCommand) run(c *cobra.Command, args []string) error {
	n := 0
	for _, set := range []bool{d.member != "", d.role != "", d.router} {
		if set {
			n++
		}
	}
	if n > 1 || d.read && (d.member != "" || d.role != "") {
		return usagef("--member, --role, --router are mutually exclusive options, and --read goes with --router alone")
	}
	role, err := parseRole(d.role)
	if err != nil {
		return err
	}
	ctx, cancel := d.find.bounded(c.Context())
	defer cancel()
	t, _, err := d.find.open(ctx, args, false)
	if err != nil {
		return err
	}
	defer t.Close()
	if d.router {
		at, err := t.routerAddress(d.read)
		if err != nil {
			return err
		}
		fmt.Fprintln(d.app.Stdout, t.login().as(d.user, d.db).uri([]string{at}, ""))
		return nil
	}
	v, err := t.view(ctx)
	if err != nil {
		return err
	}
	attrs := "read-write"
	if d.read {
		attrs = "prefer-standby"
	}
	var members []cluster.Member
	switch {
	case d.member != "":
		m, err := t.member(v, d.member)
		if err != nil {
			return err
		}
		members, attrs = []cluster.Member{m}, ""
	case role != "":
		if members, err = t.choose(v, selection{role: role, verb: "dsn"}); err != nil {
			return err
		}
		attrs = ""
		if len(members) > 1 {
			members = members[:1]
		}
	default:
		for _, name := range memberNames(v) {
			members = append(members, v.Members[name])
		}
	}
	var hosts []string
	for _, m := range members {
		host, port, err := m.HostPort()
		if err != nil {
			if d.member != "" {
				return err
			}
			continue
		}
		hosts = append(hosts, net.JoinHostPort(host, port))
	}
	if len(hosts) == 0 {
		return saidf("Can not find a suitable member in cluster %s", t.name)
	}
	fmt.Fprintln(d.app.Stdout, t.login().as(d.user, d.db).uri(hosts, attrs))
	if at, err := t.routerAddress(d.read); err == nil && d.member == "" && role == "" {
		fmt.Fprintln(d.app.Stderr, "through the router:", t.login().as(d.user, d.db).uri([]string{at}, ""))
	}
	return nil
}

// routerAddress is a port of the router that the configuration describes.
func (t *target) routerAddress(read bool) (string, error) {
	r := t.cfg.Router
	if r == nil {
		return "", fmt.Errorf("%s describes no router (section router)", t.from)
	}
	port, what := r.WritePort, "write_port"
	if read {
		port, what = r.ReadPort, "read_port"
	}
	if port == 0 {
		return "", fmt.Errorf("the router has no such port (router.%s is 0)", what)
	}
	host, _, _ := strings.Cut(r.Listen, ",")
	if host = strings.TrimSpace(host); slices.Contains([]string{"", "*", "0.0.0.0", "::"}, host) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// login is whom to sign in as, and how, without the password.
type login struct {
	user, db             string
	passFile             string
	sslMode, sslRootCert string
	sslCert, sslKey      string
	password             config.Secret // never printed
}

// login is the default for a cluster: a demo's application role; else the superuser of a file that
// was made for commands (it runs no PostgreSQL itself). The superuser of a node does not come over
// the network.
func (t *target) login() login {
	pg := t.cfg.PostgreSQL
	super := pg.Authentication.Superuser
	switch {
	case t.demo != nil:
		return login{user: "app", db: "app", passFile: t.demo.PassFile(), sslMode: "verify-full", sslRootCert: t.demo.CAFile()}
	case pg.DataDir == "" && t.cfg.Stated("postgresql.authentication.superuser.username"):
		l := login{user: super.Username, db: "postgres", password: super.Password, sslMode: super.SSLMode, sslRootCert: super.SSLRootCert,
			sslCert: super.SSLCert, sslKey: super.SSLKey}
		if t.cfg.Stated("postgresql.pgpass") {
			l.passFile = pg.PgPass
		}
		return l
	}
	return login{db: "postgres"}
}

// uri writes a libpq URI.
func (l login) uri(hosts []string, attrs string) string {
	var b strings.Builder
	b.WriteString("postgresql://")
	if l.user != "" {
		b.WriteString(url.User(l.user).String() + "@")
	}
	b.WriteString(strings.Join(hosts, ",") + "/" + url.PathEscape(l.db))
	mark := "?"
	for _, p := range [][2]string{{"sslmode", l.sslMode}, {"sslrootcert", l.sslRootCert}, {"sslcert", l.sslCert}, {"sslkey", l.sslKey},
		{"passfile", l.passFile}, {"target_session_attrs", attrs}} {
		if p[1] != "" {
			b.WriteString(mark + p[0] + "=" + strings.ReplaceAll(url.QueryEscape(p[1]), "%2F", "/"))
			mark = "&"
		}
	}
	return strings.ReplaceAll(b.String(), "+", "%20")
}

// as replaces the user and the database by those of the command line.
func (l login) as(user, db string) login {
	if user != "" && user != l.user {
		l.user, l.passFile, l.password, l.sslCert, l.sslKey = user, "", "", "", ""
	}
	if db != "" {
		l.db = db
	}
	return l
}
