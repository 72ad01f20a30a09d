package router

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// chunk is the most that moves at a time, in bytes.
const chunk = 32 << 10

// chunks are lent to a direction only while it has bytes in hand: an idle session holds none.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// lingering is how long after the backend's end a client may take to read its last words.
const lingering = time.Second

// errGate: bytes may not move any more.
var errGate = errors.New("the epoch cannot be confirmed")

// direction moves bytes from one socket of a session to the other.
type direction struct {
	s        *session
	src, dst syscall.RawConn
	// see looks at bytes before they move, and an error of it keeps them from moving; may be nil.
	see func([]byte) error

	// In and out of the calls into the runtime's poller, which take no arguments.
	buf     *[chunk]byte
	n       int
	err     error
	out     []byte
	expired bool

	read, write func(uintptr) bool
}

func newDirection(s *session, src, dst *net.TCPConn) (*direction, error) {
	d := &direction{s: s}
	var err error
	if d.src, err = src.SyscallConn(); err != nil {
		return nil, err
	}
	if d.dst, err = dst.SyscallConn(); err != nil {
		return nil, err
	}
	d.read = func(fd uintptr) bool {
		buf := chunks.Get().(*[chunk]byte)
		n, err := retry(func() (int, error) { return syscall.Read(int(fd), buf[:]) })
		if err == syscall.EAGAIN {
			chunks.Put(buf)
			return false
		}
		d.buf, d.n, d.err = buf, n, err
		return true
	}
	d.write = func(fd uintptr) bool {
		// The last look at the epoch: nothing stands between it and the system call.
		if t := s.target.tenure; t != nil && !t.allows(s.r.cfg.Now()) {
			d.expired = true
			return true
		}
		d.n, d.err = retry(func() (int, error) { return syscall.Write(int(fd), d.out) })
		return d.err != syscall.EAGAIN
	}
	return d, nil
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// receive waits for bytes and takes what is there. io.EOF is the orderly end. The caller gives the
// buffer back with release.
func (d *direction) receive() ([]byte, error) {
	d.buf, d.n, d.err = nil, 0, nil
	if err := d.src.Read(d.read); err != nil {
		return nil, err
	}
	switch {
	case d.err != nil:
		return nil, d.err
	case d.n == 0:
		return nil, io.EOF
	}
	return d.buf[:d.n], nil
}

func (d *direction) release() {
	if d.buf != nil {
		chunks.Put(d.buf)
		d.buf = nil
	}
}

// send sends all of b, each system call only while the epoch is confirmed.
func (d *direction) send(b []byte) error {
	for len(b) > 0 {
		d.out, d.n, d.err, d.expired = b, 0, nil, false
		err := d.dst.Write(d.write)
		d.out = nil
		switch {
		case err != nil:
			return err
		case d.expired:
			if err := d.s.gate(); err != nil {
				return errors.Join(errGate, err)
			}
		case d.err != nil:
			return d.err
		default:
			b = b[d.n:]
		}
	}
	return nil
}

// run moves bytes until either side ends. received says that it was the receiving side.
func (d *direction) run() (received bool, err error) {
	for {
		b, err := d.receive()
		if err != nil {
			d.release()
			return true, err
		}
		if d.see != nil {
			err = d.see(b)
		}
		if err == nil {
			err = d.send(b)
		}
		d.release()
		if err != nil {
			return false, err
		}
	}
}

// discard reads and throws away until the end or the deadline.
func (d *direction) discard() {
	for {
		_, err := d.receive()
		d.release()
		if err != nil {
			return
		}
	}
}

// move carries the session in both directions until it ends. first is the beginning of the
// backend's answer, already read. The caller closes both sockets.
func (s *session) move(first []byte) {
	up, err := newDirection(s, s.client, s.backend)
	if err != nil {
		return
	}
	down, err := newDirection(s, s.backend, s.client)
	if err != nil {
		return
	}
	s.watchLogin(down)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if len(first) > 0 {
			var err error
			if down.see != nil {
				err = down.see(first)
			}
			if err != nil || down.send(first) != nil {
				s.abort()
				return
			}
		}
		if received, _ := down.run(); !received {
			s.abort() // the client is gone, or the gate is shut
			return
		}
		// The backend has ended. Its last words are on their way to the client: let it read them,
		// and take what it still sends, because unread bytes would turn the close into a reset.
		_ = s.client.CloseWrite()
		_ = s.client.SetReadDeadline(time.Now().Add(lingering))
	}()
	received, err := up.run()
	switch {
	case received && err == io.EOF:
		_ = s.backend.CloseWrite() // the backend may still answer
	case received:
		s.abort() // the client reset the connection, or did not log in in time
	case errors.Is(err, errGate):
		s.abort()
	default:
		// The backend does not take bytes any more; what it said before is still delivered.
		up.discard()
	}
	<-done
}

// abort closes both sockets, so that both directions end.
func (s *session) abort() {
	_ = s.backend.SetLinger(0)
	_ = s.backend.Close()
	_ = s.client.Close()
}

// watchLogin follows the backend's first messages: it learns the key for cancel requests, refuses a
// standby on the write port, and lifts the deadline once the client has logged in. In TLS none of it
// can be seen; there the deadline is
// lifted when the backend has answered the client's first bytes, and PostgreSQL's
// authentication_timeout bounds the rest.
func (s *session) watchLogin(down *direction) {
	if s.encrypted.Load() {
		down.see = func([]byte) error {
			down.see = nil
			_ = s.client.SetDeadline(time.Time{})
			return nil
		}
		return
	}
	_ = s.client.SetWriteDeadline(time.Time{})
	var sn snoop
	down.see = func(b []byte) error {
		sn.write(b)
		if err := s.guardLogin(&sn, down, b); err != nil {
			return err
		}
		if sn.key != "" {
			s.r.sessions.setKey(s, sn.key)
			sn.key = ""
		}
		if sn.done {
			down.see = nil
			if sn.ready {
				_ = s.client.SetReadDeadline(time.Time{})
			}
		}
		return nil
	}
}
