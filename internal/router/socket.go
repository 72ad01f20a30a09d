package router

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive notices an idle peer that vanished within 19 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3}

// clientSilence is how long a client may leave data unacknowledged. It is generous: a client on a
// bad line harms nobody.
const clientSilence = 30 * time.Second

// sweepEvery is how often sockets are looked at, with lease duration l.
func sweepEvery(l time.Duration) time.Duration { return max(l/4, time.Second) }

// suspicion is since when a socket has data on its way that nobody acknowledges; 0 for not at all.
type suspicion struct{ since, looked time.Duration }

// observe notes one look at a socket: whether data is unacknowledged, and how long ago the last
// acknowledgement of anything came.
func (p *suspicion) observe(now time.Duration, unacked bool, lastAck time.Duration) {
	switch {
	case !unacked, p.looked != 0 && lastAck < now-p.looked:
		p.since = 0
		if unacked {
			p.since = now
		}
	case p.since == 0:
		p.since = now
	}
	p.looked = now
}

func (p *suspicion) dead(now, after time.Duration) bool { return p.since != 0 && now-p.since >= after }

// sweep cuts the sessions of which a peer has not acknowledged data for too long: a backend after
// the lease duration l, a client after clientSilence. A peer that acknowledges but does not read is
// alive.
func (g *registry) sweep(now, l time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s := range g.all {
		for i, c := range []*net.TCPConn{s.client, s.backend} {
			unacked, lastAck, ok := acknowledged(c)
			if !ok {
				continue
			}
			s.suspects[i].observe(now, unacked, lastAck)
			if after := []time.Duration{clientSilence, l}[i]; s.suspects[i].dead(now, after) {
				if s.cutWhy.Load() == nil {
					s.r.stats.cut(errSilent) // first: whoever sees the end finds it counted
					s.cut(errSilent)
				}
			}
		}
	}
}

// acknowledged asks the kernel about the data sent on c.
func acknowledged(c *net.TCPConn) (unacked bool, lastAck time.Duration, ok bool) {
	rc, err := c.SyscallConn()
	if err != nil {
		return false, 0, false
	}
	var info *unix.TCPInfo
	if cerr := rc.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		return false, 0, false
	}
	return info.Unacked > 0, time.Duration(info.Last_ack_recv) * time.Millisecond, true
}
