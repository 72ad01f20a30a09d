package demo

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/hathi-ha/hathi/internal/cluster"
)

type doc = map[string]any

// tlsFiles are the files of an identity of the demo.
func (l *Layout) tlsFiles(name string) (cert, key, ca string) {
	return l.Path("pki", name, name+".crt"), l.Path("pki", name, name+".key"), l.CAFile()
}

func (l *Layout) etcdHosts() []string {
	var out []string
	for _, n := range l.Nodes {
		out = append(out, "https://"+n.at(n.EtcdClient))
	}
	return out
}

func (l *Layout) etcdClient(name string) doc {
	cert, key, ca := l.tlsFiles(name)
	return doc{"hosts": l.etcdHosts(), "cacert": ca, "cert": cert, "key": key}
}

// nodeConfig is the file of one node: agent and etcd member read the same.
func (l *Layout) nodeConfig(n Node, exe string, s secrets) ([]byte, error) {
	cert, key, ca := l.tlsFiles(n.Name)
	initial := doc{}
	for _, m := range l.Nodes {
		initial[m.Name] = "https://" + m.at(m.EtcdPeer)
	}
	dcs := cluster.NewClusterDoc(len(l.Nodes))
	dcs["ttl"] = int(l.TTL.Seconds())
	if l.TTL.Seconds() != float64(int(l.TTL.Seconds())) {
		dcs["ttl"] = l.TTL.Seconds()
	}
	switch l.Sync {
	case "quorum":
		dcs["synchronous_mode"] = "quorum"
	case "on":
		dcs["synchronous_mode"] = true
	default:
		dcs["synchronous_mode"] = false
	}
	if l.TTL < 7e9 {
		dcs["retry_timeout"] = 1 + int(l.TTL.Seconds())/6
	}
	repl := func(user, password string) doc {
		return doc{"username": user, "password": password, "sslmode": "verify-full", "sslrootcert": ca}
	}
	c := doc{
		"scope": l.Scope, "name": n.Name,
		"restapi": doc{"listen": n.at(n.Rest), "connect_address": n.at(n.Rest), "certfile": cert, "keyfile": key, "cafile": ca, "verify_client": "optional"},
		"peer":    doc{"listen": n.at(n.Peer), "connect_address": n.at(n.Peer)},
		"ctl":     doc{"cacert": ca, "certfile": cert, "keyfile": key},
		"etcd3":   l.etcdClient(n.Name),
		"etcd": doc{"embedded": doc{"name": n.Name, "data_dir": l.Path(n.Name, "etcd"), "listen_client": n.at(n.EtcdClient), "listen_peer": n.at(n.EtcdPeer),
			"initial_cluster": initial, "token": "hathi-" + l.Scope, "tls": doc{"certfile": cert, "keyfile": key, "cafile": ca}}},
		"runtime_dir": l.Path(n.Name, "run"),
		"bootstrap": doc{"dcs": dcs, "initdb": []any{doc{"encoding": "UTF8"}, "data-checksums"},
			"post_bootstrap": quoteWord(exe) + " demo-app " + quoteWord(l.Path("app.secret"))},
		"postgresql": doc{"listen": n.at(n.PostgreSQL), "connect_address": n.at(n.PostgreSQL), "data_dir": l.DataDir(n.Name),
			"authentication": doc{"superuser": doc{"username": "postgres", "password": s.super}, "replication": repl("replicator", s.repl), "rewind": repl("rewind_user", s.rewind)},
			"parameters": doc{"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key, "ssl_ca_file": ca, "shared_buffers": "32MB",
				"unix_socket_directories": l.Path(n.Name, "run"), "log_line_prefix": "%m [%p] %q%u@%d %a "}},
	}
	if l.BinDir != "" {
		c["postgresql"].(doc)["bin_dir"] = l.BinDir
	}
	if l.Router.Host != "" {
		c["postgresql"].(doc)["allow"] = []any{l.Router.Host}
	}
	return render("Node "+n.Name+" of a demo cluster, written by hathi demo.", c)
}

func (l *Layout) routerConfig() ([]byte, error) {
	cert, key, ca := l.tlsFiles("router")
	return render("The router of a demo cluster, written by hathi demo.", doc{"scope": l.Scope, "etcd3": l.etcdClient("router"),
		"ctl":    doc{"cacert": ca, "certfile": cert, "keyfile": key},
		"router": doc{"listen": orLoopback(l.Router.Host), "write_port": l.Router.Write, "read_port": l.Router.Read, "status_listen": l.Router.at(l.Router.Status)}})
}

func (l *Layout) ctlConfig(s secrets) ([]byte, error) {
	cert, key, ca := l.tlsFiles("ctl")
	return render("For commands against a demo cluster (hathi -c THIS list), written by hathi demo.", doc{"scope": l.Scope, "etcd3": l.etcdClient("ctl"),
		"ctl":    doc{"cacert": ca, "certfile": cert, "keyfile": key},
		"router": doc{"listen": orLoopback(l.Router.Host), "write_port": l.Router.Write, "read_port": l.Router.Read, "status_listen": l.Router.at(l.Router.Status)}})
}

func quoteWord(s string) string { return "'" + s + "'" }

func render(title string, c doc) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n", title)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// WriteURI leads to the primary, through the router.
func (l *Layout) WriteURI() string { return l.uri(l.Router.at(l.Router.Write), "") }

// ReadURI spreads reads over the replicas, through the router.
func (l *Layout) ReadURI() string { return l.uri(l.Router.at(l.Router.Read), "") }

// MultiHostURI needs no router: libpq itself finds the primary.
func (l *Layout) MultiHostURI() string {
	hosts := ""
	for i, n := range l.Nodes {
		if i > 0 {
			hosts += ","
		}
		hosts += n.at(n.PostgreSQL)
	}
	return l.uri(hosts, "&target_session_attrs=read-write")
}

func (l *Layout) uri(hosts, more string) string {
	return "postgresql://app@" + hosts + "/app?sslmode=verify-full&sslrootcert=" + escape(l.CAFile()) + "&passfile=" + escape(l.PassFile()) + more
}

// escape writes a path into the query of a URI.
func escape(path string) string {
	var b bytes.Buffer
	for _, c := range []byte(path) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '/', c == '-', c == '.', c == '_', c == '~':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
