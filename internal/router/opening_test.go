package router

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func packet(length uint32, code uint32, rest string) []byte {
	b := binary.BigEndian.AppendUint32(nil, length)
	return append(binary.BigEndian.AppendUint32(b, code), rest...)
}

func whole(code uint32, rest string) []byte { return packet(uint32(8+len(rest)), code, rest) }

func TestReadOpening(t *testing.T) {
	many := strings.Repeat("a\x00b\x00", 2400)
	tests := []struct {
		name        string
		in          []byte
		kind        kind
		replication bool
		err         string // part of it; "" for none
		code        string // SQLSTATE of a protocol error
	}{
		{"startup", whole(3<<16, "user\x00u\x00\x00"), kindStartup, false, "", ""},
		{"startup 3.2", whole(3<<16|2, "user\x00u\x00\x00"), kindStartup, false, "", ""},
		{"startup 3.9999 with _pq_ options", whole(3<<16|9999, "user\x00u\x00_pq_.x\x00y\x00\x00"), kindStartup, false, "", ""},
		{"startup with 2,400 parameters", whole(3<<16, many+"\x00"), kindStartup, false, "", ""},
		{"replication", whole(3<<16, "replication\x00database\x00\x00"), kindStartup, true, "", ""},
		{"replication off", whole(3<<16, "replication\x00OFF\x00\x00"), kindStartup, false, "", ""},
		{"replication, last value counts", whole(3<<16, "replication\x00off\x00replication\x00yes\x00\x00"), kindStartup, true, "", ""},
		{"SSLRequest", whole(codeSSL, ""), kindSSL, false, "", ""},
		{"GSSENCRequest", whole(codeGSS, ""), kindGSS, false, "", ""},
		{"cancel", whole(codeCancel, "pid.key."), kindCancel, false, "", ""},
		{"cancel with a long key", whole(codeCancel, "pid."+strings.Repeat("k", 256)), kindCancel, false, "", ""},
		{"direct TLS", []byte("\x16\x03\x01\x02\x00"), kindDirectTLS, false, "", ""},

		{"nothing", nil, 0, false, "EOF", ""},
		{"length 0", packet(0, 3<<16, ""), 0, false, "invalid length of startup packet: 0", "08P01"},
		{"length 3", packet(3, 3<<16, ""), 0, false, "invalid length of startup packet: 3", "08P01"},
		{"length 4", packet(4, 3<<16, ""), 0, false, "invalid length", "08P01"},
		{"length 7", packet(7, 3<<16, ""), 0, false, "invalid length", "08P01"},
		{"length 10001", packet(10001, 3<<16, ""), 0, false, "invalid length of startup packet: 10001", "08P01"},
		{"length 2^31-1", packet(1<<31-1, 3<<16, ""), 0, false, "invalid length", "08P01"},
		{"negative length", packet(1<<32-1, 3<<16, ""), 0, false, "invalid length of startup packet: -1", "08P01"},
		{"length 8 without parameters", packet(8, 3<<16, ""), 0, false, "expected terminator", "08P01"},
		{"no terminators", whole(3<<16, "user"), 0, false, "expected terminator", "08P01"},
		{"no value", whole(3<<16, "user\x00"), 0, false, "has no value", "08P01"},
		{"bytes behind the end", whole(3<<16, "\x00x\x00"), 0, false, "expected terminator", "08P01"},
		{"protocol 2.0", whole(2<<16, "u\x00"), 0, false, "unsupported frontend protocol 2.0", "0A000"},
		{"protocol 4.0", whole(4<<16, "u\x00"), 0, false, "unsupported frontend protocol 4.0", "0A000"},
		{"code 1234.5681", whole(codeGSS+1, ""), 0, false, "unsupported frontend protocol 1234.5681", "0A000"},
		{"SSLRequest with a body", whole(codeSSL, "x"), 0, false, "invalid length of request packet: 9", "08P01"},
		{"cancel without key", whole(codeCancel, "pid."), 0, false, "invalid length of request packet: 12", "08P01"},
		{"cancel with a key too long", whole(codeCancel, "pid."+strings.Repeat("k", 257)), 0, false, "invalid length", "08P01"},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), 0, false, "invalid length", "08P01"},
		{"SSH", []byte("SSH-2.0-x\r\n"), 0, false, "invalid length", "08P01"},
		{"Redis", []byte("*1\r\n$4\r\nPING\r\n"), 0, false, "invalid length", "08P01"},
		{"PROXY protocol", []byte("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"), 0, false, "invalid length", "08P01"},
		{"cut short", whole(3<<16, "user\x00u\x00\x00")[:12], 0, false, "unexpected EOF", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(tt.in), iotest.OneByteReader(bytes.NewReader(tt.in))} {
				o, err := readOpening(r, true)
				if tt.err == "" {
					if err != nil {
						t.Fatalf("got error %v, want none", err)
					}
					if o.kind != tt.kind || o.replication != tt.replication {
						t.Errorf("got kind %d replication %v, want %d %v", o.kind, o.replication, tt.kind, tt.replication)
					}
					if !bytes.HasPrefix(tt.in, o.raw) {
						t.Errorf("got raw %q, want the bytes that came", o.raw)
					}
					continue
				}
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got error %v, want it to contain %q", err, tt.err)
				}
				var p *protocolError
				if code := ""; errors.As(err, &p) {
					code = p.code
					if code != tt.code {
						t.Errorf("got SQLSTATE %s, want %s", code, tt.code)
					}
				} else if tt.code != "" {
					t.Errorf("got %T, want a protocol error %s", err, tt.code)
				}
			}
		})
	}
}

