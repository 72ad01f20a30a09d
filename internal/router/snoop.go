package router

import "encoding/binary"

// maxKeyData bounds the body of BackendKeyData: pid and a secret of up to 256 bytes.
const maxKeyData = 4 + 256

// snoop follows the messages that a backend sends until its first ReadyForQuery, to learn the key
// that a cancel request will carry and whether the server is a standby. It keeps at most one small message; everything else is skipped
// by its length. Once done it looks at nothing any more.
type snoop struct {
	head [5]byte
	n    int    // bytes of head that are there
	skip uint32 // bytes of the present message's body still to come
	body []byte // of BackendKeyData, and of a ParameterStatus that may be the wanted one
	keep bool

	kind byte   // of the message whose body is kept
	key  string // pid and secret, "" until known
	done bool   // ReadyForQuery was seen, or something that is not the protocol
	// standby says that the server told that it is one. saidAt is where that message begins in what was
	// fed when it became known; below 0, before that.
	standby bool
	saidAt  int
	from    int // the same of the present message
	// ready says that done came by ReadyForQuery: the client has logged in.
	ready bool
}

// write feeds the next bytes in their order.
func (s *snoop) write(b []byte) {
	all := len(b)
	s.from = -1
	for len(b) > 0 && !s.done {
		if s.skip > 0 {
			n := min(s.skip, uint32(len(b)))
			if s.keep {
				s.body = append(s.body, b[:n]...)
			}
			b, s.skip = b[n:], s.skip-n
			if s.skip == 0 {
				s.end()
			}
			continue
		}
		if s.n == 0 {
			s.from = all - len(b)
		}
		n := copy(s.head[s.n:], b)
		b, s.n = b[n:], s.n+n
		if s.n < len(s.head) {
			continue
		}
		s.n = 0
		length := binary.BigEndian.Uint32(s.head[1:])
		switch {
		case length < 4 || length > 1<<30:
			s.done = true
			return
		case s.head[0] == 'Z':
			s.done, s.ready = true, true
			return
		}
		s.skip = length - 4
		s.kind = s.head[0]
		s.keep = s.kind == 'K' && s.skip >= 8 && s.skip <= maxKeyData || s.kind == 'S' && int(s.skip) == len(readOnly)
		if s.skip == 0 {
			s.end()
		}
	}
}

func (s *snoop) end() {
	if !s.keep {
		return
	}
	if s.kind == 'K' {
		s.key = string(s.body)
	} else {
		if isReadOnly(s.body) {
			s.standby, s.saidAt = true, s.from
		}
	}
	s.body, s.keep = nil, false
}
