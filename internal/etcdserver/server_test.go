package etcdserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/etcdserver"
	"github.com/hathi-ha/hathi/internal/pki"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const patience = 60 * time.Second

// until repeats check until it returns "", with a deadline, and shows what it last returned.
func until(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		last := check()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not reached in %v: %s", patience, last)
		}
		<-time.After(30 * time.Millisecond)
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// configs are those of n members on loopback ports that were free a moment ago.
func configs(t *testing.T, n int, log *slog.Logger) []etcdserver.Config {
	t.Helper()
	initial := map[string]string{}
	out := make([]etcdserver.Config, n)
	for i := range out {
		name := fmt.Sprintf("pg%d", i+1)
		peer := "http://" + freeAddr(t)
		initial[name] = peer
		out[i] = etcdserver.Config{
			Name: name, DataDir: filepath.Join(t.TempDir(), "etcd"), ClusterToken: "demo", InitialCluster: initial,
			ListenClientURLs: []string{"http://" + freeAddr(t)}, ListenPeerURLs: []string{peer},
			HeartbeatInterval: 20 * time.Millisecond, ElectionTimeout: 200 * time.Millisecond, Logger: log,
			// The quota and the size that tests wait for follow the writes at once.
			BatchInterval: 50 * time.Millisecond,
		}
	}
	return out
}

