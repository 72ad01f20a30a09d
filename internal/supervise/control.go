package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxClients  = 32
	requestTime = 5 * time.Second // for a client to say what it wants, and to read the answer
)

// control answers on the socket.
type control struct {
	sup      *Supervisor
	path     string
	since    time.Time
	listener *net.UnixListener
	ctx      context.Context // ends when the supervisor closes
	cancel   context.CancelFunc
	slots    chan struct{}
	wg       sync.WaitGroup

	gone chan struct{} // closed: the supervisor has let go of everything
	last error         // and this is how; set before
}

// listen makes the socket. It appears under its name only when its mode is right.
func listen(dir string, s *Supervisor) (*control, error) {
	path := socketPath(dir)
	// A supervisor that was killed in here may have left its folder; nobody else can be in here now.
	if old, err := filepath.Glob(filepath.Join(escapeGlob(dir), ".sock-*")); err == nil {
		for _, o := range old {
			_ = os.RemoveAll(o)
		}
	}
	private, err := os.MkdirTemp(dir, ".sock-*") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer os.RemoveAll(private)
	d, err := os.Open(private)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: short(d.Fd(), "s")})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(filepath.Join(private, "s"), 0o600)
	if err == nil {
		err = os.Rename(filepath.Join(private, "s"), path) // in place of one that a dead supervisor left
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &control{sup: s, path: path, since: s.now(), listener: l, ctx: ctx, cancel: cancel,
		slots: make(chan struct{}, maxClients), gone: make(chan struct{})}
	c.wg.Go(c.accept)
	return c, nil
}

func (c *control) accept() {
	for {
		conn, err := c.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, say. The next try must not come at once.
			select {
			case <-c.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case c.slots <- struct{}{}:
			c.wg.Go(func() {
				defer func() { <-c.slots }()
				defer conn.Close()
				c.serve(conn)
			})
		default:
			write(conn, answer{Error: "too many clients at once; try again"})
			conn.Close()
		}
	}
}

// write sends one answer. It fits into the socket's buffer, or the client reads.
func write(conn *net.UnixConn, a answer) bool {
	b, err := json.Marshal(a)
	if err != nil {
		return false
	}
	_ = conn.SetWriteDeadline(time.Now().Add(requestTime))
	_, err = conn.Write(append(b, '\n'))
	return err == nil
}

// serve answers one request.
func (c *control) serve(conn *net.UnixConn) {
	if !friend(conn) {
		return
	}
	send := func(a answer) bool { return write(conn, a) }
	_ = conn.SetReadDeadline(time.Now().Add(requestTime))
	interrupt := context.AfterFunc(c.ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest+1)).ReadBytes('\n')
	interrupt()
	if err != nil && (len(line) == 0 || !errors.Is(err, io.EOF)) {
		return
	}
	r, err := parseRequest(line)
	if err != nil {
		send(answer{Error: err.Error()})
		return
	}
	switch r.Do {
	case "status":
		_, stopping := c.sup.state()
		send(answer{OK: true, Report: &Report{PID: os.Getpid(), Since: c.since, Stopping: stopping || c.sup.isAsked(), Processes: c.sup.Status()}})
	case "restart":
		err := c.sup.Restart(c.ctx, r.Name)
		a := answer{OK: err == nil, Unknown: errors.Is(err, ErrUnknown)}
		if err != nil {
			a.Error = err.Error()
		}
		send(a)
	case "stop":
		c.sup.askedOnce.Do(func() { close(c.sup.asked) })
		if !send(answer{OK: true}) {
			return
		}
		<-c.gone
		a := answer{OK: c.last == nil, Final: true}
		if c.last != nil {
			a.Error = c.last.Error()
		}
		send(a)
	}
}

// friend says whether the other side is root or the user of this process. The mode of the socket
// says the same; this holds even if somebody changes that.
func friend(conn *net.UnixConn) bool {
	rc, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = rc.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return err == nil && ok
}

// shut takes the socket away; requests under way, other than stop, are ended.
func (c *control) shut() {
	_ = os.Remove(c.path)
	_ = c.listener.Close()
	c.cancel()
}

// farewell tells those who asked to stop how it went, and waits for all answers to be out.
func (c *control) farewell(err error) {
	c.last = err
	close(c.gone)
	c.wg.Wait()
}
