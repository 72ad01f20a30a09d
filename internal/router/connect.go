package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/route"
)

// pick chooses a backend for a newcomer from the table p. late says that its hold is over: then a
// primary that is merely about to be switched is taken.
func (r *Router) pick(p *published, port port, late bool) (target, bool) {
	now := r.cfg.Now()
	if port == portRead && len(p.table.Read) > 0 {
		b, l := r.loads.take(p.table.Read, now)
		return target{backend: b, load: l}, true
	}
	t := p.tenure
	if t == nil || p.table.Hold && !late || !t.allows(now) || port == portRead && !p.table.ReadFallback {
		return target{}, false
	}
	b, l := r.loads.take([]route.Backend{t.backend}, now)
	return target{backend: b, tenure: t, load: l}, true
}

// connect finds a backend for s, sends it the opening, and waits for the first byte of the answer
// (not for direct TLS, where the client must speak on first). Newcomers are held here. On success s
// is attached to its backend. Whatever fails before that byte is tried again with the table then in
// force: the client has seen nothing of it. So is the answer that the server takes no connections now
// (SQLSTATE 57P03: it starts, stops or recovers).
func (r *Router) connect(s *session, o opening) (first []byte, err error) {
	_ = s.client.SetDeadline(time.Now().Add(r.cfg.Hold + r.cfg.HandshakeTimeout))
	timed, cancel := context.WithTimeout(r.ctx, r.cfg.Hold)
	defer cancel()
	ctx, leave := context.WithCancelCause(timed)
	defer leave(nil)

	held := false
	backoff := 20 * time.Millisecond
	var last error
	for {
		p := r.pub.Load()
		late := errors.Is(ctx.Err(), context.DeadlineExceeded)
		if t, ok := r.pick(p, s.port, late); ok {
			conn, first, err := r.attempt(ctx, s.port, t, o, late)
			if err == nil {
				t.load.total.Add(1)
				t.load.failedAt.Store(0)
				r.sessions.attach(s, t, conn)
				if err := r.judge(s, r.pub.Load()); err != nil {
					s.cut(err)
				}
				return first, nil
			}
			t.load.sessions.Add(-1)
			if ctx.Err() == nil || late {
				t.load.failures.Add(1)
				t.load.failedAt.Store(int64(r.cfg.Now()))
			}
			last = fmt.Errorf("%s (%s): %w", t.backend.Name, t.backend.Addr, err)
		} else if t := p.tenure; t != nil && !t.allows(r.cfg.Now()) {
			signal(r.kick) // the table is older than it should be
		}
		switch {
		case late:
			return nil, r.noBackend(s, p, last)
		case r.ctx.Err() != nil:
			return nil, errStopping
		case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, context.Cause(ctx)
		}
		if !held {
			held = true
			defer r.stats.held.Add(-1)
			r.stats.heldTotal.Add(1)
			if r.stats.held.Add(1) > int64(r.cfg.MaxHeld) {
				return nil, &protocolError{"53300", "too many connections wait for a " + wanted(s.port),
					fmt.Sprintf("%s; at most %d may wait.", why(p, s.port), r.cfg.MaxHeld)}
			}
			defer watchLeaving(s.client, func() { leave(errLeft) })()
		}
		// Without a failed attempt there is nothing to try again until the table changes.
		retry := time.NewTimer(r.cfg.Hold)
		if last != nil {
			retry.Reset(backoff)
			backoff = min(2*backoff, 500*time.Millisecond)
		}
		select {
		case <-p.changed:
		case <-retry.C:
		case <-ctx.Done():
		case <-r.stopping:
			retry.Stop()
			return nil, errStopping
		}
		retry.Stop()
	}
}

var errStopping = &protocolError{"57P01", "the router is stopping", "Connect again, to another router if there is one."}

// errLeft: the client went away while it was held.
var errLeft = errors.New("the client left while it waited")

func wanted(p port) string {
	if p == portRead {
		return "server for reads"
	}
	return "primary"
}

func why(p *published, port port) string {
	if port == portRead {
		return p.table.ReadWhy
	}
	return p.table.Why
}

