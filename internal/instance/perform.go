package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hathi-ha/hathi/internal/atomicfile"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/process"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// beforeStopWithin bounds the command before_stop.
const beforeStopWithin = 10 * time.Second

// Start writes the files and starts the server as a primary or a standby.
func (i *Instance) Start(ctx context.Context, s node.StartSpec) error {
	i.form.Lock()
	i.role = role{primary: s.Primary, upstream: s.Upstream, known: true, rule: s.Rule, settings: s.Settings, members: s.Members}
	i.form.Unlock()
	i.files.Lock()
	command, err := i.writeFiles(ctx, !s.Primary, false)
	i.files.Unlock()
	if err != nil {
		return err
	}
	i.look.Lock()
	i.last.failure, i.last.asked = "", false
	i.last.phase, i.last.phaseAt = ha.Starting, i.c.Now()
	i.look.Unlock()
	if err := i.identity.started(); err != nil {
		return err
	}
	pm, err := i.pg.Start(ctx, postgres.StartOptions{Settings: command})
	if err != nil && !errors.Is(err, postgres.ErrRunning) {
		i.look.Lock()
		i.last.failure = err.Error()
		i.look.Unlock()
		return err
	}
	i.guardPostmaster(pm)
	return nil
}

// Follow changes what a running standby streams from.
func (i *Instance) Follow(ctx context.Context, up node.Upstream) error {
	i.form.Lock()
	i.role.upstream, i.role.known, i.role.primary = up, true, false
	i.form.Unlock()
	return i.reloadQuick(ctx, true)
}

// SetRule writes synchronous_standby_names and reloads. On a primary it returns once the server
// shows the new value.
func (i *Instance) SetRule(ctx context.Context, r quorum.Rule) error {
	i.form.Lock()
	i.role.rule = r
	i.form.Unlock()
	i.look.Lock()
	standby := i.last.status.InRecovery
	i.look.Unlock()
	if err := i.reloadQuick(ctx, standby); err != nil {
		return err
	}
	return i.pg.WaitSetting(ctx, "synchronous_standby_names", r.String())
}

// Configure brings files and running settings in line with the dynamic configuration.
func (i *Instance) Configure(ctx context.Context, c cluster.Settings, members map[string]cluster.Member) error {
	i.look.Lock()
	standby := i.last.status.InRecovery
	st := i.last.status
	i.look.Unlock()
	i.form.Lock()
	i.role.settings, i.role.members = c, members
	if i.role.rule.Num == 0 && st.SynchronousStandbyNames != "" {
		// An adopted server: keep the rule that is in force.
		if r, err := quorum.ParseRule(st.SynchronousStandbyNames); err == nil {
			i.role.rule = r
		}
	}
	i.role.primary = !standby
	known := i.role.known
	i.form.Unlock()
	if standby && !known {
		// An adopted standby, of which this process has not been told yet whom it follows: files made now
		// would have it follow nobody.
		return nil
	}
	return i.reload(ctx, standby)
}

// Kill ends every process of the data directory.
func (i *Instance) Kill(ctx context.Context, why string) error {
	i.look.Lock()
	i.last.asked = true
	i.look.Unlock()
	err := i.pg.KillAll(ctx)
	if errors.Is(err, process.ErrDoomed) && i.pg.Postmaster() == nil {
		// Nothing of it runs or answers any more, which is what counts. Whatever needs the directory finds
		// what is left by itself.
		i.c.Log.Warn("PostgreSQL is killed, but its processes wait for storage that does not answer", "why", why, "err", err)
		return nil
	}
	return err
}

// SetAside renames the data directory.
func (i *Instance) SetAside(ctx context.Context, reason string) error {
	path, err := i.pg.SetAside(reason)
	if err != nil {
		return err
	}
	i.c.Log.Warn("data directory set aside", "path", path, "reason", reason)
	i.forget()
	return nil
}

// forget drops what was known of the directory.
func (i *Instance) forget() {
	i.look.Lock()
	defer i.look.Unlock()
	i.last.controlKnown, i.last.historyOf, i.last.failure = false, 0, ""
}

// Stop is the stop ladder. A fast shutdown waits for standbys to receive everything; whatever hangs
// in it is ended step by step.
func (i *Instance) Stop(ctx context.Context, immediate bool) error {
	i.look.Lock()
	i.last.asked = true
	i.look.Unlock()
	o := postgres.StopOptions{Mode: postgres.StopFast, WALSendersAfter: 8 * time.Second, ImmediateAfter: 20 * time.Second, KillAfter: 25 * time.Second,
		Progress: func(s postgres.StopStep) { i.say("%s", s) }}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		o.ImmediateAfter = min(o.ImmediateAfter, left*2/3)
		o.WALSendersAfter = min(o.WALSendersAfter, left/3)
		o.KillAfter = min(o.KillAfter, left*5/6)
	}
	if immediate {
		o = postgres.StopOptions{Mode: postgres.StopImmediate, KillAfter: time.Second, Progress: o.Progress}
	}
	defer i.say("")
	if script := i.file().PostgreSQL.BeforeStop; script != "" && !immediate {
		// It may not eat up the time in which PostgreSQL has to stop.
		sctx, cancel := context.WithTimeout(ctx, beforeStopWithin)
		if err := i.command(sctx, "before_stop", script); err != nil {
			i.c.Log.Warn("before_stop failed; PostgreSQL is stopped all the same", "err", err)
		}
		cancel()
	}
	res, err := i.pg.Stop(ctx, o)
	if err != nil {
		return err
	}
	i.c.Log.Info("PostgreSQL stopped", "last_step", string(res.Last), "took", res.Took.String())
	i.look.Lock()
	i.last.controlKnown = false
	i.look.Unlock()
	return nil
}

