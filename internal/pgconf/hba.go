package pgconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Access says who may connect, for the pg_hba.conf that hathi makes when the user states none.
type Access struct {
	// Superuser, Replication and Rewind are role names. Rewind may be "" or the superuser's.
	Superuser, Replication, Rewind string
	// OSUsers are the operating-system users that may become the superuser over the Unix socket:
	// the one that PostgreSQL runs as, and the one that hathi runs as.
	OSUsers []string
	// Members are the addresses or host names of the cluster's nodes, this one included.
	Members []string
	// Allow are networks that applications connect from: CIDR, an address, samehost or samenet.
	// nil for this host alone. The members may connect in any case.
	Allow []string
}

// identMap is the name of hathi's map in pg_ident.conf.
const identMap = "hathi"

var loopbacks = []string{"127.0.0.1/32", "::1/128"}

const hbaHeader = "# Written by hathi. Changes here are overwritten: state postgresql.pg_hba, or postgresql.allow for networks.\n"

// access makes pg_hba.conf and pg_ident.conf.
func access(in Input) (hba, ident []byte, err error) {
	lines, own := in.PgHBA, false
	if lines == nil {
		lines = in.Settings.PgHBA
	}
	if lines == nil {
		own = true
		if lines, err = DefaultHBA(in.Access, in.TLS.Cert != "", slotSync(in)); err != nil {
			return nil, nil, err
		}
	}
	idents := in.PgIdent
	if idents == nil {
		idents = in.Settings.PgIdent
	}
	if own {
		for _, u := range in.Access.OSUsers {
			if err := checkWord("operating-system user", u); err != nil {
				return nil, nil, err
			}
			idents = append(slices.Clip(idents), fmt.Sprintf("%s %s %s", identMap, quoteWord(u), quoteWord(in.Access.Superuser)))
		}
	}
	for _, l := range append(slices.Clone(lines), idents...) {
		if strings.ContainsAny(l, "\n\r\x00") {
			return nil, nil, fmt.Errorf("%w: a line for pg_hba.conf or pg_ident.conf contains a line break or NUL", ErrNode)
		}
	}
	return file(lines), file(idents), nil
}

func file(lines []string) []byte {
	if len(lines) == 0 {
		return []byte(hbaHeader)
	}
	return []byte(hbaHeader + strings.Join(lines, "\n") + "\n")
}

// slotSync says whether standbys connect to a database to copy slots (PostgreSQL 17).
func slotSync(in Input) bool {
	v := in.Settings.Parameters["sync_replication_slots"]
	if own, ok := in.Parameters["sync_replication_slots"]; ok {
		v = own
	}
	return in.ServerVersion >= 170000 && isOn(v)
}

// DefaultHBA are the lines of hathi's own pg_hba.conf. With tls, connections from elsewhere must be
// encrypted. With slotSync the replication role may also connect to the database postgres.
//
// The order matters, PostgreSQL takes the first line that fits: what each of hathi's own roles may,
// then that it may nothing else, then applications. Nobody is trusted, the superuser never comes
// over the network, and the replication and rewind roles come from members only.
func DefaultHBA(a Access, tls, slotSync bool) ([]string, error) {
	for _, w := range []struct{ what, v string }{{"superuser", a.Superuser}, {"replication role", a.Replication}} {
		if err := checkWord(w.what, w.v); err != nil {
			return nil, err
		}
	}
	members, err := addresses(a.Members)
	if err != nil {
		return nil, err
	}
	allow := a.Allow
	if allow == nil {
		allow = []string{"samehost"}
	}
	if allow, err = addresses(allow); err != nil {
		return nil, err
	}
	super, repl, rewind := quoteWord(a.Superuser), quoteWord(a.Replication), ""
	if a.Rewind != "" {
		if err := checkWord("rewind role", a.Rewind); err != nil {
			return nil, err
		}
		rewind = quoteWord(a.Rewind)
	}
	here := append(slices.Clone(loopbacks), "samehost")
	peers := without(members, here)
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	// from writes a line per address: this host may come without TLS, others not where there is TLS.
	from := func(database, role string, local, remote []string) {
		for _, addr := range local {
			add("host %s %s %s scram-sha-256", database, role, addr)
		}
		kind := "host"
		if tls {
			kind = "hostssl"
		}
		for _, addr := range remote {
			add("%s %s %s %s scram-sha-256", kind, database, role, addr)
		}
	}
	add("local all %s peer map=%s", super, identMap)
	add("local replication %s scram-sha-256", repl)
	from("replication", repl, here, peers)
	if slotSync {
		from("postgres", repl, here, peers)
	}
	if rewind != "" {
		// Before the superuser's reject: without a role of its own, pg_rewind signs in as the superuser.
		from("postgres", rewind, here, peers)
	}
	roles := []string{super, repl}
	if rewind != "" && rewind != super {
		roles = append(roles, rewind)
	}
	for _, r := range slices.Compact(roles) {
		add("host all %s all reject", r)
	}
	add("local replication all reject")
	add("host replication all all reject")
	add("local all all scram-sha-256")
	from("all", "all", here, without(append(slices.Clone(allow), members...), here))
	return out, nil
}

// without is list without repetitions and without what is in not.
func without(list, not []string) []string {
	var out []string
	for _, e := range list {
		if !slices.Contains(not, e) && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// addresses are the words for pg_hba.conf: an address gets its mask, a network is cut to its mask.
func addresses(in []string) ([]string, error) {
	var out []string
	for _, s := range in {
		if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
			a = a.Unmap().WithZone("")
			out = append(out, netip.PrefixFrom(a, a.BitLen()).String())
			continue
		}
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked().String())
			continue
		}
		if s == "" || len(s) > 253 || strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
			return nil, fmt.Errorf("%w: %q is no address, network or host name", ErrNode, s)
		}
		out = append(out, s)
	}
	return out, nil
}

// checkWord refuses role and user names that pg_hba.conf gives a meaning of their own or cannot hold.
func checkWord(what, s string) error {
	if s == "" || strings.ContainsAny(s, "\"\\\n\r\x00") || strings.ContainsAny(s[:1], "+@/") {
		return fmt.Errorf("%w: the name of the %s, %q, cannot be written to pg_hba.conf", ErrNode, what, s)
	}
	return nil
}

// quoteWord takes the special meaning from words such as all.
func quoteWord(s string) string { return `"` + s + `"` }
