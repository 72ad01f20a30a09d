package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// parameters checks a map of PostgreSQL parameters stated in the file.
func (k *checker) parameters(at string, params map[string]any) {
	for _, name := range sortedKeys(params) {
		p := at + "." + name
		text, ok := cluster.ParameterText(params[name])
		if !ok {
			k.bad(p, "", "want text, a number or a boolean")
			continue
		}
		if err := cluster.CheckParameter(strings.ToLower(name), text); err != nil {
			k.bad(p, "", "%v", err)
			continue
		}
		if why, ok := cluster.ControlledParameter(name); ok {
			k.warn(p, "remove it", "is ignored: %s", why)
		} else if sharedParameters[strings.ToLower(name)] {
			k.warn(p, "move it to bootstrap.dcs.postgresql.parameters, or use `hathi edit-config -p`",
				"is ignored here, as in Patroni: it must be equal on all nodes")
		}
	}
}

// sharedParameters must be equal on all nodes, so only the dynamic configuration may state them
// (Patroni's CMDLINE_OPTIONS).
var sharedParameters = map[string]bool{"wal_level": true, "max_connections": true, "max_wal_senders": true, "wal_keep_segments": true,
	"wal_keep_size": true, "max_prepared_transactions": true, "max_locks_per_transaction": true, "track_commit_timestamp": true,
	"max_replication_slots": true, "max_worker_processes": true, "wal_log_hints": true}

func (k *checker) sections() {
	c := k.c
	b := c.Bootstrap
	if b.Method != "initdb" {
		if m, ok := b.Section(b.Method); !ok {
			k.bad("bootstrap.method", "add the section bootstrap."+b.Method+" with a command", "names %q, which is no section of bootstrap", b.Method)
		} else if m.Command == "" {
			k.bad("bootstrap."+b.Method, "", "has no command")
		}
	}
	for _, name := range sortedKeys(b.Other) {
		if _, ok := b.Section(name); !ok || b.Method != name {
			k.warn("bootstrap."+name, "", "unknown setting, ignored: bootstrap.method does not name it")
		}
	}
	for i, name := range c.PostgreSQL.CreateReplicaMethods {
		if name == "basebackup" {
			continue
		}
		if m, ok := c.PostgreSQL.ReplicaMethod(name); !ok || m.Command == "" {
			k.bad(fmt.Sprintf("postgresql.create_replica_methods[%d]", i), "add the section postgresql."+name, "names %q, which is no section of postgresql with a command", name)
		}
	}
	for _, name := range sortedKeys(c.PostgreSQL.Other) {
		if !slices.Contains(c.PostgreSQL.CreateReplicaMethods, name) {
			k.warn("postgresql."+name, "", "unknown setting, ignored: postgresql.create_replica_methods does not name it")
		}
	}
	for _, o := range []struct {
		at string
		v  any
	}{{"bootstrap.initdb", b.InitDB}, {"postgresql.basebackup", c.PostgreSQL.BaseBackup}, {"postgresql.rewind", c.PostgreSQL.Rewind}} {
		k.options(o.at, o.v)
	}
	for _, n := range sortedKeys(c.PostgreSQL.Callbacks) {
		if !slices.Contains([]string{"on_start", "on_stop", "on_restart", "on_reload", "on_role_change"}, n) {
			k.warn("postgresql.callbacks."+n, "", "unknown callback, never called")
		}
	}
	for _, n := range sortedKeys(c.PostgreSQL.BinName) {
		if strings.ContainsAny(c.PostgreSQL.BinName[n], "/\\") || c.PostgreSQL.BinName[n] == "" {
			k.bad("postgresql.bin_name."+n, "use postgresql.bin_dir for the directory", "want a file name without a directory")
		}
	}
	for _, n := range []struct{ at, v string }{{"superuser", c.PostgreSQL.Authentication.Superuser.Username},
		{"replication", c.PostgreSQL.Authentication.Replication.Username}, {"rewind", c.PostgreSQL.Authentication.Rewind.Username}} {
		if err := checkRole(n.v); err != nil {
			k.bad("postgresql.authentication."+n.at+".username", "", "%v", err)
		}
	}
	if c.Citus != nil && len(c.Citus.Names()) == 0 {
		k.bad("citus.database", "", "is missing: which database is distributed?")
	}
}

