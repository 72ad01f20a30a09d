package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
	"github.com/hathi-ha/hathi/internal/guardian"
	"github.com/hathi-ha/hathi/internal/health"
	"github.com/hathi-ha/hathi/internal/instance"
	"github.com/hathi-ha/hathi/internal/journal"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/rest"
	"github.com/hathi-ha/hathi/internal/spool"
)

// Agent is the process that runs one node.
type Agent struct {
	File    *config.Config
	Version string
	// Exe is the path of this program, for the guardian.
	Exe string
	Log *slog.Logger
	// Nodes is how many data nodes the cluster is expected to have, for the defaults of a new
	// cluster; 0 when unknown.
	Nodes int
	// Reread reads the configuration file again, for POST /reload and SIGHUP.
	Reread func() (*config.Config, error)

	inst *instance.Instance
}

// stack closes what was opened, last first.
type stack []func() error

func (s *stack) push(f func() error) { *s = append(*s, f) }

func (s *stack) close(log *slog.Logger) {
	for i := len(*s) - 1; i >= 0; i-- {
		if err := (*s)[i](); err != nil {
			log.Warn("close", "err", err)
		}
	}
	*s = nil
}

// journalWaiting bounds the decisions that wait to be written, in bytes; journalFlush the wait for them
// at the end.
const (
	journalWaiting = 1 << 20
	journalFlush   = 2 * time.Second
)

