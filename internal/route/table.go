package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/lease"
)

// Input is all that a router knows. Instants are the router's own CLOCK_BOOTTIME.
type Input struct {
	Now time.Duration

	// Lock is the last lock that could be read; the zero value when the key does not exist.
	Lock cluster.Lock
	// LockErr says why the present value of the key could not be read; nil when it could.
	LockErr error
	// LockSeen is the instant at which the router saw the lock change for the last time (a lower
	// bound of it, never later). Zero: it has never seen it change, so nothing is confirmed.
	LockSeen time.Duration
	// ConfirmedUntil extends the confirmation beyond the lease when the holder itself, asked
	// directly, said that it holds the lock. Zero: it was not asked or did not say so.
	ConfirmedUntil time.Duration
	// HighestEpoch is the highest epoch the router has ever seen. A lock below it comes from a store
	// that went back in time.
	HighestEpoch uint64

	Members map[string]cluster.Member
	Status  cluster.Status

	// Failover is the request in the store, nil for none, first seen at FailoverSeen.
	Failover     *cluster.FailoverRequest
	FailoverSeen time.Duration

	// TTL is the cluster's lease duration, for a lock that does not state its own.
	TTL time.Duration
	// MaxLag is how far, in bytes of WAL, a replica may be behind the position that the leader
	// published last and still be given new read sessions. Negative: any distance.
	MaxLag int64
	// HoldMax is how long after FailoverSeen newcomers are held for a planned switchover. A request
	// that lies in the store for longer is not going on.
	HoldMax time.Duration
}

// Backend is one PostgreSQL to which sessions can go. Values are comparable.
type Backend struct {
	Name string `json:"name"`
	// Addr is host:port as the member publishes it in conn_url.
	Addr string `json:"addr"`
	// Epoch is the epoch of the lock under which the backend was put into the table.
	Epoch uint64       `json:"epoch"`
	Role  cluster.Role `json:"role"`
}

// Table says where newcomers go and which sessions may stay.
type Table struct {
	// Epoch and Holder are the lock's. Holder is empty when nobody holds it.
	Epoch  uint64
	Holder string
	// Confirmed says that the view of the lock is within the lease; it ends at Until.
	Confirmed bool
	// Until is the instant from which no byte may go to the holder unless the table was rebuilt.
	Until time.Duration
	// Recheck is an instant other than Until at which Build would answer differently with the same
	// facts; 0 for none.
	Recheck time.Duration

	// Write is the backend for writes, nil for none.
	Write *Backend
	// Hold tells the write port to let newcomers wait although Write may be set.
	Hold bool
	// Why is the sentence for the present state of Write and Hold.
	Why string

	// Read are the replicas to which new read sessions may go, by name.
	Read []Backend
	// ReadFallback says that no replica qualifies and reads go where writes go, under the same Hold.
	ReadFallback bool
	// ReadWhy is the sentence for Read and ReadFallback.
	ReadWhy string

	// Replicas are all members that publish themselves as replicas and do not hold the lock,
	// qualified for new sessions or not: read sessions that are on them already may stay.
	Replicas []Backend
}

// Lease is the duration by which the holder of l promised to live; ttl stands in for a lock that
// states none.
func Lease(l cluster.Lock, ttl time.Duration) time.Duration {
	switch {
	case l.TTL > 0:
		return time.Duration(l.TTL) * time.Millisecond
	case ttl > 0:
		return ttl
	}
	return lease.DefaultTTL
}

// Build makes the table.
func Build(in Input) Table {
	t := Table{Epoch: in.Lock.Epoch, Holder: in.Lock.Node}
	t.Until = confirmedUntil(in)
	t.Confirmed = in.Lock.Held() && in.Now < t.Until
	t.Write, t.Why = writeBackend(in, t)
	t.Hold = t.Write == nil
	if t.Write != nil {
		if why, until := switching(in); why != "" {
			t.Hold, t.Why, t.Recheck = true, why, until
		}
	}
	readPool(in, &t)
	return t
}

// KeepReplica says whether a session on replica b may go on: the member is still there, at the same
// address, and still a replica. That it lags too much for newcomers does not matter.
func (t Table) KeepReplica(b Backend) bool {
	return slices.ContainsFunc(t.Replicas, func(r Backend) bool { return r.Name == b.Name && r.Addr == b.Addr })
}

// KeepEpoch says whether sessions that were opened to member name in epoch may go on: it holds the
// lock in that very epoch. Whether the view of the lock is within the lease is asked apart (Until).
func (t Table) KeepEpoch(name string, epoch uint64) bool {
	return t.Holder == name && t.Epoch == epoch
}

func confirmedUntil(in Input) time.Duration {
	if in.LockSeen == 0 {
		return in.ConfirmedUntil
	}
	return max(in.LockSeen+Lease(in.Lock, in.TTL), in.ConfirmedUntil)
}

