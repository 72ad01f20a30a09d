package rest

import (
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/health"
)

// Snapshot is what a node publishes of itself. It is immutable once published: the node makes a new
// one and swaps the pointer. Instants are CLOCK_BOOTTIME of the node.
type Snapshot struct {
	Status Status
	// LatestEndLSN is what a standby's WAL receiver last heard of the end of the primary's WAL.
	LatestEndLSN cluster.LSN
	// Tags are the member's tags as they stand in its file, for ?tag_key=value.
	Tags cluster.Tags
	// LeaseUntil is when this node's right to call itself leader ends; 0 when it has none. The node
	// takes it no later than the guardian's deadline.
	LeaseUntil time.Duration
	// FreshUntil is when the facts about PostgreSQL in Status are too old to send clients here; 0
	// for never. The node sets it some ticks ahead, so that a stuck node drops out of the pools.
	FreshUntil time.Duration
	// Ticked is when the HA loop last completed a round.
	Ticked time.Duration
	// StoreKnown says that View is not older than ttl. Without it the synchronous state is unknown,
	// and /sync, /async and /quorum answer 503 (as in Patroni).
	StoreKnown bool
	// View is the cluster as the store last showed it.
	View cluster.View
	// Problems are the lasting troubles of this node.
	Problems []health.Problem
	// Extra are more metrics of hathi's own.
	Extra []Metric
}

// Metric is one value for /metrics, beside Patroni's.
type Metric struct {
	Name    string // with unit, as in hathi_lease_remaining_seconds
	Help    string
	Counter bool // else a gauge
	Labels  map[string]string
	Value   float64
}

// Leads says whether the node may call itself the leader at now.
func (s *Snapshot) Leads(now time.Duration) bool { return s.LeaseUntil > now }

func (s *Snapshot) fresh(now time.Duration) bool { return s.FreshUntil == 0 || s.FreshUntil > now }

func (s *Snapshot) running(now time.Duration) bool {
	return s.Status.State == cluster.StateRunning && s.fresh(now)
}

func (s *Snapshot) standbyCluster() bool { return len(s.View.Config.StandbyCluster) > 0 }

// endOfWAL is the furthest position known of the leader.
func (s *Snapshot) endOfWAL() cluster.LSN {
	if !s.StoreKnown {
		return s.LatestEndLSN
	}
	return max(s.View.Status.Optime, s.LatestEndLSN)
}