func TestReadOpening_TLSMayOnlyComeFirst(t *testing.T) {
	if _, err := readOpening(strings.NewReader("\x16\x03\x01\x02\x00\x01\x00\x01"), false); err == nil {
		t.Error("got no error, want one for TLS after a refused request")
	}
}

func TestReadOpening_HintNamesWhatCame(t *testing.T) {
	_, err := readOpening(strings.NewReader("GET / HTTP/1.1"), true)
	var p *protocolError
	if !errors.As(err, &p) || !strings.Contains(p.hint, `"GET "`) {
		t.Errorf("got %v, want a hint that names GET", err)
	}
}

func FuzzReadOpening(f *testing.F) {
	f.Add(whole(3<<16, "user\x00u\x00\x00"), true)
	f.Add(whole(codeSSL, ""), false)
	f.Add(whole(codeCancel, "pid.key."), true)
	f.Add([]byte("GET / HTTP/1.1\r\n"), true)
	f.Fuzz(func(t *testing.T, in []byte, first bool) {
		r := bytes.NewReader(in)
		o, err := readOpening(r, first)
		if err != nil {
			return
		}
		if len(o.raw) > maxStartup || !bytes.HasPrefix(in, o.raw) {
			t.Fatalf("got raw %q of %q", o.raw, in)
		}
		if read := len(in) - r.Len(); read != len(o.raw) {
			t.Fatalf("read %d bytes for a packet of %d", read, len(o.raw))
		}
	})
}

func backendMessage(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))) + body
}

func TestSnoop(t *testing.T) {
	long := "pid." + strings.Repeat("s", 256)
	tests := []struct {
		name, in, key string
		done, ready   bool
	}{
		{"login", backendMessage('R', "\x00\x00\x00\x00") + backendMessage('S', "a\x00b\x00") + backendMessage('K', "pid.secr") + backendMessage('Z', "I"), "pid.secr", true, true},
		{"long key", backendMessage('K', long) + backendMessage('Z', "I"), long, true, true},
		{"key too long", backendMessage('K', long+"s") + backendMessage('Z', "I"), "", true, true},
		{"key too short", backendMessage('K', "pid.") + backendMessage('Z', "I"), "", true, true},
		{"empty messages", backendMessage('x', "") + backendMessage('y', "") + backendMessage('Z', "I"), "", true, true},
		{"error", backendMessage('E', "SFATAL\x00\x00"), "", false, false},
		{"not the protocol", "HTTP/1.1 400 Bad Request", "", true, false},
		{"length below 4", "R\x00\x00\x00\x03", "", true, false},
		{"huge length", "R\xff\xff\xff\xff", "", true, false},
		{"a K inside another message", backendMessage('S', backendMessage('K', "pid.secr")) + backendMessage('Z', "I"), "", true, true},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 3, 1 << 20} {
			t.Run(fmt.Sprintf("%s by %d", tt.name, size), func(t *testing.T) {
				var s snoop
				for in := []byte(tt.in); len(in) > 0; {
					n := min(size, len(in))
					s.write(in[:n])
					in = in[n:]
				}
				if s.key != tt.key || s.done != tt.done || s.ready != tt.ready {
					t.Errorf("got key %q done %v ready %v, want %q %v %v", s.key, s.done, s.ready, tt.key, tt.done, tt.ready)
				}
			})
		}
	}
}

