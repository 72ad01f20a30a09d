package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/fresh"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/pgconf"
	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// Fence is what the instance tells the guardian and asks of it.
type Fence interface {
	SetPostmaster(pid int, start uint64)
	Fenced() (at time.Duration, ok bool)
}

// Config is what an instance is made of.
type Config struct {
	File    *config.Config
	Server  *postgres.Server
	DataDir string
	// SocketDir is where the server's unix socket lies.
	SocketDir string
	// Replication is the name of the replication role: rows of pg_stat_replication under other
	// roles are not members.
	Replication string
	Fence       Fence
	Now         func() time.Duration // CLOCK_BOOTTIME
	Log         *slog.Logger
}

// SetFile hands over the configuration as read again. The files of PostgreSQL follow at the next
// Configure; what was fixed when the process began (addresses, directories, passwords) stays.
func (i *Instance) SetFile(f *config.Config) { i.current.Store(f) }

// file is the configuration as read last.
func (i *Instance) file() *config.Config {
	if f := i.current.Load(); f != nil {
		return f
	}
	return i.c.File
}

// restoreCommand says whether standbys here can read an archive.
func (i *Instance) restoreCommand() bool {
	_, ok := i.file().PostgreSQL.RecoveryConf["restore_command"]
	return ok
}

// Instance is one PostgreSQL. Close lets go of it; it lives on.
type Instance struct {
	c  Config
	pg *postgres.Server

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	exited chan struct{}

	looks fresh.Answers[ha.Database]
	seen  atomic.Pointer[ha.Database] // the last observation
	look  sync.Mutex                  // guards last; held for moments, and not while the server is asked
	last  struct {
		phase        ha.Phase
		phaseAt      time.Duration
		status       postgres.Status
		streamedAt   time.Duration
		movedAt      time.Duration
		lookedAt     time.Duration // when the server answered last
		exhausted    bool          // recovery has come to the end of the WAL on this disk since the start
		prober       *prober
		prunedAt     time.Duration
		history      cluster.History
		historyOf    uint32
		control      postgres.ControlData
		controlKnown bool
		controlMark  mark // of the control file when it was read, or noted, last
		notedAt      time.Duration
		failure      string
		pm           *postgres.Postmaster
		pmAnswered   bool
		asked        bool // the stop under way was asked for
		pending      map[string]cluster.PendingReason
		oldest       cluster.LSN
		oldestAt     time.Duration
	}

	files  sync.Mutex // held while the files are written and reloaded; taken before look and form
	form   sync.Mutex // guards the wanted form of the files
	role   role
	warned map[string]bool
	hosts  map[string]bool // of all members seen by this process

	identity identity
	making   atomic.Bool // the directory is being made or changed by a job

	installed postgres.Version
	progress  atomic.Pointer[string]
	current   atomic.Pointer[config.Config]
}

// role is what the generated files depend on beside the configuration.
type role struct {
	primary  bool
	upstream node.Upstream
	known    bool // upstream was stated to this process
	rule     quorum.Rule
	settings cluster.Settings
	members  map[string]cluster.Member
	// replayAsks is what the control file of a standby said when the files were last written in full.
	replayAsks pgconf.Control
}

var _ node.Database = (*Instance)(nil)

// New makes an instance; it touches nothing.
func New(c Config) *Instance {
	i := &Instance{c: c, pg: c.Server, exited: make(chan struct{}, 1)}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	i.last.prunedAt = c.Now()
	i.identity.path, i.identity.dir = c.DataDir+".instance", c.DataDir
	i.looks.Go, i.looks.Make = i.wg.Go, i.lookNow
	return i
}

// Close ends what the instance started for itself and waits. PostgreSQL lives on.
func (i *Instance) Close() error {
	i.cancel()
	i.wg.Wait()
	return i.pg.Close()
}

// Exited delivers a token when the postmaster ends.
func (i *Instance) Exited() <-chan struct{} { return i.exited }

// Identify reads the identity of the data directory, or makes it, and looks whether the directory is
// still the one it was given to.
func (i *Instance) Identify(ctx context.Context) error {
	if err := i.identity.load(); err != nil {
		return err
	}
	if state, _, err := i.pg.DataState(); err != nil || state != postgres.DataValid {
		return nil
	}
	cctx, cancel := context.WithTimeout(ctx, controlWithin)
	defer cancel()
	generation := i.identity.generation()
	cd, err := i.pg.Control(cctx)
	if err != nil {
		return nil // what is wrong with it shows at the first observation
	}
	i.verify(cd, generation)
	return nil
}

