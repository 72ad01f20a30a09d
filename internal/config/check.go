package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// checker looks at a decoded Config and collects what is wrong with it.
type checker struct {
	c        *Config
	problems Problems
}

// add reports a problem at path, with the line of path or of the nearest section above it.
func (k *checker) add(sev Severity, at, hint, format string, args ...any) {
	line := 0
	for p := at; ; {
		if l, ok := k.c.lines[p]; ok {
			line = l
			break
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			break
		}
		p = p[:i]
	}
	msg := fmt.Sprintf(format, args...)
	if env := k.c.sources[at]; env != "" {
		msg += " (from the environment variable " + env + ")"
	}
	k.problems = append(k.problems, Problem{Path: at, Line: line, Severity: sev, Message: msg, Hint: hint})
}

func (k *checker) bad(at, hint, format string, args ...any) { k.add(Error, at, hint, format, args...) }
func (k *checker) warn(at, hint, format string, args ...any) {
	k.add(Warning, at, hint, format, args...)
}

func (k *checker) check() {
	c := k.c
	for _, n := range []struct{ at, v string }{{"scope", c.Scope}, {"name", c.Name}} {
		if n.v == "" {
			continue
		}
		if err := cluster.CheckName(n.v); err != nil {
			k.bad(n.at, "", "%v", err)
		}
	}
	k.namespace()
	k.addresses()
	k.paths()
	k.etcd()
	k.hba("postgresql.pg_hba", c.PostgreSQL.PgHBA)
	k.hba("bootstrap.pg_hba", c.Bootstrap.PgHBA)
	for i, a := range c.PostgreSQL.Allow {
		if !isNetwork(a) {
			k.bad(fmt.Sprintf("postgresql.allow[%d]", i), "", "want a network such as 10.1.0.0/16, an address, samehost or samenet, got %q", a)
		}
	}
	for i, a := range c.RestAPI.Allowlist {
		if a == "samehost" || a == "samenet" || !isNetwork(a) && checkHost(a) != nil {
			k.bad(fmt.Sprintf("restapi.allowlist[%d]", i), "", "want a network, an address or a host name, got %q", a)
		}
	}
	for _, s := range []string{"parameters", "parameters_primary", "parameters_replica", "parameters_standby_leader"} {
		k.parameters("postgresql."+s, map[string]map[string]any{"parameters": c.PostgreSQL.Parameters, "parameters_primary": c.PostgreSQL.ParametersPrimary,
			"parameters_replica": c.PostgreSQL.ParametersReplica, "parameters_standby_leader": c.PostgreSQL.ParametersStandbyLeader}[s])
	}
	k.sections()
	k.pair("restapi.certfile", c.RestAPI.CertFile, "restapi.keyfile", c.RestAPI.KeyFile)
	k.pair("etcd3.cert", c.Etcd3.Cert, "etcd3.key", c.Etcd3.Key)
	if c.RestAPI.VerifyClient != "none" && c.RestAPI.CAFile == "" {
		k.bad("restapi.verify_client", "state restapi.cafile", "client certificates are asked for, but restapi.cafile says not from whom")
	}
	if c.RestAPI.CertFile != "" && c.RestAPI.CAFile == "" {
		k.bad("restapi.cafile", "state the authority that signed the members' certificates",
			"is missing beside restapi.certfile: the members know each other by certificates of it, and without it they could not ask one another before a fail-over")
	}
	if c.RestAPI.VerifyClient != "none" && c.RestAPI.CertFile == "" {
		k.bad("restapi.verify_client", "state restapi.certfile", "client certificates need HTTPS, and restapi.certfile is not stated")
	}
	k.login("restapi.authentication", c.RestAPI.Authentication)
	k.tags()
	k.collisions()
	if c.Bootstrap.DCS != nil {
		k.dynamic()
	}
}

// pair wants a key where there is a certificate to be used with one, unless the file may hold both.
func (k *checker) pair(certPath, cert, keyPath, key string) {
	if key != "" && cert == "" {
		k.bad(certPath, "", "is missing, while %s is stated", keyPath)
	}
}

func (k *checker) login(at string, l Login) {
	if (l.Username == "") != (l.Password == "") {
		k.bad(at, "", "want both username and password, or neither")
	}
	if strings.Contains(l.Username, ":") {
		k.bad(at+".username", "", "contains a colon, which basic authentication cannot carry")
	}
}

func (k *checker) namespace() {
	for part := range strings.SplitSeq(strings.Trim(k.c.Namespace, "/"), "/") {
		if part == "" && strings.Trim(k.c.Namespace, "/") == "" {
			return
		}
		bad := part == "" || part == "." || part == ".." || len(part) > 63
		for _, r := range part {
			bad = bad || !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
		}
		if bad {
			k.bad("namespace", "a path such as /service/", "part %q: want 1 to 63 letters, digits, dots, dashes or underscores, and neither . nor ..", part)
		}
	}
}

