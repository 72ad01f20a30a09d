// Package dcs is the contract between hathi and its distributed store, and the transactions that
// hathi runs on it.
//
// A Store is a small linearizable key-value store with transactions, a watch and leases. Two
// implementations exist: dcs/etcd, the real one, and dcs/mem, for tests and the simulator; one
// conformance suite (dcs/dcstest) runs against both.
//
// What the contract promises: a Txn happens at once or not at all; Load sees every Txn that was
// acknowledged before it began; a Watch delivers every change after its revision in order, or ends.
// What it does not promise: that an error means nothing happened. Only ErrUnavailable says that the
// request was surely not carried out; every other error leaves its outcome unknown.
package dcs

import (
	"context"
	"errors"
	"time"
)

// The errors of a Store. Everything else (a deadline included) has an unknown outcome.
var (
	// ErrUnavailable: the request surely did not happen (nothing was sent, or the store said so).
	ErrUnavailable = errors.New("store unavailable")
	// ErrLeaseGone: the lease named by the request does not exist (any more).
	ErrLeaseGone = errors.New("lease expired or revoked")
	// ErrWentBack: the store answered from before something that it had shown already. One member that
	// was frozen does so for a moment; a store that was restored from a copy, or founded anew, for good.
	// Such an answer is never used: the record of who may lead, and of who has which commits, would be
	// old. The outcome of a Commit with this error is unknown.
	ErrWentBack = errors.New("the store went back in time")
	// ErrFull: the store has no space and refuses writes. The outcome is unknown: the very write that
	// fills it is carried out.
	ErrFull = errors.New("the store is full and refuses writes")
	// ErrClosed: the store handle was closed.
	ErrClosed = errors.New("store closed")
)

// Entry is one key's value. ModRev is the revision of its last change, at least 1.
type Entry struct {
	Value  []byte
	ModRev int64
	Lease  LeaseID // 0 when the key hangs on none
}

// Snapshot is all keys of the scope at one revision. Keys are relative to the scope
// ("lock", "members/pg1").
type Snapshot struct {
	Revision int64
	Entries  map[string]Entry
}

// Txn is a set of conditions and the changes to make if all of them hold.
type Txn struct {
	If   []Cond
	Then []Op
}

// Cond holds when the key's last change was at revision ModRev; 0 means that it does not exist.
type Cond struct {
	Key    string
	ModRev int64
}

// Op puts or deletes one key. A key may appear once in a Txn.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	Lease  LeaseID // 0: not bound to a lease
}

// Result is the outcome of a Txn that the store answered.
type Result struct {
	// Succeeded says whether the conditions held and the changes were made.
	Succeeded bool
	// Revision of the store after the request; with Succeeded and at least one Op, the ModRev of
	// every key put.
	Revision int64
	// Found, when not Succeeded, are the present entries of the keys in If; a key that does not
	// exist is absent.
	Found map[string]Entry
}

// LeaseID names a lease: keys bound to it vanish when it expires or is revoked.
type LeaseID int64

// Update is a batch of changes delivered by a watch, all of one revision.
type Update struct {
	Revision int64
	Changes  []Change
	// Progress is set on an Update without changes: the watch is alive and complete up to Revision.
	Progress bool
	// Err, on the last Update before the channel is closed, says why the watch ended.
	Err error
}

// Change is one key's new entry, or its deletion.
type Change struct {
	Key     string
	Entry   Entry
	Deleted bool
}

// Store is one scope of the distributed store. It is safe for concurrent use.
type Store interface {
	// Load reads every key of the scope, linearizably.
	Load(ctx context.Context) (Snapshot, error)
	// Commit runs a transaction.
	Commit(ctx context.Context, t Txn) (Result, error)
	// Watch delivers the changes after revision after, in order, without gaps, until ctx ends, the
	// store is closed, or the watch cannot go on (compacted, connection lost, no sign of life);
	// then it delivers an Update with Err and closes the channel. The caller loads and watches anew.
	Watch(ctx context.Context, after int64) <-chan Update
	// Grant makes a lease that lives for ttl (rounded up to what the store can do) after each KeepAlive.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// KeepAlive renews a lease once. ErrLeaseGone when there is none.
	KeepAlive(ctx context.Context, id LeaseID) error
	// Revoke ends a lease and deletes its keys. A lease that is gone already is no error.
	Revoke(ctx context.Context, id LeaseID) error
	// Close ends every watch and request. It may be called twice.
	Close() error
}
