package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// controlWithin bounds the reading of a control file.
const controlWithin = 2 * time.Second

// observeWithin bounds the questions of one observation.
const observeWithin = 700 * time.Millisecond

// observe makes one observation. Others may change what is known of the server while it is asked; an
// answer of one that is not the present one any more is thrown away, and the present one is looked at.
func (i *Instance) observe(ctx context.Context) ha.Database {
	for {
		if db, ok := i.observeOnce(ctx); ok {
			return db
		}
	}
}

func (i *Instance) observeOnce(ctx context.Context) (_ ha.Database, ok bool) {
	i.look.Lock()
	defer i.look.Unlock()
	now := i.c.Now()
	db := ha.Database{Fenced: i.fenced(), Upstream: i.upstreamName(), Failure: i.failure()}

	state, why, err := i.pg.DataState()
	switch {
	case err != nil:
		db.Dir, db.DirWhy = ha.DirForeign, err.Error()
	case state == postgres.DataValid:
		db.Dir = ha.DirValid
	case state == postgres.DataHalfRewound:
		db.Dir, db.Torn = ha.DirValid, true
	case state == postgres.DataEmpty:
		db.Dir = ha.DirEmpty
	default:
		db.Dir, db.DirWhy = ha.DirForeign, why
	}

	pm := i.postmaster(ctx)
	if pm == nil {
		i.phase(ha.Down, now)
		db.Phase, db.PhaseAt = i.last.phase, i.last.phaseAt
		db.Failure = i.failure()
		if db.Dir == ha.DirValid {
			i.observeControl(ctx, &db)
			db.Replaced = i.identity.get().Replaced
			_, err := os.Stat(filepath.Join(i.c.DataDir, "backup_label"))
			db.Copy = err == nil
		}
		return db, true
	}
	i.guardPostmaster(pm)

	up := i.last.phase == ha.Up
	i.look.Unlock()
	st, err := i.ask(ctx, up)
	i.look.Lock()
	if ctx.Err() == nil && i.pg.Postmaster() != pm {
		return ha.Database{}, false
	}
	var refused *pgconn.PgError
	switch {
	case err == nil:
		i.answered(st, now)
		i.last.pmAnswered = true
		if since, why, failing := i.last.prober.failing(now, i.last.movedAt); failing {
			// An old connection answers, but that is all.
			if i.phase(ha.Mute, now); i.last.phaseAt > since {
				i.last.phaseAt = since
			}
			db.Hang = why
		} else {
			i.phase(ha.Up, now)
		}
	case errors.As(err, &refused) && !errors.Is(err, postgres.ErrStarting) && i.last.status.Version != 0:
		// It answers, with a refusal: out of connections, a statement that took too long. That is
		// no reason to doubt it.
		i.phase(ha.Up, now)
	case errors.Is(err, postgres.ErrStarting) && i.last.phase == ha.Up:
		// It answers that it takes no connections: crash recovery after a backend died, or a stop.
		i.phase(ha.Starting, now)
	case errors.Is(err, postgres.ErrStarting):
		if i.last.phase != ha.Starting {
			i.phase(ha.Starting, now)
		}
	case i.last.phase == ha.Up || i.last.phase == ha.Mute:
		i.phase(ha.Mute, now)
	default:
		i.phase(ha.Starting, now)
	}
	db.Phase, db.PhaseAt = i.last.phase, i.last.phaseAt
	db.StalledAt = i.last.prober.stalled(now)
	i.fill(&db)
	db.Replaced = i.identity.get().Replaced
	if db.Phase == ha.Starting && i.last.status.Version == 0 {
		// Nothing was ever read from this postmaster. A standby.signal tells what it will be.
		db.Primary = !i.pg.HasStandbySignal()
	}
	return db, true
}

