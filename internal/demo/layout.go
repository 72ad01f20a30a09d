// Package demo plans a whole cluster on one machine: directories, ports, certificates, secrets and
// the configuration files of its processes, which are the real daemons. It starts nothing.
package demo

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/atomicfile"
	"github.com/hathi-ha/hathi/internal/pki"
)

// Options are what a user may choose. The zero value of a field takes the default in its comment.
type Options struct {
	Nodes               int           // 3; 1 to 7
	TTL                 time.Duration // 6 s; 3 s or more
	Sync                string        // quorum from three nodes on, else off; quorum, on or off
	WritePort, ReadPort int           // 6432 and 6433
	// Offset is added to every other port, so that several demos can run side by side.
	Offset int
	BinDir string // PostgreSQL's programs; "" for the newest installed
	// Hosts gives each node an IP address of its own, such as those of network namespaces; then Nodes
	// is their number, and applications may connect from RouterHost. Empty: all on 127.0.0.1.
	Hosts []string
	// RouterHost is the address that the router listens on. Default 127.0.0.1.
	RouterHost string
}

// Layout is a planned demo. It is kept in DIR/demo.json.
type Layout struct {
	Version int           `json:"version"`
	Scope   string        `json:"scope"`
	Nodes   []Node        `json:"nodes"`
	TTL     time.Duration `json:"ttl"`
	Sync    string        `json:"sync"`
	Router  Router        `json:"router"`
	BinDir  string        `json:"bin_dir,omitempty"`

	dir string
}

// Node are one node's ports, on 127.0.0.1 unless Host says otherwise.
type Node struct {
	Name       string `json:"name"`
	Host       string `json:"host,omitempty"`
	PostgreSQL int    `json:"postgresql"`
	Rest       int    `json:"rest"`
	Peer       int    `json:"peer"`
	EtcdClient int    `json:"etcd_client"`
	EtcdPeer   int    `json:"etcd_peer"`
}

// Address is the IP address that the node listens on.
func (n Node) Address() string { return orLoopback(n.Host) }

func (n Node) at(port int) string { return hostPort(n.Address(), port) }

// Router are the router's ports, on 127.0.0.1 unless Host says otherwise.
type Router struct {
	Host   string `json:"host,omitempty"`
	Write  int    `json:"write"`
	Read   int    `json:"read"`
	Status int    `json:"status"`
}

func (r Router) at(port int) string { return hostPort(orLoopback(r.Host), port) }

// loopback is where everything listens that is given no address.
const loopback = "127.0.0.1"

