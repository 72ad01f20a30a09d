package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// The codes in place of a protocol version (src/include/libpq/pqcomm.h).
const (
	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104
)

// maxStartup is PostgreSQL's own MAX_STARTUP_PACKET_LENGTH, in bytes, length word included.
const maxStartup = 10000

// maxCancel bounds a cancel request: length, code, pid and a key of up to 256 bytes (protocol 3.2).
const maxCancel = 12 + 256

// kind is what a client opened the conversation with.
type kind int

const (
	kindStartup   kind = iota // StartupMessage, protocol 3.x
	kindSSL                   // SSLRequest
	kindGSS                   // GSSENCRequest
	kindCancel                // CancelRequest
	kindDirectTLS             // a TLS ClientHello without SSLRequest (PostgreSQL 17's sslnegotiation=direct)
)

// opening is the first packet of a client, read whole; of direct TLS, its first byte.
type opening struct {
	kind kind
	raw  []byte
	// replication says that a StartupMessage asks for a replication connection.
	replication bool
	// key is the process id and secret of a CancelRequest.
	key string
}

// protocolError is what a client did that PostgreSQL's protocol does not allow. It is told to the
// client with its SQLSTATE.
type protocolError struct{ code, text, hint string }

func (e *protocolError) Error() string { return e.text }

func violation(format string, args ...any) error {
	return &protocolError{code: "08P01", text: fmt.Sprintf(format, args...)}
}

// readOpening reads one first packet, and not a byte beyond it. The reader bounds the time. first
// says that nothing came before on this connection; direct TLS may only come then. Errors are a
// *protocolError or the reader's.
func readOpening(r io.Reader, first bool) (opening, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return opening{}, fmt.Errorf("read the first byte: %w", err)
	}
	if head[0] == 0x16 && first {
		return opening{kind: kindDirectTLS, raw: []byte{head[0]}}, nil
	}
	if _, err := io.ReadFull(r, head[1:4]); err != nil {
		return opening{}, fmt.Errorf("read the length of the startup packet: %w", err)
	}
	length := binary.BigEndian.Uint32(head[:4])
	if length < 8 || length > maxStartup {
		e := &protocolError{code: "08P01", text: fmt.Sprintf("invalid length of startup packet: %d, want 8 to %d", int32(length), maxStartup)}
		if printable(head[:4]) {
			e.hint = fmt.Sprintf("This port speaks the PostgreSQL protocol; what arrived begins with %q.", head[:4])
		}
		return opening{}, e
	}
	if _, err := io.ReadFull(r, head[4:]); err != nil {
		return opening{}, fmt.Errorf("read the protocol version: %w", err)
	}
	o := opening{}
	code := binary.BigEndian.Uint32(head[4:])
	switch {
	case code == codeSSL && length == 8:
		o.kind = kindSSL
	case code == codeGSS && length == 8:
		o.kind = kindGSS
	case code == codeCancel && length >= 16 && length <= maxCancel:
		o.kind = kindCancel
	case code == codeSSL, code == codeGSS, code == codeCancel:
		return opening{}, violation("invalid length of request packet: %d", length)
	case code>>16 == 3:
		o.kind = kindStartup
	default:
		return opening{}, &protocolError{code: "0A000",
			text: fmt.Sprintf("unsupported frontend protocol %d.%d: server supports 3.0 to 3.2", code>>16, code&0xffff)}
	}
	o.raw = make([]byte, length)
	copy(o.raw, head[:])
	if _, err := io.ReadFull(r, o.raw[8:]); err != nil {
		return opening{}, fmt.Errorf("read the startup packet: %w", err)
	}
	switch o.kind {
	case kindCancel:
		o.key = string(o.raw[8:])
	case kindStartup:
		if err := o.parameters(); err != nil {
			return opening{}, err
		}
	}
	return o, nil
}

// parameters checks the shape of a StartupMessage and looks for replication, whose values are those
// of a boolean or "database" (src/backend/tcop/backend_startup.c). A value that is neither is left
// to PostgreSQL, which refuses it.
func (o *opening) parameters() error {
	rest := o.raw[8:]
	for {
		name, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return violation("invalid startup packet layout: expected terminator as last byte")
		}
		if len(name) == 0 {
			if len(after) != 0 {
				return violation("invalid startup packet layout: expected terminator as last byte")
			}
			return nil
		}
		value, after, ok := bytes.Cut(after, []byte{0})
		if !ok {
			return violation("invalid startup packet layout: parameter %q has no value", cut(name))
		}
		if string(name) == "replication" {
			o.replication = !falseWord(string(bytes.ToLower(value)))
		}
		rest = after
	}
}

// falseWord says whether s is one of the words that PostgreSQL's parse_bool reads as false.
func falseWord(s string) bool {
	switch s {
	case "0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off":
		return true
	}
	return false
}

func cut(b []byte) []byte { return b[:min(len(b), 63)] }

func printable(b []byte) bool {
	for _, c := range b {
		if (c < 0x20 || c > 0x7e) && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

// errorResponse is an ErrorResponse of severity FATAL.
func errorResponse(code, text, hint string) []byte {
	b := []byte{'E', 0, 0, 0, 0}
	field := func(t byte, s string) {
		if s != "" {
			b = append(append(append(b, t), bytes.ReplaceAll([]byte(s), []byte{0}, nil)...), 0)
		}
	}
	field('S', "FATAL")
	field('V', "FATAL")
	field('C', code)
	field('M', text)
	field('H', hint)
	b = append(b, 0)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	return b
}
