package etcd

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"
)

const (
	// probeEvery is how often an endpoint is asked for a sign of life while any endpoint of its store is
	// suspect: the next request may go to it.
	probeEvery = time.Second
	// idleProbe is after how long without an answer it is asked while all is well. Each of these is a
	// linearizable read, which costs a round through the members, for every endpoint of every store.
	idleProbe = 10 * time.Second
	// quarantineMin and quarantineMax bound how long an endpoint that failed a request is left
	// aside at least; it doubles with each failure that follows soon after a recovery.
	quarantineMin = time.Second
	quarantineMax = 30 * time.Second
	// tokenTimeout is how long a member may take to check a password, which is made slow on purpose.
	tokenTimeout = 5 * time.Second
	// maxMessage bounds one answer. Everything in a scope together is far below it.
	maxMessage = 64 << 20
)

// endpoint is one etcd member and the connection to it, which is kept open. A suspect endpoint
// (one that let a request time out, or failed it) is used only when no other is connected, until a
// probe has succeeded on it.
type endpoint struct {
	url    string
	config clientv3.Config
	store  *Store

	mu         sync.Mutex
	client     *clientv3.Client
	conn       *grpc.ClientConn // nil until the client exists
	suspect    bool
	failedAt   time.Time
	lastGood   time.Time
	quarantine time.Duration // how long the next failure leaves it aside, less one doubling
	lastErr    error
	// electingSince and electingAt are when the member began to say, and last said, that there is no leader.
	electingSince, electingAt time.Time
}

func newEndpoint(s *Store, url string) *endpoint {
	hostport, scheme, _ := splitEndpoint(url) // checked before
	cfg := s.config
	tlsConfig := cfg.TLS
	if cfg.TLSFor != nil {
		host, _, _ := net.SplitHostPort(hostport)
		tlsConfig = cfg.TLSFor(host)
	}
	if scheme == "tcp" {
		url = hostport
	}
	// One try, and one more only where a token of authentication must be renewed first. A try
	// that may have been carried out is never repeated below us.
	tries := uint(1)
	if cfg.Username != "" {
		tries = 2
	}
	return &endpoint{
		url:   url,
		store: s,
		config: clientv3.Config{
			Endpoints:   []string{url},
			TLS:         tlsConfig,
			Username:    cfg.Username,
			Password:    cfg.Password,
			DialTimeout: max(cfg.DialTimeout, tokenTimeout), // bounds only the wait for a token
			Context:     s.ctx,
			// gRPC pings no more often than every 10 s; what counts is that a keepalive timeout
			// also sets TCP_USER_TIMEOUT: a connection whose bytes stay unacknowledged that long
			// is closed by the kernel. Our own probes see the rest.
			DialKeepAliveTime:    10 * time.Second,
			DialKeepAliveTimeout: 2 * time.Second,
			MaxUnaryRetries:      tries,
			Logger:               zap.NewNop(),
			DialOptions: []grpc.DialOption{
				grpc.WithConnectParams(grpc.ConnectParams{
					Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
					MinConnectTimeout: cfg.DialTimeout,
				}),
				grpc.WithStatsHandler(sentHandler{}),
				// Messages are small, and every process holds a connection to each member.
				grpc.WithReadBufferSize(4 << 10), grpc.WithWriteBufferSize(4 << 10),
				grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
			},
		},
	}
}

// run opens the connection, follows its state and probes it until ctx ends.
func (e *endpoint) run(ctx context.Context) {
	for {
		err := e.open()
		if err == nil {
			break
		}
		e.mu.Lock()
		e.lastErr = err
		e.mu.Unlock()
		if !sleep(ctx, 500*time.Millisecond) {
			return
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { e.probe(ctx) })
	for {
		state := e.conn.GetState()
		if state == connectivity.Idle {
			e.conn.Connect()
		}
		e.store.poke()
		if !e.conn.WaitForStateChange(ctx, state) {
			break
		}
	}
	wg.Wait()
	e.client.Close()
}

// open makes the client. With a password this asks the member for a token, and so can fail.
func (e *endpoint) open() error {
	c, err := clientv3.New(e.config)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.client, e.conn = c, c.ActiveConnection()
	e.conn.Connect()
	return nil
}

// probe reads linearizably from the member now and then: this shows that its process runs, that
// it can be reached, and that it reaches a quorum.
func (e *endpoint) probe(ctx context.Context) {
	timer := time.NewTimer(probeEvery)
	defer timer.Stop()
	slept := time.Now() // since when
	for {
		changed := e.store.changes()
		timer.Reset(e.probeIn(slept))
		select {
		case <-ctx.Done():
			return
		case <-changed: // in trouble the time to wait is another one
			continue
		case <-timer.C:
		}
		slept = time.Now()
		if !e.probeDue() || e.conn.GetState() != connectivity.Ready {
			continue
		}
		pctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), min(e.store.config.RequestTimeout, time.Second))
		_, err := pb.NewKVClient(e.conn).Range(pctx, &pb.RangeRequest{Key: []byte(e.store.config.Prefix), CountOnly: true})
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !refused(err):
			e.failed(err)
		default:
			e.cleared()
		}
	}
}

