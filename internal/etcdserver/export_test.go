package etcdserver

import (
	"log/slog"
	"time"

	"go.uber.org/zap"
)

// Hurry makes the care loop quick and eager.
func (s *Server) Hurry() {
	s.pace = pace{
		look: 50 * time.Millisecond, compact: 100 * time.Millisecond, defrag: 200 * time.Millisecond,
		minRevs: 10, maxRevs: 1000, defragFrom: 1 << 20, defragMost: 64 << 20, turn: 2 * time.Second,
	}
}

// LeadsNow says whether this member leads.
func (s *Server) LeadsNow() bool {
	st := s.Status()
	return st.ID != 0 && st.ID == st.Leader
}

// ZapLogger is zapLogger.
func ZapLogger(log *slog.Logger) *zap.Logger { return zapLogger(log) }

// HurryAlarmsOnly leaves compaction and defragmentation to the way out of a full database.
func (s *Server) HurryAlarmsOnly() {
	s.pace = defaultPace
	s.pace.look = 50 * time.Millisecond
}

// DefragKey is the key of the turn to defragment.
const DefragKey = defragKey

// KeptFiles is how many old log files are kept.
const KeptFiles = keptFiles

// CompressTime makes the care loop as quick as a store is filled that gets a week's writes in minutes;
// what it keeps, and when it defragments, stays.
func (s *Server) CompressTime() {
	s.pace = defaultPace
	s.pace.look, s.pace.compact, s.pace.defrag = 20*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond
}

// FoundingPath is where a member without data says so.
const FoundingPath = foundingPath