// writeBackend is the one backend that may take writes, or nil and why not.
func writeBackend(in Input, t Table) (*Backend, string) {
	l := in.Lock
	switch {
	case in.LockErr != nil:
		return nil, fmt.Sprintf("the lock in the store cannot be read (%v): no member may take writes", in.LockErr)
	case l.Epoch == 0:
		return nil, "the cluster has no lock yet: no member was ever elected"
	case l.Epoch < in.HighestEpoch:
		return nil, fmt.Sprintf("the store shows epoch %d after epoch %d had been seen: it went back in time; restart the router if it was restored on purpose", l.Epoch, in.HighestEpoch)
	case !l.Held() && l.Successor != "":
		return nil, fmt.Sprintf("the lock was given back after epoch %d: %s is expected to take over", l.Epoch, l.Successor)
	case !l.Held():
		return nil, fmt.Sprintf("the lock was given back after epoch %d: waiting for the next primary", l.Epoch)
	case !t.Confirmed && in.LockSeen == 0:
		return nil, fmt.Sprintf("%s holds the lock in epoch %d; waiting to see it renewed", l.Node, l.Epoch)
	case !t.Confirmed:
		return nil, fmt.Sprintf("%s has not been seen to renew epoch %d for %s: it cannot be confirmed as the primary", l.Node, l.Epoch, (in.Now - in.LockSeen).Round(time.Millisecond))
	case !l.Ready:
		return nil, fmt.Sprintf("%s holds the lock in epoch %d and does not accept writes yet", l.Node, l.Epoch)
	}
	m, ok := in.Members[l.Node]
	if !ok {
		return nil, fmt.Sprintf("%s holds the lock in epoch %d and publishes no address: its member key is missing", l.Node, l.Epoch)
	}
	if l.Instance != "" && m.Instance != "" && l.Instance != m.Instance {
		return nil, fmt.Sprintf("the member key of %s belongs to another instance than the lock: two nodes may bear one name", l.Node)
	}
	addr, err := address(m)
	if err != nil {
		return nil, fmt.Sprintf("%s holds the lock in epoch %d and cannot be reached: %v", l.Node, l.Epoch, err)
	}
	return &Backend{Name: l.Node, Addr: addr, Epoch: l.Epoch, Role: cluster.RolePrimary},
		fmt.Sprintf("%s is the primary in epoch %d", l.Node, l.Epoch)
}

// switching says why newcomers are held although there is a primary, and until when; "" when they
// are not. A request for a later time, for another leader than the present one, or one that names
// the present leader as its goal is nothing to wait for.
func switching(in Input) (why string, until time.Duration) {
	f := in.Failover
	if f == nil || f.ScheduledAt != "" || f.Leader != "" && f.Leader != in.Lock.Node || f.Candidate == in.Lock.Node {
		return "", 0
	}
	until = in.FailoverSeen + in.HoldMax
	if in.Now >= until {
		return "", 0
	}
	to := f.Candidate
	if to == "" {
		to = "the best replica"
	}
	return fmt.Sprintf("a switchover from %s to %s is going on", in.Lock.Node, to), until
}

// readPool fills in the read side. While there is a primary a replica must stream from it on its
// timeline. While there is none no replica can stream, and those that have all that was published
// are as fresh as the cluster: reads live on through a fail-over.
func readPool(in Input, t *Table) {
	names := make([]string, 0, len(in.Members))
	for name := range in.Members {
		names = append(names, name)
	}
	slices.Sort(names)
	out := map[string]int{}
	for _, name := range names {
		m := in.Members[name]
		if m.Role != cluster.RoleReplica || name == in.Lock.Node {
			continue
		}
		addr, err := address(m)
		if err != nil {
			out["no address"]++
			continue
		}
		b := Backend{Name: name, Addr: addr, Epoch: in.Lock.Epoch, Role: cluster.RoleReplica}
		t.Replicas = append(t.Replicas, b)
		if why := unfit(in, t.Write != nil, m); why != "" {
			out[why]++
			continue
		}
		t.Read = append(t.Read, b)
	}
	left := leftOut(out)
	switch {
	case len(t.Read) > 0:
		t.ReadWhy = fmt.Sprintf("reads go to %d of %d replicas%s", len(t.Read), len(t.Replicas), left)
	case t.Write != nil:
		t.ReadFallback = true
		t.ReadWhy = fmt.Sprintf("no replica qualifies%s: reads go to the primary %s", left, t.Write.Name)
	default:
		t.ReadWhy = fmt.Sprintf("no replica qualifies%s and there is no primary: %s", left, t.Why)
	}
}

// unfit says why replica m gets no new sessions, "" when it does.
func unfit(in Input, hasPrimary bool, m cluster.Member) string {
	timeline := in.Status.Timeline
	if hasPrimary {
		timeline = in.Members[in.Lock.Node].Timeline
		if in.Lock.Timeline > timeline {
			// The member key of a new primary may still show the timeline it came from.
			timeline = in.Lock.Timeline
		}
	}
	switch {
	case m.Tags.NoLoadBalance():
		return "noloadbalance"
	case m.State != cluster.StateRunning && m.State != cluster.StateStreaming:
		return "not running"
	case hasPrimary && m.ReplicationState != "streaming":
		return "not streaming"
	case timeline != 0 && m.Timeline != 0 && m.Timeline != timeline:
		return "on another timeline"
	case in.MaxLag >= 0 && in.Status.Optime != 0 && position(m).Behind(in.Status.Optime) > in.MaxLag:
		return "too far behind"
	}
	return ""
}

// position is what readers of m see: the replayed position where it is published, so that a
// replica with paused replay leaves the pool, else Patroni's xlog_location.
func position(m cluster.Member) cluster.LSN {
	if m.ReplayLSN != 0 {
		return m.ReplayLSN
	}
	return m.XLogLocation
}

func leftOut(out map[string]int) string {
	if len(out) == 0 {
		return ""
	}
	var parts []string
	for why, n := range out {
		parts = append(parts, fmt.Sprintf("%d %s", n, why))
	}
	slices.Sort(parts)
	return " (" + strings.Join(parts, ", ") + ")"
}

// address is the member's host:port. Wildcard addresses are refused: they name the router itself.
func address(m cluster.Member) (string, error) {
	host, port, err := m.HostPort()
	if err != nil {
		return "", err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("member %s: conn_url has port %q, want 1 to 65535", m.Name, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() {
			return "", fmt.Errorf("member %s: conn_url names %s, which is no address of a machine", m.Name, host)
		}
		if ip.Is6() {
			host = "[" + host + "]"
		}
	}
	return host + ":" + port, nil
}
