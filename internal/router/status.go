package router

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hathi-ha/hathi/internal/route"
)

// stats are the router's counters.
type stats struct {
	accepted, refused, acceptErrors atomic.Int64
	held, heldTotal                 atomic.Int64
	cutDeposed, cutExpired, cutRole atomic.Int64
	cutSilent, cutClosing           atomic.Int64
	cancelRequests, cancelsDropped  atomic.Int64
	reloads, distrusted             atomic.Int64
	storeErr                        atomic.Pointer[string]
}

func (s *stats) cut(why error) {
	switch {
	case errors.Is(why, errDeposed):
		s.cutDeposed.Add(1)
	case errors.Is(why, errExpired):
		s.cutExpired.Add(1)
	case errors.Is(why, errNoMember):
		s.cutRole.Add(1)
	case errors.Is(why, errSilent):
		s.cutSilent.Add(1)
	default:
		s.cutClosing.Add(1)
	}
}

// BackendStatus is one backend that has been used.
type BackendStatus struct {
	Name     string `json:"name"`
	Addr     string `json:"addr"`
	Sessions int64  `json:"sessions"`
	Total    int64  `json:"total"`
	Failures int64  `json:"failed_attempts"`
}

// Snapshot is the router's state. Counters count since the start.
type Snapshot struct {
	Epoch  uint64 `json:"epoch"`
	Holder string `json:"holder,omitempty"`
	// Write is where new write sessions go, nil while they are held.
	Write *route.Backend `json:"write"`
	Hold  bool           `json:"hold"`
	Why   string         `json:"why"`
	// ConfirmedMS is for how long yet, in milliseconds, the epoch is confirmed; 0 when it is not.
	ConfirmedMS  int64           `json:"confirmed_ms"`
	Read         []route.Backend `json:"read"`
	ReadFallback bool            `json:"read_fallback"`
	ReadWhy      string          `json:"read_why"`
	Backends     []BackendStatus `json:"backends"`

	Sessions       int64            `json:"sessions"`
	Held           int64            `json:"held"`
	HeldTotal      int64            `json:"held_total"`
	Accepted       int64            `json:"accepted_total"`
	Refused        int64            `json:"refused_total"`
	Cut            map[string]int64 `json:"cut_total"`
	Cancels        int64            `json:"cancel_requests_total"`
	CancelsDropped int64            `json:"cancel_requests_dropped_total"`
	// StoreError says why the store cannot be followed now; empty while it can.
	StoreError string `json:"store_error,omitempty"`
}

