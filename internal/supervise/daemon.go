package supervise

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readyEnv names the descriptor on which a daemon reports to the process that started it.
const readyEnv = "HATHI_READY_FD"

// DaemonOptions say how to start a daemon.
type DaemonOptions struct {
	// Argv is the program's path and its arguments. It runs in "/", so paths in it are absolute.
	Argv []string
	// Env is its whole environment; nil for that of this process.
	Env []string
	// LogFile takes its output, appended.
	LogFile string
	// Progress is told what the daemon says meanwhile; nil for nobody.
	Progress func(text string)
	// StopWithin is how long the daemon may take to end when ctx ends before it is ready, before it is
	// killed; 0 for 30 s.
	StopWithin time.Duration
}

// Daemonize starts a program in a session of its own, with its output in a log file, and returns
// its pid when it has called Ready. When it fails, or ends first, the error holds its own words or
// the end of its log. When ctx ends first the daemon gets SIGTERM, and SIGKILL at StopWithin.
//
// The daemon is a child of this process, which need not wait for it: a command ends right after.
func Daemonize(ctx context.Context, o DaemonOptions) (pid int, err error) {
	if len(o.Argv) == 0 {
		return 0, errors.New("start in the background: no command given")
	}
	log, err := openLog(o.LogFile)
	if err != nil {
		return 0, fmt.Errorf("start in the background: %w", err)
	}
	defer log.Close()
	var began int64
	if st, err := log.Stat(); err == nil {
		began = st.Size()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start in the background: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(o.Argv[0], o.Argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = o.Env
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], readyEnv+"=3")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("start in the background: %w", err)
	}
	pid = cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	why := listenForReady(r, o.Progress)
	if why == nil {
		_ = cmd.Process.Release()
		return pid, nil
	}
	patience := o.StopWithin
	if patience <= 0 {
		patience = 30 * time.Second
	}
	if ctx.Err() != nil {
		why = context.Cause(ctx)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait()
	if errors.Is(why, errSilent) {
		why = fmt.Errorf("it ended with %s%s", cmd.ProcessState, tail(o.LogFile, began))
	}
	return 0, fmt.Errorf("start in the background: %w; its log is %s", why, o.LogFile)
}

// errSilent: the daemon ended, or closed the pipe, without a word.
var errSilent = errors.New("it ended without a word")

func listenForReady(r io.Reader, progress func(string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		word, text, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ready":
			return nil
		case "failed":
			return errors.New(text)
		case "progress":
			if progress != nil {
				progress(text)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errSilent
}

// tail is the last lines that were written to a log since offset, with words before them.
func tail(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 4096
	if st, err := f.Stat(); err == nil {
		offset = max(offset, st.Size()-most)
	}
	b, _ := io.ReadAll(io.NewSectionReader(f, offset, most))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	if text := strings.Join(lines, "\n"); text != "" {
		return ", after saying:\n" + text + "\n"
	}
	return ""
}

// Starter is the process that waits in Daemonize for this one. All methods may be called when there
// is none, on a nil Starter too; they then do nothing.
type Starter struct{ pipe *os.File }

// FindStarter takes the line to the waiting process out of the environment, so that no child
// inherits it. Call it once, at the beginning.
func FindStarter() *Starter {
	value := os.Getenv(readyEnv)
	_ = os.Unsetenv(readyEnv)
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil // the variable came from elsewhere
	}
	unix.CloseOnExec(fd)
	return &Starter{pipe: os.NewFile(uintptr(fd), "starter")}
}

// Waits says whether there is one.
func (s *Starter) Waits() bool { return s != nil && s.pipe != nil }

// Progress says what is under way.
func (s *Starter) Progress(text string) { s.say("progress", text) }

// Ready ends the wait: all is well.
func (s *Starter) Ready() { s.last("ready", "") }

// Failed ends the wait with an error.
func (s *Starter) Failed(err error) { s.last("failed", err.Error()) }

func (s *Starter) last(word, text string) {
	s.say(word, text)
	if s.Waits() {
		_ = s.pipe.Close()
		s.pipe = nil
	}
}

func (s *Starter) say(word, text string) {
	if !s.Waits() {
		return
	}
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
	if len(text) > 8<<10 {
		text = text[:8<<10]
	}
	_, _ = s.pipe.WriteString(strings.TrimSpace(word+" "+text) + "\n") // nobody listens any more: so be it
}
