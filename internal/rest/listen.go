package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds of both servers.
const (
	maxBody      = 1 << 20
	maxHeader    = 16 << 10
	maxDepth     = 64
	maxConns     = 1024
	maxPerClient = 256
	maxActions   = 16 // unsafe requests under way at once
	headerWait   = 5 * time.Second
	bodyWait     = 10 * time.Second
	answerWait   = 10 * time.Second
	idleWait     = 60 * time.Second
	actionWait   = 15 * time.Minute
	closeWait    = 3 * time.Second
)

// base is the listener and lifetime that both servers share.
type base struct {
	http   *http.Server
	log    *slog.Logger
	life   context.Context // ends when the server closes
	cancel context.CancelFunc

	mu     sync.Mutex
	ln     net.Listener
	done   chan struct{}
	closed bool
	err    error
}

func newBase(h http.Handler, log *slog.Logger) *base {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	ctx, cancel := context.WithCancel(context.Background())
	b := &base{log: log, life: ctx, cancel: cancel, done: make(chan struct{})}
	b.http = &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerWait,
		IdleTimeout:       idleWait,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	return b
}

// open binds the address and serves in the background until close.
func (b *base) open(ctx context.Context, address string, conf *tls.Config, verify VerifyClient) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.ln != nil {
		return errors.New("the REST server was opened before")
	}
	var lc net.ListenConfig
	raw, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for REST requests on %s: %w", address, err)
	}
	var ln net.Listener = &boundedListener{Listener: raw, perClient: map[string]int{}}
	if conf != nil {
		ln = tls.NewListener(ln, serverTLS(conf, verify))
	}
	b.ln = ln
	go func() {
		defer close(b.done)
		if err := b.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			b.log.Error("REST server ended", "address", address, "err", err)
		}
	}()
	return nil
}

// serverTLS is conf with the minimum version and the demand for a client certificate filled in
// where it leaves them open.
func serverTLS(conf *tls.Config, verify VerifyClient) *tls.Config {
	conf = conf.Clone()
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	conf.NextProtos = []string{"http/1.1"}
	if conf.ClientAuth == tls.NoClientCert {
		switch verify {
		case VerifyOptional:
			conf.ClientAuth = tls.VerifyClientCertIfGiven
		case VerifyRequired:
			conf.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return conf
}

// addr is where the server listens; nil before open.
func (b *base) addr() net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ln == nil {
		return nil
	}
	return b.ln.Addr()
}

// close ends every request: gently for a moment, then at once. It waits and may be called twice.
func (b *base) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return b.err
	}
	b.closed = true
	b.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	if err := b.http.Shutdown(ctx); err != nil {
		b.err = b.http.Close()
	}
	if b.ln != nil {
		<-b.done
	}
	return b.err
}

// boundedListener drops connections above the limits at once: a client that opens many must not
// keep a load balancer's health check waiting.
type boundedListener struct {
	net.Listener
	mu        sync.Mutex
	total     int
	perClient map[string]int
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err == nil && l.take(host) {
			return &boundedConn{Conn: c, free: sync.OnceFunc(func() { l.give(host) })}, nil
		}
		_ = c.Close()
	}
}

func (l *boundedListener) take(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.perClient[host] >= maxPerClient {
		return false
	}
	l.total++
	l.perClient[host]++
	return true
}

func (l *boundedListener) give(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.perClient[host]--; l.perClient[host] <= 0 {
		delete(l.perClient, host)
	}
}

type boundedConn struct {
	net.Conn
	free func()
}

func (c *boundedConn) Close() error {
	c.free()
	return c.Conn.Close()
}
