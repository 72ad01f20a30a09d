package supervise

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Spec says how to run one child.
type Spec struct {
	// Name names the child and its files: letters, digits, dots, dashes and underscores, at most 64,
	// unique in its supervisor.
	Name string
	// Group orders children: lower groups start first and stop last.
	Group int
	// Argv is the program's path and its arguments. No secrets: every user of the machine can see them.
	Argv []string
	// Dir is the child's current directory; empty for "/".
	Dir string
	// Env is its whole environment; nil for that of the supervisor.
	Env []string
	// Credential is the user to run as; nil for that of the supervisor. Another one takes root.
	Credential *syscall.Credential
	// LogFile takes its standard output and error, appended; empty for NAME.log in the supervisor's
	// directory. The supervisor opens it, so the child's user need not be able to.
	LogFile string
	// Backoff says when to start it again.
	Backoff Backoff
	// StopSignal asks it to end; 0 for SIGTERM.
	StopSignal syscall.Signal
	// StopWithin is how long it may take before SIGKILL; 0 for 10 s.
	StopWithin time.Duration
	// DeathSignal is what the kernel sends it when the supervisor dies; 0 for SIGKILL, which nothing
	// can outlive.
	DeathSignal syscall.Signal
}

// Backoff is the pause before a child that ended is started again.
type Backoff struct {
	// Min is the first pause; 0 for 200 ms. It doubles at each end, up to Max; 0 for 5 s.
	Min, Max time.Duration
	// ResetAfter is how long a child must live for the pause to begin at Min again; 0 for 10 s.
	ResetAfter time.Duration
}

// next is the pause after a child that lived for life, when the pause before it was last (0: none).
func (b Backoff) next(last, life time.Duration) time.Duration {
	if last <= 0 || life >= b.ResetAfter {
		return b.Min
	}
	return min(2*last, b.Max)
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// reserved is the supervisor's own name among the files.
const reserved = "supervise"

// withDefaults checks s and fills in what was left out.
func (s Spec) withDefaults(dir string) (Spec, error) {
	switch {
	case !goodName.MatchString(s.Name) || s.Name == reserved:
		return s, fmt.Errorf("child name %q: use letters, digits, dots, dashes and underscores, at most 64, and not %q", s.Name, reserved)
	case len(s.Argv) == 0 || s.Argv[0] == "":
		return s, fmt.Errorf("child %s: no command given", s.Name)
	case strings.ContainsRune(strings.Join(s.Argv, ""), 0):
		return s, fmt.Errorf("child %s: a command with a NUL byte in it", s.Name)
	case s.StopWithin < 0 || s.Backoff.Min < 0 || s.Backoff.Max < 0 || s.Backoff.ResetAfter < 0:
		return s, fmt.Errorf("child %s: a negative duration", s.Name)
	case s.StopSignal < 0 || s.StopSignal > 64 || s.DeathSignal < 0 || s.DeathSignal > 64:
		return s, fmt.Errorf("child %s: no such signal", s.Name)
	}
	if s.Dir == "" {
		s.Dir = "/"
	}
	if s.LogFile == "" {
		s.LogFile = filepath.Join(dir, s.Name+".log")
	}
	if s.StopSignal == 0 {
		s.StopSignal = syscall.SIGTERM
	}
	if s.DeathSignal == 0 {
		s.DeathSignal = syscall.SIGKILL
	}
	if s.StopWithin == 0 {
		s.StopWithin = 10 * time.Second
	}
	if s.Backoff.Min == 0 {
		s.Backoff.Min = 200 * time.Millisecond
	}
	if s.Backoff.Max == 0 {
		s.Backoff.Max = 5 * time.Second
	}
	s.Backoff.Max = max(s.Backoff.Max, s.Backoff.Min)
	if s.Backoff.ResetAfter == 0 {
		s.Backoff.ResetAfter = 10 * time.Second
	}
	return s, nil
}

// State is what a child is doing.
type State string

// The states, as drawn in the package comment.
const (
	Running  State = "running"
	Waiting  State = "waiting" // ended, to be started again after a pause
	Stopping State = "stopping"
	Stopped  State = "stopped"
)

// ProcStatus is one child at one moment.
type ProcStatus struct {
	Name  string `json:"name"`
	Group int    `json:"group"`
	State State  `json:"state"`
	// PID is 0 when no process runs.
	PID int `json:"pid,omitempty"`
	// Restarts counts the starts after the first.
	Restarts int `json:"restarts"`
	// Since is when it came into this state (wall clock, for people).
	Since time.Time `json:"since"`
	// LastExit says how the last process ended ("exit status 1", "signal: killed"), or why it could
	// not be started; empty when none has ended yet.
	LastExit string `json:"last_exit,omitempty"`
	LogFile  string `json:"log_file"`
}

// Event tells of one thing that happened to a child.
type Event struct {
	Time time.Time `json:"time"`
	Name string    `json:"name"`
	PID  int       `json:"pid,omitempty"`
	Kind EventKind `json:"kind"`
	// Text is a sentence for the operator.
	Text string `json:"text"`
}

// EventKind is the kind of an Event.
type EventKind string

// The kinds of events.
const (
	Started   EventKind = "started"
	Ended     EventKind = "ended"      // by itself, or because somebody else killed it
	NotKilled EventKind = "not-killed" // SIGKILL did not end it within 10 s
	Killed    EventKind = "killed"     // it did not stop within its bound
	Finished  EventKind = "finished"   // stopped because it was told to
	Refused   EventKind = "refused"    // could not be started
)

// The errors that callers decide on.
var (
	// ErrRunning: another supervisor works in this directory.
	ErrRunning = errors.New("a supervisor runs in this directory already")
	// ErrNotRunning: no supervisor works in this directory.
	ErrNotRunning = errors.New("no supervisor runs in this directory")
	// ErrStopped: the supervisor has been stopped, or was never opened.
	ErrStopped = errors.New("the supervisor is stopped")
	// ErrUnknown: there is no child of that name.
	ErrUnknown = errors.New("no such process")
)