// Snapshot is the present state. It takes no lock that routing takes.
func (r *Router) Snapshot() Snapshot {
	p := r.pub.Load()
	t := p.table
	s := Snapshot{
		Epoch: t.Epoch, Holder: t.Holder, Hold: t.Hold, Why: t.Why,
		Read: append([]route.Backend{}, t.Read...), ReadFallback: t.ReadFallback, ReadWhy: t.ReadWhy,
		Backends: []BackendStatus{},
		Sessions: r.sessions.live.Load(), Held: r.stats.held.Load(), HeldTotal: r.stats.heldTotal.Load(),
		Accepted: r.stats.accepted.Load(), Refused: r.stats.refused.Load(),
		Cancels: r.stats.cancelRequests.Load(), CancelsDropped: r.stats.cancelsDropped.Load(),
		Cut: map[string]int64{
			"deposed": r.stats.cutDeposed.Load(), "expired": r.stats.cutExpired.Load(), "role": r.stats.cutRole.Load(),
			"silent": r.stats.cutSilent.Load(), "closing": r.stats.cutClosing.Load(),
		},
	}
	// What the tenure says now counts, not what was true when the table was made.
	if p.tenure != nil {
		if now := r.cfg.Now(); p.tenure.allows(now) {
			s.ConfirmedMS = (time.Duration(p.tenure.until.Load()) - now).Milliseconds()
			s.Write = &p.tenure.backend
		} else {
			s.Hold = true
		}
	}
	if e := r.stats.storeErr.Load(); e != nil {
		s.StoreError = *e
	}
	for _, l := range r.loads.all() {
		s.Backends = append(s.Backends, BackendStatus{l.name, l.addr, l.sessions.Load(), l.total.Load(), l.failures.Load()})
	}
	slices.SortFunc(s.Backends, func(a, b BackendStatus) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// CanWrite says whether a newcomer on the write port would get a backend at once.
func (s Snapshot) CanWrite() bool { return s.Write != nil && !s.Hold }

// CanRead says the same of the read port.
func (s Snapshot) CanRead() bool { return len(s.Read) > 0 || s.ReadFallback && s.CanWrite() }

// serveStatus answers on the status port: "/" the snapshot, "/metrics", "/health" 200 while the
// router serves and follows the store, "/write" and "/read" 200 while newcomers get a backend at
// once. What is not is 503, with the snapshot as its body.
func (r *Router) serveStatus() {
	mux := http.NewServeMux()
	answer := func(good func(Snapshot) bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			s := r.Snapshot()
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			if !good(s) {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_ = json.NewEncoder(w).Encode(s)
		}
	}
	mux.HandleFunc("GET /{$}", answer(func(Snapshot) bool { return true }))
	mux.HandleFunc("GET /health", answer(func(s Snapshot) bool { return s.StoreError == "" }))
	mux.HandleFunc("GET /write", answer(Snapshot.CanWrite))
	mux.HandleFunc("GET /read", answer(Snapshot.CanRead))
	if g, ok := r.cfg.Registerer.(prometheus.Gatherer); ok {
		mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	r.wg.Go(func() {
		<-r.stopping
		_ = srv.Close()
	})
	_ = srv.Serve(r.status)
}

// collector reads the counters when the metrics are asked for.
type collector struct{ r *Router }

var (
	descSessions = prometheus.NewDesc("hathi_router_sessions", "Sessions by backend.", []string{"backend"}, nil)
	descFailures = prometheus.NewDesc("hathi_router_connect_failures_total", "Connection attempts that failed, by backend.", []string{"backend"}, nil)
	descTotal    = prometheus.NewDesc("hathi_router_sessions_total", "Sessions begun, by backend.", []string{"backend"}, nil)
	descCut      = prometheus.NewDesc("hathi_router_sessions_cut_total", "Sessions cut, by reason.", []string{"reason"}, nil)
	descHeld     = prometheus.NewDesc("hathi_router_held", "Newcomers that wait for a backend.", nil, nil)
	descHeldAll  = prometheus.NewDesc("hathi_router_held_total", "Newcomers that had to wait.", nil, nil)
	descAccepted = prometheus.NewDesc("hathi_router_accepted_total", "Connections accepted.", nil, nil)
	descRefused  = prometheus.NewDesc("hathi_router_refused_total", "Connections refused.", nil, nil)
	descCancels  = prometheus.NewDesc("hathi_router_cancel_requests_total", "Cancel requests received.", nil, nil)
	descEpoch    = prometheus.NewDesc("hathi_router_epoch", "Epoch of the lock as the router sees it.", nil, nil)
	descWrite    = prometheus.NewDesc("hathi_router_write_available", "1 while newcomers on the write port get a backend at once.", nil, nil)
	descPool     = prometheus.NewDesc("hathi_router_read_replicas", "Replicas in the read pool.", nil, nil)
	descReloads  = prometheus.NewDesc("hathi_router_store_errors_total", "Times the store could not be followed.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSessions, descFailures, descTotal, descCut, descHeld, descHeldAll,
		descAccepted, descRefused, descCancels, descEpoch, descWrite, descPool, descReloads} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.r.Snapshot()
	gauge := func(d *prometheus.Desc, v float64, l ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, l...)
	}
	counter := func(d *prometheus.Desc, v int64, l ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), l...)
	}
	for _, b := range s.Backends {
		gauge(descSessions, float64(b.Sessions), b.Name)
		counter(descFailures, b.Failures, b.Name)
		counter(descTotal, b.Total, b.Name)
	}
	for why, n := range s.Cut {
		counter(descCut, n, why)
	}
	gauge(descHeld, float64(s.Held))
	counter(descHeldAll, s.HeldTotal)
	counter(descAccepted, s.Accepted)
	counter(descRefused, s.Refused)
	counter(descCancels, s.Cancels)
	gauge(descEpoch, float64(s.Epoch))
	write := 0.0
	if s.CanWrite() {
		write = 1
	}
	gauge(descWrite, write)
	gauge(descPool, float64(len(s.Read)))
	counter(descReloads, c.r.stats.reloads.Load())
}
