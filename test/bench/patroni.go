package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Ports of the peer's nodes.
const (
	peerPostgres = 5432
	peerREST     = 8008
	peerEtcd     = 2379
	peerEtcdPeer = 2380
	peerWrite    = 5000
)

// tuning is one way to set Patroni and HAProxy up.
type tuning struct {
	name                   string
	ttl, loopWait, retry   int
	startTimeout           int
	checkEvery, fall, rise string
	longest                time.Duration
}

// The two ways that are measured: a widespread guide's, and the shortest that Patroni accepts, with
// health checks of HAProxy to match.
var (
	guideTuning = tuning{"patroni 30/10/10", 30, 10, 10, 300, "3s", "3", "2", 150 * time.Second}
	fastTuning  = tuning{"patroni 20/1/3", 20, 1, 3, 0, "1s", "2", "1", 120 * time.Second}
)

// patroni is a cluster of Patroni, etcd and HAProxy as the distribution packages them.
type patroni struct {
	base
	tune     tuning
	sync     bool
	password string
	leaders  *recorder
	http     *http.Client
}

// newPatroni plans a cluster. sync turns synchronous_mode on; k is its network; disks gives the nodes
// file systems of their own.
func newPatroni(k int, dir, pgBin string, u *user, t tuning, sync, disks bool) (*patroni, error) {
	mode := "async"
	if sync {
		mode = "sync"
	}
	p := &patroni{base: base{title: t.name + " " + mode, dir: dir, user: u, binDir: pgBin}, tune: t, sync: sync, password: "bench-only",
		http: &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}}
	if err := p.makeHosts(k, 3); err != nil {
		return p, err
	}
	if disks {
		if err := p.makeDisks(); err != nil {
			return p, err
		}
	}
	for _, d := range []string{"", "log", "pg1", "pg2", "pg3"} {
		if err := os.MkdirAll(p.path(d), 0o700); err != nil {
			return p, err
		}
		if err := os.Chown(p.path(d), int(u.uid), int(u.gid)); err != nil {
			return p, err
		}
	}
	for _, n := range p.names {
		b, err := yaml.Marshal(p.nodeConfig(n))
		if err != nil {
			return p, err
		}
		if err := p.write(p.path(n, "patroni.yml"), b); err != nil {
			return p, err
		}
	}
	return p, p.write(p.path("haproxy.cfg"), p.haproxyConfig())
}

func (p *patroni) write(path string, b []byte) error {
	return errors.Join(os.WriteFile(path, b, 0o600), os.Chown(path, int(p.user.uid), int(p.user.gid)))
}

func (p *patroni) addr(node string, port int) string {
	return fmt.Sprintf("%s:%d", p.hosts[node].ip, port)
}

func (p *patroni) nodeConfig(node string) map[string]any {
	type m = map[string]any
	var etcd []string
	for _, n := range p.names {
		etcd = append(etcd, p.addr(n, peerEtcd))
	}
	login := func(user string) m { return m{"username": user, "password": p.password} }
	return m{
		"scope": "bench", "namespace": "/service/", "name": node,
		"restapi": m{"listen": p.addr(node, peerREST), "connect_address": p.addr(node, peerREST)},
		"etcd3":   m{"hosts": etcd},
		"bootstrap": m{
			"dcs": m{"ttl": p.tune.ttl, "loop_wait": p.tune.loopWait, "retry_timeout": p.tune.retry, "maximum_lag_on_failover": 1048576,
				"primary_start_timeout": p.tune.startTimeout, "synchronous_mode": p.sync,
				"postgresql": m{"use_pg_rewind": true, "use_slots": true, "parameters": m{"wal_level": "replica", "hot_standby": "on", "wal_log_hints": "on",
					"max_wal_senders": 10, "max_replication_slots": 10, "wal_keep_size": "128MB", "shared_buffers": "32MB"}}},
			"initdb": []any{m{"encoding": "UTF8"}, "data-checksums"},
			"pg_hba": []string{"local all all trust", "host all all 0.0.0.0/0 scram-sha-256", "host replication replicator 0.0.0.0/0 scram-sha-256"},
		},
		"postgresql": m{"listen": p.addr(node, peerPostgres), "connect_address": p.addr(node, peerPostgres), "data_dir": p.dataDir(node), "bin_dir": p.binDir,
			"pgpass":         p.path(node, "pgpass"),
			"basebackup":     []any{m{"checkpoint": "fast"}}, // only for the start of the lab
			"authentication": m{"superuser": login("postgres"), "replication": login("replicator"), "rewind": login("rewind_user")},
			"parameters":     m{"unix_socket_directories": p.path(node), "password_encryption": "scram-sha-256"}},
		"watchdog": m{"mode": "off"},
	}
}