// A server that says that it is a standby is known as one wherever the chunks end, and with it where in
// its chunk the message begins.
func TestSnoop_Standby(t *testing.T) {
	before := backendMessage('R', "\x00\x00\x00\x00") + backendMessage('S', "server_version\x0015\x00")
	says := backendMessage('S', "in_hot_standby\x00on\x00")
	after := backendMessage('K', "pid.secr") + backendMessage('Z', "I")
	for _, tt := range []struct {
		chunks  []string
		standby bool
		at      int
	}{
		{[]string{before + says + after}, true, len(before)},
		{[]string{before, says + after}, true, 0},
		{[]string{before[:1], before[1:] + says, after}, true, len(before) - 1},
		{[]string{before + says[:1], says[1:] + after}, true, -1},
		{[]string{before + says[:9], says[9:]}, true, -1},
		{[]string{before + after}, false, 0},
		{[]string{before + backendMessage('S', "in_hot_standby\x00off\x00") + after}, false, 0},
		{[]string{before + backendMessage('S', "in_hot_stomach\x00on\x00") + after}, false, 0},
		{[]string{before + backendMessage('D', "in_hot_standby\x00on\x00") + after}, false, 0},
		{[]string{before + after + says}, false, 0}, // after the login it is none of our business
	} {
		var s snoop
		for _, c := range tt.chunks {
			if s.write([]byte(c)); s.standby {
				break
			}
		}
		if s.standby != tt.standby || tt.standby && s.saidAt != tt.at {
			t.Errorf("%q: got standby %v at %d, want %v at %d", tt.chunks, s.standby, s.saidAt, tt.standby, tt.at)
		}
	}
}

func FuzzSnoop(f *testing.F) {
	f.Add([]byte(backendMessage('K', "pid.secr")+backendMessage('Z', "I")), 3)
	f.Fuzz(func(t *testing.T, in []byte, at int) {
		var one, two snoop
		one.write(in)
		at = min(max(at, 0), len(in))
		two.write(in[:at])
		two.write(in[at:])
		if one.key != two.key || one.done != two.done {
			t.Fatalf("got %q %v in one piece, %q %v in two", one.key, one.done, two.key, two.done)
		}
		if len(one.body) > maxKeyData {
			t.Fatalf("kept %d bytes", len(one.body))
		}
	})
}

func TestBucket(t *testing.T) {
	b := newBucket(10, 5)
	now := time.Hour
	for i := range 5 {
		if !b.take(1, now) {
			t.Fatalf("take %d of a burst of 5: refused", i+1)
		}
	}
	if b.take(1, now) {
		t.Error("a sixth was let through")
	}
	if !b.take(1, now+100*time.Millisecond) || b.take(1, now+100*time.Millisecond) {
		t.Error("want exactly one more after a tenth of a second")
	}
}

func TestSuspicion(t *testing.T) {
	s := time.Second
	var p suspicion
	look := func(now time.Duration, unacked bool, lastAck time.Duration) bool {
		p.observe(now, unacked, lastAck)
		return p.dead(now, 6*s)
	}
	if look(100*s, true, 600*s) {
		t.Error("dead at the first look after a long silence")
	}
	if look(104*s, true, 604*s) {
		t.Error("dead after four seconds")
	}
	if !look(106*s, true, 606*s) {
		t.Error("alive after six seconds without an acknowledgement")
	}
	if look(107*s, true, s/2) {
		t.Error("dead although an acknowledgement came since the last look")
	}
	if look(120*s, false, 13*s) || look(121*s, true, 14*s) {
		t.Error("dead although nothing was outstanding for a while")
	}
}