// Run runs the node until ctx ends and PostgreSQL has stopped (or, in a pause, goes on without the
// agent).
func (a *Agent) Run(ctx context.Context) (err error) {
	var open stack
	defer func() { open.close(a.Log) }()
	f, log := a.File, a.Log
	if err := a.directories(); err != nil {
		return err
	}
	pgServer, socketDir, err := a.server()
	if err != nil {
		return err
	}
	statePath := f.Guardian.StateFile
	if !f.Stated("guardian.state_file") {
		statePath = guardian.StatePath(f.PostgreSQL.DataDir)
	}
	guard, err := guardian.Open(statePath, f.PostgreSQL.DataDir)
	if err != nil {
		return fmt.Errorf("open the guardian's state: %w", err)
	}
	open.push(guard.Close)
	if !guard.InMemory() {
		log.Warn("the guardian's state is not in memory: a slow disk may delay the fence", "path", statePath)
	}
	inst := instance.New(instance.Config{File: f, Server: pgServer, DataDir: f.PostgreSQL.DataDir, SocketDir: socketDir,
		Replication: f.PostgreSQL.Authentication.Replication.Username, Fence: guard, Now: boottime.Now, Log: log.With("part", "postgresql")})
	open.push(inst.Close)
	a.inst = inst
	if err := inst.Identify(ctx); err != nil {
		return err
	}

	jr := journal.New(filepath.Join(f.RuntimeDir, "decisions.jsonl"), journal.DefaultRing, 0)
	if err := jr.Open(); err != nil {
		log.Warn("decisions of earlier runs cannot be read", "err", err)
	}
	var unkept bool // of the spool's goroutine
	record := spool.New(func(line []byte) error {
		err := jr.Append(line)
		if (err != nil) != unkept {
			if unkept = err != nil; unkept {
				log.Warn("decisions are kept in memory alone", "err", err)
			}
		}
		return err
	}, journalWaiting)
	open.push(func() error {
		if err := record.Close(journalFlush); err != nil {
			return err // its disk stands still, and the file cannot be closed either
		}
		return jr.Close()
	})

	storeConf, err := a.storeConfig()
	if err != nil {
		return err
	}
	problems := &health.Registry{}
	memory := storeMemory{path: filepath.Join(f.RuntimeDir, "store.json"), prefix: f.Prefix()}
	mark, err := memory.Load()
	if err != nil {
		return fmt.Errorf("%w (it says how far the store had come; remove it if the store is known to be the one of before)", err)
	}
	storeConf.Seen = mark.Revision
	// Two connections: one that only the keeper uses, so that nothing can stand before a renewal.
	reads, err := etcd.Open(ctx, storeConf)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	open.push(reads.Close)
	writes, err := etcd.Open(ctx, storeConf)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	open.push(writes.Close)

	restTLS, err := openIdentity("restapi", f.RestAPI.CertFile, f.RestAPI.KeyFile, f.RestAPI.CAFile, log)
	if err != nil {
		return err
	}
	clientTLS, err := ctlTLS(f.Ctl, log)
	if err != nil {
		return err
	}
	client := rest.NewClient(rest.ClientConfig{TLS: clientTLS, Username: f.Ctl.Authentication.Username, Password: f.Ctl.Authentication.Password.Reveal()})
	open.push(client.Close)

	var bg sync.WaitGroup
	bgCtx, stopBg := context.WithCancel(context.WithoutCancel(ctx))
	open.push(func() error { stopBg(); bg.Wait(); return nil })
	bg.Go(func() { a.keepGuardian(bgCtx, guard, statePath) })

	lead := node.NewLeadership(tellFull{writes, problems}, guard, boottime.Now, f.Name, inst.ID)
	feed := node.NewFeed(reads, boottime.Now, log.With("part", "store"))
	feed.Remember(node.Mark{Epoch: mark.Epoch, Seq: mark.Seq})
	jobs := node.NewRunner(boottime.Now)
	open.push(func() error { jobs.Cancel("the agent is ending"); return nil })
	member, err := a.member(restTLS != nil)
	if err != nil {
		return err
	}
	doc := f.BootstrapDynamic(a.Nodes)
	n := node.New(node.Config{Name: f.Name, Scope: f.Scope, Tags: cluster.Tags(f.Tags), Member: member, Instance: inst.ID,
		CanClone: true, BootstrapDoc: doc, Store: tellFull{reads, problems}, DB: inst, Guard: guard, Peers: newPeers(client, log), Jobs: jobs, Feed: feed, Lead: lead,
		Now: boottime.Now, Wall: time.Now, Log: log, Promises: promiseFile{filepath.Join(f.RuntimeDir, "promise.json")}, Record: recorder{jr, f.Name, record}})

	api := &api{a: a, n: n, store: reads, client: client, problems: problems, guard: guard, log: log}
	open.push(api.restarts.close)
	srv, err := rest.New(rest.Config{Listen: f.RestAPI.Listen, TLS: restTLS.server(a.verifyClient(restTLS)), VerifyClient: a.verifyClient(restTLS), Access: a.access(),
		Source: api, Actions: api, Peer: n, CheckPatch: config.CheckRemotePatch, Decisions: func(k int) any { return jr.Tail(k) },
		Now: boottime.Now, Logger: log.With("part", "rest")})
	if err != nil {
		return err
	}
	if err := srv.Open(ctx); err != nil {
		return fmt.Errorf("serve the REST API on %s: %w", f.RestAPI.Listen, err)
	}
	open.push(srv.Close)
	if f.Peer.Listen != "" {
		peer, err := rest.NewPeer(rest.PeerConfig{Listen: f.Peer.Listen, TLS: restTLS.server(rest.VerifyRequired), Access: a.access(), Peer: n, Failsafe: api,
			Revoke: func(ctx context.Context, r rest.RevokeRequest) (cluster.PeerStatus, error) {
				return n.Revoke(ctx, node.Revocation{Scope: r.Scope, Name: r.Name, Epoch: r.Epoch, LockRev: r.LockRev})
			},
			Members: func() map[string]cluster.Member { return feed.Get().View.Members }, Logger: log.With("part", "peer")})
		if err != nil {
			return err
		}
		if err := peer.Open(ctx); err != nil {
			return fmt.Errorf("serve probes of the other members on %s: %w", f.Peer.Listen, err)
		}
		open.push(peer.Close)
	}

	log.Info("agent started", "name", f.Name, "scope", f.Scope, "rest", f.RestAPI.Listen, "data_dir", f.PostgreSQL.DataDir, "version", a.Version)
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	var wg sync.WaitGroup
	wg.Go(func() { feed.Run(loops) })
	wg.Go(func() { n.Keep(loops) })
	wg.Go(func() { n.KeepFailsafeLoop(loops) })
	wg.Go(func() { n.ProbeLoop(loops) })
	wg.Go(func() { a.reloadOnHangup(loops, n) })
	wg.Go(func() { memory.keep(loops, reads.Revision, feed.Mark, log) })
	wg.Go(func() { watchStore(loops, n, problems, memory.path) })
	if len(f.PostgreSQL.Callbacks) > 0 {
		calls := newCallbacks(f.PostgreSQL.Callbacks, f.Scope, inst.Command, log)
		wg.Go(func() { calls.watch(loops, n) })
		wg.Go(func() { calls.serve(loops) })
	}
	err = n.Run(ctx)
	stopLoops()
	wg.Wait()
	stopBg()
	bg.Wait() // before the guardian is told to go, or another is started in its place
	if _, held := lead.Held(); !held {
		guard.Quit()
	}
	return err
}

