package cluster

// View is everything that the store says about a cluster at one revision, decoded.
//
// A key that cannot be read is reported in Problems and leaves its field at the zero value, except
// the lock: LockBad then says so, because a lock that cannot be read must be taken by nobody.
type View struct {
	Revision int64

	Lock    Lock
	LockRev int64 // 0: the key does not exist
	LockBad bool

	Leader  string // the leader key; for people's tools, never for decisions
	Members map[string]Member

	Initialize    string // system identifier
	InitializeRev int64  // 0: the key does not exist

	Config    Dynamic
	ConfigRev int64
	// ConfigBad says that whether commits are to be synchronous cannot be read: the key of a cluster that
	// exists is gone, or is no document, or has an unusable synchronous_mode. Config then says off.
	ConfigBad bool

	Sync    SyncState
	SyncRev int64
	SyncBad bool // the key exists and cannot be read: nobody can tell who may lead

	Status    Status
	StatusBad bool // the key exists and cannot be read
	History   History

	Failover    *FailoverRequest
	FailoverRev int64

	Failsafe map[string]string // member name to REST URL

	Problems []string
}

// Member looks a member up; the second result is false when its key is absent.
func (v View) Member(name string) (Member, bool) {
	m, ok := v.Members[name]
	return m, ok
}