// Promote ends recovery onto timeline, or a later one. The checkpoint that makes pg_rewind see the new
// timeline follows by itself, not waited for.
func (i *Instance) Promote(ctx context.Context, timeline uint32) error {
	if script := i.file().PostgreSQL.PrePromote; script != "" {
		i.say("pre_promote")
		defer i.say("")
		if err := i.command(ctx, "pre_promote", script); err != nil {
			return err
		}
	}
	if err := i.reserveTimelines(timeline); err != nil {
		return err
	}
	i.form.Lock()
	i.role.primary = true
	i.form.Unlock()
	if err := i.pg.Promote(ctx); err != nil {
		return err
	}
	i.accept()
	i.wg.Go(func() {
		ctx, cancel := context.WithTimeout(i.ctx, 10*time.Minute)
		defer cancel()
		if err := i.pg.Checkpoint(ctx); err != nil {
			i.c.Log.Warn("checkpoint after the promotion", "err", err)
		}
	})
	return nil
}

// reserveTimelines makes PostgreSQL number its next timeline at least timeline: it takes the first
// number of which it has no history file. The files that are made here say that the reserved
// timelines parted at the very beginning, so that no recovery ever follows them
// (rescanLatestTimeLine in src/backend/access/transam/xlogrecovery.c).
func (i *Instance) reserveTimelines(timeline uint32) error {
	i.look.Lock()
	own := i.last.status.Timeline
	i.look.Unlock()
	if own == 0 {
		return nil
	}
	for tl := own + 1; tl < timeline; tl++ {
		path := filepath.Join(i.c.DataDir, "pg_wal", fmt.Sprintf("%08X.history", tl))
		if _, err := os.Stat(path); err == nil {
			continue
		}
		text := fmt.Sprintf("%d\t0/1\treserved by hathi: the number may have been used by a member that is gone\n", own)
		if err := atomicfile.Write(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("reserve timeline %d: %w", tl, err)
		}
	}
	return nil
}

// Checkpoint runs CHECKPOINT.
func (i *Instance) Checkpoint(ctx context.Context) error { return i.pg.Checkpoint(ctx) }

// Clone copies another member.
func (i *Instance) Clone(ctx context.Context, from node.Upstream) error {
	src, err := source(from)
	if err != nil {
		return err
	}
	defer i.say("")
	i.say("copying from %s", from.Name)
	began := i.c.Now()
	i.making.Store(true)
	defer i.making.Store(false)
	if err := i.cloneBy(ctx, src, from); err != nil {
		return err
	}
	i.bind(ctx)
	i.forget()
	i.c.Log.Info("data directory copied", "from", from.Name, "took", (i.c.Now() - began).Round(time.Millisecond).String())
	return nil
}

// Rewind brings the stopped, diverged directory back onto the history of a member.
func (i *Instance) Rewind(ctx context.Context, from node.Upstream, timeline uint32) error {
	src, err := source(from)
	if err != nil {
		return err
	}
	defer i.say("")
	i.say("rewinding from %s", from.Name)
	// Until its first checkpoint after the promotion the source's control file still names the old
	// timeline, and pg_rewind would see nothing to do.
	if err := i.pg.WaitCheckpointed(ctx, src, timeline); err != nil {
		return errors.Join(node.ErrTryAgain, err)
	}
	before, err := i.pg.Control(ctx)
	if err != nil {
		return err
	}
	i.making.Store(true)
	defer i.making.Store(false)
	needed, err := i.pg.Rewind(ctx, src, postgres.RewindOptions{RestoreTargetWAL: i.restoreCommand()}, i.bytesProgress("rewinding from "+from.Name))
	if err != nil {
		if errors.Is(err, postgres.ErrRunning) {
			// Processes that were killed and wait for their storage.
			return errors.Join(node.ErrTryAgain, err)
		}
		var re *postgres.RewindError
		if errors.As(err, &re) && !re.Touched && i.pg.WaitCheckpointed(ctx, src, 0) != nil {
			err = errors.Join(node.ErrTryAgain, err) // the source went away; nothing was changed here
		}
		return err
	}
	if needed {
		i.bind(ctx)
	}
	i.forget()
	if !needed && before.Timeline != timeline {
		i.c.Log.Info("pg_rewind found nothing to undo", "timeline", before.Timeline)
	}
	return nil
}

func source(up node.Upstream) (postgres.From, error) {
	if up.Name == "" {
		return postgres.From{}, errors.New("the source publishes no address yet")
	}
	port, err := strconv.Atoi(up.Port)
	if err != nil {
		return postgres.From{}, fmt.Errorf("member %s: port %q is not a number", up.Name, up.Port)
	}
	return postgres.From{Host: up.Host, Port: port}, nil
}

// Slots makes, moves and drops physical slots of members.
func (i *Instance) Slots(ctx context.Context, p node.SlotPlan) error {
	i.look.Lock()
	have := map[string]postgres.Slot{}
	for _, s := range i.last.status.Slots {
		have[s.Name] = s
	}
	i.look.Unlock()
	var errs []error
	for _, name := range p.Drop {
		if err := i.pg.DropSlot(ctx, name); err != nil {
			errs = append(errs, err)
			continue
		}
		i.c.Log.Info("replication slot dropped", "slot", name)
		delete(have, name)
	}
	for name, at := range p.Want {
		s, ok := have[name]
		if !ok {
			if err := i.pg.CreateSlot(ctx, name); err != nil {
				errs = append(errs, err)
				continue
			}
			s = postgres.Slot{Name: name, Type: "physical"}
		}
		if at != 0 && !s.Active && s.Type == "physical" && s.RestartLSN != 0 && s.RestartLSN < at {
			if err := i.pg.AdvanceSlot(ctx, name, at); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