// start opens a member; a clash of ports, which others may have taken since, skips nothing but
// starts over with the same configuration once they are free again.
func start(t *testing.T, c etcdserver.Config, prepare ...func(*etcdserver.Server)) *etcdserver.Server {
	t.Helper()
	s, err := open(t, c, prepare...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, c etcdserver.Config, prepare ...func(*etcdserver.Server)) (*etcdserver.Server, error) {
	for try := 0; ; try++ {
		s := etcdserver.New(c)
		for _, p := range prepare {
			p(s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := s.Open(ctx)
		cancel()
		if err == nil {
			t.Cleanup(func() { s.Close() })
			return s, nil
		}
		if try == 20 || !strings.Contains(err.Error(), "address already in use") {
			return nil, err
		}
		<-time.After(200 * time.Millisecond)
	}
}

// startAll opens members at once: without data they wait for each other.
func startAll(t *testing.T, cs []etcdserver.Config, prepare ...func(*etcdserver.Server)) []*etcdserver.Server {
	t.Helper()
	out := make([]*etcdserver.Server, len(cs))
	errs := make([]error, len(cs))
	var wg sync.WaitGroup
	for i, c := range cs {
		wg.Go(func() { out[i], errs[i] = open(t, c, prepare...) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func ready(t *testing.T, s *etcdserver.Server) {
	t.Helper()
	select {
	case <-s.Ready():
	case err := <-s.Errors():
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatalf("not ready after %v", patience)
	}
}

func client(t *testing.T, tlsConfig *tls.Config, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: tlsConfig, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func bound(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	until(t, func() string {
		switch _, err := c.Put(bound(t), key, value); {
		case err == nil:
			return ""
		case errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrNoLeader):
			return err.Error() // these tests move the leadership, and a put may be repeated
		default:
			t.Fatalf("put: %v", err)
			return ""
		}
	})
}

// journal is a log that tests can search.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func TestServer_KeepsItsDataOverARestart(t *testing.T) {
	c := configs(t, 1, nil)[0]
	s := start(t, c)
	ready(t, s)
	put(t, client(t, nil, c.ListenClientURLs...), "k", "v")
	if st := s.Status(); !st.Ready || st.ID == 0 || st.Leader != st.ID || st.Revision < 2 || st.QuotaBytes != etcdserver.DefaultQuotaBytes {
		t.Errorf("got %+v, want a leader that is ready", st)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: got %v, want nil", err)
		}
	}
	if st := s.Status(); st != (etcdserver.Status{}) {
		t.Errorf("got %+v after close, want the zero value", st)
	}
	if err := s.Open(t.Context()); err == nil {
		t.Error("got no error from opening a closed server")
	}

	// The initial cluster no longer counts; a member list that has changed since is no obstacle.
	s = start(t, c)
	ready(t, s)
	resp, err := client(t, nil, c.ListenClientURLs...).Get(bound(t), "k")
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" {
		t.Errorf("got %v, %v, want the value from before", resp, err)
	}
}

func TestServer_RefusesTheDataOfAnother(t *testing.T) {
	c := configs(t, 1, nil)[0]
	s := start(t, c)
	ready(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := c
	other.Name, other.InitialCluster = "pg9", map[string]string{"pg9": c.ListenPeerURLs[0]}
	token := c
	token.ClusterToken = "another"
	for name, bad := range map[string]etcdserver.Config{"name": other, "token": token} {
		err := etcdserver.New(bad).Open(t.Context())
		if err == nil || !strings.Contains(err.Error(), "holds the data of member") {
			t.Errorf("%s: got %v, want a refusal that says whose data it is", name, err)
		}
	}
	// A marker without data is left over and binds nobody.
	if err := os.RemoveAll(filepath.Join(c.DataDir, "member")); err != nil {
		t.Fatal(err)
	}
	ready(t, start(t, token))
}

func TestServer_RefusesBadConfigurations(t *testing.T) {
	good := configs(t, 1, nil)[0]
	for name, change := range map[string]func(*etcdserver.Config){
		"no name":             func(c *etcdserver.Config) { c.Name = "" },
		"no directory":        func(c *etcdserver.Config) { c.DataDir = "" },
		"no token":            func(c *etcdserver.Config) { c.ClusterToken = "" },
		"not in the cluster":  func(c *etcdserver.Config) { c.InitialCluster = map[string]string{"x": c.ListenPeerURLs[0]} },
		"another peer URL":    func(c *etcdserver.Config) { c.InitialCluster = map[string]string{"pg1": "http://127.0.0.1:1"} },
		"election too short":  func(c *etcdserver.Config) { c.ElectionTimeout = 50 * time.Millisecond },
		"half of TLS":         func(c *etcdserver.Config) { c.PeerTLS.CertFile = "x" },
		"plain text with TLS": func(c *etcdserver.Config) { c.ClientTLS = etcdserver.TLS{CertFile: "a", KeyFile: "b", CAFile: "c"} },
		"https without TLS":   func(c *etcdserver.Config) { c.ListenClientURLs = []string{"https://127.0.0.1:1"} },
		"no listener":         func(c *etcdserver.Config) { c.ListenClientURLs = nil },
		"tiny quota":          func(c *etcdserver.Config) { c.QuotaBytes = 1 },
	} {
		c := good
		change(&c)
		s := etcdserver.New(c)
		if err := s.Open(t.Context()); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
	if _, err := os.Stat(good.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused configuration left something at %s (%v)", good.DataDir, err)
	}
}

func TestServer_OpensAndClosesWithoutAQuorum(t *testing.T) {
	cs := configs(t, 3, nil)
	for _, s := range startAll(t, cs) {
		ready(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, cs[0])
	select {
	case <-s.Ready():
		t.Error("got ready without a quorum")
	default:
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(cs[0].ListenPeerURLs[0], "http://"))
	if err != nil {
		t.Errorf("the peer listener is not there: %v", err)
	} else {
		conn.Close()
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("close does not end without a quorum")
	}
}

// Three members with certificates of their own authority: a stranger is kept out, the leader's end
// is survived, and a member that was removed says so.
func TestServer_ClusterWithTLS(t *testing.T) {
	ca, err := pki.NewCA("demo")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cs := configs(t, 3, nil)
	secure := func(u string) string { return strings.Replace(u, "http://", "https://", 1) }
	initial := map[string]string{}
	for _, c := range cs {
		initial[c.Name] = secure(c.ListenPeerURLs[0])
	}
	var secured []etcdserver.Config
	var endpoints []string
	var files pki.Files
	for _, c := range cs {
		leaf, err := ca.Issue(pki.Request{CommonName: c.Name, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Client: true, Server: true})
		if err != nil {
			t.Fatal(err)
		}
		if files, err = pki.WriteBundle(dir, c.Name, ca.CertPEM(), leaf, -1, -1); err != nil {
			t.Fatal(err)
		}
		c.ClientTLS = etcdserver.TLS{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA}
		c.PeerTLS = c.ClientTLS
		c.InitialCluster = initial
		c.ListenClientURLs = []string{secure(c.ListenClientURLs[0])}
		c.ListenPeerURLs = []string{secure(c.ListenPeerURLs[0])}
		endpoints = append(endpoints, c.ListenClientURLs[0])
		secured = append(secured, c)
	}
	servers := startAll(t, secured)
	for _, s := range servers {
		ready(t, s)
	}
	r, err := pki.OpenReloader(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := pki.OpenReloader(pki.Files{CA: files.CA}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, r.Client("127.0.0.1"), endpoints...)
	put(t, c, "k", "1")
	sctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client(t, stranger.Client("127.0.0.1"), endpoints...).Get(sctx, "k"); err == nil {
		t.Error("got an answer for a client without a certificate")
	}

	lead := -1
	for i, s := range servers {
		if s.LeadsNow() {
			lead = i
		}
	}
	if lead < 0 {
		t.Fatal("nobody leads")
	}
	if err := servers[lead].Close(); err != nil {
		t.Fatal(err)
	}
	a, b := (lead+1)%3, (lead+2)%3
	c = client(t, r.Client("127.0.0.1"), endpoints[a], endpoints[b])
	put(t, c, "k", "2")

	follower := a
	if servers[a].LeadsNow() {
		follower = b
	}
	c = client(t, r.Client("127.0.0.1"), endpoints[a+b-follower])
	// Without the third member first: two of two must agree to lose the second.
	if _, err := c.MemberRemove(bound(t), member(t, c, cs[lead].Name)); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		if _, err := c.MemberRemove(bound(t), member(t, c, cs[follower].Name)); err != nil {
			return err.Error()
		}
		return ""
	})
	select {
	case err := <-servers[follower].Errors():
		if !errors.Is(err, etcdserver.ErrStopped) {
			t.Errorf("got %v, want %v", err, etcdserver.ErrStopped)
		}
	case <-time.After(patience):
		t.Error("a removed member said nothing")
	}
}

func member(t *testing.T, c *clientv3.Client, name string) uint64 {
	t.Helper()
	list, err := c.MemberList(bound(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			return m.ID
		}
	}
	t.Fatalf("member %s is not there", name)
	return 0
}

func TestZapLogger_PassesWarningsOnAndDropsTheRest(t *testing.T) {
	var j journal
	log := etcdserver.ZapLogger(j.logger()).With(zap.String("member", "pg1"))
	log.Info("commentary")
	log.Warn("slow", zap.Duration("took", time.Second), zap.Error(errors.New("disk")))
	log.Warn("Running http and grpc server on single port. This is not recommended for production.")
	log.Error("broken", zap.Strings("peers", []string{"a", "b"}))
	got := j.String()
	for _, want := range []string{`level=WARN msg="etcd: slow" member=pg1 took=1s error=disk`, `level=ERROR msg="etcd: broken" member=pg1`} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want it to hold %q", got, want)
		}
	}
	for _, bad := range []string{"commentary", "single port"} {
		if strings.Contains(got, bad) {
			t.Errorf("got %q, want it without %q", got, bad)
		}
	}
}
