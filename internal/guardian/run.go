package guardian

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/process"
)

// ErrRunning says that another guardian guards this state file already.
var ErrRunning = errors.New("a guardian for this state file runs already")

const (
	// lookEvery is between two looks at the page when nobody says that it has changed. The deadline
	// itself is never slept through.
	lookEvery    = 100 * time.Millisecond
	lockEvery    = 20 * time.Millisecond // between two tries to get the lock file
	fencingEvery = 5 * time.Millisecond  // between two rounds of a fence
	lockPatience = 2 * time.Second       // for a predecessor that is about to exit
)

// Run is the guardian process. It returns nil when it is no longer needed: after Handle.Quit, when
// the state file was replaced or removed, or when ctx ended, and in each case only while it is not
// armed; an armed guardian stays whatever happens. ErrRunning when there is one already. It keeps
// one thread to itself and changes settings of the whole process (garbage collection, memory
// locks, priority), so it is for a process of its own.
func Run(ctx context.Context, path string, log *slog.Logger) error {
	p, err := mapPage(path)
	if err != nil {
		return fmt.Errorf("start guardian: %w", err)
	}
	defer p.close()
	boot, err := boottime.BootID()
	if err != nil {
		return fmt.Errorf("start guardian: %w", err)
	}
	if p.bootID() != boot {
		return fmt.Errorf("start guardian: state file %s is of another boot of this machine: the agent replaces it when it starts", path)
	}
	lock, err := holdLock(ctx, path)
	if err != nil {
		return fmt.Errorf("start guardian: %w", err)
	}
	defer lock.Close()

	me, err := process.Find(os.Getpid())
	if err != nil {
		return fmt.Errorf("start guardian: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.store(wThread, 0)
	p.store(wLocked, 0)
	notes := harden()
	if notes.memoryLocked {
		p.store(wLocked, 1)
	}
	g := &guard{page: p, dir: p.dataDir()}
	g.hunt = process.NewHunt(g.dir)
	defer g.hunt.Close()
	if err := rehearse(g.dir); err != nil {
		notes.refused = append(notes.refused, err.Error())
	}
	log.Info("guardian started", "pid", me.PID, "data_dir", g.dir, "memory_locked", notes.memoryLocked)
	for _, n := range notes.refused {
		log.Warn("guardian protection refused", "what", n)
	}
	p.store(wThread, int64(unix.Gettid()))
	p.store(wGuardianStart, int64(me.Start))
	p.store(wGuardian, int64(me.PID))
	return g.run(ctx, log)
}

// guard is the loop's state.
type guard struct {
	page    *page
	dir     string
	sent    Step // the last signal sent in this fence
	sentPID int  // and to whom
	hunt    *process.Hunt
	empty   int // rounds in a row in which nothing was alive
	lastErr error
}

func (g *guard) run(ctx context.Context, log *slog.Logger) error {
	p := g.page
	var nextLook time.Duration // at the path
	for {
		// The generation is read before the deadline that was written before it, so an
		// acknowledged generation is one whose deadline was seen.
		generation := p.load(wGeneration)
		deadline := p.load(wDeadline)
		now := boottime.Now()
		if deadline > 0 && now >= time.Duration(deadline) {
			p.store(wBegan, deadline)
			// The swap reads the deadline once more: an extension in between wins.
			if !p.swap(wDeadline, deadline, claimed) {
				continue
			}
			g.sent, g.sentPID, g.empty, g.lastErr = StepNone, 0, 0, nil
			p.store(wStep, int64(StepNone))
			deadline = claimed
		}
		fencing := deadline == claimed && p.load(wFenced) == 0
		if fencing && g.fence(now) {
			done := boottime.Now()
			p.store(wFenced, int64(done))
			fencing = false
			log.Error("fenced: PostgreSQL was stopped because the lease was not renewed in time",
				"data_dir", g.dir, "how", Step(p.load(wStep)).String(),
				"took", done-time.Duration(p.load(wBegan)), "err", g.lastErr)
		}
		p.store(wHeartbeat, int64(boottime.Now()))
		p.store(wAck, generation)

		switch {
		case fencing:
			boottime.NapUntil(now + fencingEvery)
		case deadline > 0:
			boottime.NapUntil(min(now+lookEvery, time.Duration(deadline)))
		default:
			if ctx.Err() != nil || p.load(wQuit) == 1 {
				log.Info("guardian stops: it was told to")
				return nil
			}
			if now >= nextLook {
				nextLook = now + lookEvery
				if !p.current() {
					log.Info("guardian stops: its state file was replaced or removed")
					return nil
				}
			}
			boottime.NapUntil(now + lookEvery)
		}
	}
}

// fence does one round and says whether nothing is left alive. Errors are kept for the log.
func (g *guard) fence(now time.Duration) (done bool) {
	p := g.page
	ladder := lease.Ladder{Immediate: time.Duration(p.load(wImmediate)), Kill: time.Duration(p.load(wKill))}
	step := max(due(now, time.Duration(p.load(wBegan)), ladder), StepFast)
	pid, start := int(p.load(wPID)), uint64(p.load(wStart))
	alive := 0
	var err error
	if step == StepKill {
		alive, err = g.hunt.Kill(pid, start)
	} else {
		alive, err = g.ask(step, pid, start)
	}
	if err != nil {
		g.lastErr = err
	}
	if alive > 0 {
		p.store(wStep, int64(max(step, Step(p.load(wStep)))))
	}
	if alive > 0 || err != nil {
		g.empty = 0
		return false
	}
	g.empty++
	return g.empty >= 2
}

// ask sends the postmaster the signal of step, once, and says how many processes are alive.
// Without a postmaster the backends that it left behind are killed at once.
func (g *guard) ask(step Step, pid int, start uint64) (alive int, err error) {
	boss, alive, err := g.hunt.Look(pid, start)
	switch {
	case boss != nil:
		return alive, errors.Join(err, g.signal(boss, step))
	case alive > 0:
		return g.hunt.Kill(0, 0)
	}
	return alive, err
}

func (g *guard) signal(boss *process.Handle, step Step) error {
	if g.sent >= step && g.sentPID == boss.PID {
		return nil
	}
	sig := unix.SIGINT
	if step == StepImmediate {
		sig = unix.SIGQUIT
	}
	if err := boss.Signal(sig); err != nil && !errors.Is(err, process.ErrGone) {
		return err
	}
	g.sent, g.sentPID = step, boss.PID
	return nil
}

// holdLock makes sure that there is one guardian per state file. It waits a little for one that
// is about to exit.
func holdLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of guardian state %s: %w", path, err)
	}
	until := boottime.Now() + lockPatience
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("lock of guardian state %s: %w", path, err)
		case boottime.Now() >= until:
			f.Close()
			return nil, fmt.Errorf("lock of guardian state %s: %w", path, ErrRunning)
		}
		if err := boottime.SleepUntil(ctx, boottime.Now()+lockEvery); err != nil {
			f.Close()
			return nil, err
		}
	}
}