// haproxyConfig is the guide's, with the ports of the lab.
func (p *patroni) haproxyConfig() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `global
    maxconn 4000

defaults
    mode tcp
    retries 3
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout check 5s

listen postgres_write
    bind %s:%d
    option httpchk GET /primary
    http-check expect status 200
    default-server inter %s fall %s rise %s on-marked-down shutdown-sessions
`, p.proxy.ip, peerWrite, p.tune.checkEvery, p.tune.fall, p.tune.rise)
	for i, n := range p.names {
		more := ""
		if i > 0 {
			more = " backup"
		}
		fmt.Fprintf(&b, "    server %s %s maxconn 500 check port %d%s\n", n, p.addr(n, peerPostgres), peerREST, more)
	}
	return b.Bytes()
}

func (p *patroni) dataDir(node string) string {
	if p.disks != nil {
		return p.path(node, "disk", "data")
	}
	return p.path(node, "data")
}
func (p *patroni) longest() time.Duration { return p.tune.longest }
func (p *patroni) writeURI() string {
	return fmt.Sprintf("postgresql://app:%s@%s:%d/app?sslmode=disable", p.password, p.proxy.ip, peerWrite)
}
func (p *patroni) directURI(node string) string {
	return fmt.Sprintf("postgresql://app:%s@%s/app?sslmode=disable", p.password, p.addr(node, peerPostgres))
}

func (p *patroni) logFile(name string) string { return p.path("log", name+".log") }

