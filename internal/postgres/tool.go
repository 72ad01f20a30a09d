package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// ToolError is a program of PostgreSQL that did not succeed. Output is all that it printed (up to
// 1 MiB of its end); the message carries its last telling lines.
type ToolError struct {
	Program string
	Output  string
	Err     error // *exec.ExitError, or why it was not started or was ended
}

func (e *ToolError) Error() string {
	msg := fmt.Sprintf("%s: %v", e.Program, e.Err)
	if tail := telling(e.Output); tail != "" {
		msg += ": " + tail
	}
	return msg
}

// Unwrap gives Err.
func (e *ToolError) Unwrap() error { return e.Err }

// telling are the lines of output that say what went wrong, or the last one.
func telling(output string) string {
	var lines []string
	last := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		for _, word := range []string{"error:", "fatal:", "detail:", "hint:", "FATAL:", "PANIC:", "ERROR:", "could not"} {
			if strings.Contains(line, word) {
				lines = append(lines, line)
				break
			}
		}
	}
	if len(lines) == 0 && last != "" {
		lines = []string{last}
	}
	if len(lines) > 4 {
		lines = lines[len(lines)-4:]
	}
	text := strings.Join(lines, "; ")
	if len(text) > 600 {
		text = text[:600] + "..."
	}
	return text
}

const (
	maxToolOutput = 1 << 20
	// toolGrace is how long a program may take to end after it was asked to.
	toolGrace = 5 * time.Second
)

// output runs a quick program and returns what it printed on stdout.
func (s *Server) output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	err := s.run(ctx, tool{program: program, args: args, stdout: &out})
	return out.String(), err
}

// tool is one run of a program of PostgreSQL.
type tool struct {
	program string
	args    []string
	env     []string     // besides environ
	stdout  io.Writer    // nil: kept with stderr
	line    func(string) // gets each line, and each part that ends in a carriage return
}

// run runs a program to its end, as the user of the server, in a process group of its own that is
// ended with ctx and, should the agent die, with the agent.
func (s *Server) run(ctx context.Context, t tool) error {
	bin, err := s.BinDir()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so the thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- s.runHere(ctx, filepath.Join(bin, t.program), t)
	}()
	return <-done
}

func (s *Server) runHere(ctx context.Context, path string, t tool) error {
	cmd := exec.CommandContext(ctx, path, t.args...)
	cmd.Dir = "/"
	cmd.Env = s.environ(t.env...)
	cmd.SysProcAttr = s.attr()
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = toolGrace
	kept := &lineKeeper{line: t.line}
	cmd.Stderr = kept
	cmd.Stdout = t.stdout
	if t.stdout == nil {
		cmd.Stdout = kept
	}
	err := cmd.Run()
	kept.flush()
	if err == nil {
		return nil
	}
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // children that it left behind
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return &ToolError{Program: t.program, Output: kept.String(), Err: err}
}

// lineKeeper keeps the end of a program's output and hands over its lines.
type lineKeeper struct {
	kept    []byte
	partial []byte
	line    func(string)
}

func (k *lineKeeper) Write(p []byte) (int, error) {
	k.kept = append(k.kept, p...)
	if over := len(k.kept) - maxToolOutput; over > 0 {
		k.kept = append(k.kept[:0], k.kept[over:]...)
	}
	if k.line == nil {
		return len(p), nil
	}
	k.partial = append(k.partial, p...)
	for {
		n, token, _ := scanProgress(k.partial, false)
		if n == 0 {
			break
		}
		k.line(string(token))
		k.partial = k.partial[n:]
	}
	if len(k.partial) > bufio.MaxScanTokenSize {
		k.partial = nil
	}
	return len(p), nil
}

func (k *lineKeeper) flush() {
	if k.line != nil && len(k.partial) > 0 {
		k.line(string(k.partial))
		k.partial = nil
	}
}

func (k *lineKeeper) String() string { return strings.ReplaceAll(string(k.kept), "\r", "\n") }

// scanProgress splits at newlines and at carriage returns, with which progress is overwritten.
func scanProgress(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