// probeIn is how long to sleep until the next look, of which the last ended at slept.
func (e *endpoint) probeIn(slept time.Time) time.Duration {
	next := probeEvery
	if !e.store.troubled() {
		e.mu.Lock()
		next = max(next, idleProbe-time.Since(e.lastGood))
		e.mu.Unlock()
	}
	return max(next-time.Since(slept), time.Millisecond)
}

func (e *endpoint) probeDue() bool {
	patience := idleProbe
	if e.store.troubled() {
		patience = 2 * probeEvery
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.suspect || time.Since(e.lastGood) >= patience
}

// ready says whether a request can be sent now, and the connection.
func (e *endpoint) ready() (*grpc.ClientConn, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn == nil || e.conn.GetState() != connectivity.Ready {
		return nil, false
	}
	return e.conn, true
}

// standing is what the choice of an endpoint rests on.
func (e *endpoint) standing() (suspect bool, failedAt time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.suspect, e.failedAt
}

// electionGrace is how long a member may say that there is no leader before another is preferred: one
// that says so for longer is cut off from the others.
const electionGrace = 2 * time.Second

// failed makes the endpoint suspect.
func (e *endpoint) failed(err error) {
	e.mu.Lock()
	if electing(err) {
		now := time.Now()
		if now.Sub(e.electingAt) > 2*electionGrace {
			e.electingSince = now
		}
		e.electingAt = now
		if now.Sub(e.electingSince) < electionGrace {
			e.mu.Unlock()
			return
		}
	}
	was := e.suspect
	e.suspect = true
	now := time.Now()
	if !was {
		// A failure soon after a recovery doubles the time aside; a long good run forgets.
		if now.Sub(e.failedAt) > 2*quarantineMax {
			e.quarantine = 0
		}
		e.quarantine = min(max(2*e.quarantine, quarantineMin), quarantineMax)
	}
	e.failedAt = now
	e.lastErr = err
	e.mu.Unlock()
	if !was {
		e.store.poke()
		e.store.config.Logger.Warn("etcd endpoint left aside", "endpoint", e.url, "err", err)
	}
}

// good notes an answer to a request. It does not clear suspicion by itself: the answer may be
// small luck of a member that hangs every other second.
func (e *endpoint) good() {
	e.mu.Lock()
	e.lastGood = time.Now()
	e.mu.Unlock()
}

// answeredWithin says whether the last answer is no older than d.
func (e *endpoint) answeredWithin(d time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.suspect && time.Since(e.lastGood) <= d
}

// cleared ends suspicion after a successful probe, once the quarantine is over.
func (e *endpoint) cleared() {
	e.mu.Lock()
	now := time.Now()
	e.lastGood = now
	was := e.suspect
	if was && now.Sub(e.failedAt) >= e.quarantine {
		e.suspect, e.lastErr = false, nil
	}
	is := e.suspect
	e.mu.Unlock()
	if was && !is {
		e.store.config.Logger.Info("etcd endpoint healthy again", "endpoint", e.url)
	}
}

// trouble is the last thing known to be wrong, for messages.
func (e *endpoint) trouble() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.lastErr != nil:
		return e.lastErr
	case e.conn == nil:
		return errors.New("not connected yet")
	case e.conn.GetState() != connectivity.Ready:
		return errors.New("no connection")
	}
	return nil
}

// sentHandler notes whether anything of a request left this process. gRPC reports the headers of
// a request before it reports its failure, on the same goroutine; so a request whose mark is not
// set when it has failed was surely not carried out.
type sentHandler struct{}

type sentKey struct{}

// withSentMark is ctx under which the mark is set as soon as a request begins to be sent.
func withSentMark(ctx context.Context) (context.Context, *atomic.Bool) {
	mark := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, mark), mark
}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.OutHeader, *stats.OutPayload:
		if mark, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
			mark.Store(true)
		}
	}
}

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}

// sleep waits, and says false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
