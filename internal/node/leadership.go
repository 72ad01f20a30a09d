package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/lease"
)

// Guardian is the fence as leadership uses it; package guardian has the real one.
type Guardian interface {
	Arm(deadline time.Duration, ladder lease.Ladder) (generation int64, err error)
	WaitAck(ctx context.Context, generation int64) error
	// Extend moves the deadline forward; false when it is too late.
	Extend(deadline time.Duration) bool
	Disarm() error
	// Deadline is the one in force, 0 for none.
	Deadline() time.Duration
	Fenced() (at time.Duration, ok bool)
	// Fencing says that a deadline has passed, whether or not the work is done (then Fenced is true too).
	Fencing() bool
	Alive(now time.Duration) bool
}

// The errors of leadership.
var (
	// ErrNotHeld: the operation needs the lock and this node does not hold it (any more).
	ErrNotHeld = errors.New("the lock is not held")
	// ErrConflict: something that the operation rested on has changed meanwhile.
	ErrConflict = errors.New("the store has changed meanwhile")
	// ErrNotVouched: the lease is not renewed because nobody vouches for the database.
	ErrNotVouched = errors.New("the database is not vouched for")
)

// noFence is the deadline of a lock whose fence is put down.
const noFence = time.Duration(math.MaxInt64)

// ackWithin bounds the guardian's answer to being armed.
const ackWithin = time.Second

// Leadership is this node's hold on the lock: it takes, renews, changes and gives back the lock,
// and moves the guardian's deadline along.
//
// Every write of the lock is a compare-and-swap on the revision that this node wrote last, and every
// confirmed write counts as a renewal from the instant *before* it was sent. An unknown outcome is a
// failure: the deadline stays where it is. Renew belongs to a goroutine of its own with a store
// connection of its own; the other methods are called from the node's tick. One store operation runs
// at a time, each bounded by lease.RenewTimeout.
type Leadership struct {
	store    dcs.Store
	guard    Guardian
	now      func() time.Duration
	name     string
	instance func() string

	op chan struct{} // holds one token: the right to talk to the store

	unsure int // tries in a row to take the lock whose outcome is unknown; of the tick alone

	mu        sync.Mutex
	taken     chan struct{} // closed and renewed when the lock is taken or resumed
	held      bool
	everHeld  bool
	lock      cluster.Lock
	rev       int64
	ttl       time.Duration
	fenceAt   time.Duration
	ladder    time.Duration // the lease duration that the guardian's ladder was made for
	vouched   time.Duration
	lost      string
	status    []byte // to be written with the next renewal
	sentSt    string
	failsafe  bool
	confirmed time.Duration // t0 of the last confirmed renewal
	lastErr   error
}

// NewLeadership makes the hold; it holds nothing yet.
func NewLeadership(store dcs.Store, guard Guardian, now func() time.Duration, name string, instance func() string) *Leadership {
	l := &Leadership{store: store, guard: guard, now: now, name: name, instance: instance, op: make(chan struct{}, 1), taken: make(chan struct{})}
	l.op <- struct{}{}
	return l
}

// Lease is the hold as decisions see it. view is the lock as the store last showed it.
func (l *Leadership) Lease(v cluster.View) ha.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	now := l.now()
	// While it is ending PostgreSQL it cannot be armed: a lock that is taken now would be lost at once.
	_, done := l.guard.Fenced()
	ready := l.guard.Alive(now) && (done || !l.guard.Fencing())
	out := ha.Lease{Held: l.held, Epoch: l.lock.Epoch, Ready: l.lock.Ready, FenceAt: l.fenceAt, Lost: l.lost, GuardianAlive: ready}
	if !l.held {
		out.Epoch, out.Ready = 0, false
		out.FenceAt = l.guard.Deadline()
		ours := v.Lock.Node == l.name && v.Lock.Instance != "" && v.Lock.Instance == l.instance()
		out.Resumable = !l.everHeld && ours && (l.guard.Deadline() > now || v.Lock.Paused)
	}
	return out
}

// Held says whether the lock is held now, and until when its answers are true.
func (l *Leadership) Held() (until time.Duration, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	return l.fenceAt, l.held
}

// TTL is the lease duration of the hold.
func (l *Leadership) TTL() time.Duration { l.mu.Lock(); defer l.mu.Unlock(); return l.ttl }

// Lock is the lock as this node wrote it last.
func (l *Leadership) Lock() cluster.Lock { l.mu.Lock(); defer l.mu.Unlock(); return l.lock }

// Failsafe says whether the lease lives on the promises of the members, not on the store.
func (l *Leadership) Failsafe() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.held && l.failsafe }

