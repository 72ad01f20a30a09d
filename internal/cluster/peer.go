package cluster

// PeerStatus is what a node answers to a probe of its peer endpoint, live, not from its last tick.
// An election compares these.
type PeerStatus struct {
	Name     string `json:"name"`
	Instance string `json:"instance"`
	Scope    string `json:"scope"`
	SystemID string `json:"system_id,omitempty"`
	State    State  `json:"state"`
	// InRecovery is true on a standby. A primary answers false.
	InRecovery bool `json:"in_recovery"`
	// Running says that PostgreSQL answered SQL within the last second or so.
	Running bool `json:"running"`
	// Timeline is the timeline of the received WAL on a standby.
	Timeline uint32 `json:"timeline"`
	// LSN is the end of WAL that is safely on the node's disk: the larger of received-and-flushed
	// and replayed on a standby, flushed on a primary. 0 when it is not known: a standby that was started
	// again has to replay what is on its disk first.
	LSN LSN `json:"lsn"`
	// Replayed is the replayed position on a standby.
	Replayed LSN `json:"replayed,omitempty"`
	// OldestLSN is where the oldest WAL segment on the node's disk begins.
	OldestLSN LSN `json:"oldest_lsn,omitempty"`
	// Epoch and Seq are what the node last saw of the lock.
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"`
	// HoldsLock says the node believes to hold the lock now, within its lease.
	HoldsLock bool `json:"holds_lock"`
	// Revoked is the revision of the lock at which the node has stopped receiving from its holder and
	// promised not to begin again.
	Revoked int64 `json:"revoked,omitempty"`
	Tags    Tags  `json:"tags,omitempty"`
	// Eligible is false, with Why, when the node would refuse to lead now.
	Eligible bool   `json:"eligible"`
	Why      string `json:"why,omitempty"`
	// CrashLoop says that nothing but repeated unasked ends of its PostgreSQL speaks against it: it does
	// not lead by itself, and leads when it is asked to.
	CrashLoop bool `json:"crash_loop,omitempty"`
}

// MayBeAsked says whether an operator's switchover may go to it.
func (p PeerStatus) MayBeAsked() bool { return p.Eligible || p.CrashLoop }
