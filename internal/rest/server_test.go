package rest_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/health"
	"github.com/hathi-ha/hathi/internal/rest"
)

func TestServer_Reading(t *testing.T) {
	n := &node{}
	snap := primary()
	snap.Status.PostmasterStart = rest.Timestamp{Time: time.Date(2024, 8, 28, 19, 39, 26, 352526000, time.UTC)}
	snap.Status.Tags = cluster.Tags{"nofailover": true, "failover_priority": "1"}
	snap.View.History = cluster.History{{Timeline: 1, LSN: 5, Reason: "no recovery target specified"}}
	snap.View.Failsafe = map[string]string{"pg1": "http://127.0.0.1:8008/patroni"}
	snap.Problems = []health.Problem{{Code: "disk", Severity: health.Warning, Sentence: "full"}}
	n.snap.Store(snap)
	_, url := serve(t, n, func(c *rest.Config) { c.Decisions = func(n int) any { return []int{n} } })
	tests := []struct {
		path string
		code int
		want string
	}{
		{"/patroni", 200, `{"state":"running","postmaster_start_time":"2024-08-28 19:39:26.352526+00:00","role":"primary","server_version":150002,"xlog":{"location":1000},"timeline":2,"dcs_last_seen":0,"tags":{"failover_priority":"1","nofailover":true},"patroni":{"version":"4.1.0","scope":"demo","name":"pg1"}}`},
		{"/history", 200, `[[1,5,"no recovery target specified"]]`},
		{"/config", 200, `{"old_name":1,"ttl":30}`},
		{"/failsafe", 200, `{"pg1":"http://127.0.0.1:8008/patroni"}`},
		{"/cluster", 200, `{"members":[{"api_url":"http://127.0.0.1:8008/patroni","host":"127.0.0.1","name":"pg1","port":5432,"role":"leader","state":"running","timeline":2},` +
			`{"api_url":"http://node2.example:8008/patroni","lag":100,"lsn":"0/384","name":"pg2","receive_lag":"unknown","receive_lsn":"unknown","replay_lag":"unknown","replay_lsn":"unknown","role":"replica","state":"streaming"}],"scope":"demo"}`},
		{"/decisions?n=7", 200, `[7]`},
		{"/decisions?n=x", 200, `[50]`},
		{"/nothing", 404, "not found"},
		{"/%2e%2e/etc", 404, "not found"},
		{"/restart", 405, "method not allowed"},
	}
	for _, tt := range tests {
		code, body, header := call(t, "GET", url+tt.path, "")
		if code != tt.code || body != tt.want {
			t.Errorf("%s: got %d %s, want %d %s", tt.path, code, body, tt.code, tt.want)
		}
		isJSON := header.Get("Content-Type") == "application/json"
		if isJSON != (tt.code == 200) {
			t.Errorf("%s: got content type %q", tt.path, header.Get("Content-Type"))
		}
	}
	if code, body, _ := call(t, "GET", url+"/peer", ""); code != 200 || !strings.Contains(body, `"lsn":77`) {
		t.Errorf("/peer: got %d %s", code, body)
	}
	if code, body, _ := call(t, "GET", url+"/problems", ""); code != 200 || !strings.Contains(body, `"code":"disk"`) {
		t.Errorf("/problems: got %d %s", code, body)
	}
	empty := replica()
	empty.View = cluster.View{}
	n.snap.Store(empty)
	for path, want := range map[string]int{"/config": 502, "/failsafe": 502, "/history": 200} {
		if code, body, _ := call(t, "GET", url+path, ""); code != want {
			t.Errorf("%s without a view: got %d %s, want %d", path, code, body, want)
		}
	}
	_, body, _ := call(t, "GET", url+"/patroni", "")
	var st rest.Status
	if err := json.Unmarshal([]byte(body), &st); err != nil || st.XLog.Replayed != 900 || !strings.Contains(body, `"replayed_timestamp":null,"paused":false`) {
		t.Errorf("replica: got %s (%v)", body, err)
	}
}