// Confirmed is the instant at which the last renewal that the store confirmed was sent.
func (l *Leadership) Confirmed() time.Duration { l.mu.Lock(); defer l.mu.Unlock(); return l.confirmed }

// expire ends the hold when the deadline has passed. The guardian acts on the same deadline by
// itself. mu is held.
func (l *Leadership) expire() {
	if !l.held || l.now() < l.fenceAt {
		return
	}
	why := "the lease was not renewed in time"
	if l.lastErr != nil {
		why = fmt.Sprintf("the lease was not renewed in time (%v)", l.lastErr)
	}
	l.drop(why)
}

// hold begins a hold. mu is held.
func (l *Leadership) hold() {
	l.held, l.everHeld, l.lost = true, true, ""
	close(l.taken)
	l.taken = make(chan struct{})
}

// Taken is closed when the lock is taken or resumed the next time.
func (l *Leadership) Taken() <-chan struct{} { l.mu.Lock(); defer l.mu.Unlock(); return l.taken }

// drop ends the hold. mu is held.
func (l *Leadership) drop(why string) {
	l.held, l.lost, l.failsafe = false, why, false
}

// Vouch lets renewals go on until the instant until.
func (l *Leadership) Vouch(until time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.vouched = max(l.vouched, until)
}

// Unvouch stops renewals at once.
func (l *Leadership) Unvouch() { l.mu.Lock(); defer l.mu.Unlock(); l.vouched = 0 }

// SetTTL changes the lease duration from the next renewal on.
func (l *Leadership) SetTTL(ttl time.Duration) { l.mu.Lock(); defer l.mu.Unlock(); l.ttl = ttl }

// SetStatus hands over the value of /status to be written with the next renewal.
func (l *Leadership) SetStatus(s cluster.Status) {
	b, err := json.Marshal(s)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if string(b) != l.sentSt {
		l.status = b
	}
}

func (l *Leadership) acquireOp(ctx context.Context) error { return receive(ctx, l.op) }

func (l *Leadership) releaseOp() { l.op <- struct{}{} }

// firstTake bounds the first try to take a lock.
const firstTake = 400 * time.Millisecond

// takeWithin bounds a try to take the lock. A store that elects its leader may have swallowed the
// first one, and somebody else may lead meanwhile: to look again soon is better than to wait. From try
// to try it gets longer, so that a slow store is enough in the end.
func (l *Leadership) takeWithin(ttl time.Duration) time.Duration {
	return min(firstTake<<min(l.unsure, 8), max(lease.RenewTimeout(ttl), firstTake))
}

// Take takes the lock. before is /status as the decision saw it; what it says of a clean shutdown is
// taken back in the same transaction.
func (l *Leadership) Take(ctx context.Context, e ha.TakeLock, initializeRev int64, before cluster.Status, ttl time.Duration, leaderLease dcs.LeaseID) error {
	ctx, cancel := within(ctx, l.takeWithin(ttl))
	defer cancel()
	if err := l.acquireOp(ctx); err != nil {
		return fmt.Errorf("take the lock: %w", err)
	}
	defer l.releaseOp()
	lock := cluster.Lock{Node: l.name, Instance: l.instance(), Epoch: e.Epoch, Seq: 1, Timeline: e.Timeline, TTL: ttl.Milliseconds()}
	value, err := json.Marshal(lock)
	if err != nil {
		return err
	}
	t := dcs.Txn{
		If: []dcs.Cond{{Key: dcs.KeyLock, ModRev: e.LockRev}, {Key: dcs.KeySync, ModRev: e.SyncRev}},
		Then: []dcs.Op{{Key: dcs.KeyLock, Value: value},
			{Key: dcs.KeyLeader, Value: []byte(l.name), Lease: leaderLease}},
	}
	if e.Bootstrap {
		t.If = append(t.If, dcs.Cond{Key: dcs.KeyInitialize, ModRev: initializeRev})
		if initializeRev == 0 {
			t.Then = append(t.Then, dcs.Op{Key: dcs.KeyInitialize})
		}
	}
	if before.Shutdown {
		// From here on more may be written than the former leader's last position says.
		before.Shutdown = false
		st, err := json.Marshal(before)
		if err != nil {
			return err
		}
		t.Then = append(t.Then, dcs.Op{Key: dcs.KeyStatus, Value: st})
	}
	t0 := l.now()
	res, err := l.store.Commit(ctx, t)
	if err != nil {
		l.unsure++
		return fmt.Errorf("take the lock for epoch %d: %w", e.Epoch, err)
	}
	l.unsure = 0
	if !res.Succeeded {
		return fmt.Errorf("take the lock for epoch %d: %w", e.Epoch, ErrConflict)
	}
	l.mu.Lock()
	l.hold()
	l.failsafe, l.lastErr = false, nil
	l.lock, l.rev, l.ttl, l.ladder = lock, res.Revision, ttl, ttl
	l.fenceAt, l.vouched, l.confirmed = lease.FenceAt(t0, ttl), t0+ttl, t0
	l.sentSt, l.status = "", nil
	l.mu.Unlock()
	return l.arm(ctx, lease.FenceAt(t0, ttl), ttl)
}