// ID is the identity of the data directory as this node's; the lock names it.
func (i *Instance) ID() string { return i.identity.get().ID }

// verify looks whether the directory is the one that this member had. In the ordinary case nothing waits
// for the disk: a hand-over may be under way.
func (i *Instance) verify(cd postgres.ControlData, generation int) {
	if i.identity.plain(cd) {
		i.wg.Go(func() { i.note(cd, generation) })
		return
	}
	replaced, err := i.identity.check(cd, generation)
	if err != nil {
		i.c.Log.Warn("the identity of the data directory could not be kept", "err", err)
	}
	if replaced != "" {
		i.c.Log.Warn("the data directory is not the one that this member had: it does not lead by right of what it was", "why", replaced, "instance", i.ID())
	}
}

// note keeps how far the control file is.
func (i *Instance) note(cd postgres.ControlData, generation int) {
	if err := i.identity.note(cd, generation); err != nil && i.ctx.Err() == nil {
		i.c.Log.Debug("how far the control file is was not noted", "err", err)
	}
}

// bind ties the identity to the directory as hathi made it just now.
func (i *Instance) bind(ctx context.Context) {
	cd, err := i.pg.Control(ctx)
	if err == nil {
		err = i.identity.bind(cd)
	}
	if err != nil {
		err = errors.Join(err, i.identity.unbind())
		i.c.Log.Warn("the identity of the data directory could not be bound to it", "err", err)
	}
}

// Progress is a line about the running job; "" for none.
func (i *Instance) Progress() string {
	if p := i.progress.Load(); p != nil {
		return *p
	}
	return ""
}

func (i *Instance) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	i.progress.Store(&s)
}

// bytesProgress is a progress line of a copy.
func (i *Instance) bytesProgress(what string) func(done, total int64) {
	return func(done, total int64) {
		if total <= 0 {
			i.say("%s: %d MB", what, done>>20)
			return
		}
		i.say("%s: %d of %d MB (%d %%)", what, done>>20, total>>20, min(100, done*100/total))
	}
}

func (i *Instance) fenced() bool {
	_, ok := i.c.Fence.Fenced()
	return ok
}

func (i *Instance) upstreamName() string {
	i.form.Lock()
	defer i.form.Unlock()
	return i.role.upstream.Name
}

// failure is why the last postmaster ended before it ever answered. look is held.
func (i *Instance) failure() string { return i.last.failure }

// postmaster is the running one, adopted if need be; nil for none. look is held.
func (i *Instance) postmaster(ctx context.Context) *postgres.Postmaster {
	pm := i.pg.Postmaster()
	if pm == nil {
		var err error
		if pm, err = i.pg.Adopt(ctx); err != nil {
			pm = nil
		}
	}
	if pm == nil {
		if old := i.last.pm; old != nil {
			if !i.last.pmAnswered && !i.last.asked {
				if i.last.failure = old.Failure(); i.last.failure == "" {
					i.last.failure = "it ended with " + orUnknown(old.ExitStatus())
				}
			}
			i.last.pm, i.last.controlKnown = nil, false
			i.c.Fence.SetPostmaster(0, 0)
		}
		return nil
	}
	if pm != i.last.pm {
		i.last.pm, i.last.pmAnswered, i.last.asked = pm, pm.Adopted(), false
		i.last.status, i.last.exhausted = postgres.Status{}, false
		i.last.controlKnown, i.last.historyOf = false, 0
		i.watch(pm)
		p := newProber()
		i.last.prober = p
		i.wg.Go(func() { i.probe(p, pm.Exited()) })
		i.wg.Go(func() { i.probeStorage(p, pm.Exited()) })
		i.wg.Go(func() { i.probeWrites(p, pm.Exited()) })
	}
	return pm
}

func orUnknown(s string) string {
	if s == "" {
		return "an unknown status"
	}
	return s
}

func (i *Instance) guardPostmaster(pm *postgres.Postmaster) {
	i.c.Fence.SetPostmaster(pm.PID(), pm.StartTicks())
}

// watch delivers the end of a postmaster.
func (i *Instance) watch(pm *postgres.Postmaster) {
	i.wg.Go(func() {
		select {
		case <-pm.Exited():
			select {
			case i.exited <- struct{}{}:
			default:
			}
		case <-i.ctx.Done():
		}
	})
}
