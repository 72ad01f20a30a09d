package router

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

// cancelRequest takes a cancel request to the backend of its session. The client learns nothing
// from it, as with PostgreSQL; the connection is closed once the backend has dealt with it.
//
// A key that the router knows is sent to one backend. An unknown one is sent only where the
// client's address has encrypted sessions, and only so often (bucket), so that guessing keys makes
// no load on the backends.
func (r *Router) cancelRequest(s *session, key string) {
	r.stats.cancelRequests.Add(1)
	targets, known := r.sessions.find(key, s.ip)
	if len(targets) == 0 || !known && !r.cancels.take(len(targets), r.cfg.Now()) {
		r.stats.cancelsDropped.Add(1)
		r.log.Debug("a cancel request matches no session of its sender, or there were too many", "client", s.ip)
		return
	}
	packet := make([]byte, 8, 8+len(key))
	binary.BigEndian.PutUint32(packet, uint32(8+len(key)))
	binary.BigEndian.PutUint32(packet[4:], codeCancel)
	packet = append(packet, key...)
	var wg sync.WaitGroup
	for _, t := range targets {
		wg.Go(func() {
			if err := r.sendCancel(t, packet); err != nil {
				r.log.Info("cannot deliver a cancel request", "backend", t.backend.Name, "err", err)
			}
		})
	}
	wg.Wait()
}

// sendCancel delivers one cancel request and waits until the backend closes the connection, which
// is when it has sent the signal.
func (r *Router) sendCancel(t target, packet []byte) error {
	select {
	case r.cancelling <- struct{}{}:
		defer func() { <-r.cancelling }()
	case <-r.ctx.Done():
		return errClosing
	}
	d := net.Dialer{Timeout: r.cfg.ConnectTimeout}
	conn, err := d.DialContext(r.ctx, "tcp", t.backend.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(r.cfg.ConnectTimeout))
	if t.tenure != nil && !t.tenure.allows(r.cfg.Now()) {
		return errExpired
	}
	if _, err := conn.Write(packet); err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, conn, 1024)
	if err == io.EOF {
		err = nil
	}
	return err
}

// bucket lets through so many per second in the long run, and a burst at a time.
type bucket struct {
	mu     sync.Mutex
	rate   float64
	burst  float64
	tokens float64
	last   time.Duration
}

func newBucket(perSecond, burst float64) *bucket {
	return &bucket{rate: perSecond, burst: burst, tokens: burst}
}

func (b *bucket) take(n int, now time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last != 0 && now > b.last {
		b.tokens = min(b.burst, b.tokens+b.rate*(now-b.last).Seconds())
	}
	b.last = now
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}
