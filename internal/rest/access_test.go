package rest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/rest"
)

func TestAccess(t *testing.T) {
	password := rest.Access{Username: "u", Password: "p:w"}
	good := []string{"Authorization", "Basic dTpwOnc="}
	tests := []struct {
		name   string
		access rest.Access
		from   string
		path   string
		header []string
		code   int
		text   string
	}{
		{"open from this machine", rest.Access{}, "127.0.0.1:9", "/reload", nil, 299, ""},
		{"open from this machine, mapped", rest.Access{}, "[::ffff:127.0.0.1]:9", "/reload", nil, 299, ""},
		{"open from elsewhere", rest.Access{}, "10.0.0.9:9", "/reload", nil, 403, "only to this machine"},
		{"open from elsewhere, forged header", rest.Access{}, "10.0.0.9:9", "/reload", []string{"X-Forwarded-For", "127.0.0.1"}, 403, "only to this machine"},
		{"open, failsafe from a member", rest.Access{}, "10.0.0.2:9", "/failsafe", nil, 200, "Accepted"},
		{"open, failsafe from a stranger", rest.Access{}, "10.0.0.9:9", "/failsafe", nil, 403, "only to this machine"},
		{"no password sent", password, "127.0.0.1:9", "/reload", nil, 401, "no auth header received"},
		{"wrong password", password, "127.0.0.1:9", "/reload", []string{"Authorization", "Basic dTp4"}, 401, "not authenticated"},
		{"not basic", password, "127.0.0.1:9", "/reload", []string{"Authorization", "Bearer x"}, 401, "not authenticated"},
		{"right password", password, "10.0.0.9:9", "/reload", good, 299, ""},
		{"failsafe needs it too", password, "10.0.0.2:9", "/failsafe", nil, 401, "no auth header received"},
		{"allowlist, inside", rest.Access{Allowlist: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}, "10.0.0.9:9", "/reload", nil, 299, ""},
		{"allowlist, a name", rest.Access{AllowNames: []string{"localhost"}}, "127.0.0.1:9", "/reload", nil, 299, ""},
		{"allowlist, another's name", rest.Access{AllowNames: []string{"localhost"}}, "10.0.0.9:9", "/reload", nil, 403, "Access is denied"},
		{"allowlist, outside", rest.Access{Allowlist: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}, "127.0.0.1:9", "/reload", nil, 403, "Access is denied"},
		{"members only, member", rest.Access{AllowMembers: true}, "10.0.0.2:9", "/reload", nil, 299, ""},
		{"members only, stranger", rest.Access{AllowMembers: true}, "10.0.0.9:9", "/reload", nil, 403, "Access is denied"},
		{"another site", rest.Access{}, "127.0.0.1:9", "/reload", []string{"Origin", "http://evil.example"}, 403, "cross-origin"},
		{"no site", rest.Access{}, "127.0.0.1:9", "/reload", []string{"Origin", "null"}, 403, "cross-origin"},
		{"another site, fetch metadata", password, "127.0.0.1:9", "/reload", append([]string{"Sec-Fetch-Site", "cross-site"}, good...), 403, "cross-origin"},
		{"rebound name", rest.Access{}, "127.0.0.1:9", "/reload", []string{"Host", "evil.example:8008", "Origin", "http://evil.example:8008"}, 403, "host name"},
		{"own page", rest.Access{}, "127.0.0.1:9", "/reload", []string{"Host", "localhost:8008", "Origin", "http://localhost:8008", "Sec-Fetch-Site", "same-origin"}, 299, ""},
		{"own page by a stated name", rest.Access{Hosts: []string{"db.example"}}, "127.0.0.1:9", "/reload", []string{"Host", "db.example", "Origin", "http://db.example"}, 299, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &node{answer: rest.Answer{Code: 299}}
			s := primary()
			m := s.View.Members["pg2"]
			m.APIURL = "http://10.0.0.2:8008/patroni"
			s.View.Members = map[string]cluster.Member{"pg2": m}
			n.snap.Store(s)
			conf := rest.Config{Source: n, Actions: n, Access: tt.access, Now: func() time.Duration { return now }}
			server, err := rest.New(conf)
			if err != nil {
				t.Fatal(err)
			}
			req := httptest.NewRequest(http.MethodPost, tt.path, strings.NewReader(`{"name":"pg2"}`))
			req.RemoteAddr = tt.from
			for i := 0; i < len(tt.header); i += 2 {
				if tt.header[i] == "Host" {
					req.Host = tt.header[i+1]
				}
				req.Header.Set(tt.header[i], tt.header[i+1])
			}
			rec := httptest.NewRecorder()
			rest.Handler(server).ServeHTTP(rec, req)
			if rec.Code != tt.code || !strings.Contains(rec.Body.String(), tt.text) {
				t.Errorf("got %d %q, want %d with %q", rec.Code, rec.Body, tt.code, tt.text)
			}
			if tt.code == 401 && rec.Header().Get("WWW-Authenticate") != `Basic realm="Patroni"` {
				t.Errorf("got WWW-Authenticate %q", rec.Header().Get("WWW-Authenticate"))
			}
			if reached := len(n.got) > 0; reached != (tt.code == 299 || tt.code == 200) {
				t.Errorf("got action reached %v", reached)
			}
		})
	}
}

func TestAccess_CanBeReplaced(t *testing.T) {
	n := &node{answer: rest.Answer{Code: 202, Text: "reload scheduled"}}
	n.snap.Store(primary())
	s, url := serve(t, n, nil)
	if code, _, _ := call(t, "POST", url+"/reload", ""); code != 202 {
		t.Errorf("before: got %d, want 202", code)
	}
	s.SetAccess(rest.Access{Username: "u", Password: "p"})
	if code, _, _ := call(t, "POST", url+"/reload", ""); code != 401 {
		t.Errorf("after: got %d, want 401", code)
	}
}

func TestClientCertificates(t *testing.T) {
	server, withCert, without := certificates(t)
	tests := []struct {
		verify       rest.VerifyClient
		cert         bool
		read, change int // 0: the handshake fails
	}{
		{rest.VerifyNone, false, 200, 202}, // from this machine
		{rest.VerifyOptional, false, 200, 403},
		{rest.VerifyOptional, true, 200, 202},
		{rest.VerifyRequired, false, 0, 0},
		{rest.VerifyRequired, true, 200, 202},
	}
	for _, tt := range tests {
		n := &node{answer: rest.Answer{Code: 202, Text: "reload scheduled"}}
		n.snap.Store(primary())
		_, url := serve(t, n, func(c *rest.Config) { c.TLS, c.VerifyClient = server, tt.verify })
		conf := rest.ClientConfig{TLS: without}
		if tt.cert {
			conf.TLS = withCert
		}
		c := rest.NewClient(conf)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		for _, q := range []struct {
			method, path string
			want         int
		}{{"GET", "/patroni", tt.read}, {"POST", "/reload", tt.change}} {
			code, text, err := c.Do(ctx, q.method, url+q.path, nil)
			if code != q.want || (err != nil) != (q.want == 0) {
				t.Errorf("%s cert=%v %s: got %d %s %v, want %d", tt.verify, tt.cert, q.path, code, text, err, q.want)
			}
		}
		cancel()
		c.Close()
	}
}
