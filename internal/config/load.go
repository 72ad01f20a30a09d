package config

import (
	"fmt"
	"path"
	"reflect"
	"strings"
)

// Load reads a configuration file (it may be empty) and the environment. All problems are
// reported at once. The Config is never nil; with errors among the problems it must not be used
// for more than showing it.
//
// env holds the whole environment by name; PATRONI_* variables are honoured as Patroni does
// (patroni/config.py), then HATHI_* ones, which exist for every single-valued setting: HATHI_ and
// the path in capitals with underscores.
func Load(yaml []byte, env map[string]string) (*Config, Problems) {
	if text := env["PATRONI_CONFIGURATION"]; len(strings.TrimSpace(string(yaml))) == 0 && text != "" {
		yaml = []byte(text)
	}
	root, problems := parse(yaml)
	c := &Config{lines: map[string]int{}, sources: map[string]string{}}
	d := &decoder{lines: c.lines, sources: c.sources}
	d.problems = append(problems, overrides(root, env)...)
	setDefaults(reflect.ValueOf(c).Elem())
	d.structure(root, reflect.ValueOf(c).Elem(), "")
	c.complete()
	k := checker{c: c, problems: d.problems}
	k.check()
	k.habits()
	return c, k.problems.sorted()
}

// Stated says whether the file or the environment states the setting or section at path.
func (c *Config) Stated(path string) bool { _, ok := c.lines[path]; return ok }

// complete fills the values that follow from others.
func (c *Config) complete() {
	pg, rest := &c.PostgreSQL, &c.RestAPI
	if pg.ConnectAddress == "" && pg.Listen != "" {
		if hosts, port, err := listenHosts(pg.Listen, 5432); err == nil {
			for _, h := range hosts {
				if !wildcard(h) {
					pg.ConnectAddress = hostPort(h, port)
					break
				}
			}
		}
	}
	pgHost, _, pgErr := splitHostPort(pg.ConnectAddress, 5432)
	if rest.Listen == "" && pg.ConnectAddress != "" && pgErr == nil {
		rest.Listen = hostPort(pgHost, 8008)
	}
	if host, port, err := splitHostPort(rest.Listen, 8008); rest.Listen != "" && err == nil {
		if rest.ConnectAddress == "" {
			if wildcard(host) {
				host = pgHost
			}
			if host != "" {
				rest.ConnectAddress = hostPort(host, port)
			}
		}
		if host, _, _ := splitHostPort(rest.Listen, 8008); c.Peer.Listen == "" && port+1000 <= 65535 {
			c.Peer.Listen = hostPort(host, port+1000)
		}
	}
	if host, port, err := splitHostPort(rest.ConnectAddress, 8008); c.Peer.ConnectAddress == "" && rest.ConnectAddress != "" && err == nil && port+1000 <= 65535 {
		c.Peer.ConnectAddress = hostPort(host, port+1000)
		if _, p, err := splitHostPort(c.Peer.Listen, 0); err == nil && c.Stated("peer.listen") {
			c.Peer.ConnectAddress = hostPort(host, p)
		}
	}
	c.completeCtl()
	c.completePaths()
	c.completeEmbedded()
	for _, r := range []*Role{&pg.Authentication.Rewind} {
		if r.Username == "" {
			*r = pg.Authentication.Superuser
		}
	}
	if c.Bootstrap.PostBootstrap == "" {
		c.Bootstrap.PostBootstrap = c.Bootstrap.PostInit
	}
	if !strings.HasSuffix(c.Namespace, "/") {
		c.Namespace += "/"
	}
	if !strings.HasPrefix(c.Namespace, "/") {
		c.Namespace = "/" + c.Namespace
	}
}

func (c *Config) completeCtl() {
	if c.Ctl.CACert == "" {
		c.Ctl.CACert = c.RestAPI.CAFile
	}
	if c.Ctl.CertFile == "" && c.Ctl.KeyFile == "" {
		c.Ctl.CertFile, c.Ctl.KeyFile, c.Ctl.KeyFilePassword = c.RestAPI.CertFile, c.RestAPI.KeyFile, c.RestAPI.KeyFilePassword
	}
	if c.Ctl.Authentication.Username == "" {
		c.Ctl.Authentication = c.RestAPI.Authentication
	}
}

func (c *Config) completePaths() {
	if c.PostgreSQL.DataDir != "" {
		c.PostgreSQL.DataDir = path.Clean(c.PostgreSQL.DataDir)
		if c.RuntimeDir == "" {
			c.RuntimeDir = c.PostgreSQL.DataDir + ".hathi"
		}
	}
	if c.PostgreSQL.ConfigDir == "" {
		c.PostgreSQL.ConfigDir = c.PostgreSQL.DataDir
	}
	if c.RuntimeDir != "" {
		if c.PostgreSQL.PgPass == "" {
			c.PostgreSQL.PgPass = path.Join(c.RuntimeDir, "pgpass")
		}
		if c.Guardian.StateFile == "" {
			c.Guardian.StateFile = path.Join(c.RuntimeDir, "guardian.state")
		}
	}
}

func (c *Config) completeEmbedded() {
	e := c.Etcd.Embedded
	if e == nil {
		return
	}
	if e.Name == "" {
		e.Name = c.Name
	}
	if e.Token == "" {
		e.Token = c.Scope
	}
	protocol := "http"
	if e.TLS.CertFile != "" {
		protocol = "https"
	}
	for _, u := range []struct {
		into *string
		from string
	}{{&e.AdvertiseClient, e.ListenClient}, {&e.AdvertisePeer, e.ListenPeer}} {
		if *u.into == "" {
			if got, err := endpointURL(u.from, protocol); err == nil {
				*u.into = got
			}
		}
	}
	if len(e.InitialCluster) == 0 && e.Name != "" && e.AdvertisePeer != "" {
		e.InitialCluster = map[string]string{e.Name: e.AdvertisePeer}
	}
}

// Prefix is the path of the cluster's keys in the store: NAMESPACE/SCOPE/, and the group below it
// in a Citus cluster. It begins and ends with a slash.
func (c *Config) Prefix() string {
	p := c.Namespace + c.Scope + "/"
	if c.Citus != nil {
		p += fmt.Sprintf("%d/", c.Citus.Group)
	}
	return p
}

// ConnectHostPort is where others reach PostgreSQL; "" and 0 when it is not known.
func (p PostgreSQL) ConnectHostPort() (host string, port int) {
	if p.ConnectAddress == "" {
		return "", 0
	}
	host, port, err := splitHostPort(p.ConnectAddress, 5432)
	if err != nil {
		return "", 0
	}
	return host, port
}

// TLS says whether the REST API is served over HTTPS.
func (r RestAPI) TLS() bool { return r.CertFile != "" }

// URL is the address of the REST API that others are told, without a path.
func (r RestAPI) URL() string {
	if r.TLS() {
		return "https://" + r.ConnectAddress
	}
	return "http://" + r.ConnectAddress
}

// Program is the path, or the name for the PATH, of one of PostgreSQL's programs.
func (p PostgreSQL) Program(name string) string {
	if n := p.BinName[name]; n != "" {
		name = n
	}
	if p.BinDir == "" {
		return name
	}
	return path.Join(p.BinDir, name)
}