func TestServer_Actions(t *testing.T) {
	at := time.Date(2031, 2, 3, 4, 5, 6, 7000, time.UTC)
	patch := map[string]any{"ttl": json.Number("20"), "slots": map[string]any{"a": nil}}
	tests := []struct {
		name, method, path, body string
		paused                   bool
		code                     int
		text                     string // of a refusal; "" when the action is reached
		want                     any
	}{
		{"restart", "POST", "/restart", "", false, 0, "", rest.RestartRequest{}},
		{"restart scheduled", "POST", "/restart", `{"schedule":"2031-02-03T04:05:06.000007+00:00","role":"replica","restart_pending":"True"}`, false, 0, "",
			rest.RestartRequest{Schedule: at, Role: cluster.RoleReplica, Pending: true}},
		{"restart with a blank in the time", "POST", "/restart", `{"schedule":"2031-02-03 05:05:06.000007 +0100","timeout":"2min","postgres_version":"15.2"}`, false, 0, "",
			rest.RestartRequest{Schedule: at, Timeout: 2 * time.Minute, PostgresVersion: "15.2"}},
		{"restart role", "POST", "/restart", `{"role":"boss"}`, false, 400, "PostgreSQL role should be either primary, standby_leader, or replica", nil},
		{"restart version", "POST", "/restart", `{"postgres_version":"x"}`, false, 400, "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: x", nil},
		{"restart timeout", "POST", "/restart", `{"timeout":-1}`, false, 400, "Timeout should be a positive number of seconds", nil},
		{"restart key", "POST", "/restart", `{"what":1}`, false, 400, "Unknown filter for the scheduled restart: what", nil},
		{"restart in pause", "POST", "/restart", `{"schedule":"2031-02-03T04:05:06Z"}`, true, 500, "Can't schedule restart in the paused state", nil},
		{"restart in the past", "POST", "/restart", `{"schedule":"1970-01-01T00:00:00Z"}`, false, 422, "Cannot schedule restart in the past", nil},
		{"restart far away", "POST", "/restart", `{"schedule":"9999-01-01T00:00:00Z"}`, false, 422, "Cannot schedule restart more than ten years ahead", nil},
		{"restart without zone", "POST", "/restart", `{"schedule":"2031-02-03T04:05:06"}`, false, 400, "Timezone information is mandatory for the scheduled restart", nil},
		{"restart at nonsense", "POST", "/restart", `{"schedule":"soon"}`, false, 422, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601", nil},
		{"restart with junk", "POST", "/restart", `{"schedule`, false, 400, "", nil},
		{"cancel restart", "DELETE", "/restart", "", false, 0, "", "cancel restart"},
		{"reload", "POST", "/reload", "", false, 0, "", "reload"},
		{"reinitialize", "POST", "/reinitialize", `{"force":"true","from_leader":true}`, false, 0, "", rest.ReinitializeRequest{Force: true, FromLeader: true}},
		{"switchover", "POST", "/switchover", `{"leader":"pg1","candidate":"pg2"}`, false, 0, "", rest.FailoverRequest{Switchover: true, Leader: "pg1", Candidate: "pg2"}},
		{"switchover, old word", "POST", "/switchover", `{"leader":"pg1","member":"pg2","scheduled_at":"2031-02-03T04:05:06.000007Z"}`, false, 0, "",
			rest.FailoverRequest{Switchover: true, Leader: "pg1", Candidate: "pg2", ScheduledAt: at}},
		{"switchover without leader", "POST", "/switchover", `{"candidate":"pg2"}`, false, 400, "Switchover could be performed only from a specific leader", nil},
		{"switchover to itself", "POST", "/switchover", `{"leader":"pg1","candidate":"pg1"}`, false, 400, "Switchover target and source are the same", nil},
		{"switchover in pause", "POST", "/switchover", `{"leader":"pg1"}`, true, 400, "Switchover is possible only to a specific candidate in a paused state", nil},
		{"switchover scheduled in pause", "POST", "/switchover", `{"leader":"pg1","candidate":"pg2","scheduled_at":"2031-02-03T04:05:06Z"}`, true, 400, "Can't schedule switchover in the paused state", nil},
		{"switchover with odd types", "POST", "/switchover", `{"leader":["pg1"]}`, false, 400, "leader and candidate should be names of members", nil},
		{"fail-over", "POST", "/failover", `{"candidate":"pg2","force":true}`, false, 0, "", rest.FailoverRequest{Candidate: "pg2", Force: true}},
		{"fail-over with a leader", "POST", "/failover", `{"leader":"pg1","candidate":"pg2"}`, false, 0, "", rest.FailoverRequest{Switchover: true, Leader: "pg1", Candidate: "pg2"}},
		{"fail-over without candidate", "POST", "/failover", `{"leader":"pg1"}`, false, 400, "Failover could be performed only to a specific candidate", nil},
		{"fail-over scheduled", "POST", "/failover", `{"candidate":"pg2","scheduled_at":"x"}`, false, 400, "Failover can't be scheduled", nil},
		{"fail-over with an empty object", "POST", "/failover", `{}`, false, 400, "", nil},
		{"cancel switchover", "DELETE", "/switchover", "", false, 0, "", "cancel switchover"},
		{"patch", "PATCH", "/config", `{"ttl":20,"slots":{"a":null}}`, false, 0, "", patch},
		{"put", "PUT", "/config", `{"ttl":20,"slots":{"a":null}}`, false, 0, "", patch},
		{"patch that runs commands", "PATCH", "/config", `{"archive_command":"rm"}`, false, 400, "refused: archive_command runs a command", nil},
		{"put that runs commands", "PUT", "/config", `{"archive_command":"rm"}`, false, 400, "refused: archive_command runs a command", nil},
		{"patch with a list", "PATCH", "/config", `[1]`, false, 400, "", nil},
		{"patch with null", "PATCH", "/config", `null`, false, 400, "", nil},
		{"patch twice", "PATCH", "/config", `{"a":1}{"b":2}`, false, 400, "", nil},
		{"patch in bad UTF-8", "PATCH", "/config", "{\"a\":\"\xff\"}", false, 400, "", nil},
		{"patch too deep", "PATCH", "/config", `{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, false, 400, "", nil},
		{"patch too large", "PATCH", "/config", `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, false, 413, "", nil},
		{"citus", "POST", "/citus", `{"type":"x"}`, false, 0, "", map[string]any{"type": "x"}},
		{"mpp", "POST", "/mpp", `{"type":"x"}`, false, 0, "", map[string]any{"type": "x"}},
		{"sigterm does nothing", "POST", "/sigterm", "", false, 202, "shutdown scheduled", nil},
		{"wrong method", "PUT", "/restart", "", false, 405, "method not allowed", nil},
		{"trace", "TRACE", "/patroni", "", false, 405, "method not allowed", nil},
		{"delete of the status", "DELETE", "/patroni", "", false, 405, "method not allowed", nil},
		{"unknown", "POST", "/nothing", "", false, 404, "not found", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &node{answer: rest.Answer{Code: 299, Text: "reached"}}
			s := primary()
			s.Status.Pause = tt.paused
			n.snap.Store(s)
			_, url := serve(t, n, func(c *rest.Config) {
				c.CheckPatch = func(m map[string]any) []error {
					if _, ok := m["archive_command"]; ok {
						return []error{errors.New("archive_command runs a command")}
					}
					return nil
				}
			})
			header := []string{"X-HTTP-Method-Override", "DELETE"}
			if len(tt.body) > 1<<20 {
				// Without it the client may still be writing when the server has refused and closed.
				header = append(header, "Expect", "100-continue")
			}
			code, body, _ := call(t, tt.method, url+tt.path, tt.body, header...)
			wantCode := tt.code
			if wantCode == 0 {
				wantCode = 299
			}
			if code != wantCode || tt.text != "" && body != tt.text {
				t.Errorf("got %d %q, want %d %q", code, body, wantCode, tt.text)
			}
			var got any
			if len(n.got) > 0 {
				got = n.got[0]
			}
			if r, ok := got.(rest.RestartRequest); ok {
				r.Schedule = r.Schedule.UTC()
				got = r
			}
			if r, ok := got.(rest.FailoverRequest); ok {
				r.ScheduledAt = r.ScheduledAt.UTC()
				got = r
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got request %#v, want %#v", got, tt.want)
			}
		})
	}
}