// reloadOnHangup reads the configuration file again at each SIGHUP, until ctx ends.
func (a *Agent) reloadOnHangup(ctx context.Context, n *node.Node) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-hangups:
			a.reload(n)
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) directories() error {
	f := a.File
	for _, d := range []string{f.RuntimeDir, filepath.Dir(f.PostgreSQL.DataDir)} {
		if d == "" {
			continue
		}
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make the directory %s: %w", d, err)
		}
	}
	return nil
}

// server is the PostgreSQL of the configuration, and the directory of its socket.
func (a *Agent) server() (*postgres.Server, string, error) {
	f := a.File
	p := f.PostgreSQL
	hosts, port, err := p.ListenHosts()
	if err != nil {
		return nil, "", fmt.Errorf("postgresql.listen: %w", err)
	}
	socket := f.RuntimeDir
	if v, ok := cluster.ParameterText(p.Parameters["unix_socket_directories"]); ok && v != "" {
		socket = firstWord(v)
	}
	login := func(r config.Role) postgres.Login {
		return postgres.Login{Username: r.Username, Password: r.Password.Reveal(), SSLMode: r.SSLMode, SSLCert: r.SSLCert, SSLKey: r.SSLKey, SSLRootCert: r.SSLRootCert}
	}
	listen := ""
	for i, h := range hosts {
		if i > 0 {
			listen += ","
		}
		listen += h
	}
	logDir := f.Log.Dir
	if logDir == "" {
		logDir = f.RuntimeDir
	}
	s := postgres.New(postgres.Config{DataDir: p.DataDir, BinDir: p.BinDir, SocketDir: socket, Port: port, ListenAddresses: listen,
		PassFile: p.PgPass, Superuser: login(p.Authentication.Superuser), Replication: login(p.Authentication.Replication), Rewind: login(p.Authentication.Rewind),
		LogFile: filepath.Join(logDir, "postgresql.log"), Logger: a.Log.With("part", "postgresql")})
	return s, socket, nil
}

func firstWord(s string) string {
	for i, r := range s {
		if r == ',' {
			return s[:i]
		}
	}
	return s
}

func (a *Agent) storeConfig() (etcd.Config, error) {
	f := a.File
	s := f.Store()
	tlsFor, err := storeTLS(s, a.Log)
	if err != nil {
		return etcd.Config{}, err
	}
	own, _, _ := config.SplitHostPort(f.PostgreSQL.ConnectAddress, 5432)
	if e := f.Etcd.Embedded; e != nil {
		own = "" // the embedded member's own address comes first already
		s.Endpoints = ownFirst(s.Endpoints, e.AdvertiseClient)
	}
	return etcd.Config{Endpoints: hostsFirst(s.Endpoints, own), TLSFor: tlsFor, Username: s.Username, Password: s.Password.Reveal(),
		Prefix: f.Prefix(), Logger: a.Log.With("part", "store")}, nil
}

