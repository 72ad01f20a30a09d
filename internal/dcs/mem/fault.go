package mem

import "errors"

// The operations that a fault hook is asked about.
const (
	OpLoad      = "load"
	OpCommit    = "commit"
	OpWatch     = "watch"   // the beginning of a watch
	OpDeliver   = "deliver" // an update about to be put into a running watch
	OpGrant     = "grant"
	OpKeepAlive = "keepalive"
	OpRevoke    = "revoke"
)

// Fault is how one request fares.
type Fault int

const (
	// FaultNone: it is carried out and answered.
	FaultNone Fault = iota
	// FaultUnavailable: dcs.ErrUnavailable, and nothing happens.
	FaultUnavailable
	// FaultLost: it is carried out and the answer is lost; the caller gets ErrInjected.
	FaultLost
	// FaultDropped: nothing happens and the caller gets ErrInjected.
	FaultDropped
	// FaultHang: nothing happens and the caller waits until its context ends or the client closes.
	FaultHang
	// FaultDelayed: the caller gets ErrInjected at once, and the request is put aside and carried
	// out at Server.Flush. A Load that is delayed is dropped.
	FaultDelayed
)

// For OpWatch, FaultHang makes a watch that never delivers anything until its context ends, and
// every other fault one that ends at once. For OpDeliver, FaultHang silences the watch until its
// context ends, and every other fault ends it.

// ErrInjected is the error with an unknown outcome that a fault gives.
var ErrInjected = errors.New("injected fault: the outcome is unknown")
