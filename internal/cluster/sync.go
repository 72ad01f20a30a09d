package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// SyncState is the value of the key "sync": who may lead without losing an acknowledged commit.
//
// Leader is the last member that acknowledged commits under synchronous rules: it always may lead
// again. A member in Standbys may lead when at least Quorum *other* members of Standbys confirm
// that they are not ahead of it. The JSON is Patroni's.
type SyncState struct {
	Leader   string
	Standbys []string // sorted, without repetition
	Quorum   int
}

type syncJSON struct {
	Leader   *string `json:"leader"`
	Standbys *string `json:"sync_standby"`
	Quorum   int     `json:"quorum"`
}

// MarshalJSON writes sync_standby as a comma-joined sorted text, null when empty (as Patroni).
func (s SyncState) MarshalJSON() ([]byte, error) {
	j := syncJSON{Quorum: s.Quorum}
	if s.Leader != "" {
		j.Leader = &s.Leader
	}
	if len(s.Standbys) > 0 {
		text := strings.Join(Sorted(s.Standbys), ",")
		j.Standbys = &text
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads Patroni's form.
func (s *SyncState) UnmarshalJSON(b []byte) error {
	var j syncJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("parse sync state: %w", err)
	}
	*s = SyncState{Quorum: j.Quorum}
	if j.Quorum < 0 {
		return fmt.Errorf("parse sync state: quorum %d is negative", j.Quorum)
	}
	if j.Leader != nil {
		s.Leader = *j.Leader
	}
	if j.Standbys != nil {
		for _, n := range strings.Split(*j.Standbys, ",") {
			if n = strings.TrimSpace(n); n != "" {
				s.Standbys = append(s.Standbys, n)
			}
		}
	}
	s.Standbys = Sorted(s.Standbys)
	return nil
}

// Empty says that no synchronous rule was ever recorded.
func (s SyncState) Empty() bool { return s.Leader == "" && len(s.Standbys) == 0 }

// Has says whether name is one of the standbys.
func (s SyncState) Has(name string) bool { return slices.Contains(s.Standbys, name) }

// Equal compares two states, the order of standbys aside.
func (s SyncState) Equal(o SyncState) bool {
	return s.Leader == o.Leader && s.Quorum == o.Quorum && slices.Equal(Sorted(s.Standbys), Sorted(o.Standbys))
}

// Sorted is a sorted copy without repetitions; nil for none.
func Sorted(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) == 0 {
		return nil
	}
	return out
}
