package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/fresh"
)

// Config is all that a router needs. Zero values take the defaults given.
type Config struct {
	// WriteListen, ReadListen and StatusListen are host:port to listen on; empty leaves that port
	// out. The status port answers anybody and should be bound to an address of trust.
	WriteListen, ReadListen, StatusListen string
	// Hold is how long a newcomer waits for a backend at most. Default 10 s.
	Hold time.Duration
	// MaxHeld is how many newcomers may wait at a time; those beyond are refused at once with
	// SQLSTATE 53300. Default MaxSessions.
	MaxHeld int
	// ConnectTimeout bounds one connection attempt to one backend. Default 2 s.
	ConnectTimeout time.Duration
	// HandshakeTimeout is how long a client may take for its first packets, all of them together.
	// Default 10 s.
	HandshakeTimeout time.Duration
	// LoginTimeout is how long a plaintext client may take from there to the end of its login.
	// Default 60 s, PostgreSQL's authentication_timeout.
	LoginTimeout time.Duration
	// MaxLag is how far, in bytes of WAL, a replica may be behind what the leader published last
	// and still get new read sessions. Zero: 16 MiB. Negative: any distance.
	MaxLag int64
	// MaxSessions bounds the client connections of both ports together, those that have not logged
	// in included. Those beyond are refused with SQLSTATE 53300. Default 10,000.
	MaxSessions int
	// Drain is how long Close lets sessions end by themselves. Default 0: they are cut at once.
	Drain time.Duration

	// Store is the cluster's scope in the store. Required. The router does not close it.
	Store dcs.Store
	// Confirm asks a member directly for its status, in at most the time of ctx. When it is set, a
	// holder whose lock has not been seen to change for a quarter of the lease is asked, and its
	// word that it holds the lock in this epoch confirms it for lease.Margin from the asking: what
	// keeps the write port open while the store is down and failsafe mode keeps the primary. And a
	// holder whose lock has not been seen to change for a few renewals gets newcomers on the write
	// port only on its word (see proof.go).
	Confirm func(ctx context.Context, m cluster.Member) (cluster.PeerStatus, error)

	// Now is CLOCK_BOOTTIME. Default boottime.Now.
	Now func() time.Duration
	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil registers none. If it is a Gatherer too (as a
	// prometheus.Registry is) /metrics on the status port shows it.
	Registerer prometheus.Registerer
}

// Router is a running router. Its methods are safe for concurrent use.
type Router struct {
	cfg     Config
	log     *slog.Logger
	carrier carrier

	ctx    context.Context // of the whole router; its cause says why sessions end
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	lifeMu    sync.Mutex
	listeners []*listener
	status    net.Listener
	closed    bool
	closeOnce sync.Once
	closeErr  error
	stopping  chan struct{}

	mu     sync.Mutex // guards what follows; held for computing only
	view   view
	tenure *tenure
	grace  time.Duration // after a freeze: the instant until which tenure may still be revalidated
	pub    atomic.Pointer[published]
	kick   chan struct{} // capacity 1: the keeper looks at the table
	reload chan struct{} // capacity 1: the feeder reads the store anew

	holder fresh.Answers[word] // what the holder of the lock says of itself

	sessions   registry
	loads      loads
	slots      chan struct{}        // one for each client connection
	dials      [ports]chan struct{} // one for each connection attempt under way
	cancelling chan struct{}        // one for each cancel request under way
	backTLS    atomic.Bool          // a backend has accepted TLS
	cancels    *bucket
	stats      stats
}

// maxDials bounds the connection attempts under way, so that a storm of newcomers after a
// fail-over arrives at PostgreSQL in portions.
const maxDials = 64

// port is one of the two ports for clients.
type port int

const (
	portWrite port = iota
	portRead
	ports // how many there are
)

func (p port) String() string {
	if p == portRead {
		return "read"
	}
	return "write"
}

type listener struct {
	net.Listener
	port port
}

// New makes a router and touches nothing.
func New(cfg Config) *Router {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.Hold, 10*time.Second)
	def(&cfg.ConnectTimeout, 2*time.Second)
	def(&cfg.HandshakeTimeout, 10*time.Second)
	def(&cfg.LoginTimeout, 60*time.Second)
	if cfg.MaxSessions <= 0 {
		cfg.MaxSessions = 10_000
	}
	if cfg.MaxHeld <= 0 {
		cfg.MaxHeld = cfg.MaxSessions
	}
	if cfg.MaxLag == 0 {
		cfg.MaxLag = 16 << 20
	}
	if cfg.Now == nil {
		cfg.Now = boottime.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Router{
		cfg: cfg, log: cfg.Logger,
		stopping: make(chan struct{}),
		kick:     make(chan struct{}, 1), reload: make(chan struct{}, 1),
		slots: make(chan struct{}, cfg.MaxSessions), cancelling: make(chan struct{}, maxDials),
		cancels: newBucket(20, 40),
	}
	for p := range r.dials {
		r.dials[p] = make(chan struct{}, maxDials)
	}
	r.carrier = &relay{r}
	r.holder.Make, r.holder.Go = r.askNow, r.wg.Go
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.sessions.init()
	r.pub.Store(&published{changed: make(chan struct{})})
	r.mu.Lock()
	r.rebuild(cfg.Now())
	r.mu.Unlock()
	return r
}

// Listen takes the ports. Addresses are known from then on; connections wait for Serve in the
// kernel's queue.
func (r *Router) Listen() error {
	r.lifeMu.Lock()
	defer r.lifeMu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	take := func(what, addr string) (net.Listener, error) {
		l, err := lc.Listen(r.ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen for %s on %s: %w", what, addr, err)
		}
		return l, nil
	}
	for _, p := range []struct {
		port port
		addr string
	}{{portWrite, r.cfg.WriteListen}, {portRead, r.cfg.ReadListen}} {
		if p.addr == "" {
			continue
		}
		l, err := take(p.port.String()+" sessions", p.addr)
		if err != nil {
			r.closeListeners()
			return err
		}
		r.listeners = append(r.listeners, &listener{l, p.port})
	}
	if r.cfg.StatusListen != "" {
		l, err := take("status requests", r.cfg.StatusListen)
		if err != nil {
			r.closeListeners()
			return err
		}
		r.status = l
	}
	if r.cfg.Registerer != nil {
		if err := r.cfg.Registerer.Register(collector{r}); err != nil {
			r.closeListeners()
			return fmt.Errorf("register the router's metrics: %w", err)
		}
	}
	return nil
}

// WriteAddr, ReadAddr and StatusAddr are the addresses taken by Listen, nil where there is none.
func (r *Router) WriteAddr() net.Addr { return r.addr(portWrite) }

// ReadAddr is the address of the read port.
func (r *Router) ReadAddr() net.Addr { return r.addr(portRead) }

// StatusAddr is the address of the status port.
func (r *Router) StatusAddr() net.Addr {
	r.lifeMu.Lock()
	defer r.lifeMu.Unlock()
	if r.status == nil {
		return nil
	}
	return r.status.Addr()
}

func (r *Router) addr(p port) net.Addr {
	r.lifeMu.Lock()
	defer r.lifeMu.Unlock()
	for _, l := range r.listeners {
		if l.port == p {
			return l.Addr()
		}
	}
	return nil
}

// Serve runs the router until ctx ends or Close is called, and then closes it. Listen comes before.
// It returns nil after an ordinary end.
func (r *Router) Serve(ctx context.Context) error {
	r.lifeMu.Lock()
	if r.closed {
		r.lifeMu.Unlock()
		return net.ErrClosed
	}
	r.wg.Go(r.feed)
	r.wg.Go(r.keep)
	if r.cfg.Confirm != nil {
		r.wg.Go(r.askHolder)
	}
	for _, l := range r.listeners {
		r.wg.Go(func() { r.accept(l) })
	}
	if r.status != nil {
		r.wg.Go(r.serveStatus)
	}
	r.lifeMu.Unlock()
	select {
	case <-ctx.Done():
	case <-r.stopping:
	}
	return r.Close()
}

// Close stops accepting, refuses those who are held, lets sessions end by themselves for
// Config.Drain, cuts the others and waits for everything. It may be called twice.
func (r *Router) Close() error {
	r.closeOnce.Do(func() {
		r.lifeMu.Lock()
		r.closed = true
		r.closeErr = r.closeListeners()
		close(r.stopping)
		r.lifeMu.Unlock()
		if r.cfg.Drain > 0 {
			drained := time.NewTimer(r.cfg.Drain)
			defer drained.Stop()
			for r.sessions.count() > 0 {
				select {
				case <-r.sessions.left:
					continue
				case <-drained.C:
				}
				break
			}
		}
		r.cancel(errClosing)
		r.sessions.cut(func(*session) error { return errClosing })
		if r.cfg.Registerer != nil {
			r.cfg.Registerer.Unregister(collector{r})
		}
	})
	r.wg.Wait()
	return r.closeErr
}

// closeListeners is called with lifeMu held.
func (r *Router) closeListeners() error {
	var errs []error
	for _, l := range r.listeners {
		errs = append(errs, l.Close())
	}
	if r.status != nil {
		// The status server closes it too.
		if err := r.status.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// accept takes connections until its listener is closed. Errors that pass (no file descriptor
// left) are waited out.
func (r *Router) accept(l *listener) {
	backoff := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.stats.acceptErrors.Add(1)
			r.log.Warn("cannot accept a connection; trying again", "port", l.port.String(), "err", err)
			select {
			case <-time.After(backoff):
			case <-r.stopping:
				return
			}
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = 5 * time.Millisecond
		conn := c.(*net.TCPConn)
		select {
		case r.slots <- struct{}{}:
			r.stats.accepted.Add(1)
			r.wg.Go(func() {
				defer func() { <-r.slots }()
				r.handle(conn, l.port)
			})
		default:
			r.stats.refused.Add(1)
			// The client has not spoken, so this is no answer to its first packet; libpq and others
			// read it all the same. The socket buffer of a new connection takes it without waiting.
			_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			_, _ = conn.Write(errorResponse("53300", "the router has too many connections",
				fmt.Sprintf("It serves at most %d; close some or raise its max_sessions.", r.cfg.MaxSessions)))
			_ = conn.Close()
		}
	}
}

// handle sees one client from its first byte to its end.
func (r *Router) handle(conn *net.TCPConn, p port) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(r.cfg.HandshakeTimeout))
	o, err := readOpening(conn, true)
	s := newSession(r, conn, p, o)
	switch {
	case err != nil:
		s.fail(err)
	case o.kind == kindCancel:
		r.cancelRequest(s, o.key)
	default:
		r.carrier.carry(s)
	}
}