// checkRole accepts role names that pg_hba.conf and password files can carry.
func checkRole(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("role name: want 1 to 63 bytes, got %d", len(s))
	}
	if strings.ContainsAny(s, "\"\\\n\r\x00") || strings.ContainsAny(s[:1], "+@/") {
		return fmt.Errorf("role name %q: quotation marks, backslashes, line breaks and a leading + @ / cannot be written to pg_hba.conf", s)
	}
	return nil
}

// options wants a list of words and one-value mappings, or a mapping.
func (k *checker) options(at string, v any) {
	one := func(at string, m map[string]any) {
		for _, n := range sortedKeys(m) {
			switch m[n].(type) {
			case map[string]any, []any:
				k.bad(join(at, n), "", "want one value")
			}
			if n == "" || strings.HasPrefix(n, "-") {
				k.bad(join(at, n), "write the option's long name without dashes", "option %q", n)
			}
		}
	}
	switch v := v.(type) {
	case nil:
	case map[string]any:
		one(at, v)
	case []any:
		for i, e := range v {
			switch e := e.(type) {
			case string:
				if e == "" || strings.HasPrefix(e, "-") {
					k.bad(fmt.Sprintf("%s[%d]", at, i), "write the option's long name without dashes", "option %q", e)
				}
			case map[string]any:
				one(fmt.Sprintf("%s[%d]", at, i), e)
			default:
				k.bad(fmt.Sprintf("%s[%d]", at, i), "", "want a word, or NAME: VALUE")
			}
		}
	default:
		k.bad(at, "", "want a list of options")
	}
}

// tags warns where a tag and its priority contradict each other, as Patroni does, and refuses a
// node that follows itself.
func (k *checker) tags() {
	t := cluster.Tags(k.c.Tags)
	for _, p := range [][2]string{{"nofailover", "failover_priority"}, {"nosync", "sync_priority"}} {
		if t[p[0]] == nil || t[p[1]] == nil {
			continue
		}
		without := cluster.Tags{p[1]: t[p[1]]}
		allowed := without.FailoverPriority() > 0
		if p[0] == "nosync" {
			allowed = without.SyncPriority() > 0
		}
		if allowed == t.Bool(p[0]) {
			k.warn("tags."+p[0], "state one of them", "Conflicting configuration between %s: %s and %s: %s. Defaulting to %s: %s", p[0], python(t[p[0]]), p[1], python(t[p[1]]), p[0], python(t[p[0]]))
		}
	}
	if from := t.ReplicateFrom(); from != "" {
		if err := cluster.CheckName(from); err != nil {
			k.bad("tags.replicatefrom", "", "%v", err)
		} else if from == k.c.Name {
			k.bad("tags.replicatefrom", "name another node", "a node cannot replicate from itself")
		}
	}
}

// python writes a value as Python prints it; log readers look for that text.
func python(v any) string {
	switch v {
	case true:
		return "True"
	case false:
		return "False"
	}
	return fmt.Sprint(v)
}

// listener is a port that this configuration opens.
type listener struct {
	at   string
	host string
	port int
}

func (k *checker) listeners() []listener {
	c := k.c
	var out []listener
	add := func(at, v string, def int) {
		if v == "" {
			return
		}
		if host, port, err := splitHostPort(v, def); err == nil {
			out = append(out, listener{at, host, port})
		}
	}
	if c.PostgreSQL.Listen != "" {
		hosts, port, err := listenHosts(c.PostgreSQL.Listen, 5432)
		for _, h := range hosts {
			if err == nil {
				out = append(out, listener{"postgresql.listen", h, port})
			}
		}
	}
	add("restapi.listen", c.RestAPI.Listen, 8008)
	add("peer.listen", c.Peer.Listen, 0)
	if e := c.Etcd.Embedded; e != nil {
		add("etcd.embedded.listen_client", e.ListenClient, 0)
		add("etcd.embedded.listen_peer", e.ListenPeer, 0)
	}
	if r := c.Router; r != nil {
		hosts, _, err := listenHosts(r.Listen, 1)
		for _, h := range hosts {
			if err == nil && r.WritePort > 0 {
				out = append(out, listener{"router.write_port", h, r.WritePort})
			}
			if err == nil && r.ReadPort > 0 {
				out = append(out, listener{"router.read_port", h, r.ReadPort})
			}
		}
		add("router.status_listen", r.StatusListen, 0)
	}
	return out
}

