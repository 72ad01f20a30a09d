package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"

	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/pki"
	"github.com/hathi-ha/hathi/internal/rest"
)

// identity is a certificate with its authority, followed as its files change; nil for plain text.
type identity struct{ *pki.Reloader }

// openIdentity reads an identity; with no file named there is none.
func openIdentity(what, cert, key, ca string, log *slog.Logger) (*identity, error) {
	if cert == "" && ca == "" {
		return nil, nil
	}
	if key == "" {
		key = cert
	}
	if ca == "" {
		ca = cert
	}
	if cert == "" {
		key = ""
	}
	r, err := pki.OpenReloader(pki.Files{Cert: cert, Key: key, CA: ca}, log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &identity{r}, nil
}

// server is the configuration of an HTTP listener; nil without a certificate.
func (i *identity) server(verify rest.VerifyClient) *tls.Config {
	if i == nil {
		return nil
	}
	switch verify {
	case rest.VerifyRequired:
		return i.HTTPServer(tls.RequireAndVerifyClientCert)
	case rest.VerifyOptional:
		return i.HTTPServer(tls.VerifyClientCertIfGiven)
	}
	return i.HTTPServer(tls.NoClientCert)
}

// storeTLS gives the configuration for connecting to one host of the store; nil for plain text.
func storeTLS(s config.Store, log *slog.Logger) (func(host string) *tls.Config, error) {
	if !s.TLS() {
		return nil, nil
	}
	id, err := openIdentity("etcd3", s.Cert, s.Key, s.CACert, log)
	if err != nil || id == nil {
		return nil, err
	}
	return id.Client, nil
}

// ctlTLS is for calling REST APIs, of members whose addresses change: a certificate of the
// authority is believed whatever name it shows.
func ctlTLS(c config.Ctl, log *slog.Logger) (*tls.Config, error) {
	if c.Insecure {
		t := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} // ctl.insecure, stated by the operator
		if c.CertFile != "" {
			key := c.KeyFile
			if key == "" {
				key = c.CertFile
			}
			pair, err := tls.LoadX509KeyPair(c.CertFile, key)
			if err != nil {
				return nil, fmt.Errorf("ctl: %w", err)
			}
			t.Certificates = []tls.Certificate{pair}
		}
		return t, nil
	}
	if c.CACert == "" {
		return nil, nil
	}
	if c.CertFile == "" {
		pem, err := os.ReadFile(c.CACert)
		if err != nil {
			return nil, fmt.Errorf("ctl.cacert: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ctl.cacert: %s holds no certificate", c.CACert)
		}
		return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
	}
	id, err := openIdentity("ctl", c.CertFile, c.KeyFile, c.CACert, log)
	if err != nil {
		return nil, err
	}
	return id.ClientAnyName(), nil
}

// hostsFirst puts the endpoints of this machine first: they answer while the network is away, and
// sooner.
func hostsFirst(endpoints []string, own string) []string {
	var near, far []string
	for _, e := range endpoints {
		host := e
		if u, err := url.Parse(e); err == nil && u.Host != "" {
			host = u.Hostname()
		} else if h, _, err := net.SplitHostPort(e); err == nil {
			host = h
		}
		if own != "" && host == own {
			near = append(near, e)
		} else {
			far = append(far, e)
		}
	}
	return append(near, far...)
}
