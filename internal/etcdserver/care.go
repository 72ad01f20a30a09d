package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// pace is how the care loop proceeds; tests hurry it.
type pace struct {
	look       time.Duration // between two looks at alarms and sizes
	compact    time.Duration // between two compactions
	defrag     time.Duration // between two thoughts of defragmentation
	minRevs    int64         // revisions always kept
	maxRevs    int64         // revisions kept at most
	defragFrom int64         // bytes of the file below which defragmentation is not worth it
	defragMost int64         // bytes in use above which it would take longer than a renewal of the lock may
	turn       time.Duration // how long the turn to defragment outlives a member that dies in it
}

var defaultPace = pace{
	look: time.Second, compact: 30 * time.Second, defrag: time.Minute,
	// hathi's own keys with 5 minutes of renewals take 1 to 2 MiB. The file never shrinks by itself but
	// is used again, so it only passes 8 MiB after something unusual.
	minRevs: 1000, maxRevs: 10_000, defragFrom: 8 << 20,
	// Defragmentation copies what is in use, and the member answers nothing meanwhile. Measured
	// (BenchmarkDefragmentation, two loaded cores): 2 MiB 0.1 s, 8 MiB 0.2 s, 32 MiB 1.0 s. The shortest
	// lease, 3 s, gives a renewal 0.75 s. A database with more in use is defragmented only when it is
	// full, where every write is refused anyway.
	defragMost: 8 << 20,
	turn:       time.Minute,
}

const (
	// defragKey is the lock by which members defragment one at a time. It hangs on a lease.
	defragKey = "/hathi-etcd/defragmenting"
	// askTimeout bounds each request of the care loop.
	askTimeout = 10 * time.Second
	// alarmOfOthers is how long the leader leaves the alarm of another member to that member.
	alarmOfOthers = 15 * time.Second
	// stuckAfter is when a database that is still full after several defragmentations counts as full of
	// live data.
	stuckAfter = 5 * time.Second
)

// carer looks after one running member from one goroutine.
type carer struct {
	*Server
	etcd       *etcdserver.EtcdServer
	seen       []sample  // revisions of the past, oldest first
	compacted  int64     // the last compaction asked for
	compactAt  time.Time // when to compact next
	defragAt   time.Time // when to think of defragmentation next
	alarmSince time.Time // zero: no alarm
	alarmRev   int64     // the revision at the last look since then
	// spaceDefragAfter is the time since alarmSince at which to defragment next.
	spaceDefragAfter time.Duration
	stuckTold        bool // the operator was told that the data does not shrink
	halfTold         bool // and that half of the quota is in use
	diskTold         bool // and that the disk is nearly full
}

type sample struct {
	at  time.Time
	rev int64
}

// care runs until ctx ends. Nothing in it is urgent: what fails is tried again at the next turn.
func (s *Server) care(ctx context.Context) {
	select {
	case <-s.etcd.Server.ReadyNotify():
	case <-ctx.Done():
		return
	}
	c := &carer{Server: s, etcd: s.etcd.Server}
	tick := time.NewTicker(s.pace.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.etcd.StopNotify():
			return
		case now := <-tick.C:
			c.turn(ctx, now)
		}
	}
}

func (c *carer) turn(ctx context.Context, now time.Time) {
	if alarms := noSpace(c.etcd); len(alarms) > 0 {
		c.makeSpace(ctx, now, alarms)
		return
	}
	if !c.alarmSince.IsZero() {
		c.config.Logger.Info("etcd has space again", "bytes", c.etcd.Backend().Size(), "quota_bytes", c.config.QuotaBytes)
		c.alarmSince, c.stuckTold = time.Time{}, false
	}
	if now.After(c.compactAt) {
		c.warnDisk()
		c.compactAt = now.Add(c.pace.compact)
		c.remember(now)
		if target := c.target(now); target > c.compacted && c.leads() {
			c.compact(ctx, target)
		}
		c.warnEarly()
	}
	if now.After(c.defragAt) {
		c.defragAt = now.Add(c.pace.defrag)
		if c.worthDefrag() {
			c.defragInTurn(ctx)
		}
	}
}