// collisions refuses two listeners on the same port of the same address.
func (k *checker) collisions() {
	all := k.listeners()
	seen := map[[2]string]bool{}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.at == b.at || a.port != b.port || !sameHost(a.host, b.host) || seen[[2]string{a.at, b.at}] {
				continue
			}
			seen[[2]string{a.at, b.at}] = true
			k.bad(a.at, "give one of them another port", "%s is also the port of %s (%s)", hostPort(a.host, a.port), b.at, hostPort(b.host, b.port))
		}
	}
}

func sameHost(a, b string) bool {
	if wildcard(a) || wildcard(b) || strings.EqualFold(a, b) {
		return true
	}
	if strings.EqualFold(a, "localhost") {
		a = "127.0.0.1"
	}
	if strings.EqualFold(b, "localhost") {
		b = "127.0.0.1"
	}
	x, err1 := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	return err1 == nil && err2 == nil && x.Unmap() == y.Unmap()
}

// Use is what a process does with the configuration.
type Use string

// The uses of a configuration, one per process.
const (
	RoleAgent  Use = "agent"
	RoleRouter Use = "router"
	RoleEtcd   Use = "etcd"
	RoleCtl    Use = "ctl"
)

// For are the problems of the configuration for one process, beyond those that Load found: what
// that process needs and the file does not state.
func (c *Config) For(use Use) Problems {
	k := checker{c: c}
	need := func(at, v, hint string) {
		if v == "" {
			k.bad(at, hint, "is missing, and `hathi %s` needs it", map[Use]string{RoleAgent: "run", RoleRouter: "router", RoleEtcd: "etcd", RoleCtl: "COMMAND"}[use])
		}
	}
	if use == RoleEtcd {
		if c.Etcd.Embedded == nil {
			k.bad("etcd.embedded", "add the section, or run etcd elsewhere and name it in etcd3.hosts", "is missing, and `hathi etcd` needs it")
			return k.problems
		}
		need("etcd.embedded.name", c.Etcd.Embedded.Name, "state name")
		need("etcd.embedded.data_dir", c.Etcd.Embedded.DataDir, "an absolute path")
		return k.problems
	}
	if use != RoleCtl {
		need("scope", c.Scope, "the name of the cluster")
	}
	if len(c.Store().Endpoints) == 0 {
		k.bad("etcd3.hosts", "a list of HOST:PORT", "is missing: where is the store?")
	}
	switch use {
	case RoleRouter:
		if c.Router == nil {
			k.bad("router", "add `router: {write_port: 6432}`", "is missing, and `hathi router` needs it")
		} else if c.Router.WritePort == 0 && c.Router.ReadPort == 0 {
			k.bad("router.write_port", "", "neither write_port nor read_port is open")
		}
	case RoleAgent:
		need("name", c.Name, "a name that no other node of the cluster has")
		need("postgresql.data_dir", c.PostgreSQL.DataDir, "an absolute path")
		need("postgresql.listen", c.PostgreSQL.Listen, "HOST:PORT")
		if c.PostgreSQL.Listen != "" { // else said already
			need("restapi.listen", c.RestAPI.Listen, "HOST:PORT")
		}
		k.credentials()
	}
	return k.problems
}

// credentials wants a way to sign in to other nodes.
func (k *checker) credentials() {
	a := k.c.PostgreSQL.Authentication
	for _, r := range []struct {
		at string
		r  Role
	}{{"replication", a.Replication}, {"rewind", a.Rewind}} {
		if r.r.Password == "" && r.r.SSLCert == "" {
			at := "postgresql.authentication." + r.at + ".password"
			if k.c.PostgreSQL.PgHBA != nil || k.c.Bootstrap.PgHBA != nil || k.c.Bootstrap.DCS != nil {
				k.warn(at, "", "is missing: %s must be let in without one by pg_hba", r.r.Username)
				continue
			}
			k.bad(at, "state it here or in the environment", "is missing, and there is no sslcert: %s could not sign in to other nodes", r.r.Username)
		}
	}
}
