package pki_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/pki"
)

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func node(name string) pki.Request {
	return pki.Request{CommonName: name, Names: []string{name}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Client: true, Server: true}
}

func write(t *testing.T, dir string, ca *pki.CA, r pki.Request) pki.Files {
	t.Helper()
	leaf, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pki.WriteBundle(dir, r.CommonName, ca.CertPEM(), leaf, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func reloader(t *testing.T, f pki.Files) *pki.Reloader {
	t.Helper()
	r, err := pki.OpenReloader(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shake runs one handshake over loopback and returns the certificate that the server showed and
// the errors of both sides.
func shake(t *testing.T, server, client *tls.Config) (shown *x509.Certificate, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	deadline := time.Now().Add(20 * time.Second)
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(deadline)
		conn := tls.Server(raw, server)
		err = conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x")) // TLS 1.3: the client learns of a refusal only by reading
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.SetDeadline(deadline)
	conn := tls.Client(raw, client)
	clientErr = conn.Handshake()
	if clientErr == nil {
		shown = conn.ConnectionState().PeerCertificates[0]
		_, clientErr = conn.Read(make([]byte, 1))
	}
	raw.Close()
	return shown, <-done, clientErr
}

func TestIssue_RefusesWhatMakesNoSense(t *testing.T) {
	ca := newCA(t)
	for name, r := range map[string]pki.Request{
		"no name":                {Server: true, Names: []string{"x"}},
		"no use":                 {CommonName: "x", Names: []string{"x"}},
		"server without address": {CommonName: "x", Server: true},
		"negative time":          {CommonName: "x", Client: true, ValidFor: -1},
	} {
		if _, err := ca.Issue(r); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestIssue_NeverOutlivesTheAuthority(t *testing.T) {
	ca := newCA(t)
	leaf, err := ca.Issue(pki.Request{CommonName: "x", Client: true, ValidFor: 20 * pki.CALifetime})
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.NotAfter.Equal(ca.NotAfter()) {
		t.Errorf("got %v, want %v", leaf.NotAfter, ca.NotAfter())
	}
}

func TestLoadCA_RoundTripAndRefusals(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	dir := t.TempDir()
	certFile, keyFile, err := pki.WriteCA(dir, ca, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(keyFile); fi.Mode().Perm() != 0o600 {
		t.Errorf("got key mode %v, want 0600", fi.Mode().Perm())
	}
	loaded, err := pki.LoadCAFiles(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Fingerprint() != ca.Fingerprint() {
		t.Errorf("got %s, want %s", loaded.Fingerprint(), ca.Fingerprint())
	}
	if _, _, err := pki.WriteCA(dir, other, -1, -1); err == nil {
		t.Error("got no error when an authority was about to be replaced")
	}
	otherKey, err := other.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Issue(node("pg1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{
		"key of another": {ca.CertPEM(), otherKey},
		"a leaf":         {leaf.CertPEM, leaf.KeyPEM},
		"junk":           {[]byte("junk"), []byte("junk")},
		"junk key":       {ca.CertPEM(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})},
	} {
		_, err := pki.LoadCA(pair[0], pair[1])
		if err == nil {
			t.Errorf("%s: got no error", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}

func TestWriteBundle_ModesAndNames(t *testing.T) {
	ca := newCA(t)
	f := write(t, filepath.Join(t.TempDir(), "tls"), ca, node("pg1"))
	for path, want := range map[string]os.FileMode{f.Cert: 0o644, f.Key: 0o600, f.CA: 0o644} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%s: got %v, want %v", path, fi.Mode().Perm(), want)
		}
	}
	leaf, err := ca.Issue(node("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "ca", "../x"} {
		if _, err := pki.WriteBundle(t.TempDir(), name, ca.CertPEM(), leaf, -1, -1); err == nil {
			t.Errorf("name %q: got no error", name)
		}
	}
}

func TestHandshake(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	dir := t.TempDir()
	pg1 := reloader(t, write(t, dir, ca, node("pg1")))
	pg2 := reloader(t, write(t, dir, ca, node("pg2")))
	stranger := reloader(t, write(t, t.TempDir(), foreign, node("pg1")))
	clientOnly := reloader(t, write(t, dir, ca, pki.Request{CommonName: "ctl", Client: true}))
	serverOnly := reloader(t, write(t, dir, ca, pki.Request{CommonName: "web", Names: []string{"web"}, Server: true}))
	nobody := reloader(t, pki.Files{CA: filepath.Join(dir, "ca.crt")})
	late := reloader(t, write(t, dir, ca, pki.Request{CommonName: "late", Names: []string{"late"}, Client: true, Server: true, ValidFor: 1}))
	noName := pg2.Client("")
	noName.ServerName = "127.0.0.1"

	for _, tt := range []struct {
		name           string
		server, client *tls.Config
		ok             bool
	}{
		{"mutual by name", pg1.Server(true), pg2.Client("pg1"), true},
		{"mutual by address", pg1.Server(true), pg2.Client("127.0.0.1"), true},
		{"another name", pg1.Server(true), pg2.Client("pg2"), false},
		{"another address", pg1.Server(true), pg2.Client("127.0.0.2"), false},
		{"another name where any is asked for", pg1.Server(true), pg2.ClientAnyName(), true},
		{"no name known", pg1.Server(true), noName, false},
		{"server of another authority", stranger.Server(true), pg2.Client("pg1"), false},
		{"server of another authority where any name is asked for", stranger.Server(false), pg2.ClientAnyName(), false},
		{"client of another authority", pg1.Server(true), stranger.ClientAnyName(), false},
		{"client without certificate", pg1.Server(true), nobody.Client("pg1"), false},
		{"client without certificate where none is asked for", pg1.Server(false), nobody.Client("pg1"), true},
		{"client certificate on a server", clientOnly.Server(false), pg2.ClientAnyName(), false},
		{"client certificate on a client", pg1.Server(true), clientOnly.Client("pg1"), true},
		{"server certificate on a client", pg1.Server(true), serverOnly.Client("pg1"), false},
		{"expired server", late.Server(false), pg2.Client("late"), false},
		{"expired client", pg1.Server(true), late.Client("pg1"), false},
		{"server that offers TLS 1.1 at most", &tls.Config{MaxVersion: tls.VersionTLS11, GetCertificate: pg1.Server(false).GetCertificate}, pg2.Client("pg1"), false},
	} {
		_, serverErr, clientErr := shake(t, tt.server, tt.client)
		if got := serverErr == nil && clientErr == nil; got != tt.ok {
			t.Errorf("%s: got success %v (server: %v, client: %v), want %v", tt.name, got, serverErr, clientErr, tt.ok)
		}
	}
}

func TestReloader_FollowsItsFilesAndKeepsTheOldOnesWhenTheyDoNotFit(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	f := write(t, dir, ca, node("pg1"))
	r := reloader(t, f)
	var ahead atomic.Int64
	r.SetNow(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	peer := reloader(t, write(t, dir, ca, node("pg2")))
	server := r.Server(true)
	shown := func() []byte {
		t.Helper()
		ahead.Add(int64(2 * time.Second)) // let a look be due
		cert, serverErr, clientErr := shake(t, server, peer.Client("pg1"))
		if serverErr != nil || clientErr != nil {
			t.Fatalf("handshake: server %v, client %v", serverErr, clientErr)
		}
		return cert.Raw
	}
	first := shown()
	if !bytes.Equal(shown(), first) {
		t.Error("the certificate changed by itself")
	}

	// A key that does not fit: the old pair stays in use.
	leaf, err := ca.Issue(node("pg1"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, f.Key, leaf.KeyPEM)
	if !bytes.Equal(shown(), first) {
		t.Error("got another certificate although the key does not fit, want the old one")
	}
	if r.Err() == nil {
		t.Error("got no error for a key that does not fit")
	}
	// The certificate follows: now they fit.
	replace(t, f.Cert, leaf.CertPEM)
	second := shown()
	if bytes.Equal(second, first) {
		t.Error("got the old certificate, want the new one")
	}
	if err := r.Err(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	// A file that vanishes.
	if err := os.Remove(f.Cert); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(shown(), second) {
		t.Error("got another certificate after the file was removed, want the old one")
	}
	if !errors.Is(r.Err(), os.ErrNotExist) {
		t.Errorf("got %v, want %v", r.Err(), os.ErrNotExist)
	}
	replace(t, f.Cert, leaf.CertPEM)

	// A new authority is followed too: the peer of the old one is refused then.
	replace(t, f.CA, newCA(t).CertPEM())
	ahead.Add(int64(2 * time.Second))
	peerOfOld := reloader(t, write(t, t.TempDir(), ca, node("pg3")))
	if _, serverErr, _ := shake(t, server, peerOfOld.Client("pg1")); serverErr == nil {
		t.Error("got success for a client of the old authority")
	}
}

func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func TestOpenReloader_Refusals(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	one, two := write(t, dir, ca, node("pg1")), write(t, dir, ca, node("pg2"))
	for name, f := range map[string]pki.Files{
		"nothing":         {},
		"no authority":    {Cert: one.Cert, Key: one.Key},
		"no key":          {Cert: one.Cert, CA: one.CA},
		"missing file":    {Cert: one.Cert + "x", Key: one.Key, CA: one.CA},
		"key of another":  {Cert: one.Cert, Key: two.Key, CA: one.CA},
		"authority a key": {Cert: one.Cert, Key: one.Key, CA: one.Key},
	} {
		if _, err := pki.OpenReloader(f, nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func FuzzLoadCA(f *testing.F) {
	ca, err := pki.NewCA("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.CertPEM(), key)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []byte{})
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		if ca, err := pki.LoadCA(cert, key); err == nil && ca.Fingerprint() == "" {
			t.Error("got an authority without a fingerprint")
		}
	})
}