func TestServer_AnAnswerMayBeADocument(t *testing.T) {
	n := &node{answer: rest.Answer{Code: 200, Doc: map[string]any{"ttl": 20}}}
	n.snap.Store(primary())
	_, url := serve(t, n, nil)
	code, body, header := call(t, "PATCH", url+"/config", `{"ttl":20}`)
	if code != 200 || body != `{"ttl":20}` || header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s %v", code, body, header)
	}
}

func TestServer_Failsafe(t *testing.T) {
	n := &node{}
	n.snap.Store(replica())
	_, url := serve(t, n, nil)
	code, body, header := call(t, "POST", url+"/failsafe", `{"name":"pg1","conn_url":"postgres://x","slots":{"pg2":18446744073709551615,"bad":-1},"epoch":4}`)
	if code != 200 || body != "Accepted" || header.Get("lsn") != "4242" {
		t.Errorf("got %d %s lsn %s, want 200 Accepted 4242", code, body, header.Get("lsn"))
	}
	want := rest.FailsafeRequest{Name: "pg1", ConnURL: "postgres://x", Slots: map[string]cluster.LSN{"pg2": 1<<64 - 1}, Epoch: 4}
	if !reflect.DeepEqual(n.got[0], want) {
		t.Errorf("got %+v, want %+v", n.got[0], want)
	}
	n.refuse = "Running as a leader"
	if code, body, _ = call(t, "POST", url+"/failsafe", `{"name":"pg1"}`); code != 500 || body != n.refuse {
		t.Errorf("got %d %s, want 500 %s", code, body, n.refuse)
	}
	if code, _, _ = call(t, "POST", url+"/failsafe", ``); code != 400 && code != 411 {
		t.Errorf("empty: got %d, want 400 or 411", code)
	}
}

