package rest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// PeerSource answers a probe, live: it must keep to ctx, which ends within peerWait.
type PeerSource interface {
	Peer(ctx context.Context) cluster.PeerStatus
}

// peerWait bounds the answer to a probe.
const peerWait = 2 * time.Second

// PeerConfig is what a PeerServer needs.
type PeerConfig struct {
	Listen string
	TLS    *tls.Config // with one, every client must show a certificate that it verifies
	Access Access      // for POST /failsafe
	Peer   PeerSource
	// Failsafe answers POST /failsafe; nil: 404.
	Failsafe Failsafer
	// Revoke answers POST /revoke; nil: 404. An error is a refusal.
	Revoke func(ctx context.Context, r RevokeRequest) (cluster.PeerStatus, error)
	// Members are the members whose addresses may send POST /failsafe where nothing else is
	// configured; nil: none.
	Members func() map[string]cluster.Member
	Logger  *slog.Logger
}

// PeerServer is the small server that members ask before they elect a leader: GET /peer and POST
// /failsafe. It has its own listener, so that load on the REST API cannot delay it.
type PeerServer struct {
	conf   PeerConfig
	base   *base
	access atomic.Pointer[Access]
	verify VerifyClient
}

// NewPeer prepares a server; it touches nothing.
func NewPeer(conf PeerConfig) (*PeerServer, error) {
	if conf.Peer == nil {
		return nil, errors.New("the peer server needs a source of answers")
	}
	s := &PeerServer{conf: conf, verify: VerifyNone}
	if conf.TLS != nil {
		s.verify = VerifyRequired
	}
	s.base = newBase(http.HandlerFunc(s.serve), conf.Logger)
	s.access.Store(&conf.Access)
	return s, nil
}

// Open listens and serves in the background.
func (s *PeerServer) Open(ctx context.Context) error {
	return s.base.open(ctx, s.conf.Listen, s.conf.TLS, s.verify)
}

// Addr is where the server listens; nil before Open.
func (s *PeerServer) Addr() net.Addr { return s.base.addr() }

// SetAccess replaces who may send POST /failsafe.
func (s *PeerServer) SetAccess(a Access) { s.access.Store(&a) }

// Close ends the server and waits. It may be called twice.
func (s *PeerServer) Close() error { return s.base.close() }

func (s *PeerServer) serve(w http.ResponseWriter, r *http.Request) {
	defer recovered(s.base.log, w, r)
	bounded(w)
	q := &request{w: w, r: r}
	if s.verify == VerifyRequired && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		q.refuse(&refusal{code: http.StatusForbidden, text: "client certificate required"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), peerWait)
	defer cancel()
	switch {
	case r.URL.Path == "/alive" && r.Method == http.MethodGet:
		q.text(http.StatusOK, "alive")
	case r.URL.Path == "/revoke" && r.Method == http.MethodPost && s.conf.Revoke != nil:
		if !s.allowed(q) {
			return
		}
		s.revoke(ctx, q)
	case r.URL.Path == "/peer" && r.Method == http.MethodGet:
		q.json(http.StatusOK, s.conf.Peer.Peer(ctx))
	case r.URL.Path == "/failsafe" && r.Method == http.MethodPost && s.conf.Failsafe != nil:
		if !s.allowed(q) {
			return
		}
		answerFailsafe(ctx, q, s.conf.Failsafe)
	case r.URL.Path == "/peer" || r.URL.Path == "/failsafe" && s.conf.Failsafe != nil:
		q.text(http.StatusMethodNotAllowed, "method not allowed")
	default:
		q.text(http.StatusNotFound, "not found")
	}
}

// allowed checks a request that only members may send, and answers those of others.
func (s *PeerServer) allowed(q *request) bool {
	var members map[string]cluster.Member
	if s.conf.Members != nil {
		members = s.conf.Members()
	}
	ref := s.access.Load().allow(q.r, s.verify, members, true)
	if ref == nil {
		return true
	}
	q.w.Header().Set("Connection", "close")
	q.refuse(ref)
	return false
}

// RevokeRequest is the body of POST /revoke: stop receiving WAL from the holder of the lock in Epoch,
// and promise not to begin again while the lock is at revision LockRev.
type RevokeRequest struct {
	Scope   string `json:"scope"`
	Name    string `json:"name"` // who asks
	Epoch   uint64 `json:"epoch"`
	LockRev int64  `json:"lock_rev"`
}

func (s *PeerServer) revoke(ctx context.Context, q *request) {
	var r RevokeRequest
	if err := json.NewDecoder(http.MaxBytesReader(q.w, q.r.Body, 4096)).Decode(&r); err != nil {
		q.text(http.StatusBadRequest, "the body is not a revocation")
		return
	}
	st, err := s.conf.Revoke(ctx, r)
	if err != nil {
		q.text(http.StatusConflict, err.Error())
		return
	}
	q.json(http.StatusOK, st)
}
