package router_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
	"github.com/hathi-ha/hathi/internal/router"
)

// patience bounds every wait of these tests; a test that reaches it fails.
const patience = 20 * time.Second

// clock is CLOCK_BOOTTIME with an offset: to move it is to freeze the router for that long.
type clock struct{ off atomic.Int64 }

func (c *clock) now() time.Duration      { return boottime.Now() + time.Duration(c.off.Load()) }
func (c *clock) advance(d time.Duration) { c.off.Add(int64(d)) }
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		good, state := ok()
		if good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s; last state: %s", what, patience, state)
		}
		<-tick.C
	}
}

// world is a router, the store that feeds it, and a holder that renews the lock.
type world struct {
	t     *testing.T
	clock clock
	srv   *mem.Server
	store *mem.Client // the router's
	admin *mem.Client
	r     *router.Router

	mu      sync.Mutex
	lock    cluster.Lock
	renewed bool // the renewer works
}

func newWorld(t *testing.T, change func(*router.Config)) *world {
	t.Helper()
	w := &world{t: t, renewed: true}
	w.srv = mem.NewServer(w.clock.now)
	w.store, w.admin = w.srv.Client("router"), w.srv.Client("admin")
	cfg := router.Config{WriteListen: "127.0.0.1:0", ReadListen: "127.0.0.1:0", StatusListen: "127.0.0.1:0",
		Store: w.store, Now: w.clock.now, MaxLag: 1000}
	if change != nil {
		change(&cfg)
	}
	w.r = router.New(cfg)
	if err := w.r.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.r.Serve(ctx) }()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.mu.Lock()
				if w.renewed && w.lock.Node != "" {
					w.lock.Seq++
					w.putLocked()
				}
				w.mu.Unlock()
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := w.r.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
		close(stop)
		<-stopped
	})
	return w
}

func (w *world) putLocked() { w.put(dcs.KeyLock, w.lock) }

func (w *world) put(key string, v any) {
	w.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.admin.Commit(context.Background(), dcs.Txn{Then: []dcs.Op{{Key: key, Value: b}}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) drop(key string) {
	w.t.Helper()
	if _, err := w.admin.Commit(context.Background(), dcs.Txn{Then: []dcs.Op{{Key: key, Delete: true}}}); err != nil {
		w.t.Fatal(err)
	}
}

// hold makes b the ready holder of epoch, for leases of ttl.
func (w *world) hold(name string, epoch uint64, ttl time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lock = cluster.Lock{Node: name, Epoch: epoch, Seq: w.lock.Seq + 1, TTL: ttl.Milliseconds(), Ready: true}
	w.putLocked()
}

func (w *world) edit(f func(l *cluster.Lock)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.lock)
	w.lock.Seq++
	w.putLocked()
}

func (w *world) renew(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.renewed = on
}

func (w *world) member(b *backend, role cluster.Role, change func(*cluster.Member)) {
	m := cluster.Member{ConnURL: "postgres://" + b.addr() + "/postgres", Role: role, State: cluster.StateRunning, Timeline: 1, XLogLocation: 5000}
	if role == cluster.RoleReplica {
		m.ReplicationState = "streaming"
	}
	if change != nil {
		change(&m)
	}
	w.put(dcs.MemberKey(b.name), m)
}

func (w *world) waitFor(what string, ok func(router.Snapshot) bool) {
	w.t.Helper()
	eventually(w.t, what, func() (bool, string) {
		s := w.r.Snapshot()
		b, _ := json.Marshal(s)
		return ok(s), string(b)
	})
}

func (w *world) waitWrite(name string) {
	w.t.Helper()
	w.waitFor("write route to "+name, func(s router.Snapshot) bool { return s.CanWrite() && s.Write.Name == name })
}

// backend speaks the first messages of PostgreSQL and then answers each line with its name.
type backend struct {
	t    *testing.T
	name string
	l    net.Listener
	wg   sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]bool
	cancels []string
	lines   []string
	tls     bool   // answer S to SSLRequest and speak lines at once, in place of TLS
	mute    bool   // accept and never answer
	standby bool   // say so at the login
	slow    bool   // a byte of the login at a time
	refuse  string // SQLSTATE with which startup packets are refused
	refused int
}

func newBackend(t *testing.T, name string) *backend { return newBackendAt(t, name, "127.0.0.1:0") }

func newBackendAt(t *testing.T, name, addr string) *backend {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{t: t, name: name, l: l, conns: map[net.Conn]bool{}}
	b.wg.Go(func() {
		for n := uint32(1); ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[c] = true
			b.mu.Unlock()
			b.wg.Go(func() {
				b.serve(c, n)
				c.Close()
				b.mu.Lock()
				delete(b.conns, c)
				b.mu.Unlock()
			})
		}
	})
	t.Cleanup(b.close)
	return b
}

func (b *backend) addr() string { return b.l.Addr().String() }

func (b *backend) close() {
	b.l.Close()
	b.mu.Lock()
	for c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

func (b *backend) got() (cancels, lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.cancels...), append([]string{}, b.lines...)
}

