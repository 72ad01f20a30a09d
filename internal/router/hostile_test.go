package router_test

import (
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/router"
)

// TestRouter_Garbage: whatever comes that is not the protocol is answered with an error or closed,
// without a connection to a backend.
func TestRouter_Garbage(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	pg1, pg2 := pair(t, w)
	length := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	tests := []struct{ name, in, want string }{
		{"nothing at all", "", ""},
		{"length 0", length(0) + "xxxx", "08P01"},
		{"length 7", length(7) + "xxxx", "08P01"},
		{"length 2^31-1", length(1<<31-1) + "xxxx", "08P01"},
		{"negative", length(1<<32-1) + "xxxx", "08P01"},
		{"10,001", length(10001) + "\x00\x03\x00\x00", "08P01"},
		{"half a packet, then silence", string(startup("user", "u"))[:12], ""},
		{"no terminator", length(12) + "\x00\x03\x00\x00user", "08P01"},
		{"protocol 4", length(9) + "\x00\x04\x00\x00\x00", "0A000"},
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Y: z\r\n", 1000) + "\r\n", "speaks the PostgreSQL protocol"},
		{"SSH", "SSH-2.0-OpenSSH_9\r\n", "08P01"},
		{"Redis", "*1\r\n$4\r\nPING\r\n", "08P01"},
		{"PROXY protocol", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "08P01"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, w.r.WriteAddr())
			if _, err := io.WriteString(c, tt.in); err != nil {
				t.Fatal(err)
			}
			kind, body, err := c.message()
			if tt.want == "" {
				if err == nil {
					t.Errorf("got message %q %q, want the connection closed", kind, body)
				}
				return
			}
			if err != nil || kind != 'E' || !strings.Contains(errorText(body), tt.want) {
				t.Errorf("got %q %q %v, want an error with %q", kind, errorText(body), err, tt.want)
			}
			c.cut(t)
		})
	}
	t.Run("one byte at a time is cut off by the total time", func(t *testing.T) {
		t.Parallel()
		c := dial(t, w.r.WriteAddr())
		closed := make(chan struct{})
		go func() { defer close(closed); _, _ = c.rd.ReadByte() }()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		in := startup("user", strings.Repeat("u", 5000))
		for {
			select {
			case <-closed:
				return
			case <-tick.C:
				_, _ = c.Write(in[:1])
				if in = in[1:]; len(in) == 0 {
					t.Fatal("the whole packet was taken, byte by byte")
				}
			}
		}
	})
	t.Cleanup(func() {
		for _, b := range []*backend{pg1, pg2} {
			if cancels, lines := b.got(); len(cancels)+len(lines) > 0 {
				t.Errorf("%s got %q %q, want nothing", b.name, cancels, lines)
			}
		}
		if s := w.r.Snapshot(); s.Sessions != 0 {
			t.Errorf("got %d sessions, want none", s.Sessions)
		}
	})
}

func TestRouter_RepeatedEncryptionRequest(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	c := dial(t, w.r.WriteAddr())
	_, _ = c.Write(request(80877103))
	if b, err := c.rd.ReadByte(); b != 'N' || err != nil {
		t.Fatalf("got %q %v, want N", b, err)
	}
	_, _ = c.Write(request(80877103))
	if kind, body, err := c.message(); err != nil || kind != 'E' || !strings.Contains(errorText(body), "repeated") {
		t.Errorf("got %q %q %v, want an error", kind, body, err)
	}
}

func TestRouter_SilenceAfterARefusedEncryptionRequest(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.HandshakeTimeout = 100 * time.Millisecond })
	pair(t, w)
	c := dial(t, w.r.WriteAddr())
	_, _ = c.Write(request(80877103))
	if b, err := c.rd.ReadByte(); b != 'N' || err != nil {
		t.Fatalf("got %q %v, want N", b, err)
	}
	c.cut(t)
	w.waitFor("the backend is given back", func(s router.Snapshot) bool { return s.Sessions == 0 })
}

func TestRouter_ALoginThatDoesNotEndIsCut(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.LoginTimeout = 100 * time.Millisecond })
	pg1, _ := pair(t, w)
	pg1.set(func() { pg1.tls = true })
	// The backend takes up TLS and the client says nothing more.
	c := dial(t, w.r.WriteAddr())
	_, _ = c.Write(request(80877103))
	if b, err := c.rd.ReadByte(); b != 'S' || err != nil {
		t.Fatalf("got %q %v, want S", b, err)
	}
	c.cut(t)
	w.waitFor("the backend is given back", func(s router.Snapshot) bool { return s.Sessions == 0 })
}

// TestRouter_ASlowReaderIsBoundedAndAlive: a client that does not read holds its session and a
// bounded amount of memory, and loses nothing.
func TestRouter_ASlowReaderIsBoundedAndAlive(t *testing.T) {
	w := newWorld(t, nil)
	pair(t, w)
	c, _ := session(t, w.r.WriteAddr())
	line := strings.Repeat("y", 1<<20) + "\n"
	const lines = 32
	sent := make(chan error, 1)
	go func() {
		for range lines {
			if _, err := io.WriteString(c, line); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	other, _ := session(t, w.r.WriteAddr())
	for range 100 {
		if _, err := other.ask("x"); err != nil {
			t.Fatalf("beside a slow reader: %v", err)
		}
	}
	n, err := io.CopyN(io.Discard, c.rd, lines*int64(len(line)+len("pg1 ")))
	if err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Errorf("send: %v", err)
	}
}

// TestRouter_IdleSessionsAreCheap reports what 1,000 idle sessions hold, client and backend side of
// this test included, and bounds it generously.
func TestRouter_IdleSessionsAreCheap(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 4,000 sockets")
	}
	w := newWorld(t, nil)
	pair(t, w)
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := used()
	const sessions = 1000
	clients := make([]*client, sessions)
	for i := range clients {
		clients[i] = dial(t, w.r.WriteAddr())
		if _, err := clients[i].login(); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	each := (int64(used()) - int64(before)) / sessions
	t.Logf("%d idle sessions: %d bytes each, fake client and fake backend included", sessions, each)
	// Both fakes hold a bufio.Reader of 4 KiB and a goroutine; two 32 KiB buffers would show.
	if each > 48<<10 {
		t.Errorf("got %d bytes for an idle session, want at most 48 KiB", each)
	}
	w.hold("pg2", 2, lease)
	w.waitFor("all cut", func(s router.Snapshot) bool { return s.Sessions == 0 && s.Cut["deposed"] == sessions })
}