func (k *checker) addresses() {
	c := k.c
	if c.PostgreSQL.Listen != "" {
		if hosts, _, err := listenHosts(c.PostgreSQL.Listen, 5432); err != nil {
			k.bad("postgresql.listen", "HOST[,HOST]:PORT", "%v", err)
		} else if c.PostgreSQL.ConnectAddress == "" && slices.ContainsFunc(hosts, wildcard) {
			k.bad("postgresql.connect_address", "the HOST:PORT at which other nodes reach this PostgreSQL",
				"is missing, and cannot be guessed since postgresql.listen is %s", c.PostgreSQL.Listen)
		}
	}
	if c.RestAPI.Listen != "" && c.RestAPI.ConnectAddress == "" {
		if _, _, err := splitHostPort(c.RestAPI.Listen, 8008); err == nil {
			k.bad("restapi.connect_address", "the HOST:PORT at which other nodes reach this REST API", "is missing, and cannot be guessed since restapi.listen is %s", c.RestAPI.Listen)
		}
	}
	type address struct {
		at, v   string
		def     int
		connect bool
	}
	list := []address{{"postgresql.connect_address", c.PostgreSQL.ConnectAddress, 5432, true}, {"postgresql.proxy_address", c.PostgreSQL.ProxyAddress, 5432, true},
		{"restapi.listen", c.RestAPI.Listen, 8008, false}, {"restapi.connect_address", c.RestAPI.ConnectAddress, 8008, true},
		{"peer.listen", c.Peer.Listen, 0, false}, {"peer.connect_address", c.Peer.ConnectAddress, 0, true}}
	if r := c.Router; r != nil {
		list = append(list, address{"router.status_listen", r.StatusListen, 0, false})
		if _, _, err := listenHosts(r.Listen, 1); err != nil {
			k.bad("router.listen", "a host, without a port", "%v", err)
		}
	}
	if e := c.Etcd.Embedded; e != nil {
		list = append(list, address{"etcd.embedded.listen_client", e.ListenClient, 0, false}, address{"etcd.embedded.listen_peer", e.ListenPeer, 0, false})
	}
	for _, a := range list {
		if a.v == "" {
			continue
		}
		host, _, err := splitHostPort(a.v, a.def)
		if err != nil {
			k.bad(a.at, "", "%v", err)
		} else if a.connect && wildcard(host) {
			k.bad(a.at, "the address that other nodes use", "%q is no address that others can connect to", a.v)
		}
	}
	if c.RestAPI.Listen != "" && c.Peer.Listen == "" {
		k.bad("peer.listen", "state peer.listen", "cannot be derived: the port of restapi.listen plus 1000 is above 65535")
	}
}

// systemDirs are directories that hold more than a database.
var systemDirs = []string{"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
	"/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/lib/postgresql", "/var/log", "/var/tmp"}

func (k *checker) paths() {
	c := k.c
	list := []struct {
		at, v string
		own   bool // hathi may empty or replace it
	}{{"postgresql.data_dir", c.PostgreSQL.DataDir, true}, {"postgresql.config_dir", c.PostgreSQL.ConfigDir, false},
		{"postgresql.bin_dir", c.PostgreSQL.BinDir, false}, {"postgresql.pgpass", c.PostgreSQL.PgPass, true},
		{"runtime_dir", c.RuntimeDir, true}, {"guardian.state_file", c.Guardian.StateFile, true}, {"log.dir", c.Log.Dir, false}}
	if e := c.Etcd.Embedded; e != nil {
		list = append(list, struct {
			at, v string
			own   bool
		}{"etcd.embedded.data_dir", e.DataDir, true})
	}
	for _, p := range list {
		if p.v == "" || !c.Stated(p.at) {
			continue
		}
		switch {
		case !strings.HasPrefix(p.v, "/"):
			k.bad(p.at, "a path that begins with /", "%q is a relative path: it would depend on where hathi is started", p.v)
		case slices.Contains(strings.Split(p.v, "/"), ".."):
			k.bad(p.at, "", "%q contains ..", p.v)
		case p.own && slices.Contains(systemDirs, path.Clean(p.v)):
			k.bad(p.at, "a directory that holds nothing else", "%q holds more than hathi's data; hathi would set it aside or replace it", p.v)
		}
	}
	if e := c.Etcd.Embedded; e != nil && e.DataDir != "" && c.PostgreSQL.DataDir != "" && within(e.DataDir, c.PostgreSQL.DataDir) {
		k.bad("etcd.embedded.data_dir", "a directory beside it", "lies in postgresql.data_dir, which is replaced when the node is cloned anew")
	}
	if c.Stated("runtime_dir") && c.PostgreSQL.DataDir != "" && within(c.RuntimeDir, c.PostgreSQL.DataDir) {
		k.bad("runtime_dir", "a directory beside it", "lies in postgresql.data_dir, which is replaced when the node is cloned anew")
	}
}