func (c *carer) leads() bool { return c.etcd.Leader() == c.etcd.MemberID() }

// remember notes the present revision. Every member does, so a new leader knows the past.
func (c *carer) remember(now time.Time) {
	c.seen = append(c.seen, sample{now, c.etcd.KV().Rev()})
	for len(c.seen) > 1 && now.Sub(c.seen[1].at) >= c.config.CompactionRetention {
		c.seen = c.seen[1:]
	}
}

// target is the revision to compact at: what was current one retention ago, within the bounds of
// how many revisions are kept. 0 means nothing to do.
func (c *carer) target(now time.Time) int64 {
	rev := c.etcd.KV().Rev()
	var old int64
	if len(c.seen) > 0 && now.Sub(c.seen[0].at) >= c.config.CompactionRetention {
		old = c.seen[0].rev
	}
	return max(min(old, rev-c.pace.minRevs), rev-c.pace.maxRevs, 0)
}

func (c *carer) compact(ctx context.Context, rev int64) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	// Not "physical": waiting for the deletion itself would not end when the member stops.
	_, err := c.etcd.Compact(ctx, &pb.CompactionRequest{Revision: rev})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) { // by a leader before us
		c.config.Logger.Warn("etcd compaction not done", "revision", rev, "err", err)
		return
	}
	c.compacted = rev
}

// warnEarly tells once when live data takes half of the quota: that is not ours to throw away.
func (c *carer) warnEarly() {
	inUse := c.etcd.Backend().SizeInUse()
	if half := inUse > c.config.QuotaBytes/2; half != c.halfTold {
		c.halfTold = half
		if half {
			c.config.Logger.Warn("etcd uses more than half of its quota; when it is full, no lock can be renewed",
				"fullest", c.fullest(context.Background()), "bytes_in_use", inUse, "quota_bytes", c.config.QuotaBytes,
				"hint", "move keys that are not hathi's to an etcd of their own, or raise etcd.embedded.quota on every member")
		}
	}
}

func (c *carer) worthDefrag() bool {
	size, inUse := c.etcd.Backend().Size(), c.etcd.Backend().SizeInUse()
	return size > c.pace.defragFrom && inUse < size/2 && inUse <= c.pace.defragMost
}

// defragInTurn defragments if no other member does. The member answers nothing meanwhile, so a
// leader hands over first, and puts it off when nobody can take over: nothing presses.
func (c *carer) defragInTurn(ctx context.Context) {
	release, ok, err := c.lockDefrag(ctx)
	if err != nil {
		c.config.Logger.Warn("etcd defragmentation put off: its lock could not be taken", "err", err)
	}
	if !ok {
		return
	}
	defer release()
	if c.leads() && c.voters() > 1 {
		err := c.etcd.TryTransferLeadershipOnShutdown()
		if err != nil || c.leads() {
			c.config.Logger.Warn("etcd defragmentation put off: the leadership could not be handed over first", "err", err)
			return
		}
	}
	c.defrag()
}

func (c *carer) voters() int {
	n := 0
	for _, m := range c.etcd.Cluster().Members() {
		if !m.IsLearner {
			n++
		}
	}
	return n
}

func (c *carer) defrag() {
	before, led, began := c.etcd.Backend().Size(), c.leads() && c.voters() > 1, time.Now()
	if err := c.etcd.Defragment(); err != nil {
		c.config.Logger.Warn("etcd defragmentation did not work", "err", err)
		return
	}
	c.config.Logger.Info("etcd defragmented", "bytes_before", before, "bytes_after", c.etcd.Backend().Size(), "took", time.Since(began), "led_others", led)
}