// ask gets the server's status over the reserved connection; when that does not answer, a new one
// tells a dead backend from a dead server.
func (i *Instance) ask(ctx context.Context, up bool) (postgres.Status, error) {
	first, cancel := context.WithTimeout(ctx, observeWithin)
	defer cancel()
	st, err := i.pg.Status(first)
	if err == nil || errors.Is(err, postgres.ErrStarting) || errors.Is(err, postgres.ErrNotRunning) || !up {
		return st, err
	}
	second, cancel := context.WithTimeout(ctx, observeWithin)
	defer cancel()
	if perr := i.pg.Probe(second); perr != nil {
		return st, errors.Join(err, perr)
	}
	return i.pg.Status(second)
}

// phase notes when the phase changed.
func (i *Instance) phase(p ha.Phase, now time.Duration) {
	if i.last.phase != p || i.last.phaseAt == 0 {
		i.last.phase, i.last.phaseAt = p, now
	}
	if p == ha.Down {
		i.last.status, i.last.streamedAt, i.last.movedAt = postgres.Status{}, 0, 0
	}
}

// answered takes in what the server said.
func (i *Instance) answered(st postgres.Status, now time.Duration) {
	if st.InRecovery {
		// Without a WAL receiver the server tells the timeline of its last restart point alone, which
		// may be an old one.
		if i.last.status.InRecovery {
			st.Timeline = max(st.Timeline, i.last.status.Timeline)
		}
		st.Timeline = i.segmentTimeline(st.Timeline, st.LSN())
		i.last.exhausted = i.last.exhausted || st.Received != 0 || st.ReceiverRuns || st.WantsWAL
	}
	i.last.prober.primary.Store(!st.InRecovery)
	if st.WALWaiters > 0 && st.LSN() == i.last.status.LSN() {
		i.last.prober.doubt() // they wait for something that has not moved since the last look
	}
	if lsn := st.LSN(); lsn > i.last.status.LSN() && i.last.status.Version != 0 {
		// It grew at some instant since the last look. A standby's receiver knows better when: the age of
		// its last message, by the one clock that gave both ends of it.
		i.last.movedAt = now
		if st.Receiver != nil && st.Receiver.SilentFor > 0 {
			i.last.movedAt = max(now-st.Receiver.SilentFor, i.last.lookedAt)
		}
	}
	i.last.lookedAt = now
	i.last.status = st
	i.last.failure = ""
	if st.Receiver.Streaming() {
		i.last.streamedAt = now
		i.accept()
	}
	i.noteControl(now)
	i.history(st.Timeline)
	if st.Receiver.Streaming() && now-i.last.prunedAt > pruneEvery {
		i.last.prunedAt = now
		i.wg.Go(i.prune)
	}
}

// accept ends the mark of a replaced directory: it follows a leader now, or was made to lead.
func (i *Instance) accept() {
	if i.identity.get().Replaced == "" {
		return
	}
	if err := i.identity.accept(); err != nil {
		i.c.Log.Warn("the identity of the data directory could not be kept", "err", err)
	}
}

// noteEvery is how often it is looked whether a running server has written its control file.
const noteEvery = 10 * time.Second

// noteControl takes down how far the control file is, so that an older one is known as such. look is held.
func (i *Instance) noteControl(now time.Duration) {
	if now-i.last.notedAt < noteEvery || i.making.Load() {
		return
	}
	i.last.notedAt = now
	m := i.identity.mark()
	if m == i.last.controlMark {
		return
	}
	i.last.controlMark, i.last.controlKnown = m, false
	i.wg.Go(func() {
		ctx, cancel := context.WithTimeout(i.ctx, controlWithin)
		defer cancel()
		generation := i.identity.generation()
		if cd, err := i.pg.Control(ctx); err == nil {
			i.note(cd, generation)
		}
	})
}

// pruneEvery is how often old set-aside directories are looked for, and how long after a start of this
// process at the earliest.
const pruneEvery = 10 * time.Minute

// keptAsides is how many set-aside data directories are kept.
const keptAsides = 2

// prune deletes set-aside directories beyond the newest ones. It runs only while this node streams: its
// own data directory is then a proven copy.
func (i *Instance) prune() {
	gone, err := i.pg.PruneAside(keptAsides)
	if err != nil {
		i.c.Log.Warn("old set-aside data directories could not be deleted", "err", err)
	}
	for _, path := range gone {
		i.c.Log.Warn("old set-aside data directory deleted", "path", path, "kept", keptAsides)
	}
}

