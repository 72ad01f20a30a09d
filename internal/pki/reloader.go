package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often, at most, the files are looked at for changes; they are looked at only
// when a handshake needs them.
const lookEvery = time.Second

// Reloader gives TLS configurations that follow the files of an identity. It is safe for
// concurrent use, runs no goroutine and needs no closing.
type Reloader struct {
	files Files
	log   *slog.Logger

	mu     sync.Mutex
	now    func() time.Time
	looked time.Time
	marks  [3]mark
	cur    identity
	err    error // why the present files are not used
}

// identity is what the files held when they last fitted together.
type identity struct {
	cert *tls.Certificate // nil without a certificate
	pool *x509.CertPool
}

// mark tells whether a file was replaced or written to.
type mark struct {
	modified time.Time
	size     int64
	info     os.FileInfo
}

// OpenReloader reads the files. Cert and Key may both be empty for a client that shows no
// certificate; CA is always needed. The logger (nil: none) hears of changes.
func OpenReloader(files Files, log *slog.Logger) (*Reloader, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Reloader{files: files, log: log, now: time.Now}
	if files.CA == "" || (files.Cert == "") != (files.Key == "") {
		return nil, errors.New("read certificates: name the authority, and certificate and key together")
	}
	marks, err := r.look()
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	cur, err := files.read()
	if err != nil {
		return nil, err
	}
	r.cur, r.marks, r.looked = cur, marks, r.now()
	return r, nil
}

// Err is why the files as they are now are not used, or nil when they are.
func (r *Reloader) Err() error {
	r.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// NotAfter is when the certificate in use ends; zero without one.
func (r *Reloader) NotAfter() time.Time {
	cert := r.current().cert
	if cert == nil {
		return time.Time{}
	}
	return cert.Leaf.NotAfter
}

// Server is the configuration of a listener. With mutual, a client must show a certificate signed
// by the authority and meant for clients.
func (r *Reloader) Server(mutual bool) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return r.own()
		},
		// A resumed session would carry on with an authority that has been replaced since.
		SessionTicketsDisabled: true,
	}
	if mutual {
		// Go would check against a fixed pool; VerifyConnection checks against the present one.
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			return r.verify(cs, "", x509.ExtKeyUsageClientAuth)
		}
	}
	return c
}

// HTTPServer is the configuration of an HTTP listener that has Go check the certificates of clients
// (so that a request's VerifiedChains tell) against the authority as it is at each handshake.
func (r *Reloader) HTTPServer(auth tls.ClientAuthType) *tls.Config {
	base := r.Server(false)
	base.ClientAuth = auth
	base.NextProtos = []string{"http/1.1"}
	c := base.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := base.Clone()
		now.ClientCAs = r.current().pool
		return now, nil
	}
	return c
}

// Client is the configuration for connecting to host, a name or an IP address as the server's
// certificate has it. If host is empty it is the server name of the connection, which must then be
// a DNS name (with an IP address no server name is sent, and the handshake fails).
func (r *Reloader) Client(host string) *tls.Config {
	return r.client(func(cs tls.ConnectionState) error {
		name := host
		if name == "" {
			name = cs.ServerName
		}
		if name == "" {
			return errors.New("nobody said which host to expect")
		}
		return r.verify(cs, name, x509.ExtKeyUsageServerAuth)
	}, host)
}

// ClientAnyName is Client for a server that may show any name: whoever has a server certificate
// of the authority is believed. Only for peers that are reached by changing addresses.
func (r *Reloader) ClientAnyName() *tls.Config {
	return r.client(func(cs tls.ConnectionState) error {
		return r.verify(cs, "", x509.ExtKeyUsageServerAuth)
	}, "")
}

func (r *Reloader) client(verify func(tls.ConnectionState) error, host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if r.files.Cert == "" {
				return &tls.Certificate{}, nil
			}
			return r.own()
		},
		// Go's own check, against a fixed pool, is replaced by the same check against the present
		// one; VerifyConnection runs on every handshake, also a resumed one.
		InsecureSkipVerify: true,
		VerifyConnection:   verify,
	}
}

func (r *Reloader) own() (*tls.Certificate, error) {
	cert := r.current().cert
	if cert == nil {
		return nil, errors.New("no certificate is configured")
	}
	return cert, nil
}

// verify checks the certificates that the other side showed. An empty name is not checked.
func (r *Reloader) verify(cs tls.ConnectionState, name string, usage x509.ExtKeyUsage) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the other side showed no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName: name, Roots: r.current().pool, Intermediates: between,
		CurrentTime: r.now(), KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}

// current is the identity in use, after a look at the files when one is due.
func (r *Reloader) current() identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Sub(r.looked) < lookEvery {
		return r.cur
	}
	r.looked = now
	marks, err := r.look()
	if err == nil && r.err == nil && same(marks, r.marks) {
		return r.cur
	}
	var next identity
	if err == nil {
		next, err = r.files.read()
	}
	if err != nil {
		if r.err == nil {
			r.log.Warn("new certificates not used, going on with the old ones", "cert", r.files.Cert, "ca", r.files.CA, "err", err)
		}
		r.err = err
		return r.cur
	}
	changed := !same(marks, r.marks)
	r.cur, r.marks, r.err = next, marks, nil
	if changed {
		r.log.Info("certificates read again", "cert", r.files.Cert, "ca", r.files.CA)
	}
	return r.cur
}

func (r *Reloader) look() (marks [3]mark, err error) {
	for i, path := range []string{r.files.Cert, r.files.Key, r.files.CA} {
		if path == "" {
			continue
		}
		fi, err := os.Stat(path)
		if err != nil {
			return marks, err
		}
		marks[i] = mark{modified: fi.ModTime(), size: fi.Size(), info: fi}
	}
	return marks, nil
}

func same(a, b [3]mark) bool {
	for i := range a {
		if a[i].size != b[i].size || !a[i].modified.Equal(b[i].modified) {
			return false
		}
		if a[i].info != nil && b[i].info != nil && !os.SameFile(a[i].info, b[i].info) {
			return false
		}
	}
	return true
}

// read reads the files. The key must belong to the certificate; whether its own authority signed it
// is not asked, because an authority may be replaced in two steps.
func (f Files) read() (identity, error) {
	var id identity
	caPEM, err := os.ReadFile(f.CA)
	if err != nil {
		return id, fmt.Errorf("read certificates: %w", err)
	}
	id.pool = x509.NewCertPool()
	if !id.pool.AppendCertsFromPEM(caPEM) {
		return id, fmt.Errorf("read certificates: %s holds no certificate in PEM form", f.CA)
	}
	if f.Cert == "" {
		return id, nil
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return id, fmt.Errorf("read certificate %s and key %s: %w", f.Cert, f.Key, err)
	}
	id.cert = &cert
	return id, nil
}
