package router

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/route"
)

// target is a backend chosen for a session. tenure is nil for a replica.
type target struct {
	backend route.Backend
	tenure  *tenure
	load    *load
}

// session is one client connection that asked for a database.
type session struct {
	r       *Router
	client  *net.TCPConn
	port    port
	ip      netip.Addr
	opening opening

	// The following are set by registry.attach, under its lock, and do not change while s is attached.
	target  target
	backend *net.TCPConn

	encrypted atomic.Bool // the rest is TLS or GSS: not readable
	key       string      // of a cancel request; guarded by registry.mu

	cutOnce  sync.Once
	cutWhy   atomic.Pointer[error]
	suspects [2]suspicion // client, backend; only the sweep touches them
}

func newSession(r *Router, c *net.TCPConn, p port, o opening) *session {
	s := &session{r: r, client: c, port: p, opening: o}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		s.ip = a.AddrPort().Addr().Unmap()
	}
	return s
}

// cut ends the session from outside. What is still queued for the backend is thrown away: closing
// with lingering off sends a reset, so no byte follows it. What is queued for the client was
// acknowledged in its time and is left to the kernel to deliver.
func (s *session) cut(why error) {
	s.cutOnce.Do(func() {
		s.cutWhy.Store(&why)
		if s.backend != nil {
			_ = s.backend.SetLinger(0)
			_ = s.backend.Close()
		}
		_ = s.client.Close()
	})
}

// gate returns nil when a byte may move now, after waiting for revalidation where that can be had.
func (s *session) gate() error {
	t := s.target.tenure
	if t == nil || t.allows(s.r.cfg.Now()) {
		return nil
	}
	return t.wait(s.r.cfg.Now, func() { signal(s.r.kick) })
}

// fail refuses a client whose opening could not be read: a protocol error is told, a client that
// left or was too slow is not.
func (s *session) fail(err error) {
	s.r.stats.refused.Add(1)
	var p *protocolError
	if errors.As(err, &p) {
		s.tell(p.code, p.text, p.hint)
	}
	s.r.log.Debug("refused a client", "port", s.port.String(), "client", s.ip, "err", err)
}

// refuse ends the conversation with an error. A client that asked for TLS cannot be told in the
// clear when it insists on it, and newer libpq shows no error that comes before TLS. So where no
// backend speaks TLS the client is first told so, as PostgreSQL would, and gets the error as the
// answer to its startup packet.
func (s *session) refuse(o opening, code, text, hint string) {
	s.r.stats.refused.Add(1)
	_ = s.client.SetDeadline(time.Now().Add(min(s.r.cfg.HandshakeTimeout, 2*time.Second)))
	for range 2 {
		if o.kind == kindGSS || o.kind == kindSSL && !s.r.backTLS.Load() {
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return
			}
			next, err := readOpening(s.client, false)
			if err != nil {
				return
			}
			o = next
		}
	}
	if o.kind == kindStartup || o.kind == kindSSL {
		s.tell(code, text, hint)
	}
}

// tell sends an error and takes leave so that it arrives: closing a socket with unread bytes in it
// would send a reset, which can overtake the message.
func (s *session) tell(code, text, hint string) {
	_ = s.client.SetDeadline(time.Now().Add(time.Second))
	if _, err := s.client.Write(errorResponse(code, text, hint)); err != nil {
		return
	}
	if s.client.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, s.client, 64<<10)
	}
}

// registry holds the sessions that have a backend.
type registry struct {
	mu   sync.Mutex
	all  map[*session]struct{}
	keys map[string]*session
	left chan struct{} // capacity 1: a session has left
	live atomic.Int64
}

func (g *registry) init() {
	g.all, g.keys, g.left = map[*session]struct{}{}, map[string]*session{}, make(chan struct{}, 1)
}

func (g *registry) count() int { return int(g.live.Load()) }

// attach gives s its backend and makes it known. The caller asks judge afterwards: a table that
// came into force before is seen there, one that comes later finds s here.
func (g *registry) attach(s *session, t target, backend *net.TCPConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.target, s.backend = t, backend
	g.all[s] = struct{}{}
	g.live.Add(1)
}

func (g *registry) detach(s *session) {
	g.mu.Lock()
	delete(g.all, s)
	if s.key != "" && g.keys[s.key] == s {
		delete(g.keys, s.key)
	}
	g.live.Add(-1)
	g.mu.Unlock()
	signal(g.left)
}

// setKey remembers the cancel key of s.
func (g *registry) setKey(s *session, key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.key = key
	g.keys[key] = s
}

// cut ends the sessions for which why gives a reason, and says how many.
func (g *registry) cut(why func(*session) error) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for s := range g.all {
		if err := why(s); err != nil && s.cutWhy.Load() == nil {
			s.r.stats.cut(err) // first: whoever sees the end finds it counted
			s.cut(err)
			n++
		}
	}
	return n
}

// find is where a cancel request for key from address ip must go: the one target whose session has
// that key (known), else those on which ip has sessions that hide their key.
func (g *registry) find(key string, ip netip.Addr) (targets []target, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.keys[key]; s != nil {
		return []target{s.target}, true
	}
	seen := map[string]bool{}
	for s := range g.all {
		if s.ip == ip && s.encrypted.Load() && !seen[s.target.backend.Addr] {
			seen[s.target.backend.Addr] = true
			targets = append(targets, s.target)
		}
	}
	return targets, false
}
