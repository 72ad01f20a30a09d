package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// hbaRule is one line of pg_hba.conf.
type hbaRule struct {
	kind      string // local, host, hostssl, hostnossl, hostgssenc, hostnogssenc
	databases []string
	users     []string
	address   string // empty for local; with its mask
	method    string
}

var hbaKinds = []string{"local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"}
var hbaMethods = []string{"trust", "reject", "scram-sha-256", "md5", "password", "gss", "sspi", "ident", "peer", "ldap", "radius",
	"cert", "pam", "bsd", "oauth"}

// hbaFields splits a line at blanks, with "quoted" words and # comments.
func hbaFields(line string) ([]string, error) {
	var out []string
	var b strings.Builder
	quoted, any := false, false
	flush := func() {
		if any {
			out = append(out, b.String())
		}
		b.Reset()
		any = false
	}
	for _, r := range line {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case quoted:
			b.WriteRune(r)
		case r == '#':
			flush()
			return out, nil
		case r == ' ' || r == '\t':
			flush()
		default:
			any = true
			b.WriteRune(r)
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quotation mark is not closed")
	}
	flush()
	return out, nil
}

// parseHBA reads one line; ok is false for a comment, a blank line or an include.
func parseHBA(line string) (rule hbaRule, ok bool, err error) {
	f, err := hbaFields(line)
	if err != nil || len(f) == 0 || strings.HasPrefix(f[0], "include") {
		return rule, false, err
	}
	rule.kind = f[0]
	if !slices.Contains(hbaKinds, f[0]) {
		return rule, false, fmt.Errorf("want a line that begins with %s, got %q", strings.Join(hbaKinds, ", "), f[0])
	}
	want := 5
	if f[0] == "local" {
		want = 4
	}
	if len(f) < want {
		return rule, false, fmt.Errorf("want type, database, user, address (except for local) and method, got %d words", len(f))
	}
	rule.databases, rule.users = strings.Split(f[1], ","), strings.Split(f[2], ",")
	rest := f[3:]
	if f[0] != "local" {
		rule.address, rest = f[3], f[4:]
		if _, err := netip.ParseAddr(f[3]); err == nil {
			if len(rest) < 2 {
				return rule, false, fmt.Errorf("address %q has no mask: write %s/32 or, for IPv6, /128", f[3], f[3])
			}
			rule.address, rest = rule.address+" "+rest[0], rest[1:]
		} else if strings.Contains(f[3], "/") {
			if _, err := netip.ParsePrefix(f[3]); err != nil {
				return rule, false, fmt.Errorf("address %q is no network such as 10.1.0.0/16", f[3])
			}
		}
	}
	rule.method = strings.ToLower(rest[0])
	if !slices.Contains(hbaMethods, rule.method) {
		return rule, false, fmt.Errorf("unknown method %q: want one of %s", rest[0], strings.Join(hbaMethods, ", "))
	}
	return rule, true, nil
}

// everywhere says whether the rule's address is the whole internet.
func (r hbaRule) everywhere() bool {
	if r.address == "all" || r.address == "0.0.0.0 0.0.0.0" {
		return true
	}
	p, err := netip.ParsePrefix(r.address)
	return err == nil && p.Bits() == 0
}

func (k *checker) hba(at string, lines []string) {
	for i, l := range lines {
		line := fmt.Sprintf("%s[%d]", at, i)
		r, ok, err := parseHBA(l)
		if err != nil {
			k.bad(line, "PostgreSQL would refuse the whole file", "%v", err)
			continue
		}
		if ok {
			k.rule(line, r)
		}
	}
}

// rule warns of habits that open the database to people it should not be open to.
func (k *checker) rule(at string, r hbaRule) {
	super := k.c.PostgreSQL.Authentication.Superuser.Username
	everyone := slices.Contains(r.users, "all") || slices.Contains(r.users, super)
	switch r.method {
	case "trust":
		who := "any account of this machine"
		if r.kind != "local" {
			who = "anybody who reaches the port from " + r.address
		}
		k.warn(at, "use peer for local, scram-sha-256 for others", "trust asks for no password: %s becomes any role it names, the superuser included", who)
	case "md5":
		k.warn(at, "use scram-sha-256; set password_encryption to it and set each password once more", "md5 is deprecated, and its hashes can be used to sign in")
	case "password":
		k.warn(at, "use scram-sha-256", "the password crosses the network as plain text")
	}
	if r.method == "reject" || !r.everywhere() {
		return
	}
	switch {
	case slices.Contains(r.databases, "replication"):
		k.warn(at, "name the cluster's own addresses", "replication from everywhere: whoever has the password can copy the whole cluster")
	case everyone:
		k.warn(at, "name the networks of the applications, and reject "+super+" before this line",
			"everybody, the superuser %s included, may sign in from everywhere (%s)", super, r.address)
	default:
		k.warn(at, "name the networks of the applications", "sign-in from everywhere (%s)", r.address)
	}
}
