package cluster

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// HistoryLine is one line of the key "history": a timeline that ended, where and why, and who led
// next. Its JSON is Patroni's array [timeline, lsn, reason, timestamp, new_leader], to which ours
// adds the epoch as a sixth element.
type HistoryLine struct {
	Timeline  uint32
	LSN       LSN // the switch point: the first byte not on Timeline
	Reason    string
	Timestamp string // for people only
	NewLeader string
	Epoch     uint64
}

// MarshalJSON writes the array, without the empty elements at its end.
func (h HistoryLine) MarshalJSON() ([]byte, error) {
	a := []any{h.Timeline, uint64(h.LSN), h.Reason}
	if h.Timestamp != "" || h.NewLeader != "" || h.Epoch != 0 {
		a = append(a, h.Timestamp)
	}
	if h.NewLeader != "" || h.Epoch != 0 {
		a = append(a, h.NewLeader)
	}
	if h.Epoch != 0 {
		a = append(a, h.Epoch)
	}
	return json.Marshal(a)
}

// UnmarshalJSON reads three to six elements.
func (h *HistoryLine) UnmarshalJSON(b []byte) error {
	var a []json.RawMessage
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("parse history line: %w", err)
	}
	if len(a) < 3 {
		return fmt.Errorf("parse history line: want at least timeline, position and reason, got %d elements", len(a))
	}
	*h = HistoryLine{}
	var lsn uint64
	for i, into := range []any{&h.Timeline, &lsn, &h.Reason, &h.Timestamp, &h.NewLeader, &h.Epoch} {
		if i >= len(a) {
			break
		}
		if err := json.Unmarshal(a[i], into); err != nil {
			return fmt.Errorf("parse history line, element %d: %w", i+1, err)
		}
	}
	h.LSN = LSN(lsn)
	return nil
}

// History is the value of the key "history", oldest first.
type History []HistoryLine

// ParseTimelineHistory reads the text of a PostgreSQL timeline history file
// (src/backend/access/transam/timeline.c, readTimeLineHistory): per line a timeline, the switch
// point and the reason, separated by tabs; '#' begins a comment.
func ParseTimelineHistory(text string) (History, error) {
	var h History
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			return nil, fmt.Errorf("timeline history line %d: want timeline and position, got %q", i+1, line)
		}
		tl, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("timeline history line %d: timeline %q: %w", i+1, f[0], err)
		}
		lsn, err := ParseLSN(f[1])
		if err != nil {
			return nil, fmt.Errorf("timeline history line %d: %w", i+1, err)
		}
		if n := len(h); n > 0 && h[n-1].Timeline >= uint32(tl) {
			return nil, fmt.Errorf("timeline history line %d: timeline %d does not follow %d", i+1, tl, h[n-1].Timeline)
		}
		h = append(h, HistoryLine{Timeline: uint32(tl), LSN: lsn, Reason: strings.Join(f[2:], " ")})
	}
	return h, nil
}

// SwitchPoint is where timeline tl ended in this history, and whether it is in it at all.
func (h History) SwitchPoint(tl uint32) (LSN, bool) {
	for _, l := range h {
		if l.Timeline == tl {
			return l.LSN, true
		}
	}
	return 0, false
}

// Contains says whether a node on timeline own, with history h of that timeline, has position lsn
// of timeline tl in its past: the same timeline, or an ancestor that ended at or after lsn.
func (h History) Contains(own, tl uint32, lsn LSN) bool {
	if own == tl {
		return true
	}
	end, ok := h.SwitchPoint(tl)
	return ok && lsn <= end
}
