package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config configures a Supervisor.
type Config struct {
	// Dir is the run directory (absolute). Open makes it, mode 0755, if it does not exist.
	Dir string
	// Logger; nil for none.
	Logger *slog.Logger
	// Now is the wall clock for what people read; nil for time.Now.
	Now func() time.Time
	// OnEvent is told what happens to the children, one event at a time and in order for each child.
	// It must return soon and must not call the Supervisor, except Status. Nil for nobody.
	OnEvent func(Event)
	// OwnLog is a file that is rotated with those of the children: the one that the supervisor itself
	// writes to, when it has one. It must have been opened for appending.
	OwnLog string
	// MaxLogBytes is the size at which a log file is set aside as FILE.1, in place of the one before;
	// 0 for 10 MiB.
	MaxLogBytes int64
}

// Supervisor keeps children alive. Safe for concurrent use.
type Supervisor struct {
	cfg Config
	log *slog.Logger

	forker  *forker
	lock    *os.File
	control *control
	logs    *logKeeper

	hurry     chan struct{} // closed: no more patience with children that stop
	hurryOnce sync.Once
	asked     chan struct{} // closed: somebody asked over the socket to stop
	askedOnce sync.Once
	closeOnce sync.Once
	closeErr  error

	starting sync.Mutex // held by Open and Start from beginning to end

	mu       sync.Mutex // held for an instant
	open     bool
	stopping bool
	children []*child

	telling sync.Mutex
}

// New makes a Supervisor. It touches nothing; Open does.
func New(cfg Config) *Supervisor {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxLogBytes <= 0 {
		cfg.MaxLogBytes = 10 << 20
	}
	return &Supervisor{cfg: cfg, log: cfg.Logger, hurry: make(chan struct{}), asked: make(chan struct{})}
}

func (s *Supervisor) now() time.Time { return s.cfg.Now() }

func (s *Supervisor) tell(e Event) {
	s.telling.Lock()
	defer s.telling.Unlock()
	switch e.Kind {
	case Started, Finished:
		s.log.Info("child "+string(e.Kind), "name", e.Name, "pid", e.PID, "what", e.Text)
	default:
		s.log.Warn("child "+string(e.Kind), "name", e.Name, "pid", e.PID, "what", e.Text)
	}
	if s.cfg.OnEvent != nil {
		s.cfg.OnEvent(e)
	}
}

// Open takes the directory, ends the leftovers of a supervisor that died in it, and listens on the
// control socket. ErrRunning when another supervisor has it. When Open fails it has let go of
// everything; a Supervisor is opened once.
func (s *Supervisor) Open(ctx context.Context) error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if open, stopping := s.state(); open || stopping {
		return fmt.Errorf("open supervisor of %s: it was opened or stopped before", s.cfg.Dir)
	}
	if !filepath.IsAbs(s.cfg.Dir) {
		return fmt.Errorf("open supervisor: directory %q is not an absolute path", s.cfg.Dir)
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("open supervisor of %s: %w", s.cfg.Dir, err)
	}
	lock, err := takeLock(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open supervisor of %s: %w", s.cfg.Dir, err)
	}
	if err := endLeftovers(ctx, s.cfg.Dir, s.log); err != nil {
		lock.Close()
		return fmt.Errorf("open supervisor of %s: %w", s.cfg.Dir, err)
	}
	control, err := listen(s.cfg.Dir, s)
	if err != nil {
		lock.Close()
		return fmt.Errorf("open supervisor of %s: %w", s.cfg.Dir, err)
	}
	s.lock, s.control = lock, control
	s.forker = newForker()
	s.logs = keepLogs(s.cfg.MaxLogBytes, s.log)
	if s.cfg.OwnLog != "" {
		s.logs.add(s.cfg.OwnLog)
	}
	s.mu.Lock()
	s.open = true
	s.mu.Unlock()
	return nil
}

func (s *Supervisor) state() (open, stopping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.stopping
}