// arm puts the fence in force before anything may be acknowledged, and gives up the hold when the
// guardian does not confirm.
func (l *Leadership) arm(ctx context.Context, deadline, ttl time.Duration) error {
	gen, err := l.guard.Arm(deadline, lease.LadderFor(ttl))
	if err == nil {
		// Under a deadline of its own: that of the store may be used up by now.
		ctx, cancel := within(context.WithoutCancel(ctx), ackWithin)
		defer cancel()
		err = l.guard.WaitAck(ctx, gen)
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drop(fmt.Sprintf("the guardian could not be armed (%v)", err))
		return fmt.Errorf("arm the guardian: %w", err)
	}
	return nil
}

// Resume goes on with a lock that the store shows as ours, from before this process started, under
// the deadline that the guardian still keeps.
func (l *Leadership) Resume(ctx context.Context, v cluster.View) error {
	l.mu.Lock()
	deadline := l.guard.Deadline()
	now := l.now()
	ours := v.Lock.Node == l.name && v.Lock.Instance == l.instance()
	if l.everHeld || !ours || !(deadline > now || v.Lock.Paused) {
		l.mu.Unlock()
		return fmt.Errorf("resume the lock: %w", ErrNotHeld)
	}
	l.hold()
	l.lock, l.rev, l.ttl = v.Lock, v.LockRev, time.Duration(v.Lock.TTL)*time.Millisecond
	l.fenceAt, l.vouched = deadline, now+l.ttl
	l.ladder = noFence // not known
	if v.Lock.Paused && deadline == 0 {
		l.fenceAt = noFence
	}
	l.mu.Unlock()
	return l.Renew(ctx)
}

// Renew confirms the lease once. It is the whole duty of the keeper's goroutine.
func (l *Leadership) Renew(ctx context.Context) error {
	l.mu.Lock()
	l.expire()
	held, vouched, status := l.held, l.vouched, l.status
	l.mu.Unlock()
	switch {
	case !held:
		return nil
	case l.now() > vouched:
		l.mu.Lock()
		l.lastErr = ErrNotVouched
		l.mu.Unlock()
		return fmt.Errorf("renew the lease: %w", ErrNotVouched)
	}
	var ops []dcs.Op
	if status != nil {
		ops = append(ops, dcs.Op{Key: dcs.KeyStatus, Value: status})
	}
	err := l.Write(ctx, nil, nil, ops...)
	if err == nil && status != nil {
		l.mu.Lock()
		l.sentSt = string(status)
		if string(l.status) == string(status) {
			l.status = nil
		}
		l.mu.Unlock()
	}
	return err
}

// Write changes the lock and other keys in one transaction under the lock, which also renews the
// lease. change may be nil. ErrConflict when one of ifs does not hold; ErrNotHeld when the lock is
// lost; anything else is an unknown outcome.
func (l *Leadership) Write(ctx context.Context, change func(*cluster.Lock), ifs []dcs.Cond, ops ...dcs.Op) error {
	if err := l.acquireOp(ctx); err != nil {
		return fmt.Errorf("write under the lock: %w", err)
	}
	defer l.releaseOp()
	return l.write(ctx, change, ifs, ops)
}

// write is Write for a caller that has the right to talk to the store.
func (l *Leadership) write(ctx context.Context, change func(*cluster.Lock), ifs []dcs.Cond, ops []dcs.Op) error {
	// A lost reply leaves the store one write ahead of us: the first try then fails and shows our
	// own lock, and the second one compares with that.
	for try := 0; ; try++ {
		err := l.writeOnce(ctx, change, ifs, ops)
		if !errors.Is(err, errBehind) || try == 2 {
			return err
		}
	}
}

var errBehind = errors.New("the store holds a later write of this node")