// noBackend is what a newcomer is told whose hold is over.
func (r *Router) noBackend(s *session, p *published, last error) error {
	text := fmt.Sprintf("no %s could be reached within %s: %s", wanted(s.port), r.cfg.Hold, why(p, s.port))
	if last != nil {
		text += fmt.Sprintf("; last attempt: %v", last)
	}
	return &protocolError{"57P03", text, "Connect again; \"hathi list\" and \"hathi why\" show what the cluster is doing."}
}

// attempt makes one connection, sends the opening, and for the write port makes sure that it is the
// primary that answers. It ends early when the tenure or ctx does; a
// late one has ConnectTimeout of its own.
func (r *Router) attempt(ctx context.Context, p port, t target, o opening, late bool) (*net.TCPConn, []byte, error) {
	if late {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(r.ctx, r.cfg.ConnectTimeout)
		defer cancel()
	}
	if p == portRead {
		// There may be another replica; a primary that takes its time is waited for.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.cfg.ConnectTimeout)
		defer cancel()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if t.tenure != nil {
		defer context.AfterFunc(t.tenure.ctx, func() { cancel(context.Cause(t.tenure.ctx)) })()
	}
	slots := r.dials[p]
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	defer func() { <-slots }()
	d := net.Dialer{Timeout: r.cfg.ConnectTimeout, KeepAliveConfig: keepAlive}
	c, err := d.DialContext(ctx, "tcp", t.backend.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	conn := c.(*net.TCPConn)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	first, err := r.ask(conn, t, o)
	if err == nil && p == portWrite {
		err = r.prove(ctx, t.tenure)
	}
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.SetLinger(0)
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, first, nil
}

// ask sends an opening to a backend and reads the first byte of the answer.
func (r *Router) ask(conn *net.TCPConn, t target, o opening) ([]byte, error) {
	if t.tenure != nil && !t.tenure.allows(r.cfg.Now()) {
		return nil, errExpired
	}
	if _, err := conn.Write(o.raw); err != nil {
		return nil, fmt.Errorf("send the first packet: %w", err)
	}
	if o.kind == kindDirectTLS {
		return nil, nil
	}
	first := make([]byte, 1, 256)
	if _, err := io.ReadFull(conn, first); err != nil {
		return nil, fmt.Errorf("wait for the first answer: %w", err)
	}
	if o.kind != kindStartup || first[0] != 'E' {
		return first, nil
	}
	return readRefusal(conn, first)
}

// errNotNow: the server takes no connections now. Its text is what the server said.
type errNotNow struct{ text string }

func (e errNotNow) Error() string { return "it answers: " + e.text }

// maxRefusal bounds an ErrorResponse that is read whole; a longer one is passed on as it comes.
const maxRefusal = 4096

// readRefusal reads the rest of an ErrorResponse that begins with b, and returns all of it, or errNotNow.
func readRefusal(conn *net.TCPConn, b []byte) ([]byte, error) {
	read := func(n int) error {
		had := len(b)
		b = append(b, make([]byte, n)...)
		_, err := io.ReadFull(conn, b[had:])
		return err
	}
	if err := read(4); err != nil {
		return nil, fmt.Errorf("read why the server refuses: %w", err)
	}
	length := binary.BigEndian.Uint32(b[1:])
	if length < 4 || length > maxRefusal {
		return b, nil
	}
	if err := read(int(length) - 4); err != nil {
		return nil, fmt.Errorf("read why the server refuses: %w", err)
	}
	var code, text string
	for _, field := range bytes.Split(b[5:], []byte{0}) {
		switch {
		case len(field) == 0:
		case field[0] == 'C':
			code = string(field[1:])
		case field[0] == 'M':
			text = string(field[1:])
		}
	}
	if code == "57P03" {
		return nil, errNotNow{text}
	}
	return b, nil
}

// watchLeaving calls left when the client closes its connection. It looks without reading: a client
// that speaks on is not disturbed, and not looked at any more. The function it returns ends it and
// waits for it.
func watchLeaving(c *net.TCPConn, left func()) (stop func()) {
	rc, err := c.SyscallConn()
	if err != nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b [1]byte
		n := 1
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			n, _, rerr = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			return !errors.Is(rerr, syscall.EAGAIN) && !errors.Is(rerr, syscall.EINTR)
		})
		if err == nil && (rerr != nil || n == 0) {
			left()
		}
	}()
	return func() {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-done
	}
}
