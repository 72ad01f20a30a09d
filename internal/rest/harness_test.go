package rest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/rest"
)

const now = 100 * time.Second

// node is a fake node: a snapshot that tests replace, and actions that note what they got.
type node struct {
	snap    atomic.Pointer[rest.Snapshot]
	got     []any
	answer  rest.Answer
	refuse  string
	started chan struct{} // when set, Restart closes it and waits for its context to end
}

func (n *node) Snapshot() *rest.Snapshot { return n.snap.Load() }

func (n *node) note(r any) rest.Answer {
	n.got = append(n.got, r)
	return n.answer
}

func (n *node) Restart(ctx context.Context, r rest.RestartRequest) rest.Answer {
	if n.started != nil {
		close(n.started)
		<-ctx.Done()
	}
	return n.note(r)
}
func (n *node) CancelRestart(context.Context) rest.Answer { return n.note("cancel restart") }
func (n *node) Reload(context.Context) rest.Answer        { return n.note("reload") }
func (n *node) Reinitialize(_ context.Context, r rest.ReinitializeRequest) rest.Answer {
	return n.note(r)
}
func (n *node) Failover(_ context.Context, r rest.FailoverRequest) rest.Answer { return n.note(r) }
func (n *node) CancelSwitchover(context.Context) rest.Answer                   { return n.note("cancel switchover") }
func (n *node) PatchConfig(_ context.Context, p map[string]any) rest.Answer    { return n.note(p) }
func (n *node) PutConfig(_ context.Context, p map[string]any) rest.Answer      { return n.note(p) }
func (n *node) MPP(_ context.Context, p map[string]any) rest.Answer            { return n.note(p) }
func (n *node) Failsafe(_ context.Context, r rest.FailsafeRequest) rest.FailsafeAnswer {
	n.note(r)
	return rest.FailsafeAnswer{Accepted: n.refuse == "", Why: n.refuse, LSN: 4242}
}
func (n *node) Peer(context.Context) cluster.PeerStatus {
	return cluster.PeerStatus{Name: "pg1", LSN: 77, Epoch: 3}
}

func view() cluster.View {
	d, _ := cluster.DynamicFrom(map[string]any{"ttl": 30, "old_name": 1})
	return cluster.View{Config: d, ConfigRev: 1, Leader: "pg1", Status: cluster.Status{Optime: 1000},
		Members: map[string]cluster.Member{
			"pg1": {Name: "pg1", APIURL: "http://127.0.0.1:8008/patroni", ConnURL: "postgres://127.0.0.1:5432/postgres", State: cluster.StateRunning, Role: cluster.RolePrimary, Timeline: 2},
			"pg2": {Name: "pg2", APIURL: "http://node2.example:8008/patroni", State: cluster.StateRunning, ReplicationState: "streaming", Role: cluster.RoleReplica, XLogLocation: 900},
		}}
}

func primary() *rest.Snapshot {
	return &rest.Snapshot{StoreKnown: true, View: view(), LeaseUntil: now + time.Second, Ticked: now,
		Status: rest.Status{State: cluster.StateRunning, Role: cluster.RolePrimary, Timeline: 2, ServerVersion: 150002,
			XLog: rest.XLog{Primary: true, Location: 1000}, Patroni: rest.Identity{Version: "4.1.0", Scope: "demo", Name: "pg1"}}}
}

func replica() *rest.Snapshot {
	return &rest.Snapshot{StoreKnown: true, View: view(), Ticked: now, Tags: cluster.Tags{},
		Status: rest.Status{State: cluster.StateRunning, Role: cluster.RoleReplica, Timeline: 2, ReplState: "streaming",
			XLog: rest.XLog{Received: 950, Replayed: 900}, Patroni: rest.Identity{Version: "4.1.0", Scope: "demo", Name: "pg2"}}}
}

// serve opens a server for the node and returns its base URL.
func serve(t *testing.T, n *node, change func(*rest.Config)) (*rest.Server, string) {
	t.Helper()
	conf := rest.Config{Listen: "127.0.0.1:0", Source: n, Actions: n, Peer: n, Now: func() time.Duration { return now },
		Wall: func() time.Time { return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) }}
	if change != nil {
		change(&conf)
	}
	s, err := rest.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	scheme := "http://"
	if conf.TLS != nil {
		scheme = "https://"
	}
	return s, scheme + s.Addr().String()
}

// call sends a request and returns the code, the body and the headers.
func call(t *testing.T, method, url, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// certificates makes a CA with one server and one client certificate.
func certificates(t *testing.T) (server, withCert, without *tls.Config) {
	t.Helper()
	issue := func(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (tls.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, key
	}
	until := time.Now().Add(time.Hour)
	ca, caKey := issue(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, _ := issue(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"}, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, ca.Leaf, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	return &tls.Config{Certificates: []tls.Certificate{leaf}, ClientCAs: pool},
		&tls.Config{Certificates: []tls.Certificate{leaf}, RootCAs: pool},
		&tls.Config{RootCAs: pool}
}