func (l *Leadership) writeOnce(ctx context.Context, change func(*cluster.Lock), ifs []dcs.Cond, ops []dcs.Op) error {
	l.mu.Lock()
	l.expire()
	if !l.held {
		defer l.mu.Unlock()
		return fmt.Errorf("write under the lock: %w", ErrNotHeld)
	}
	t0 := l.now()
	next, rev, ttl := l.lock, l.rev, l.ttl
	before := l.fenceAt
	next.Seq++
	// A shorter lease is announced only once the fence in force is within it: whoever sees the lock
	// now waits no longer than it says.
	if ms := ttl.Milliseconds(); ms >= next.TTL || lease.FenceAt(t0, ttl) >= before {
		next.TTL = ms
	}
	announced := time.Duration(next.TTL) * time.Millisecond
	if announced < l.ladder && before < noFence {
		// The guardian's ladder has to end within the shorter lease before anybody counts on it.
		if _, err := l.guard.Arm(before, lease.LadderFor(announced)); err != nil {
			l.mu.Unlock()
			return fmt.Errorf("shorten the guardian's ladder: %w", err)
		}
		l.ladder = announced
	}
	l.mu.Unlock()
	if next.Instance == "" {
		next.Instance = l.instance() // a bootstrap takes the lock before there is a directory
	}
	if change != nil {
		change(&next)
	}
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx, lease.RenewTimeout(ttl))
	defer cancel()
	res, err := l.store.Commit(ctx, dcs.Txn{
		If:   append([]dcs.Cond{{Key: dcs.KeyLock, ModRev: rev}}, ifs...),
		Then: append([]dcs.Op{{Key: dcs.KeyLock, Value: value}}, ops...),
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.lastErr = err
		return fmt.Errorf("write under the lock, epoch %d: %w", next.Epoch, err)
	}
	if !res.Succeeded {
		return l.refused(res, rev)
	}
	l.lock, l.rev, l.lastErr, l.failsafe = next, res.Revision, nil, false
	return l.extend(t0, min(ttl, announced))
}

