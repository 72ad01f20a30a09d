package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity of a problem.
type Severity string

// An Error keeps hathi from starting, a Warning does not.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	// Path is where in the file: "postgresql.listen", "bootstrap.pg_hba[1]". Empty for the whole.
	Path string `json:"path"`
	// Line is the line in the file, from 1; 0 when the setting is absent or came from the environment.
	Line int `json:"line,omitempty"`
	// Severity says whether hathi can start with it.
	Severity Severity `json:"severity"`
	// Message says what is wrong. It never contains a secret.
	Message string `json:"message"`
	// Hint says what to do. It may be empty.
	Hint string `json:"hint,omitempty"`
}

// String is the problem in one line, without the hint.
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all things wrong with a configuration, in the order of the file.
type Problems []Problem

// Of are the problems of one severity.
func (ps Problems) Of(s Severity) Problems {
	var out Problems
	for _, p := range ps {
		if p.Severity == s {
			out = append(out, p)
		}
	}
	return out
}

// Errors are the problems that keep hathi from starting.
func (ps Problems) Errors() Problems { return ps.Of(Error) }

// Warnings are the others.
func (ps Problems) Warnings() Problems { return ps.Of(Warning) }

// ErrInvalid marks a configuration that cannot be used.
var ErrInvalid = errors.New("configuration cannot be used")

// Err is nil when there are no errors; else an error that wraps ErrInvalid and says them all, a
// line each, with their hints. Warnings are not in it.
func (ps Problems) Err() error {
	errs := ps.Errors()
	if len(errs) == 0 {
		return nil
	}
	var b strings.Builder
	for _, p := range errs {
		b.WriteString("\n  " + p.String())
		if p.Hint != "" {
			b.WriteString("\n    hint: " + p.Hint)
		}
	}
	return fmt.Errorf("%w:%s", ErrInvalid, b.String())
}

// Has says whether there is a problem at path.
func (ps Problems) Has(path string) bool {
	return slices.ContainsFunc(ps, func(p Problem) bool { return p.Path == path })
}

// sorted puts problems in the order of the file, those without a line last.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		la, lb := a.Line, b.Line
		if la == 0 {
			la = 1 << 30
		}
		if lb == 0 {
			lb = 1 << 30
		}
		return la - lb
	})
	return ps
}
