package rest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/health"
)

// Source hands out the newest snapshot. It must not block; nil means that there is none yet.
type Source interface{ Snapshot() *Snapshot }

// Config is what a Server needs.
type Config struct {
	Listen       string      // host:port
	TLS          *tls.Config // nil: plain HTTP
	VerifyClient VerifyClient
	Access       Access
	Source       Source
	Actions      Actions
	Peer         PeerSource // for GET /peer; nil: 404
	// CheckPatch reports what of a configuration change over the network is refused: settings that
	// run commands, and values that cannot be used. nil refuses nothing.
	CheckPatch func(map[string]any) []error
	// Decisions are the newest n entries of the journal, for GET /decisions; nil: 404.
	Decisions func(n int) any
	Now       func() time.Duration // CLOCK_BOOTTIME
	Wall      func() time.Time     // for scheduled times; nil: time.Now
	Logger    *slog.Logger         // nil: silent
	// Registry holds the metrics of /metrics; a collector of the snapshot is added to it. nil makes
	// a registry of its own.
	Registry *prometheus.Registry
}

// Server is the REST API of one node.
type Server struct {
	conf    Config
	base    *base
	log     *slog.Logger
	access  atomic.Pointer[Access]
	metrics http.Handler
	actions chan struct{}
}

// New prepares a server; it touches nothing.
func New(conf Config) (*Server, error) {
	if conf.Source == nil || conf.Now == nil {
		return nil, errors.New("the REST server needs a source of snapshots and a clock")
	}
	if conf.TLS == nil && (conf.VerifyClient == VerifyOptional || conf.VerifyClient == VerifyRequired) {
		return nil, fmt.Errorf("restapi.verify_client is %s, but client certificates need TLS: set restapi.certfile", conf.VerifyClient)
	}
	if conf.Wall == nil {
		conf.Wall = time.Now
	}
	if conf.Registry == nil {
		conf.Registry = prometheus.NewRegistry()
	}
	s := &Server{conf: conf, actions: make(chan struct{}, maxActions)}
	s.base = newBase(http.HandlerFunc(s.serve), conf.Logger)
	s.log = s.base.log
	s.access.Store(&conf.Access)
	if err := conf.Registry.Register(&collector{source: conf.Source, now: conf.Now}); err != nil {
		return nil, fmt.Errorf("register the metrics: %w", err)
	}
	s.metrics = promhttp.HandlerFor(conf.Registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: answerWait / 2, DisableCompression: true})
	return s, nil
}

// Open listens and serves in the background.
func (s *Server) Open(ctx context.Context) error {
	return s.base.open(ctx, s.conf.Listen, s.conf.TLS, s.conf.VerifyClient)
}

// Addr is where the server listens; nil before Open.
func (s *Server) Addr() net.Addr { return s.base.addr() }

// SetAccess replaces who may do what, as after a reload of the configuration.
func (s *Server) SetAccess(a Access) { s.access.Store(&a) }

// Close ends the server and waits. It may be called twice.
func (s *Server) Close() error { return s.base.close() }

// request is one request with what every handler needs.
type request struct {
	w    http.ResponseWriter
	r    *http.Request
	snap *Snapshot // never nil
	now  time.Duration
	q    url.Values
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	defer recovered(s.log, w, r)
	bounded(w)
	snap := s.conf.Source.Snapshot()
	if snap == nil {
		snap = &Snapshot{Status: Status{State: cluster.StateStarting, Role: cluster.RoleUninitialized, ClusterUnlocked: true}}
	}
	q := &request{w: w, r: r, snap: snap, now: s.conf.Now(), q: r.URL.Query()}
	if s.conf.VerifyClient == VerifyRequired && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		q.refuse(&refusal{code: http.StatusForbidden, text: "client certificate required"})
		return
	}
	path := r.URL.Path
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	get, readable := s.reader(path)
	act, unsafe := unsafePaths[path]
	switch {
	case readable && (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions):
		get(q)
	case unsafe && act[r.Method] != nil:
		s.act(q, path, act[r.Method])
	case !readable && !unsafe:
		q.text(http.StatusNotFound, "not found")
	default:
		w.Header().Set("Allow", allowed(readable, act))
		q.text(http.StatusMethodNotAllowed, "method not allowed")
	}
}

