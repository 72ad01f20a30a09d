package etcd_test

import (
	"net"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs/etcd"
	"github.com/hathi-ha/hathi/internal/pki"
	"go.etcd.io/etcd/server/v3/embed"
)

// The member's certificate names an IP address, which TLS itself does not pass on: TLSFor must be
// asked for exactly that host, and a member with another name must be refused.
func TestTLSFor_ExpectsTheHostOfTheEndpoint(t *testing.T) {
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, ips ...net.IP) pki.Files {
		leaf, err := ca.Issue(pki.Request{CommonName: name, Names: []string{name}, IPs: ips, Client: true, Server: true})
		if err != nil {
			t.Fatal(err)
		}
		f, err := pki.WriteBundle(t.TempDir(), name, ca.CertPEM(), leaf, -1, -1)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	own, err := pki.OpenReloader(issue("pg2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		files pki.Files
		ok    bool
	}{
		{"its own address", issue("pg1", net.IPv4(127, 0, 0, 1)), true},
		{"another address", issue("pg1", net.IPv4(127, 0, 0, 9)), false},
	} {
		addr, _ := member(t, func(c *embed.Config) {
			c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile, c.ClientTLSInfo.TrustedCAFile = tt.files.Cert, tt.files.Key, tt.files.CA
			c.ClientTLSInfo.ClientCertAuth = true
			c.ListenClientUrls[0].Scheme = "https"
			c.AdvertiseClientUrls = c.ListenClientUrls
		})
		timeout := 20 * time.Second
		if !tt.ok {
			timeout = time.Second
		}
		st := open(t, etcd.Config{
			Endpoints: []string{"https://" + addr}, TLSFor: own.Client, Prefix: "/service/t/", RequestTimeout: timeout,
		})
		if _, err := st.Commit(t.Context(), put("k", "v")); (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want success %v", tt.name, err, tt.ok)
		}
	}
}