func orLoopback(host string) string {
	if host == "" {
		return loopback
	}
	return host
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// layoutVersion changes when an older demo directory can no longer be used.
const layoutVersion = 1

// The ports before the offset.
const (
	basePostgreSQL = 7432
	baseRest       = 8008
	basePeer       = 9008
	baseEtcdClient = 2479
	baseEtcdPeer   = 2579
	baseStatus     = 6434
)

// Plan makes a layout out of options.
func Plan(dir string, o Options) (*Layout, error) {
	if len(o.Hosts) > 0 {
		o.Nodes = len(o.Hosts)
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.TTL == 0 {
		o.TTL = 6 * time.Second
	}
	if o.Sync == "" {
		o.Sync = "off"
		if o.Nodes >= 3 {
			o.Sync = "quorum"
		}
	}
	if o.WritePort == 0 {
		o.WritePort = 6432
	}
	if o.ReadPort == 0 {
		o.ReadPort = 6433
	}
	switch {
	case o.Nodes < 1 || o.Nodes > 7:
		return nil, fmt.Errorf("--nodes %d: want 1 to 7", o.Nodes)
	case o.TTL < 3*time.Second || o.TTL > 10*time.Minute:
		return nil, fmt.Errorf("--ttl %s: want 3s to 10m; below 3s one election of etcd could end a healthy leadership", o.TTL)
	case o.Sync != "quorum" && o.Sync != "on" && o.Sync != "off":
		return nil, fmt.Errorf("--sync %s: want quorum, on or off", o.Sync)
	case o.WritePort < 1 || o.WritePort > 65535:
		return nil, fmt.Errorf("--write-port %d: want 1 to 65535", o.WritePort)
	case o.ReadPort < 1 || o.ReadPort > 65535:
		return nil, fmt.Errorf("--read-port %d: want 1 to 65535", o.ReadPort)
	case o.Offset < 0 || o.Offset > 40000:
		return nil, fmt.Errorf("--offset %d: want 0 to 40000", o.Offset)
	}
	l := &Layout{Version: layoutVersion, Scope: "demo", TTL: o.TTL, Sync: o.Sync, BinDir: o.BinDir, dir: dir,
		Router: Router{Host: o.RouterHost, Write: o.WritePort, Read: o.ReadPort, Status: baseStatus + o.Offset}}
	for i := range o.Nodes {
		l.Nodes = append(l.Nodes, Node{Name: "pg" + strconv.Itoa(i+1), PostgreSQL: basePostgreSQL + o.Offset + i, Rest: baseRest + o.Offset + i,
			Peer: basePeer + o.Offset + i, EtcdClient: baseEtcdClient + o.Offset + i, EtcdPeer: baseEtcdPeer + o.Offset + i})
	}
	for i, h := range o.Hosts {
		if net.ParseIP(h) == nil {
			return nil, fmt.Errorf("host %q of node %d is not an IP address", h, i+1)
		}
		l.Nodes[i].Host = h
	}
	seen := map[int]string{}
	for _, p := range l.Ports() {
		if p.Number < 1 || p.Number > 65535 {
			return nil, fmt.Errorf("port %d of %s is outside 1 to 65535: choose a smaller --offset", p.Number, p.What)
		}
		if other, ok := seen[p.Number]; ok {
			return nil, fmt.Errorf("%s and %s would both listen on port %d: choose others with --offset, --write-port or --read-port", other, p.What, p.Number)
		}
		seen[p.Number] = p.What
	}
	return l, nil
}

// Port is a port that the demo listens on.
type Port struct {
	Number int
	What   string
}

// Ports are all ports of the demo.
func (l *Layout) Ports() []Port {
	out := []Port{{l.Router.Write, "the router's write port"}, {l.Router.Read, "the router's read port"}, {l.Router.Status, "the router's status page"}}
	for _, n := range l.Nodes {
		out = append(out, Port{n.PostgreSQL, "PostgreSQL of " + n.Name}, Port{n.Rest, "the REST API of " + n.Name}, Port{n.Peer, "the peer endpoint of " + n.Name},
			Port{n.EtcdClient, "etcd of " + n.Name}, Port{n.EtcdPeer, "etcd of " + n.Name + " for the other members"})
	}
	return out
}

// Dir is the demo's directory.
func (l *Layout) Dir() string { return l.dir }

// Path is a file of the demo.
func (l *Layout) Path(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

// NodeFile, RouterFile and CtlFile are the configuration files.
func (l *Layout) NodeFile(name string) string { return l.Path(name, "node.yml") }

// RouterFile is the router's configuration.
func (l *Layout) RouterFile() string { return l.Path("router.yml") }

// CtlFile is the configuration for commands.
func (l *Layout) CtlFile() string { return l.Path("ctl.yml") }

// DataDir is a node's data directory.
func (l *Layout) DataDir(name string) string { return l.Path(name, "data") }

// LogFile is the log of a process.
func (l *Layout) LogFile(process string) string { return l.Path("log", process+".log") }

// PassFile is the password file of the role app, for libpq.
func (l *Layout) PassFile() string { return l.Path("pgpass") }

// CAFile is the certificate of the demo's authority.
func (l *Layout) CAFile() string { return l.Path("pki", "ca.crt") }

// manifest is the file that marks a directory as a demo.
const manifest = "demo.json"

// The errors of Find.
var (
	// ErrNone: the directory is absent or empty.
	ErrNone = errors.New("no demo here")
	// ErrForeign: the directory holds something else, or a demo that was never finished.
	ErrForeign = errors.New("not a directory of a demo")
)

// Find reads the layout of an existing demo. ErrNone for an absent or empty directory, ErrForeign
// for any other without a manifest.
func Find(dir string) (*Layout, error) {
	b, err := os.ReadFile(filepath.Join(dir, manifest))
	if errors.Is(err, os.ErrNotExist) {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
			return nil, ErrNone
		}
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", dir, err)
		}
		return nil, fmt.Errorf("%w: %s is not empty and has no %s (it holds %s): choose another --dir, or empty it", ErrForeign, dir, manifest, some(entries))
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%w: %s is a file, or lies below one: choose another --dir", ErrForeign, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the demo in %s: %w", dir, err)
	}
	l := &Layout{dir: dir}
	err = json.Unmarshal(b, l)
	if err == nil && len(l.Nodes) == 0 {
		err = errors.New("it names no nodes")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be read (%v): move the directory away", ErrForeign, filepath.Join(dir, manifest), err)
	}
	if l.Version != layoutVersion {
		return nil, fmt.Errorf("the demo in %s was made by another release of hathi (layout %d, this one uses %d): destroy it with that release, or choose another --dir", dir, l.Version, layoutVersion)
	}
	return l, nil
}