// recovered turns a panic into 500: one request must not end the agent.
func recovered(log *slog.Logger, w http.ResponseWriter, r *http.Request) {
	if p := recover(); p != nil {
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		log.Error("REST request panicked", "method", r.Method, "path", clip(r.URL.Path), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// reader is the handler of a path that can be read.
func (s *Server) reader(path string) (func(*request), bool) {
	if c, ok := healthPaths[path]; ok {
		return func(q *request) {
			code := healthCode(q.snap, q.now, c, q.q)
			if q.r.Method != http.MethodGet {
				q.w.WriteHeader(code)
				return
			}
			q.json(code, q.snap.Status)
		}, true
	}
	switch path {
	case "/liveness":
		return func(q *request) { q.bare(alive(q.snap, q.now)) }, true
	case "/readiness":
		return func(q *request) {
			err := readiness(q.snap, q.now, q.q)
			if err != nil {
				s.log.Debug("not ready", "why", err)
			}
			q.bare(err == nil)
		}, true
	case "/patroni":
		return func(q *request) { q.json(http.StatusOK, q.snap.Status) }, true
	case "/cluster":
		return func(q *request) {
			q.json(http.StatusOK, clusterJSON(q.snap.View, q.snap.Status.Patroni.Scope))
		}, true
	case "/history":
		return func(q *request) {
			lines := q.snap.View.History
			if lines == nil {
				lines = cluster.History{}
			}
			q.json(http.StatusOK, lines)
		}, true
	case "/config":
		return func(q *request) {
			if q.snap.View.ConfigRev == 0 {
				q.text(http.StatusBadGateway, "the store holds no configuration yet, or was not reached yet")
				return
			}
			q.json(http.StatusOK, q.snap.View.Config.Doc)
		}, true
	case "/failsafe":
		return func(q *request) {
			if q.snap.View.Failsafe == nil {
				q.text(http.StatusBadGateway, "failsafe_mode is off, or no leader recorded the members yet")
				return
			}
			q.json(http.StatusOK, q.snap.View.Failsafe)
		}, true
	case "/metrics":
		return func(q *request) { s.metrics.ServeHTTP(q.w, q.r) }, true
	case "/problems":
		return func(q *request) { q.json(http.StatusOK, append([]health.Problem{}, q.snap.Problems...)) }, true
	case "/decisions":
		if s.conf.Decisions != nil {
			return func(q *request) {
				n, err := strconv.Atoi(q.q.Get("n"))
				if err != nil || n < 1 {
					n = 50
				}
				q.json(http.StatusOK, s.conf.Decisions(n))
			}, true
		}
	case "/peer":
		if s.conf.Peer != nil {
			return func(q *request) { q.json(http.StatusOK, s.conf.Peer.Peer(q.r.Context())) }, true
		}
	}
	return nil, false
}

// bounded gives the request until bodyWait to arrive and the first bytes of the answer answerWait;
// an answer that comes later gets its own bound when it is written. The read bound also covers what
// the server drains of a body that no handler read.
func bounded(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(bodyWait))
	_ = c.SetWriteDeadline(time.Now().Add(answerWait))
}

func (q *request) writing() {
	_ = http.NewResponseController(q.w).SetWriteDeadline(time.Now().Add(answerWait))
}

func (q *request) text(code int, text string) {
	q.writing()
	h := q.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	q.w.WriteHeader(code)
	_, _ = q.w.Write([]byte(text))
}

func (q *request) bare(ok bool) {
	if ok {
		q.w.WriteHeader(http.StatusOK)
	} else {
		q.w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (q *request) json(code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		q.text(http.StatusInternalServerError, "the answer could not be encoded")
		return
	}
	q.writing()
	h := q.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	q.w.WriteHeader(code)
	_, _ = q.w.Write(b)
}

func (q *request) refuse(ref *refusal) {
	for k, v := range ref.header {
		q.w.Header()[k] = v
	}
	q.text(ref.code, ref.text)
}
