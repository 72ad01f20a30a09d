package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// clientPatience bounds a request whose context does not.
const clientPatience = 2 * time.Minute

// Client talks to the supervisor of a directory from another process. Safe for concurrent use; it
// holds nothing open.
type Client struct{ dir string }

// Dial finds the supervisor of dir. ErrNotRunning when there is none.
func Dial(ctx context.Context, dir string) (*Client, error) {
	c := &Client{dir: dir}
	if _, err := c.Status(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Status asks how things are.
func (c *Client) Status(ctx context.Context) (Report, error) {
	conn, err := c.ask(ctx, request{Do: "status"})
	if err != nil {
		return Report{}, err
	}
	defer conn.close()
	a, err := conn.next()
	if err == nil && a.Report == nil {
		err = errors.New("an answer without a report")
	}
	if err != nil {
		return Report{}, fmt.Errorf("ask the supervisor of %s for its status: %w", c.dir, err)
	}
	return *a.Report, nil
}

// Restart restarts one child and returns when it has been started again. ErrUnknown.
func (c *Client) Restart(ctx context.Context, name string) error {
	conn, err := c.ask(ctx, request{Do: "restart", Name: name})
	if err != nil {
		return err
	}
	defer conn.close()
	if _, err := conn.next(); err != nil {
		return fmt.Errorf("ask the supervisor of %s: %w", c.dir, err)
	}
	return nil
}

// Stop asks the supervisor to stop its children and itself, and returns when all that has happened
// and the directory is free. When ctx ends first the supervisor goes on stopping.
func (c *Client) Stop(ctx context.Context) error {
	conn, err := c.ask(ctx, request{Do: "stop"})
	if err != nil {
		return err
	}
	defer conn.close()
	for begun := false; ; begun = true {
		a, err := conn.next()
		if begun && errors.Is(err, errHungUp) {
			return fmt.Errorf("stop the supervisor of %s: it ended before it had stopped everything; the next start ends what is left", c.dir)
		}
		if err != nil {
			return fmt.Errorf("stop the supervisor of %s: %w", c.dir, err)
		}
		if a.Final {
			return nil
		}
	}
}

// conversation is one request and its answers.
type conversation struct {
	ctx     context.Context
	cancel  context.CancelFunc
	conn    net.Conn
	lines   *bufio.Reader
	release func() bool
}

func (c *Client) ask(ctx context.Context, r request) (_ *conversation, err error) {
	ctx, cancel := context.WithTimeout(ctx, clientPatience)
	defer func() {
		if err != nil {
			cancel()
			err = fmt.Errorf("reach the supervisor of %s: %w", c.dir, err)
		}
	}()
	d, err := os.Open(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", short(d.Fd(), reserved+".sock"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	v := &conversation{ctx: ctx, cancel: cancel, conn: conn, lines: bufio.NewReader(io.LimitReader(conn, maxAnswer))}
	v.release = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	b, err := json.Marshal(r)
	if err == nil {
		_, err = conn.Write(append(b, '\n'))
	}
	if err != nil {
		v.close()
		if hungUp(err) {
			err = errHungUp
		}
		return nil, err
	}
	return v, nil
}

func (v *conversation) close() {
	v.release()
	v.cancel()
	_ = v.conn.Close()
}

// errHungUp: the supervisor ended, or let go, before it answered. For those who ask anything but to
// stop that is the same as none being there.
var errHungUp = fmt.Errorf("%w any more", ErrNotRunning)

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// next reads an answer. An answer that is an error is returned as one.
func (v *conversation) next() (answer, error) {
	line, err := v.lines.ReadBytes('\n')
	switch {
	case err == nil:
	case v.ctx.Err() != nil:
		return answer{}, context.Cause(v.ctx)
	case hungUp(err):
		return answer{}, errHungUp
	default:
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return answer{}, fmt.Errorf("an answer that is none: %w", err)
	}
	switch {
	case a.OK:
		return a, nil
	case a.Unknown:
		return answer{}, remote{a.Error, ErrUnknown}
	}
	return answer{}, errors.New(a.Error)
}

// remote is an error of the other side, in its words.
type remote struct {
	text string
	kind error
}

func (r remote) Error() string { return r.text }
func (r remote) Unwrap() error { return r.kind }