func (p *patroni) startEtcd(node string) error {
	var all []string
	for _, n := range p.names {
		all = append(all, n+"=http://"+p.addr(n, peerEtcdPeer))
	}
	client, peer := "http://"+p.addr(node, peerEtcd), "http://"+p.addr(node, peerEtcdPeer)
	_, err := p.hosts[node].start("etcd", p.user, p.logFile("etcd-"+node), "etcd", "--name", node, "--data-dir", p.path(node, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", strings.Join(all, ","), "--initial-cluster-state", "new", "--initial-cluster-token", "bench",
		"--heartbeat-interval", "100", "--election-timeout", "1000")
	return err
}

func (p *patroni) startAgent(node string) error {
	_, err := p.hosts[node].start("agent", p.user, p.logFile("patroni-"+node), "patroni", p.path(node, "patroni.yml"))
	return err
}

func (p *patroni) powerOn(node string) error {
	return errors.Join(p.startEtcd(node), p.startAgent(node))
}
func (p *patroni) forget(string) {}

func (p *patroni) start(ctx context.Context) error {
	for _, tool := range []string{"/usr/bin/patroni", "/usr/bin/etcd", "/usr/sbin/haproxy"} {
		if _, err := os.Stat(tool); err != nil {
			return fmt.Errorf("%s is missing: scripts/ensure-peer.sh installs it", tool)
		}
	}
	endpoints := map[string]string{}
	for _, n := range p.names {
		endpoints[n] = "http://" + p.addr(n, peerEtcd)
		if err := p.startEtcd(n); err != nil {
			return err
		}
	}
	var err error
	if p.store, err = openEtcd(endpoints, nil); err != nil {
		return err
	}
	if err := until(ctx, time.Minute, 300*time.Millisecond, p.title+": etcd", p.store.healthy); err != nil {
		return err
	}
	for _, n := range p.names {
		if err := p.startAgent(n); err != nil {
			return err
		}
	}
	if _, err := p.proxy.start("haproxy", p.user, p.logFile("haproxy"), "haproxy", "-db", "-f", p.path("haproxy.cfg")); err != nil {
		return err
	}
	p.leaders = p.store.record("/service/bench/leader")
	if err := until(ctx, 3*time.Minute, 300*time.Millisecond, p.title+": a leader", func(ctx context.Context) error {
		_, err := p.primary(ctx)
		return err
	}); err != nil {
		return err
	}
	leader, err := p.primary(ctx)
	if err != nil {
		return err
	}
	if err := until(ctx, time.Minute, 500*time.Millisecond, "make the role and the database app", func(ctx context.Context) error {
		for _, sql := range []string{"CREATE ROLE app LOGIN PASSWORD '" + p.password + "' IN ROLE pg_monitor", "CREATE DATABASE app OWNER app"} {
			if _, err := p.psql(ctx, leader, p.path(leader), peerPostgres, "postgres", sql); err != nil && !strings.Contains(err.Error(), "already exists") {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return until(ctx, 3*time.Minute, 500*time.Millisecond, p.title+": all standbys streaming", p.healthy)
}

func (p *patroni) close() error {
	if p.leaders != nil {
		p.leaders.close()
	}
	return p.base.close()
}

func (p *patroni) primary(ctx context.Context) (string, error) {
	last := errors.New("no leader key")
	for _, c := range p.store.clients {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		resp, err := c.Get(sctx, "/service/bench/leader")
		cancel()
		if err != nil {
			last = err
			continue
		}
		if len(resp.Kvs) == 0 {
			return "", errors.New("nobody leads")
		}
		name := string(resp.Kvs[0].Value)
		if p.hosts[name] == nil {
			return "", fmt.Errorf("unknown leader %q", name)
		}
		code, err := p.call(ctx, 2*time.Second, http.MethodGet, name, "/primary", nil)
		if err != nil || code != http.StatusOK {
			return "", fmt.Errorf("%s does not call itself primary: %d %w", name, code, err)
		}
		return name, nil
	}
	return "", last
}

func (p *patroni) leads() string {
	if e, ok := p.leaders.last(); ok {
		return string(e.value)
	}
	return ""
}

func (p *patroni) call(ctx context.Context, within time.Duration, method, node, path string, body any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.addr(node, peerREST)+path, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode >= 400 {
		return resp.StatusCode, fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, strings.TrimSpace(string(b)))
	}
	return resp.StatusCode, nil
}

func (p *patroni) healthy(ctx context.Context) error {
	leader, err := p.primary(ctx)
	if err != nil {
		return err
	}
	if err := allStream(ctx, p, leader); err != nil {
		return err
	}
	if p.sync {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		resp, err := p.store.clients[leader].Get(sctx, "/service/bench/sync")
		if err != nil || len(resp.Kvs) == 0 || !strings.Contains(string(resp.Kvs[0].Value), `"sync_standby":"pg`) {
			return fmt.Errorf("no synchronous standby yet (%w)", err)
		}
	}
	return p.store.healthy(ctx)
}

func (p *patroni) switchover(ctx context.Context, from, to string) error {
	_, err := p.call(ctx, 60*time.Second, http.MethodPost, from, "/switchover", map[string]string{"leader": from, "candidate": to})
	return err
}

func (p *patroni) repair(ctx context.Context, node string) error {
	_, err := p.call(ctx, 30*time.Second, http.MethodPost, node, "/reinitialize", map[string]any{"force": true})
	return err
}

// phases of Patroni come from the leader key: the end of promotion cannot be told from routing.
func (p *patroni) phases(f fault, old string, began, begin, write time.Duration) phases {
	m := landmarks{begin: begin, write: write}
	var notes []string
	for _, e := range p.leaders.since(began) {
		if e.at > write+time.Second {
			break
		}
		switch who := string(e.value); {
		case who == "" && m.released == 0:
			m.released = e.at
		case who != "" && who != old && m.take == 0:
			m.take = e.at
		}
		notes = append(notes, fmt.Sprintf("%+.3f leader key: %q", (e.at-began).Seconds(), e.value))
	}
	out := m.phases()
	out.Notes = notes
	return out
}

// promotion cannot be told: nothing in the store says when the leader accepts writes.
func (p *patroni) promotion(time.Duration) time.Duration { return 0 }

func (p *patroni) story(string, time.Duration) []string { return nil }
