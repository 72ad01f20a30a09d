package cluster

import (
	"encoding/json"
	"fmt"
)

// Lock is the value of the key "lock": who may acknowledge writes, and in which epoch.
//
// It is not an etcd lease. The holder renews it by raising Seq with a compare-and-swap on the key's
// revision; an observer may take it over only after it has seen, on its own monotonic clock, no
// change for the whole lease duration (package lease has the arithmetic).
type Lock struct {
	// Node is the member that holds the lock. Empty when it was released.
	Node string `json:"node"`
	// Instance is the identity of the holder: a UUID made once and kept beside its data directory (other
	// data put into the directory by hand is not told apart), so that two
	// processes that were given the same name by mistake can never both resume the lock.
	Instance string `json:"instance,omitempty"`
	// Epoch grows by one at each take-over and never falls. The first holder has 1.
	Epoch uint64 `json:"epoch"`
	// Seq grows by one at each renewal within an epoch.
	Seq uint64 `json:"seq"`
	// Timeline is the highest timeline on which a commit may have been acknowledged. A holder
	// raises it before it promotes; a node whose history does not contain it must not lead.
	Timeline uint32 `json:"timeline,omitempty"`
	// TTL is the lease duration in milliseconds that the holder promised to live by. An observer
	// waits for the longer of this and its own configuration.
	TTL int64 `json:"ttl_ms"`
	// Paused says that the holder has put down its fence for the time of a pause. Nobody may take
	// such a lock by waiting; only the holder itself, or an operator with force.
	Paused bool `json:"paused,omitempty"`
	// Successor is set on release: the member that the former holder found caught up, which may
	// take the lock at once and which others leave a short head start.
	Successor string `json:"successor,omitempty"`
	// Ready is set by the holder, in a renewal, once its PostgreSQL accepts writes in this epoch
	// (promotion and recovery have ended), and cleared while it does not. A router sends nothing to
	// a holder that is not ready; elections do not look at it.
	Ready bool `json:"ready,omitempty"`
}

// Held says whether somebody holds the lock, by its value alone: it may have expired since.
func (l Lock) Held() bool { return l.Node != "" }

// Clean says whether the lock was given back by a holder that had stopped acknowledging.
func (l Lock) Clean() bool { return l.Node == "" && l.Epoch > 0 }

// ParseLock reads the value of the key. Junk is an error: a lock that cannot be read is a lock
// that nobody may take (its revision can still be watched and, by an operator, be replaced).
func ParseLock(b []byte) (Lock, error) {
	var l Lock
	if err := json.Unmarshal(b, &l); err != nil {
		return Lock{}, fmt.Errorf("parse lock: %w", err)
	}
	if l.Epoch == 0 || l.Epoch > 1<<62 {
		return Lock{}, fmt.Errorf("parse lock: epoch %d is outside 1..2^62", l.Epoch)
	}
	if l.TTL < 0 || l.TTL > 3600_000 {
		return Lock{}, fmt.Errorf("parse lock: ttl_ms %d is outside 0..3600000", l.TTL)
	}
	return l, nil
}
