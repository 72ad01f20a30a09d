package router

import (
	"errors"
	"fmt"
	"time"
)

// carrier sees a client that has said what it wants through to its end: it asks for a backend
// (Router.connect, which holds newcomers), and moves what the two say to each other.
//
// It is the seam for the protocol-aware form. relay, below, knows one backend for each session and
// looks at nothing after the login. A carrier that follows the messages (idle at each
// ReadyForQuery) can call connect again when the tenure of its backend ends, sign in there, replay
// the session's settings and go on; holding, tables, tenures and cancel keys stay as they are.
type carrier interface {
	carry(s *session)
}

// relay moves bytes and does not look into them, but for the opening, the answer to an encryption
// request, and in plaintext the backend's key.
type relay struct{ r *Router }

// carry negotiates until the StartupMessage or the beginning of encryption, then moves bytes.
func (c *relay) carry(s *session) {
	o := s.opening
	attached := false
	defer func() {
		if attached {
			c.finish(s)
		}
	}()
	asked := map[kind]bool{}
	for {
		if err := c.check(s, o, asked); err != nil {
			s.fail(err)
			return
		}
		asked[o.kind] = true
		var first []byte
		var err error
		if !attached {
			if first, err = c.r.connect(s, o); err != nil {
				c.deny(s, o, err)
				return
			}
			attached = true
		} else if first, err = c.forward(s, o); errors.As(err, new(errNotNow)) {
			// A server takes a StartupMessage without the encryption request that it denied before.
			c.letGo(s)
			attached = false
			if first, err = c.r.connect(s, o); err != nil {
				c.deny(s, o, err)
				return
			}
			attached = true
		} else if err != nil {
			return
		}
		_ = s.client.SetDeadline(time.Now().Add(c.r.cfg.LoginTimeout))
		if o.kind == kindStartup || o.kind == kindDirectTLS {
			s.encrypted.Store(o.kind == kindDirectTLS)
			s.move(first)
			return
		}
		// The answer to an encryption request is one byte: S or G, and TLS or GSS follows; N, and
		// the client may go on in the clear; anything else is the beginning of an error.
		if s.gate() != nil {
			return
		}
		if o.kind == kindSSL {
			c.r.backTLS.Store(first[0] == 'S')
		}
		switch first[0] {
		case 'S', 'G':
			if _, err := s.client.Write(first); err == nil {
				s.encrypted.Store(true)
				s.move(nil)
			}
			return
		case 'N':
			if _, err := s.client.Write(first); err != nil {
				return
			}
		default:
			s.move(first)
			return
		}
		_ = s.client.SetDeadline(time.Now().Add(c.r.cfg.HandshakeTimeout))
		if o, err = readOpening(s.client, false); err != nil {
			s.fail(err)
			return
		}
		if o.kind == kindCancel {
			c.r.cancelRequest(s, o.key)
			return
		}
	}
}

// check refuses what must not reach a backend.
func (c *relay) check(s *session, o opening, asked map[kind]bool) error {
	switch {
	case asked[o.kind]:
		return violation("the encryption request was repeated")
	case o.kind == kindStartup && o.replication && s.port == portRead:
		return &protocolError{"08P01", "replication connections are not routed on the read port",
			"Connect to the member itself, or to the write port for the primary."}
	}
	return nil
}

// deny tells a client why it gets no backend.
func (c *relay) deny(s *session, o opening, err error) {
	if p, ok := err.(*protocolError); ok {
		s.refuse(o, p.code, p.text, p.hint)
	} else {
		c.r.stats.refused.Add(1)
	}
	c.r.log.Debug("no backend for a client", "port", s.port.String(), "client", s.ip, "err", err)
}

// forward sends a further opening to the backend that s has, and reads the first byte of its answer.
func (c *relay) forward(s *session, o opening) ([]byte, error) {
	if err := s.gate(); err != nil {
		return nil, err
	}
	_ = s.backend.SetDeadline(time.Now().Add(c.r.cfg.Hold))
	first, err := c.r.ask(s.backend, s.target, o)
	if errors.As(err, new(errNotNow)) {
		return nil, err
	}
	if err != nil {
		s.tell("08006", fmt.Sprintf("%s (%s) closed the connection before the login: %v", s.target.backend.Name, s.target.backend.Addr, err), "Connect again.")
		return nil, err
	}
	_ = s.backend.SetDeadline(time.Time{})
	return first, nil
}

// letGo gives the backend back.
func (c *relay) letGo(s *session) {
	_ = s.backend.Close()
	c.r.sessions.detach(s)
	s.target.load.sessions.Add(-1)
}

// finish gives everything back.
func (c *relay) finish(s *session) {
	_ = s.client.Close()
	c.letGo(s)
	if p := s.cutWhy.Load(); p != nil {
		c.r.log.Debug("session cut", "port", s.port.String(), "client", s.ip, "backend", s.target.backend.Name, "err", *p)
	}
}