// fill writes the last answer into an observation.
func (i *Instance) fill(db *ha.Database) {
	st := i.last.status
	if st.Version == 0 {
		return
	}
	db.SystemID, db.Primary, db.Timeline = st.SystemID, !st.InRecovery, st.Timeline
	db.LSN, db.Replayed = st.LSN(), st.Replayed
	db.Replaying = st.InRecovery && !i.last.exhausted
	db.Upstream = i.upstreamName()
	db.NewestTimeline = i.newestTimeline(st.Timeline)
	db.History = i.last.history
	db.MovedAt = i.last.movedAt
	db.Streaming = st.Receiver.Streaming()
	db.StreamingLost = i.last.streamedAt
	if rule, err := quorum.ParseRule(st.SynchronousStandbyNames); err == nil {
		db.Rule, db.RuleKnown = rule, true
	}
	for _, r := range st.Replication {
		if r.Username != i.c.Replication {
			continue
		}
		db.Replicas = append(db.Replicas, ha.Replica{Name: r.ApplicationName, Streaming: r.State == "streaming", Flushed: r.Flush})
	}
}

// observeControl reads pg_control of a stopped server, once per stop.
func (i *Instance) observeControl(ctx context.Context, db *ha.Database) {
	// Nobody writes it while the server is down; files that were put there by hand show.
	if m := i.identity.mark(); !i.last.controlKnown || m != i.last.controlMark {
		i.last.controlMark = m
		cctx, cancel := context.WithTimeout(ctx, controlWithin)
		defer cancel()
		generation := i.identity.generation()
		cd, err := i.pg.Control(cctx)
		if err != nil {
			db.Dir, db.DirWhy = ha.DirForeign, err.Error()
			return
		}
		i.last.control, i.last.controlKnown = cd, true
		if !db.Torn && !i.making.Load() {
			i.verify(cd, generation)
		}
	}
	cd := i.last.control
	db.SystemID = cd.SystemID
	db.Timeline = cd.Timeline
	switch cd.State {
	case postgres.ControlShutDown:
		db.Control = ha.ControlShutDown
	case postgres.ControlShutDownInRecovery:
		db.Control = ha.ControlShutDownInRecovery
	case postgres.ControlInProduction:
		db.Control = ha.ControlInProduction
	case postgres.ControlInArchiveRecovery:
		db.Control = ha.ControlInRecovery
	default:
		db.Control = ha.ControlOther
		if i.pg.HasStandbySignal() {
			db.Control = ha.ControlInRecovery
		}
	}
	db.ControlTimeline = max(cd.Timeline, cd.MinRecoveryTimeline)
	db.ControlCheckpoint = cd.Checkpoint
	db.LSN = max(cd.Checkpoint, cd.MinRecoveryEnd)
	db.NewestTimeline = i.newestTimeline(db.ControlTimeline)
	if i.history(db.ControlTimeline); i.last.historyOf == db.ControlTimeline {
		db.History = i.last.history
	}
}

// history keeps the timeline history of the present timeline.
func (i *Instance) history(tl uint32) {
	if tl == i.last.historyOf || tl == 0 {
		return
	}
	if tl == 1 {
		i.last.history, i.last.historyOf = nil, 1
		return
	}
	h, err := i.pg.ReadHistoryFile(tl)
	if err != nil {
		return // it has not been received yet; the next observation tries again
	}
	i.last.history, i.last.historyOf = h, tl
}

// newestTimeline is the highest timeline of which a history file is in pg_wal, and at least own.
func (i *Instance) newestTimeline(own uint32) uint32 {
	newest := own
	entries, err := os.ReadDir(filepath.Join(i.c.DataDir, "pg_wal"))
	if err != nil {
		return newest
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".history")
		if !ok || len(name) != 8 {
			continue
		}
		if tl, err := strconv.ParseUint(name, 16, 32); err == nil {
			newest = max(newest, uint32(tl))
		}
	}
	return newest
}

