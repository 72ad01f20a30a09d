package config

import "time"

// Etcd3 is how to reach etcd as a client.
type Etcd3 struct {
	// Host is one endpoint, HOST:PORT.
	Host string `yaml:"host"`
	// Hosts are the endpoints, as a list or as text with commas; HOST:PORT or URLs.
	Hosts []string `yaml:"hosts"`
	// URL is one endpoint as a URL.
	URL string `yaml:"url"`
	// Protocol is http or https, for endpoints that state none. Default: https when cacert or cert is set.
	Protocol string `yaml:"protocol" enum:"http,https"`
	// CACert holds the authorities (PEM) that etcd's certificate must come from.
	CACert string `yaml:"cacert"`
	// Cert is the client certificate (PEM).
	Cert string `yaml:"cert"`
	// Key is the key of cert (PEM).
	Key string `yaml:"key"`
	// Username signs in to etcd.
	Username string `yaml:"username"`
	// Password belongs to username.
	Password Secret `yaml:"password"`
	// Srv would find endpoints through DNS; hathi refuses it, since a failing name server must not
	// delay a fail-over. List the hosts.
	Srv string `yaml:"srv"`
	// SrvSuffix belongs to srv and is refused with it.
	SrvSuffix string `yaml:"srv_suffix"`
	// Proxy is not supported; list the hosts.
	Proxy string `yaml:"proxy"`
	// UseProxies is not supported; list the hosts.
	UseProxies bool `yaml:"use_proxies"`
}

// Etcd holds our embedded etcd member. Patroni's keys for the old etcd API are read as etcd3.
type Etcd struct {
	Embedded *Embedded `yaml:"embedded"`
	// Host is read as etcd3.host.
	Host string `yaml:"host"`
	// Hosts is read as etcd3.hosts.
	Hosts []string `yaml:"hosts"`
	// URL is read as etcd3.url.
	URL string `yaml:"url"`
	// Protocol is read as etcd3.protocol.
	Protocol string `yaml:"protocol" enum:"http,https"`
	// CACert is read as etcd3.cacert.
	CACert string `yaml:"cacert"`
	// Cert is read as etcd3.cert.
	Cert string `yaml:"cert"`
	// Key is read as etcd3.key.
	Key string `yaml:"key"`
	// Username is read as etcd3.username.
	Username string `yaml:"username"`
	// Password is read as etcd3.password.
	Password Secret `yaml:"password"`
	// Srv is refused, see etcd3.srv.
	Srv string `yaml:"srv"`
	// SrvSuffix is refused, see etcd3.srv.
	SrvSuffix string `yaml:"srv_suffix"`
	// Proxy is not supported; list the hosts.
	Proxy string `yaml:"proxy"`
	// UseProxies is not supported; list the hosts.
	UseProxies bool `yaml:"use_proxies"`
}

// Embedded is the etcd member that `hathi etcd CONFIG` runs.
type Embedded struct {
	// Name is the member's name in the etcd cluster. Default: name.
	Name string `yaml:"name"`
	// DataDir is where the member keeps its data: an absolute path, best on a disk of its own.
	DataDir string `yaml:"data_dir"`
	// ListenClient is the HOST:PORT for clients.
	ListenClient string `yaml:"listen_client" default:"127.0.0.1:2379"`
	// ListenPeer is the HOST:PORT for other members.
	ListenPeer string `yaml:"listen_peer" default:"127.0.0.1:2380"`
	// AdvertiseClient is the URL at which clients reach this member. Default: from listen_client.
	AdvertiseClient string `yaml:"advertise_client"`
	// AdvertisePeer is the URL at which members reach this member. Default: from listen_peer.
	AdvertisePeer string `yaml:"advertise_peer"`
	// InitialCluster maps each member's name to its peer URL, this one included. It is used once,
	// when the member's data directory is empty. Default: this member alone.
	InitialCluster map[string]string `yaml:"initial_cluster"`
	// Token keeps members of different clusters apart. Default: scope.
	Token string `yaml:"token"`
	// Quota is the largest size of the database, in bytes or with MB or GB. hathi compacts and
	// defragments, so a small one is enough.
	Quota Size `yaml:"quota" default:"256MB" min:"16777216" max:"8589934592"`
	// Heartbeat is how often the etcd leader makes itself heard.
	Heartbeat time.Duration `yaml:"heartbeat" default:"60ms" min:"10ms" max:"5s"`
	// ElectionTimeout is how long a member waits at least for a heartbeat before it calls an election,
	// and at most twice that: at least five times heartbeat. With the defaults an election takes 0.3 to
	// 0.6 s, which a ttl of 3 s survives.
	ElectionTimeout time.Duration `yaml:"election_timeout" default:"300ms" min:"50ms" max:"50s"`
	TLS             EmbeddedTLS   `yaml:"tls"`
}

// EmbeddedTLS are the certificates of an embedded member, for clients and members alike.
type EmbeddedTLS struct {
	// CertFile is the member's certificate (PEM), for server and client use.
	CertFile string `yaml:"certfile"`
	// KeyFile is the key of certfile (PEM).
	KeyFile string `yaml:"keyfile"`
	// CAFile holds the authorities (PEM) that clients and members must come from.
	CAFile string `yaml:"cafile"`
}

// Store is how to reach the store as a client, after all defaults.
type Store struct {
	Endpoints         []string // URLs
	CACert, Cert, Key string
	Username          string
	Password          Secret
}

// TLS says whether every endpoint is reached over TLS.
func (s Store) TLS() bool {
	for _, e := range s.Endpoints {
		if len(e) < 8 || e[:8] != "https://" {
			return false
		}
	}
	return len(s.Endpoints) > 0
}

// client are the client settings: etcd3, or the old etcd section when etcd3 names no endpoint.
func (c *Config) client() (e Etcd3, section string) {
	old := Etcd3{Host: c.Etcd.Host, Hosts: c.Etcd.Hosts, URL: c.Etcd.URL, Protocol: c.Etcd.Protocol, CACert: c.Etcd.CACert,
		Cert: c.Etcd.Cert, Key: c.Etcd.Key, Username: c.Etcd.Username, Password: c.Etcd.Password}
	if len(c.Etcd3.endpoints()) == 0 && len(old.endpoints()) > 0 {
		return old, "etcd"
	}
	return c.Etcd3, "etcd3"
}

func (e Etcd3) endpoints() []string {
	switch {
	case len(e.Hosts) > 0:
		return e.Hosts
	case e.Host != "":
		return []string{e.Host}
	case e.URL != "":
		return []string{e.URL}
	}
	return nil
}

// Store is how this node reaches the store. Without etcd3 endpoints it is the embedded member.
func (c *Config) Store() Store {
	e, _ := c.client()
	s := Store{CACert: e.CACert, Cert: e.Cert, Key: e.Key, Username: e.Username, Password: e.Password}
	hosts := e.endpoints()
	if len(hosts) == 0 && c.Etcd.Embedded != nil {
		hosts = []string{c.Etcd.Embedded.AdvertiseClient}
		if t := c.Etcd.Embedded.TLS; s.CACert == "" && t.CertFile != "" {
			s.CACert, s.Cert, s.Key = t.CAFile, t.CertFile, t.KeyFile
		}
	}
	protocol := e.Protocol
	if protocol == "" {
		protocol = "http"
		if s.CACert != "" || s.Cert != "" {
			protocol = "https"
		}
	}
	for _, h := range hosts {
		if u, err := endpointURL(h, protocol); err == nil {
			s.Endpoints = append(s.Endpoints, u)
		}
	}
	return s
}
