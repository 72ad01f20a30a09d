package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hathi-ha/hathi/internal/term"
)

// errAborted is the answer no.
var errAborted = errors.New("not confirmed: nothing was changed")

func (a *App) interactive() bool {
	if a.Interactive != nil {
		return a.Interactive()
	}
	return term.IsTerminal(a.Stdin)
}

// consent asks before the cluster is changed, unless yes was said on the command line. Where nobody
// can be asked it is a usage error: what is the flag to say yes with.
func (a *App) consent(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.interactive() {
		return usagef("nobody can be asked, since standard input is no terminal: add --force to go on without the question %q", question)
	}
	ok, err := a.ask(question, false)
	if err != nil {
		return err
	}
	if !ok {
		return errAborted
	}
	return nil
}

// ask puts a question with a default for an empty answer. The end of the input is the answer no.
func (a *App) ask(question string, enter bool) (bool, error) {
	choice := "[y/N]"
	if enter {
		choice = "[Y/n]"
	}
	for range 3 {
		fmt.Fprintf(a.Stderr, "%s %s: ", question, choice)
		line, err := readLine(a.Stdin)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("read the answer: %w", err)
		}
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, nil
		case "n", "no":
			return false, nil
		case "":
			if err != nil { // the input ended
				fmt.Fprintln(a.Stderr)
				return false, nil
			}
			return enter, nil
		}
		if err != nil {
			return false, nil
		}
		fmt.Fprintln(a.Stderr, "Please answer y or n.")
	}
	return false, nil
}

// readLine reads one line and not a byte more: what follows may be another question's.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < 4096 {
		n, err := r.Read(b)
		if n == 1 {
			if b[0] == '\n' {
				return string(line), nil
			}
			line = append(line, b[0])
		}
		if err != nil {
			return string(line), err
		}
	}
	return string(line), nil
}