// segmentTimeline is the highest timeline, from at least on, of which the segment that holds lsn is in
// pg_wal: the one that was received last.
func (i *Instance) segmentTimeline(atLeast uint32, lsn cluster.LSN) uint32 {
	newest := i.newestTimeline(atLeast)
	if newest == atLeast || lsn == 0 {
		return atLeast
	}
	size := uint64(16 << 20)
	if s := i.last.control.WALSegmentSize; s > 0 {
		size = uint64(s)
	}
	perID := uint64(1<<32) / size
	segment := uint64(lsn-1) / size
	for tl := newest; tl > atLeast; tl-- {
		name := fmt.Sprintf("%08X%08X%08X", tl, segment/perID, segment%perID)
		if _, err := os.Stat(filepath.Join(i.c.DataDir, "pg_wal", name)); err == nil {
			return tl
		}
	}
	return atLeast
}

// oldestSegment is where the oldest WAL segment in pg_wal begins; 0 when unknown.
func (i *Instance) oldestSegment() cluster.LSN {
	const segment = 16 << 20
	entries, err := os.ReadDir(filepath.Join(i.c.DataDir, "pg_wal"))
	if err != nil {
		return 0
	}
	var oldest cluster.LSN
	for _, e := range entries {
		name := e.Name()
		info, err := e.Info()
		if len(name) != 24 || err != nil {
			continue
		}
		hi, err1 := strconv.ParseUint(name[8:16], 16, 32)
		lo, err2 := strconv.ParseUint(name[16:24], 16, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		size := uint64(segment)
		if s := uint64(info.Size()); s >= 1<<20 && s&(s-1) == 0 {
			size = s
		}
		at := cluster.LSN(hi<<32 + lo*size)
		if oldest == 0 || at < oldest {
			oldest = at
		}
	}
	return oldest
}

// Detail is the last answer in full, for people.
func (i *Instance) Detail() node.Detail {
	i.look.Lock()
	defer i.look.Unlock()
	st := i.last.status
	d := node.Detail{Version: st.Version, StartedAt: st.StartedAt, Paused: st.ReplayPaused, ReplayedAt: st.ReplayedAt, PendingRestart: maps.Clone(i.last.pending)}
	if i.last.phase != ha.Up {
		return d
	}
	for _, p := range st.PendingRestart {
		if d.PendingRestart == nil {
			d.PendingRestart = map[string]cluster.PendingReason{}
		}
		d.PendingRestart[p.Name] = cluster.PendingReason{OldValue: withUnit(p.Old, p.Unit), NewValue: p.New}
	}
	if st.InRecovery {
		if st.Receiver.Streaming() {
			d.ReplicationState = "streaming"
		} else if i.restoreCommand() {
			d.ReplicationState = "in archive recovery"
		}
	}
	for _, r := range st.Replication {
		d.Replication = append(d.Replication, node.ReplicationRow{Application: r.ApplicationName, ClientAddr: r.ClientAddr, State: r.State,
			SyncState: r.SyncState, User: r.Username, Sent: r.Sent, Write: r.Write, Flush: r.Flush, Replay: r.Replay})
	}
	for _, s := range st.Slots {
		d.Slots = append(d.Slots, node.Slot{Name: s.Name, Type: s.Type, Plugin: s.Plugin, Database: s.Database, WalStatus: s.WALStatus, Active: s.Active, RestartLSN: s.RestartLSN})
	}
	if now := i.c.Now(); i.last.oldestAt == 0 || now-i.last.oldestAt > 5*time.Second {
		i.last.oldest, i.last.oldestAt = i.oldestSegment(), now
	}
	d.OldestLSN = i.last.oldest
	return d
}

func withUnit(v, unit string) string {
	if unit == "" || strings.HasPrefix(unit, "8kB") || strings.HasPrefix(unit, "16") {
		return v
	}
	return v + unit
}