func within(p, dir string) bool {
	p, dir = path.Clean(p), path.Clean(dir)
	return p == dir || strings.HasPrefix(p, dir+"/")
}

func (k *checker) etcd() {
	c := k.c
	for _, s := range []struct {
		section       string
		srv, suffix   string
		proxy         bool
		hosts         []string
		protocol, url string
	}{{"etcd3", c.Etcd3.Srv, c.Etcd3.SrvSuffix, c.Etcd3.Proxy != "" || c.Etcd3.UseProxies, c.Etcd3.endpoints(), c.Etcd3.Protocol, c.Etcd3.URL},
		{"etcd", c.Etcd.Srv, c.Etcd.SrvSuffix, c.Etcd.Proxy != "" || c.Etcd.UseProxies, Etcd3{Host: c.Etcd.Host, Hosts: c.Etcd.Hosts, URL: c.Etcd.URL}.endpoints(), c.Etcd.Protocol, c.Etcd.URL}} {
		if s.srv != "" || s.suffix != "" {
			k.bad(s.section+".srv", "list the endpoints in etcd3.hosts", "finding etcd through DNS is refused: a name server that fails would delay a fail-over")
		}
		if s.proxy {
			k.bad(s.section+".proxy", "list the endpoints in etcd3.hosts", "etcd proxies are not supported")
		}
		for i, h := range s.hosts {
			if _, err := endpointURL(h, "http"); err != nil {
				at := fmt.Sprintf("%s.hosts[%d]", s.section, i)
				if !c.Stated(s.section + ".hosts") {
					at = s.section + ".host"
				}
				k.bad(at, "HOST:PORT", "%v", err)
			}
		}
		if len(s.hosts) > 0 && s.section == "etcd" {
			k.warn("etcd", "rename the section to etcd3", "the old etcd API is gone from etcd; its endpoints are used with the v3 API")
		}
	}
	if e := c.Etcd.Embedded; e != nil {
		k.embedded(e)
	}
}

func (k *checker) embedded(e *Embedded) {
	const at = "etcd.embedded."
	if e.Name != "" {
		if err := cluster.CheckName(e.Name); err != nil {
			k.bad(at+"name", "", "%v", err)
		}
	}
	for _, u := range []struct{ at, v string }{{"advertise_client", e.AdvertiseClient}, {"advertise_peer", e.AdvertisePeer}} {
		if u.v == "" {
			k.bad(at+u.at, "the URL at which others reach this member", "is missing, and cannot be guessed from a listen address for all interfaces")
		} else if _, err := endpointURL(u.v, "http"); err != nil || !strings.Contains(u.v, "://") {
			k.bad(at+u.at, "http://HOST:PORT", "%q is no URL that others can call", u.v)
		}
	}
	for _, n := range sortedKeys(e.InitialCluster) {
		if _, err := endpointURL(e.InitialCluster[n], "http"); err != nil || !strings.Contains(e.InitialCluster[n], "://") {
			k.bad(at+"initial_cluster."+n, "http://HOST:PORT", "%q is no URL that others can call", e.InitialCluster[n])
		}
	}
	if e.Name != "" && len(e.InitialCluster) > 0 {
		if u, ok := e.InitialCluster[e.Name]; !ok {
			k.bad(at+"initial_cluster", "add it", "does not name this member, %s", e.Name)
		} else if e.AdvertisePeer != "" && strings.TrimSuffix(u, "/") != e.AdvertisePeer {
			k.bad(at+"initial_cluster."+e.Name, "make them equal", "is %s, but advertise_peer is %s", u, e.AdvertisePeer)
		}
	}
	if n := len(e.InitialCluster); n > 0 && n%2 == 0 {
		k.warn(at+"initial_cluster", "use 3 or 5", "%d members bear the loss of %d, as %d members do: the last one adds no safety", n, (n-1)/2, n-1)
	}
	if e.ElectionTimeout < 5*e.Heartbeat {
		k.bad(at+"election_timeout", "", "%v is less than 5 × heartbeat = 5 × %v = %v", e.ElectionTimeout, e.Heartbeat, 5*e.Heartbeat)
	}
	if (e.TLS.CertFile == "") != (e.TLS.KeyFile == "") {
		k.bad(at+"tls", "", "want both certfile and keyfile, or neither")
	}
	if e.TLS.CertFile != "" && e.TLS.CAFile == "" {
		k.bad(at+"tls.cafile", "", "is missing: without it anybody with any certificate could read and write the store")
	}
}

func isNetwork(s string) bool {
	if s == "samehost" || s == "samenet" {
		return true
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.IsValid()
	}
	_, err := netip.ParseAddr(s)
	return err == nil
}