// lockDefrag takes the lock; not ok without an error means that another member has it.
func (c *carer) lockDefrag(ctx context.Context) (release func(), ok bool, err error) {
	actx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	grant, err := c.etcd.LeaseGrant(actx, &pb.LeaseGrantRequest{ID: int64(lease.NoLease), TTL: int64(max(c.pace.turn, time.Second) / time.Second)})
	if err != nil {
		return nil, false, fmt.Errorf("grant a lease: %w", err)
	}
	release = func() {
		// Also after ctx ended: otherwise the others wait for the lease to expire.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		_, _ = c.etcd.LeaseRevoke(rctx, &pb.LeaseRevokeRequest{ID: grant.ID})
	}
	key := []byte(defragKey)
	resp, err := c.etcd.Txn(actx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: 0}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte(c.config.Name), Lease: grant.ID}}}},
	})
	if err != nil || !resp.Succeeded {
		release()
		if err != nil {
			err = fmt.Errorf("take the lock: %w", err)
		}
		return nil, false, err
	}
	return release, true, nil
}

// noSpace are the members that raised the alarm of a full database. While there is one, etcd
// refuses every put of every client.
func noSpace(e *etcdserver.EtcdServer) map[uint64]bool {
	found := map[uint64]bool{}
	for _, a := range e.Alarms() {
		if a.Alarm == pb.AlarmType_NOSPACE {
			found[a.MemberID] = true
		}
	}
	return found
}

// makeSpace is one turn of the way out of a full database: the leader compacts, every member
// defragments at once (nobody can write anyway, and waiting for turns would outlast a lease of
// the lock), and each takes its own alarm back when it has room.
func (c *carer) makeSpace(ctx context.Context, now time.Time, alarms map[uint64]bool) {
	backend := c.etcd.Backend()
	if c.alarmSince.IsZero() {
		c.alarmSince, c.spaceDefragAfter = now, 300*time.Millisecond
		c.config.Logger.Error("etcd is full and refuses writes; compacting and defragmenting",
			"bytes", backend.Size(), "bytes_in_use", backend.SizeInUse(), "quota_bytes", c.config.QuotaBytes)
	}
	rev := c.etcd.KV().Rev()
	if c.leads() && rev > c.compacted {
		c.compact(ctx, rev)
	}
	if rev != c.alarmRev {
		// Something was deleted (only that is possible now): defragmentation may help again.
		c.alarmRev = rev
		c.spaceDefragAfter = min(c.spaceDefragAfter, now.Sub(c.alarmSince)+300*time.Millisecond)
	}
	enough := c.config.QuotaBytes * 9 / 10
	// What compaction freed shows in the size in use only after later writes, which do not come now.
	// So defragment on suspicion, soon after the leader compacted, and ever more seldom if that did
	// not help.
	if backend.Size() >= enough && now.Sub(c.alarmSince) >= c.spaceDefragAfter {
		c.spaceDefragAfter = min(2*c.spaceDefragAfter, now.Sub(c.alarmSince)+time.Minute)
		c.defrag()
	}
	if backend.Size() >= enough {
		if waited := now.Sub(c.alarmSince); waited > stuckAfter && !c.stuckTold {
			c.stuckTold = true
			c.config.Logger.Error("etcd stays full: live keys take nearly the whole quota, so nothing more can be freed, and the lock of every cluster in it cannot be renewed",
				"fullest", c.fullest(ctx), "bytes_in_use", backend.SizeInUse(), "quota_bytes", c.config.QuotaBytes,
				"hint", "delete the keys that do not belong here (etcdctl del --prefix PREFIX; deleting works now) or move them to an etcd of their own; "+
					"or raise etcd.embedded.quota on every member and restart them one by one; the rest happens by itself")
		}
		return
	}
	own := uint64(c.etcd.MemberID())
	for id := range alarms {
		// A member that is down cannot take its alarm back, and must not stop the others.
		if id != own && !(c.leads() && now.Sub(c.alarmSince) > alarmOfOthers) {
			continue
		}
		actx, cancel := context.WithTimeout(ctx, askTimeout)
		_, err := c.etcd.Alarm(actx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
		cancel()
		if err != nil {
			c.config.Logger.Warn("etcd alarm not taken back", "member", fmt.Sprintf("%x", id), "err", err)
		}
	}
}
