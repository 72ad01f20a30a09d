package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/daemon"
	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/journal"
	"github.com/hathi-ha/hathi/internal/rest"
)

// hathi is a cluster of hathi's own daemons.
type hathi struct {
	base
	layout *demo.Layout
	client *rest.Client
	lock   *recorder
}

// hathiTitle names a cluster by its settings.
func hathiTitle(sync string, ttl int) string {
	if sync == "off" {
		sync = "async"
	}
	return fmt.Sprintf("hathi %s ttl %d", sync, ttl)
}

// newHathi plans a cluster of nodes nodes. sync is quorum or off; k is its network; disks gives the
// nodes file systems of their own.
func newHathi(k, nodes int, dir, exe, pgBin string, u *user, ttl time.Duration, sync string, disks bool) (*hathi, error) {
	h := &hathi{base: base{title: hathiTitle(sync, int(ttl.Seconds())), dir: dir, user: u, binDir: pgBin}}
	if err := h.makeHosts(k, nodes); err != nil {
		return h, err
	}
	var ips []string
	for _, n := range h.names {
		ips = append(ips, h.hosts[n].ip)
	}
	var err error
	if h.layout, err = demo.Plan(dir, demo.Options{Hosts: ips, RouterHost: h.proxy.ip, TTL: ttl, Sync: sync, BinDir: pgBin}); err != nil {
		return h, err
	}
	if err := os.MkdirAll(h.path("bin"), 0o755); err != nil {
		return h, err
	}
	if err := copyProgram(exe, h.exe()); err != nil {
		return h, err
	}
	if disks {
		if err := h.makeDisks(); err != nil {
			return h, err
		}
	}
	if err := h.layout.Write(h.exe(), demo.Owner{UID: int(u.uid), GID: int(u.gid)}); err != nil {
		return h, err
	}
	if disks {
		for _, n := range h.names {
			if err := h.moveData(n); err != nil {
				return h, err
			}
		}
	}
	return h, nil
}

// moveData puts a node's data directory on the disk for it.
func (h *hathi) moveData(node string) error {
	file, from := h.layout.NodeFile(node), h.layout.DataDir(node)
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), "data_dir: "+from+"\n"); n != 1 {
		return fmt.Errorf("%s names the data directory %s %d times, want once", file, from, n)
	}
	text = []byte(strings.Replace(string(text), "data_dir: "+from+"\n", "data_dir: "+h.dataDir(node)+"\n", 1))
	return os.WriteFile(file, text, 0o600)
}