func TestServer_EmptyBody(t *testing.T) {
	n := &node{}
	n.snap.Store(primary())
	s, _ := serve(t, n, nil)
	for head, want := range map[string]string{
		"Content-Length: 0\r\n":        "400",
		"":                             "411",
		"Content-Length: 99999999\r\n": "413",
		"Content-Length: -5\r\n":       "400",
		"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n": "400",
	} {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /failover HTTP/1.1\r\nHost: x\r\n%s\r\n0\r\n\r\n", head)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		line, err := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("%q: got %q %v, want %s", head, line, err, want)
		}
	}
	if len(n.got) != 0 {
		t.Errorf("got requests %v, want none", n.got)
	}
}

func TestServer_OddRequestsDoNotHurt(t *testing.T) {
	n := &node{}
	n.snap.Store(primary())
	s, url := serve(t, n, nil)
	for _, raw := range []string{"GET / HTTP/0.9\r\n\r\n", "\x16\x03\x01\x00\x05hello", "GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://other.example/patroni HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 100_000) + "\r\n\r\n", strings.Repeat("\r\n", 1000), "GET /?%zz;=& HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(raw))
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	if code, _, _ := call(t, "GET", url+"/primary", ""); code != 200 {
		t.Errorf("got %d afterwards, want 200", code)
	}
}

func TestServer_OneClientCannotTakeAllConnections(t *testing.T) {
	n := &node{}
	n.snap.Store(primary())
	s, url := serve(t, n, nil)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	dropped := false
	for range 300 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	_ = held[len(held)-1].SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := held[len(held)-1].Read(make([]byte, 1)); err != nil && !errors.Is(err, net.ErrClosed) {
		var ne net.Error
		dropped = !errors.As(err, &ne) || !ne.Timeout()
	}
	if !dropped {
		t.Error("got a connection held above the limit, want it dropped")
	}
	for _, c := range held[:50] {
		c.Close()
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := http.Get(url + "/primary")
		if err == nil {
			resp.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer after connections were given back: %v", err)
		}
	}
}

func TestServer_CloseEndsActionsAndMayBeCalledTwice(t *testing.T) {
	n := &node{started: make(chan struct{}), answer: rest.Answer{Code: 503, Text: "ended"}}
	n.snap.Store(primary())
	s, url := serve(t, n, nil)
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := http.Post(url+"/restart", "application/json", nil)
		if err != nil {
			done <- result{0, err}
			return
		}
		resp.Body.Close()
		done <- result{resp.StatusCode, nil}
	}()
	select {
	case <-n.started:
	case <-time.After(30 * time.Second):
		t.Fatal("the request did not arrive")
	}
	if err := s.Close(); err != nil {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second: got %v", err)
	}
	select {
	case r := <-done:
		if r.err != nil || r.code != 503 {
			t.Errorf("got %d %v, want the answer of the ended action, 503", r.code, r.err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the request did not end with the server")
	}
	if err := s.Open(t.Context()); err == nil {
		t.Error("got no error from Open after Close")
	}
}

func TestServer_Panics(t *testing.T) {
	n := &node{}
	n.snap.Store(primary())
	_, url := serve(t, n, func(c *rest.Config) { c.Decisions = func(int) any { panic("boom") } })
	if code, _, _ := call(t, "GET", url+"/decisions", ""); code != 500 {
		t.Errorf("got %d, want 500", code)
	}
	if code, _, _ := call(t, "GET", url+"/primary", ""); code != 200 {
		t.Errorf("got %d afterwards, want 200", code)
	}
}

func TestNew_RefusesWhatCannotWork(t *testing.T) {
	n := &node{}
	clock := func() time.Duration { return 0 }
	for name, conf := range map[string]rest.Config{
		"no source":               {Now: clock},
		"no clock":                {Source: n},
		"client certs over plain": {Source: n, Now: clock, VerifyClient: rest.VerifyRequired},
	} {
		if _, err := rest.New(conf); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