func some(entries []os.DirEntry) string {
	s := ""
	for i, e := range entries {
		if i == 3 {
			return s + ", ..."
		}
		if i > 0 {
			s += ", "
		}
		s += e.Name()
	}
	return s
}

// Owner is the user that the demo's processes run as; -1 for the one that writes the files.
type Owner struct{ UID, GID int }

// Write makes the demo's directory: certificates, secrets, configurations, and the manifest last, so
// that a half-made directory is never taken for a demo.
func (l *Layout) Write(exe string, own Owner) error {
	for _, d := range append([]string{"", "pki", "log", "run"}, l.names()...) {
		if err := os.MkdirAll(l.Path(d), 0o755); err != nil {
			return fmt.Errorf("make %s: %w", l.Path(d), err)
		}
	}
	ca, err := pki.NewCA("hathi demo")
	if err != nil {
		return err
	}
	// The authority's key stays with whoever made the demo.
	if _, _, err := pki.WriteCA(l.Path("pki"), ca, -1, -1); err != nil {
		return err
	}
	ips := []net.IP{net.ParseIP(loopback), net.IPv6loopback}
	if r := net.ParseIP(l.Router.Host); r != nil {
		ips = append(ips, r) // what the router passes on answers under its address
	}
	for _, n := range l.Nodes {
		if ip := net.ParseIP(n.Host); ip != nil {
			ips = append(ips, ip)
		}
	}
	for _, name := range append(l.names(), "router", "ctl") {
		leaf, err := ca.Issue(pki.Request{CommonName: name, Names: []string{"localhost", name}, IPs: ips, Client: true, Server: true})
		if err != nil {
			return err
		}
		uid, gid := own.UID, own.GID
		if name == "ctl" {
			uid, gid = -1, -1
		}
		if _, err := pki.WriteBundle(l.Path("pki", name), name, ca.CertPEM(), leaf, uid, gid); err != nil {
			return err
		}
	}
	sec, err := newSecrets()
	if err != nil {
		return err
	}
	files := []struct {
		path  string
		data  []byte
		owner Owner
	}{
		{l.Path("app.secret"), []byte(sec.app + "\n"), own},
		{l.PassFile(), []byte(fmt.Sprintf("*:*:*:app:%s\n", sec.app)), Owner{-1, -1}},
	}
	for _, n := range l.Nodes {
		text, err := l.nodeConfig(n, exe, sec)
		if err != nil {
			return err
		}
		files = append(files, struct {
			path  string
			data  []byte
			owner Owner
		}{l.NodeFile(n.Name), text, own})
	}
	rt, err := l.routerConfig()
	if err != nil {
		return err
	}
	ctl, err := l.ctlConfig(sec)
	if err != nil {
		return err
	}
	files = append(files, struct {
		path  string
		data  []byte
		owner Owner
	}{l.RouterFile(), rt, own}, struct {
		path  string
		data  []byte
		owner Owner
	}{l.CtlFile(), ctl, Owner{-1, -1}})
	for _, f := range files {
		if err := atomicfile.WriteOwned(f.path, f.data, 0o600, f.owner.UID, f.owner.GID); err != nil {
			return err
		}
	}
	for _, d := range append(l.names(), "log", "run") {
		if err := os.Chmod(l.Path(d), 0o700); err != nil {
			return err
		}
	}
	if own.UID >= 0 {
		// log and run stay with whoever made the demo: the supervisor writes there with its own rights,
		// and nobody with lesser ones may say where that goes.
		for _, d := range l.names() {
			if err := os.Chown(l.Path(d), own.UID, own.GID); err != nil {
				return err
			}
		}
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(l.Path(manifest), append(b, '\n'), 0o644)
}

func (l *Layout) names() []string {
	var out []string
	for _, n := range l.Nodes {
		out = append(out, n.Name)
	}
	return out
}

type secrets struct{ super, repl, rewind, app string }

func newSecrets() (secrets, error) {
	var s secrets
	for _, into := range []*string{&s.super, &s.repl, &s.rewind, &s.app} {
		b := make([]byte, 18)
		if _, err := rand.Read(b); err != nil {
			return s, fmt.Errorf("make a password: %w", err)
		}
		*into = hex.EncodeToString(b)
	}
	return s, nil
}

// Taken are the ports that somebody else listens on already, on the loopback address.
func (l *Layout) Taken() []Port {
	var out []Port
	for _, p := range l.Ports() {
		ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(loopback), uint16(p.Number))))
		if err != nil {
			out = append(out, p)
			continue
		}
		_ = ln.Close()
	}
	return out
}