func ownFirst(endpoints []string, own string) []string {
	var out []string
	for _, e := range endpoints {
		if e == own {
			out = append([]string{e}, out...)
		} else {
			out = append(out, e)
		}
	}
	return out
}

func (a *Agent) verifyClient(id *identity) rest.VerifyClient {
	if id == nil || a.File.RestAPI.VerifyClient == "" {
		return rest.VerifyNone
	}
	return rest.VerifyClient(a.File.RestAPI.VerifyClient)
}

func (a *Agent) access() rest.Access {
	r := a.File.RestAPI
	acc := rest.Access{Username: r.Authentication.Username, Password: r.Authentication.Password.Reveal(), AllowMembers: r.AllowlistIncludeMembers}
	for _, s := range r.Allowlist {
		if p, err := netip.ParsePrefix(s); err == nil {
			acc.Allowlist = append(acc.Allowlist, p)
		} else if ip, err := netip.ParseAddr(s); err == nil {
			acc.Allowlist = append(acc.Allowlist, netip.PrefixFrom(ip, ip.BitLen()))
		} else {
			acc.AllowNames = append(acc.AllowNames, s)
		}
	}
	if host, _, err := config.SplitHostPort(r.ConnectAddress, 8008); err == nil {
		acc.Hosts = append(acc.Hosts, host)
	}
	return acc
}

// member is the fixed part of the member key.
func (a *Agent) member(tls bool) (cluster.Member, error) {
	f := a.File
	scheme := "http"
	if tls {
		scheme = "https"
	}
	host, port, err := config.SplitHostPort(f.PostgreSQL.ConnectAddress, 5432)
	if err != nil {
		return cluster.Member{}, fmt.Errorf("postgresql.connect_address: %w", err)
	}
	m := cluster.Member{Name: f.Name, Version: "4.1.0", ConnURL: "postgres://" + net.JoinHostPort(host, strconv.Itoa(port)) + "/postgres"}
	if f.RestAPI.ConnectAddress != "" {
		m.APIURL = scheme + "://" + f.RestAPI.ConnectAddress + "/patroni"
	}
	if f.Peer.ConnectAddress != "" {
		m.PeerURL = scheme + "://" + f.Peer.ConnectAddress + "/peer"
	}
	return m, nil
}

// keepGuardian keeps a guardian running for the state file until ctx ends.
func (a *Agent) keepGuardian(ctx context.Context, g *guardian.Handle, path string) {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		p, err := g.Start(ctx, guardian.StartOptions{Argv: []string{a.Exe, "guardian", "--state", path},
			LogFile: filepath.Join(a.File.RuntimeDir, "guardian.log")})
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				a.Log.Error("the guardian could not be started: this node will not lead", "err", err)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(pause*2, 2*time.Second)
			continue
		}
		pause = 50 * time.Millisecond
		a.Log.Info("guardian running", "adopted", p.Adopted, "memory_locked", g.MemoryLocked())
		select {
		case <-p.Exited():
			if ctx.Err() == nil {
				a.Log.Warn("the guardian ended: starting another")
			}
		case <-ctx.Done():
		}
		_ = p.Close()
	}
}

// recorder writes decisions to the journal.
type recorder struct {
	j    *journal.Journal
	name string
	file *spool.Writer // so that a decision does not wait for the disk
}

func (r recorder) Record(e node.Entry) {
	_, line := r.j.Keep(journal.Entry{At: time.Now(), Boottime: boottime.Now(), Node: r.name, Epoch: e.Epoch, State: string(e.State), Why: e.Why,
		What: what(e), Facts: withError(e)})
	_, _ = r.file.Write(line) // closed at the very end only
}

func what(e node.Entry) string {
	if len(e.Effects) == 0 {
		return string(e.State)
	}
	s := e.Effects[0]
	for _, x := range e.Effects[1:] {
		s += "; " + x
	}
	return s
}

func withError(e node.Entry) map[string]any {
	if e.Err != "" {
		e.Facts["error"] = e.Err
	}
	return e.Facts
}