func (b *backend) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// secret is the cancel key of the n-th connection.
func (b *backend) secret(n uint32) string {
	k := binary.BigEndian.AppendUint32(nil, n)
	return string(append(k, (b.name + "....")[:4]...))
}

func (b *backend) serve(c net.Conn, n uint32) {
	b.mu.Lock()
	tls, mute, standby, slow := b.tls, b.mute, b.standby, b.slow
	b.mu.Unlock()
	if mute {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	rd := bufio.NewReader(c)
	for {
		var head [8]byte
		if _, err := io.ReadFull(rd, head[:]); err != nil {
			return
		}
		rest := make([]byte, binary.BigEndian.Uint32(head[:])-8)
		if _, err := io.ReadFull(rd, rest); err != nil {
			return
		}
		switch binary.BigEndian.Uint32(head[4:]) {
		case 80877102:
			b.set(func() { b.cancels = append(b.cancels, string(rest)) })
			return
		case 80877103, 80877104:
			if tls {
				_, _ = c.Write([]byte("S"))
				break
			}
			_, _ = c.Write([]byte("N"))
			continue
		default:
			b.mu.Lock()
			refuse := b.refuse
			if refuse != "" {
				b.refused++
			}
			b.mu.Unlock()
			if refuse != "" {
				_, _ = c.Write(message('E', []byte("SFATAL\x00VFATAL\x00C"+refuse+"\x00Mnot today\x00\x00")))
				return
			}
			hot := map[bool]string{false: "off", true: "on"}[standby]
			login := slices.Concat(message('R', []byte{0, 0, 0, 0}), message('S', []byte("server_version\x0015\x00")),
				message('S', []byte("in_hot_standby\x00"+hot+"\x00")), message('K', []byte(b.secret(n))), message('Z', []byte{'I'}))
			if !slow {
				_, _ = c.Write(login)
				break
			}
			for i := range login {
				_, _ = c.Write(login[i : i+1])
			}
		}
		break
	}
	for {
		line, err := rd.ReadString('\n')
		if line != "" {
			b.set(func() { b.lines = append(b.lines, line) })
		}
		if err != nil {
			return
		}
		if _, err := c.Write([]byte(b.name + " " + line)); err != nil {
			return
		}
	}
}

func message(kind byte, body []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
	return append(out, body...)
}

func startup(params ...string) []byte {
	body := binary.BigEndian.AppendUint32(nil, 3<<16)
	for _, p := range params {
		body = append(append(body, p...), 0)
	}
	body = append(body, 0)
	return append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...)
}

func request(code uint32, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	return append(binary.BigEndian.AppendUint32(b, code), rest...)
}

// client is one connection to the router.
type client struct {
	net.Conn
	rd *bufio.Reader
}

func dial(t *testing.T, a net.Addr) *client {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{c, bufio.NewReader(c)}
}

// login sends a startup packet and reads up to ReadyForQuery; it returns the cancel key, or the
// text of the error it got.
func (c *client) login() (key string, err error) {
	if _, err := c.Write(startup("user", "u", "database", "d")); err != nil {
		return "", err
	}
	return c.ready()
}

func (c *client) ready() (key string, err error) {
	for {
		kind, body, err := c.message()
		if err != nil {
			return "", err
		}
		switch kind {
		case 'K':
			key = string(body)
		case 'E':
			return "", fmt.Errorf("%s", errorText(body))
		case 'Z':
			return key, nil
		}
	}
}

func (c *client) message() (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.rd, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > 100000 {
		return 0, nil, fmt.Errorf("message %q with length %d", head[0], n)
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(c.rd, body)
	return head[0], body, err
}

// errorText is "CODE message | hint".
func errorText(body []byte) string {
	f := map[byte]string{}
	for _, p := range strings.Split(string(body), "\x00") {
		if p != "" {
			f[p[0]] = p[1:]
		}
	}
	return f['S'] + " " + f['C'] + " " + f['M'] + " | " + f['H']
}

// ask sends one line and returns who answered.
func (c *client) ask(line string) (string, error) {
	if _, err := c.Write([]byte(line + "\n")); err != nil {
		return "", err
	}
	got, err := c.rd.ReadString('\n')
	who, _, _ := strings.Cut(got, " ")
	return who, err
}

// cut waits for the end of the connection.
func (c *client) cut(t *testing.T) {
	t.Helper()
	if b, err := c.rd.ReadByte(); err == nil {
		t.Errorf("got byte %q, want the end of the connection", b)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("the connection was not cut within %s", patience)
	}
}

// session connects, logs in and finds out who answers.
func session(t *testing.T, a net.Addr) (*client, string) {
	t.Helper()
	c := dial(t, a)
	if _, err := c.login(); err != nil {
		t.Fatalf("login: %v", err)
	}
	who, err := c.ask("who")
	if err != nil {
		t.Fatalf("ask: %v", err)
	}
	return c, who
}