func copyProgram(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

func (h *hathi) exe() string { return h.path("bin", "hathi") }

func (h *hathi) node(name string) demo.Node {
	i := slices.IndexFunc(h.layout.Nodes, func(n demo.Node) bool { return n.Name == name })
	return h.layout.Nodes[i]
}

func (h *hathi) writeURI() string             { return h.layout.WriteURI() }
func (h *hathi) longest() time.Duration       { return 40 * time.Second }
func (h *hathi) socketDir(node string) string { return h.layout.Path(node, "run") }

func (h *hathi) dataDir(node string) string {
	if h.disks != nil {
		return h.path(node, "disk", "data")
	}
	return h.layout.DataDir(node)
}

func (h *hathi) directURI(node string) string {
	n := h.node(node)
	return strings.Replace(h.layout.WriteURI(), fmt.Sprintf("@%s:%d/", h.proxy.ip, h.layout.Router.Write), fmt.Sprintf("@%s:%d/", n.Host, n.PostgreSQL), 1)
}

func (h *hathi) api(node string) string {
	n := h.node(node)
	return fmt.Sprintf("https://%s:%d", n.Host, n.Rest)
}

func (h *hathi) start(ctx context.Context) error {
	for _, n := range h.names {
		if err := h.startEtcd(n); err != nil {
			return err
		}
	}
	for _, n := range h.names {
		if err := h.startAgent(n); err != nil {
			return err
		}
	}
	if _, err := h.proxy.start("router", h.user, h.layout.LogFile("router"), h.exe(), "router", h.layout.RouterFile()); err != nil {
		return err
	}
	text, err := os.ReadFile(h.layout.CtlFile())
	if err != nil {
		return err
	}
	cfg, problems := config.Load(text, nil)
	if err := problems.Err(); err != nil {
		return err
	}
	if h.client, err = daemon.NewClient(cfg, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	tlsc, err := h.etcdTLS()
	if err != nil {
		return err
	}
	endpoints := map[string]string{}
	for _, n := range h.layout.Nodes {
		endpoints[n.Name] = fmt.Sprintf("https://%s:%d", n.Host, n.EtcdClient)
	}
	if h.store, err = openEtcd(endpoints, tlsc); err != nil {
		return err
	}
	h.lock = h.store.record(cfg.Prefix() + "lock")
	if err := until(ctx, 2*time.Minute, 200*time.Millisecond, h.title+": a leader", func(ctx context.Context) error {
		_, err := h.primary(ctx)
		return err
	}); err != nil {
		return err
	}
	p, _ := h.primary(ctx)
	if err := until(ctx, time.Minute, 500*time.Millisecond, "grant app its view of replication", func(ctx context.Context) error {
		_, err := h.psql(ctx, p, h.socketDir(p), h.node(p).PostgreSQL, "postgres", "GRANT pg_monitor TO app")
		return err
	}); err != nil {
		return err
	}
	return until(ctx, 2*time.Minute, 300*time.Millisecond, h.title+": all standbys streaming", h.healthy)
}

func (h *hathi) startEtcd(node string) error {
	_, err := h.hosts[node].start("etcd", h.user, h.layout.LogFile("etcd-"+node), h.exe(), "etcd", h.layout.NodeFile(node))
	return err
}

func (h *hathi) startAgent(node string) error {
	_, err := h.hosts[node].start("agent", h.user, h.layout.LogFile("agent-"+node), h.exe(), "run", h.layout.NodeFile(node))
	return err
}

func (h *hathi) etcdTLS() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(h.path("pki", "ctl", "ctl.crt"), h.path("pki", "ctl", "ctl.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(h.layout.CAFile())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func (h *hathi) powerOn(node string) error {
	return errors.Join(h.startEtcd(node), h.startAgent(node))
}

// forget removes the guardian's state, which lies in memory.
func (h *hathi) forget(node string) {
	dir := h.dataDir(node)
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	sum := sha256.Sum256([]byte(dir))
	left, _ := filepath.Glob(fmt.Sprintf("/dev/shm/hathi-guardian-%d-%s*", h.user.uid, hex.EncodeToString(sum[:8])))
	for _, f := range left {
		_ = os.Remove(f)
	}
}

func (h *hathi) close() error {
	if h.lock != nil {
		h.lock.close()
	}
	err := h.base.close()
	if h.layout != nil {
		for _, n := range h.names {
			h.forget(n)
		}
	}
	return err
}

// lockNow is the lock as the store shows it to the first member that answers.
func (h *hathi) lockNow(ctx context.Context) (cluster.Lock, error) {
	var last error
	for _, c := range h.store.clients {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		resp, err := c.Get(sctx, "/service/"+h.layout.Scope+"/lock")
		cancel()
		if err != nil {
			last = err
			continue
		}
		if len(resp.Kvs) == 0 {
			return cluster.Lock{}, errors.New("there is no lock yet")
		}
		return cluster.ParseLock(resp.Kvs[0].Value)
	}
	return cluster.Lock{}, last
}

func (h *hathi) primary(ctx context.Context) (string, error) {
	l, err := h.lockNow(ctx)
	switch {
	case err != nil:
		return "", err
	case !l.Held() || !l.Ready:
		return "", fmt.Errorf("nobody leads (lock of %q, ready %t)", l.Node, l.Ready)
	}
	return l.Node, nil
}

func (h *hathi) leads() string {
	e, ok := h.lock.last()
	if !ok {
		return ""
	}
	l, err := cluster.ParseLock(e.value)
	if err != nil || !l.Held() || !l.Ready {
		return ""
	}
	return l.Node
}

func (h *hathi) promotion(after time.Duration) time.Duration {
	m := h.marks(after)
	if m.take == 0 || m.ready == 0 {
		return 0
	}
	return m.ready - m.take
}

func (h *hathi) healthy(ctx context.Context) error {
	p, err := h.primary(ctx)
	if err != nil {
		return err
	}
	if err := allStream(ctx, h, p); err != nil {
		return err
	}
	if err := h.store.healthy(ctx); err != nil {
		return err
	}
	for _, n := range h.names {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		st, err := h.client.Patroni(sctx, h.api(n))
		cancel()
		if err != nil {
			return fmt.Errorf("agent of %s: %w", n, err)
		}
		if n != p && h.layout.Sync == "quorum" && !st.QuorumStandby && !st.SyncStandby {
			return fmt.Errorf("%s is no synchronous standby yet", n)
		}
	}
	return nil
}

func (h *hathi) switchover(ctx context.Context, from, to string) error {
	code, text, err := h.client.Do(ctx, http.MethodPost, h.api(from)+"/switchover", map[string]any{"leader": from, "candidate": to})
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("switchover from %s to %s: %d %s", from, to, code, strings.TrimSpace(text))
	}
	return nil
}

func (h *hathi) repair(ctx context.Context, node string) error {
	code, text, err := h.client.Do(ctx, http.MethodPost, h.api(node)+"/reinitialize", map[string]any{"force": true})
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("reinitialize %s: %d %s", node, code, strings.TrimSpace(text))
	}
	return err
}

// decisions are what a node's agent has journalled since an instant.
func (h *hathi) decisions(node string, since time.Duration) []journal.Entry {
	f, err := os.Open(h.layout.Path(node, "run", "decisions.jsonl"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []journal.Entry
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var e journal.Entry
		if json.Unmarshal(sc.Bytes(), &e) == nil && e.Boottime > since {
			out = append(out, e)
		}
	}
	return out
}