// refused sorts out why a compare-and-swap was refused. mu is held.
func (l *Leadership) refused(res dcs.Result, rev int64) error {
	found, ok := res.Found[dcs.KeyLock]
	if ok && found.ModRev == rev {
		return fmt.Errorf("write under the lock: %w", ErrConflict)
	}
	if ok {
		lock, err := cluster.ParseLock(found.Value)
		if err == nil && (lock.Epoch < l.lock.Epoch || lock.Epoch == l.lock.Epoch && lock.Seq < l.lock.Seq) {
			// It may still be ours by name, and must not be taken up again: the record of the
			// synchronous set is as old. Nobody can have taken it sooner than a lease after it came
			// back, so the deadline in force is early enough.
			l.lastErr = fmt.Errorf("%w: it shows epoch %d at write %d after epoch %d at write %d", dcs.ErrWentBack, lock.Epoch, lock.Seq, l.lock.Epoch, l.lock.Seq)
			return fmt.Errorf("write under the lock: %w", l.lastErr)
		}
		if err == nil && lock.Node == l.name && lock.Epoch == l.lock.Epoch &&
			(lock.Instance == l.lock.Instance || l.lock.Instance == "" && lock.Instance == l.instance()) {
			l.lock, l.rev = lock, found.ModRev
			return errBehind
		} else if err == nil {
			l.lose(fmt.Sprintf("the lock was taken by %s in epoch %d", orNobody(lock.Node), lock.Epoch))
			return fmt.Errorf("write under the lock: %w", ErrNotHeld)
		}
	}
	l.lose("the lock was removed or damaged in the store")
	return fmt.Errorf("write under the lock: %w", ErrNotHeld)
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

// lose ends the hold with certainty: somebody else may lead already, so the fence begins now. mu is
// held.
func (l *Leadership) lose(why string) {
	l.drop(why)
	// Arm replaces the deadline; where it fails the guardian is fencing already.
	_, _ = l.guard.Arm(l.now(), lease.Ladder{Immediate: 0, Kill: 200 * time.Millisecond})
}

// extend moves the deadline after a renewal for a lease of ttl that was sent at t0 and confirmed. It is
// the lease that was announced: SetTTL may have been called since. mu is held.
func (l *Leadership) extend(t0, ttl time.Duration) error {
	if l.lock.Paused {
		// Here and not in Pause: the write that paused may have lost its reply, or be of a process
		// that ended before it put the fence down.
		if err := l.guard.Disarm(); err != nil {
			l.drop("the guardian's deadline passed before the pause was confirmed")
			return fmt.Errorf("put the fence down: %w", err)
		}
		l.fenceAt, l.confirmed = noFence, t0
		return nil
	}
	at := lease.FenceAt(t0, ttl)
	if !l.guard.Extend(at) {
		l.drop("the guardian's deadline passed before the renewal was confirmed")
		return fmt.Errorf("renew the lease: %w", ErrNotHeld)
	}
	if l.fenceAt == noFence {
		l.fenceAt = at // a pause is over
	}
	l.fenceAt, l.confirmed = max(l.fenceAt, at), t0
	return nil
}

// Confirm counts the promises of all members, asked for from t0 on and given for a lease of ttl, as a
// renewal.
func (l *Leadership) Confirm(t0, ttl time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	if !l.held || l.lock.Paused || l.now() > l.vouched {
		return l.held && l.lock.Paused
	}
	at := lease.FenceAt(t0, ttl)
	if !l.guard.Extend(at) {
		l.drop("the guardian's deadline passed before the members' promises were complete")
		return false
	}
	l.fenceAt, l.failsafe = max(l.fenceAt, at), true
	return true
}

// Pause puts the fence down, or takes it up again.
func (l *Leadership) Pause(ctx context.Context, paused bool) error {
	// Held throughout: a renewal in between, of a lock that still says paused, would put the fence down
	// again that is just taken up.
	if err := l.acquireOp(ctx); err != nil {
		return fmt.Errorf("pause or resume the lock: %w", err)
	}
	defer l.releaseOp()
	if !paused {
		l.mu.Lock()
		ttl := l.ttl
		now := l.now()
		held := l.held
		l.mu.Unlock()
		if !held {
			return fmt.Errorf("end the pause: %w", ErrNotHeld)
		}
		// The fence first: nobody may take a lock that still says paused, so this is in time.
		if err := l.arm(ctx, lease.FenceAt(now, ttl), ttl); err != nil {
			return err
		}
		l.mu.Lock()
		l.fenceAt, l.ladder = lease.FenceAt(now, ttl), ttl
		l.mu.Unlock()
		return l.write(ctx, func(k *cluster.Lock) { k.Paused = false }, nil, nil)
	}
	return l.write(ctx, func(k *cluster.Lock) { k.Paused = true }, nil, nil)
}

// Release gives the lock back. The caller has made sure that PostgreSQL acknowledges nothing any
// more; from here on this node does not hold the lock whatever the store answers.
func (l *Leadership) Release(ctx context.Context, e ha.ReleaseLock, initializeRev int64) error {
	if err := l.acquireOp(ctx); err != nil {
		return fmt.Errorf("release the lock: %w", err)
	}
	defer l.releaseOp()
	l.mu.Lock()
	if !l.held {
		l.mu.Unlock()
		return nil
	}
	next, rev, ttl := l.lock, l.rev, l.ttl
	l.drop("")
	l.mu.Unlock()
	disarmed := l.guard.Disarm()

	next.Node, next.Instance, next.Ready, next.Paused, next.Successor = "", "", false, false, e.Successor
	next.Seq++
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	ops := []dcs.Op{{Key: dcs.KeyLock, Value: value}, {Key: dcs.KeyLeader, Delete: true}}
	ifs := []dcs.Cond{}
	if e.Shutdown {
		st, err := json.Marshal(cluster.Status{Optime: e.Optime, Timeline: e.Timeline, Shutdown: true})
		if err != nil {
			return err
		}
		ops = append(ops, dcs.Op{Key: dcs.KeyStatus, Value: st})
	}
	if e.Uninitialize && initializeRev != 0 {
		ops = append(ops, dcs.Op{Key: dcs.KeyInitialize, Delete: true})
		ifs = append(ifs, dcs.Cond{Key: dcs.KeyInitialize, ModRev: initializeRev})
	}
	for try := 0; try < 3; try++ {
		res, err := l.commitBounded(ctx, ttl, dcs.Txn{If: append([]dcs.Cond{{Key: dcs.KeyLock, ModRev: rev}}, ifs...), Then: ops})
		if err != nil {
			return fmt.Errorf("release the lock: %w", err)
		}
		if res.Succeeded {
			return disarmed
		}
		found, ok := res.Found[dcs.KeyLock]
		lock, perr := cluster.ParseLock(found.Value)
		if !ok || perr != nil || lock.Node != l.name || lock.Epoch != next.Epoch || found.ModRev == rev {
			return nil // somebody else has it: it is released all the same
		}
		rev = found.ModRev
	}
	return nil
}

func (l *Leadership) commitBounded(ctx context.Context, ttl time.Duration, t dcs.Txn) (dcs.Result, error) {
	ctx, cancel := within(ctx, lease.RenewTimeout(ttl))
	defer cancel()
	return l.store.Commit(ctx, t)
}