// Start starts children, group by group in rising order, without waiting for one to be ready. It may
// be called again with more. When one cannot be started (the program is missing, say) Start returns
// the error and leaves that child and those after it out; the ones before run on. ErrStopped before
// Open and after Stop.
func (s *Supervisor) Start(ctx context.Context, specs ...Spec) error {
	s.starting.Lock()
	defer s.starting.Unlock()
	specs = slices.Clone(specs)
	seen := make(map[string]bool)
	for _, c := range s.list() {
		seen[c.spec.Name] = true
	}
	for i := range specs {
		spec, err := specs[i].withDefaults(s.cfg.Dir)
		if err == nil && seen[spec.Name] {
			err = fmt.Errorf("child %s: there is one of that name", spec.Name)
		}
		if err != nil {
			return err
		}
		seen[spec.Name], specs[i] = true, spec
	}
	slices.SortStableFunc(specs, func(a, b Spec) int { return cmp.Compare(a.Group, b.Group) })
	for _, spec := range specs {
		if open, stopping := s.state(); !open || stopping {
			return fmt.Errorf("start %s: %w", spec.Name, ErrStopped)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("start %s: %w", spec.Name, context.Cause(ctx))
		}
		c := newChild(s, spec)
		s.mu.Lock()
		s.children = append(s.children, c)
		s.mu.Unlock()
		l, err := c.spawn(false)
		if err != nil {
			s.mu.Lock()
			s.children = slices.DeleteFunc(s.children, func(o *child) bool { return o == c })
			s.mu.Unlock()
			close(c.done)
			return err
		}
		s.logs.add(spec.LogFile)
		go c.run(l)
	}
	return nil
}

func (s *Supervisor) list() []*child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.children)
}

// Status is all children, in the order of their start.
func (s *Supervisor) Status() []ProcStatus {
	var out []ProcStatus
	for _, c := range s.list() {
		out = append(out, c.get())
	}
	return out
}

// Restart stops the child of that name within its bound, starts it again, and returns when it has.
// A child that waits is started at once. ErrUnknown, ErrStopped, or why it could not be started; then
// it is tried again as if it had ended.
func (s *Supervisor) Restart(ctx context.Context, name string) error {
	for _, c := range s.list() {
		if c.spec.Name == name {
			if err := c.ask(ctx); err != nil {
				return fmt.Errorf("restart %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("restart %q: %w", name, ErrUnknown)
}

// StopRequested is closed when a client asks over the socket to stop. Whoever opened the supervisor
// then calls Close.
func (s *Supervisor) StopRequested() <-chan struct{} { return s.asked }

func (s *Supervisor) isAsked() bool {
	select {
	case <-s.asked:
		return true
	default:
		return false
	}
}

// Stop stops all children, the highest group first and a group at a time, and returns when they have
// ended. Children of lower groups are kept alive meanwhile. When ctx ends first, everything that is
// left gets SIGKILL at once. The error names the children that even that did not end; nil means that
// no child is left. Afterwards Start refuses. It may be called again.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.starting.Lock() // a Start that is under way sees stopping and ends
	children := s.list()
	s.starting.Unlock()
	release := context.AfterFunc(ctx, func() { s.hurryOnce.Do(func() { close(s.hurry) }) })
	defer release()

	slices.SortStableFunc(children, func(a, b *child) int { return cmp.Compare(b.spec.Group, a.spec.Group) })
	var left []string
	for len(children) > 0 {
		n := 1
		for n < len(children) && children[n].spec.Group == children[0].spec.Group {
			n++
		}
		group := children[:n]
		children = children[n:]
		for _, c := range group {
			c.stop()
		}
		for _, c := range group {
			if !c.gone(s.hurry) {
				left = append(left, fmt.Sprintf("%s (pid %d)", c.spec.Name, c.get().PID))
			}
		}
	}
	if left != nil {
		return fmt.Errorf("stop the children in %s: still there after SIGKILL: %s", s.cfg.Dir, strings.Join(left, ", "))
	}
	return nil
}

// gone waits until the child has ended: for its bound, or until hurry, and then for the time that
// SIGKILL may take.
func (c *child) gone(hurry <-chan struct{}) bool {
	polite := time.NewTimer(c.spec.StopWithin)
	defer polite.Stop()
	select {
	case <-c.done:
		return true
	case <-polite.C:
	case <-hurry:
	}
	// A little longer than the child itself waits, so that its own words come first.
	hard := time.NewTimer(killPatience + time.Second)
	defer hard.Stop()
	select {
	case <-c.done:
		return true
	case <-hard.C:
		return false
	}
}

// Close stops what Stop has not stopped, within the bounds of the children, closes the socket and lets
// go of the directory. It may be called twice and returns the first error.
func (s *Supervisor) Close() error {
	s.closeOnce.Do(func() {
		err := s.Stop(context.Background())
		s.mu.Lock()
		open := s.open
		s.open = false
		s.mu.Unlock()
		if !open {
			s.closeErr = err
			return
		}
		s.logs.close()
		if err == nil {
			s.forker.close() // not while a child is left that may still be restarted from it
		}
		s.control.shut()
		err = errors.Join(err, s.lock.Close())
		s.control.farewell(err)
		s.closeErr = err
	})
	return s.closeErr
}
