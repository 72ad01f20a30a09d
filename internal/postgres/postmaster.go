package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/process"
)

// Postmaster is one life of the server: a process that was started here or found.
type Postmaster struct {
	watch    *process.Watcher
	adopted  bool
	status   atomic.Pointer[string]
	logPath  string
	logStart int64
}

// PID is the process id.
func (p *Postmaster) PID() int { return p.watch.PID }

// StartTicks is the start time in clock ticks after boot, which with PID names the process.
func (p *Postmaster) StartTicks() uint64 { return p.watch.Start }

// Adopted says that it ran before this agent did.
func (p *Postmaster) Adopted() bool { return p.adopted }

// Exited is closed when the process has ended, within a millisecond or so.
func (p *Postmaster) Exited() <-chan struct{} { return p.watch.Exited() }

// Alive says whether the process has not ended.
func (p *Postmaster) Alive() bool { return !p.watch.Gone() }

// ExitStatus says how it ended ("exit status 1", "signal: killed"); empty while it lives, and for
// an adopted one, whose status only its parent learns.
func (p *Postmaster) ExitStatus() string {
	if s := p.status.Load(); s != nil {
		return *s
	}
	return ""
}

// LogTail is the end of what this postmaster has written to the log file, at most n bytes, from
// the beginning of a line.
func (p *Postmaster) LogTail(n int64) string {
	f, err := os.Open(p.logPath)
	if err != nil {
		return ""
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	from := p.logStart
	if from > end { // rotated
		from = 0
	}
	cut := end-from > n
	if cut {
		from = end - n
	}
	b := make([]byte, end-from)
	got, _ := f.ReadAt(b, from)
	text := string(b[:got])
	if cut {
		if _, rest, ok := strings.Cut(text, "\n"); ok {
			text = rest
		}
	}
	return text
}

// Failure are the lines of the log that say why the server ended, the last few; empty for none.
func (p *Postmaster) Failure() string { return telling(p.LogTail(16 << 10)) }

// Postmaster is the one that was started or adopted last and has not ended; nil when there is none.
func (s *Server) Postmaster() *Postmaster {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pm == nil || !s.pm.Alive() {
		return nil
	}
	return s.pm
}

func (s *Server) setPostmaster(pm *Postmaster) {
	s.mu.Lock()
	old := s.pm
	s.pm = pm
	s.mu.Unlock()
	if old != nil {
		_ = old.watch.Close()
	}
	s.dropConn()
}

// pidFile is postmaster.pid (src/include/utils/pidfile.h).
type pidFile struct {
	pid     int // negative for a stand-alone backend
	dataDir string
	port    int
	status  string // "ready", "standby", "starting", "stopping"
}

func parsePIDFile(text string) (pidFile, error) {
	lines := strings.Split(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid == 0 || pid == -1<<63 {
		return pidFile{}, fmt.Errorf("parse postmaster.pid: got %.40q, want a process id on its first line", lines[0])
	}
	f := pidFile{pid: pid}
	if len(lines) > 1 {
		f.dataDir = lines[1]
	}
	if len(lines) > 3 {
		f.port, _ = strconv.Atoi(strings.TrimSpace(lines[3]))
	}
	if len(lines) > 7 {
		f.status = strings.TrimSpace(lines[7])
	}
	return f, nil
}

func (s *Server) pidPath() string { return filepath.Join(s.cfg.DataDir, "postmaster.pid") }

// find looks for a running postmaster of the data directory. Its pid in postmaster.pid counts only
// when that process runs PostgreSQL's server in this very directory: a number that the system has
// given to somebody else, or that was copied along with the directory, does not.
func (s *Server) find() (pid int, err error) {
	b, err := os.ReadFile(s.pidPath())
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrNotRunning
	}
	if err != nil {
		return 0, fmt.Errorf("read postmaster.pid: %w", err)
	}
	f, err := parsePIDFile(string(b))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	pid = f.pid
	if pid < 0 {
		pid = -pid
	}
	mine, err := process.InDir(pid, s.cfg.DataDir)
	switch {
	case errors.Is(err, os.ErrPermission):
		return 0, fmt.Errorf("tell whether PostgreSQL runs: process %d of postmaster.pid belongs to another user: run the agent as that user or as root: %w", pid, err)
	case err != nil:
		return 0, err
	case !mine || f.pid < 0:
		return 0, ErrNotRunning
	}
	return pid, nil
}

// Adopt attaches to the running postmaster of the data directory. ErrNotRunning when there is none.
func (s *Server) Adopt(ctx context.Context) (*Postmaster, error) {
	if pm := s.Postmaster(); pm != nil {
		return pm, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pid, err := s.find()
	if err != nil {
		return nil, fmt.Errorf("adopt the server of %s: %w", s.cfg.DataDir, err)
	}
	h, err := process.Open(pid, 0)
	if errors.Is(err, process.ErrGone) {
		err = ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("adopt the server of %s: %w", s.cfg.DataDir, err)
	}
	// Now that the descriptor holds it, make sure that it is still the one that was looked at.
	if mine, err := process.InDir(pid, s.cfg.DataDir); err != nil || !mine || h.Gone() {
		h.Close()
		return nil, fmt.Errorf("adopt the server of %s: %w", s.cfg.DataDir, errors.Join(ErrNotRunning, err))
	}
	pm := &Postmaster{adopted: true, logPath: s.cfg.LogFile}
	if info, err := os.Stat(s.cfg.LogFile); err == nil {
		pm.logStart = info.Size()
	}
	pm.watch = process.Watch(h, nil)
	s.setPostmaster(pm)
	return pm, nil
}

// wantIdle is nil when no process of PostgreSQL is in the data directory, else ErrRunning.
func (s *Server) wantIdle() error {
	list, err := process.List(s.cfg.DataDir, 0)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		return fmt.Errorf("%w: process %d (%s)", ErrRunning, list[0].PID, list[0].Title())
	}
	return nil
}

// StartOptions say how to start.
type StartOptions struct {
	// ConfigFile is the main configuration file; empty for postgresql.conf in the data directory.
	ConfigFile string
	// Settings are given on the command line and win over every file.
	Settings map[string]string
}

// Start starts the server and returns once its process exists; Status tells when it answers, and
// Postmaster.Exited and Failure tell that it did not come up.
//
// ErrRunning, with the postmaster adopted and returned, when one runs already. Backends that
// outlived their postmaster are killed first, because they hold the shared memory. A postmaster.pid
// is removed only when no process of PostgreSQL is in the directory.
func (s *Server) Start(ctx context.Context, o StartOptions) (*Postmaster, error) {
	pm, err := s.start(ctx, o)
	if err != nil {
		return pm, fmt.Errorf("start PostgreSQL in %s: %w", s.cfg.DataDir, err)
	}
	return pm, nil
}

func (s *Server) start(ctx context.Context, o StartOptions) (*Postmaster, error) {
	pm, err := s.Adopt(ctx)
	if err == nil {
		return pm, ErrRunning
	}
	if !errors.Is(err, ErrNotRunning) {
		return nil, err
	}
	if err := s.wantIdle(); errors.Is(err, ErrRunning) {
		s.log.Warn("killing processes that outlived their postmaster", "data_dir", s.cfg.DataDir, "found", err.Error())
		sweep, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := process.KillAll(sweep, s.cfg.DataDir, 0, 0); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if err := os.Remove(s.pidPath()); err == nil {
		s.log.Info("removed a stale postmaster.pid", "data_dir", s.cfg.DataDir)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := s.dropSocketLock(); err != nil {
		return nil, err
	}
	bin, err := s.BinDir()
	if err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(s.cfg.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer logFile.Close()
	if err := s.chown(s.cfg.LogFile); err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	info, err := logFile.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}

	cmd := exec.Command(filepath.Join(bin, "postgres"), s.arguments(o)...)
	// From its first instant the process is in the data directory, where the guardian looks.
	cmd.Dir = s.cfg.DataDir
	// The agent may be protected from the out-of-memory killer; backends must not be.
	cmd.Env = s.environ("PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE=0")
	cmd.SysProcAttr = s.attr()
	cmd.SysProcAttr.Setsid = true
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pm = &Postmaster{logPath: s.cfg.LogFile, logStart: info.Size()}
	h, err := process.Open(cmd.Process.Pid, 0)
	if err != nil {
		// It cannot have been reaped, so it has ended already (or there are no descriptors left).
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("it ended at once with %s: %s", cmd.ProcessState, pm.Failure())
	}
	pm.watch = process.Watch(h, func() {
		_ = cmd.Wait() // it has ended: this reaps it
		status := cmd.ProcessState.String()
		pm.status.Store(&status)
	})
	s.setPostmaster(pm)
	return pm, nil
}

// dropSocketLock removes the lock of the socket that a server of this data directory left behind, in
// which nothing runs. PostgreSQL itself goes by the process id in it, and refuses to start while that
// number is a process', as after a power cut or while a killed server is not reaped yet.
func (s *Server) dropSocketLock() error {
	path := filepath.Join(s.cfg.SocketDir, fmt.Sprintf(".s.PGSQL.%d.lock", s.cfg.Port))
	b, err := os.ReadFile(path)
	if err != nil {
		return ignoreNotExist(err)
	}
	f, err := parsePIDFile(string(b))
	if err != nil || f.dataDir != s.cfg.DataDir && f.dataDir != s.dataDir() {
		return nil // somebody else's, or nobody's: PostgreSQL says what it thinks of it
	}
	if err := os.Remove(path); err != nil {
		return ignoreNotExist(err)
	}
	s.log.Info("removed a stale lock of the socket", "path", path)
	return nil
}

// arguments of the server. What the agent relies on is given here, so that no line in a file or of
// ALTER SYSTEM can take it away.
func (s *Server) arguments(o StartOptions) []string {
	conf := o.ConfigFile
	if conf == "" {
		conf = filepath.Join(s.cfg.DataDir, "postgresql.conf")
	}
	settings := map[string]string{
		"listen_addresses":        s.cfg.ListenAddresses,
		"port":                    strconv.Itoa(s.cfg.Port),
		"unix_socket_directories": s.cfg.SocketDir,
	}
	for k, v := range o.Settings {
		settings[k] = v
	}
	args := []string{"-D", s.cfg.DataDir, "-c", "config_file=" + conf}
	names := make([]string, 0, len(settings))
	for k := range settings {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		args = append(args, "-c", k+"="+settings[k])
	}
	return args
}

// signal sends sig to the running postmaster.
func (s *Server) signal(sig unix.Signal) error {
	pm := s.Postmaster()
	if pm == nil {
		return ErrNotRunning
	}
	if err := pm.watch.Signal(sig); errors.Is(err, process.ErrGone) {
		return ErrNotRunning
	} else if err != nil {
		return err
	}
	return nil
}
