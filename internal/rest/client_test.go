package rest_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/rest"
)

func TestClient_AgainstServer(t *testing.T) {
	n := &node{answer: rest.Answer{Code: 202, Text: "reload scheduled"}}
	n.snap.Store(replica())
	_, url := serve(t, n, func(c *rest.Config) { c.Access = rest.Access{Username: "u", Password: "p"} })
	c := rest.NewClient(rest.ClientConfig{Username: "u", Password: "p"})
	defer c.Close()
	st, err := c.Patroni(t.Context(), url+"/patroni")
	if err != nil || st.Patroni.Name != "pg2" || st.XLog.Received != 950 || st.XLog.Primary {
		t.Errorf("Patroni: got %+v %v", st, err)
	}
	if p, err := c.Peer(t.Context(), url); err != nil || p.LSN != 77 {
		t.Errorf("Peer: got %+v %v", p, err)
	}
	ok, lsn, err := c.Failsafe(t.Context(), url+"/patroni", rest.FailsafeRequest{Name: "pg1", Slots: map[string]cluster.LSN{"a": 9}})
	if err != nil || !ok || lsn != 4242 {
		t.Errorf("Failsafe: got %v %v %v", ok, lsn, err)
	}
	n.refuse = "Running as a leader"
	if ok, _, err = c.Failsafe(t.Context(), url, rest.FailsafeRequest{Name: "pg1"}); err != nil || ok {
		t.Errorf("Failsafe refused: got %v %v, want false and no error", ok, err)
	}
	if code, text, err := c.Do(t.Context(), "POST", url+"/reload", nil); code != 202 || text != "reload scheduled" || err != nil {
		t.Errorf("Do: got %d %s %v", code, text, err)
	}
	stranger := rest.NewClient(rest.ClientConfig{})
	defer stranger.Close()
	if _, _, err = stranger.Failsafe(t.Context(), url, rest.FailsafeRequest{Name: "pg1"}); err == nil {
		t.Error("Failsafe without the password: got no error")
	}
}

func TestClient_Bounds(t *testing.T) {
	seen := make(chan string, 10)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		switch r.URL.Path {
		case "/patroni":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/elsewhere":
			fmt.Fprint(w, "{}")
		case "/peer":
			fmt.Fprint(w, `{"tags":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+"}")
		case "/huge":
			for range 5 {
				_, _ = w.Write(make([]byte, 1<<20))
			}
		}
	}))
	defer h.Close()
	_, withCert, _ := certificates(t)
	c := rest.NewClient(rest.ClientConfig{TLS: withCert, Username: "u", Password: "geheim"})
	defer c.Close()
	if _, err := c.Patroni(t.Context(), h.URL); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("redirect: got %v, want it not followed", err)
	}
	if _, err := c.Peer(t.Context(), h.URL); err == nil {
		t.Error("deep JSON: got no error")
	}
	if _, _, err := c.Do(t.Context(), "GET", h.URL+"/huge", nil); err == nil {
		t.Error("huge answer: got no error")
	}
	for range 3 {
		if a := <-seen; a != "" {
			t.Errorf("got the password sent over plain http although TLS is configured: %q", a)
		}
	}
	for _, bad := range []string{"", "file:///etc/passwd", "http://", "gopher://x/", "http://u:geheim@x/", "::"} {
		_, err := c.Patroni(t.Context(), bad)
		if err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: got %v, want an error without the password", bad, err)
		}
	}
}

func TestClient_DeadHostCostsItsOwnDeadline(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts by its backlog and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n := &node{}
	n.snap.Store(primary())
	_, url := serve(t, n, nil)
	c := rest.NewClient(rest.ClientConfig{})
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Patroni(ctx, "http://"+ln.Addr().String()); err == nil {
		t.Error("got no error from a host that does not answer")
	}
	if _, err := c.Patroni(t.Context(), url); err != nil {
		t.Errorf("another host: got %v", err)
	}
}

func TestPeerServer(t *testing.T) {
	server, withCert, without := certificates(t)
	n := &node{}
	s, err := rest.NewPeer(rest.PeerConfig{Listen: "127.0.0.1:0", TLS: server, Peer: n, Failsafe: n})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	url := "https://" + s.Addr().String()
	c, stranger := rest.NewClient(rest.ClientConfig{TLS: withCert}), rest.NewClient(rest.ClientConfig{TLS: without})
	defer c.Close()
	defer stranger.Close()
	if p, err := c.Peer(t.Context(), url); err != nil || p.Name != "pg1" || p.Epoch != 3 {
		t.Errorf("got %+v %v", p, err)
	}
	if ok, lsn, err := c.Failsafe(t.Context(), url, rest.FailsafeRequest{Name: "pg2"}); err != nil || !ok || lsn != 4242 {
		t.Errorf("failsafe: got %v %v %v", ok, lsn, err)
	}
	if _, err := stranger.Peer(t.Context(), url); err == nil {
		t.Error("without a certificate: got an answer")
	}
	for path, want := range map[string]int{"/": 404, "/config": 404, "/failsafe": 405} {
		if code, _, err := c.Do(t.Context(), "GET", url+path, nil); code != want || err != nil {
			t.Errorf("GET %s: got %d %v, want %d", path, code, err, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
