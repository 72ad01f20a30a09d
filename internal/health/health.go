// Package health is the registry of lasting trouble: what is wrong now, since when, what to do.
//
// A problem is set once where it is found and cleared where it has ended; the REST API, the command
// line and the metrics read the same list. It keeps no history (the journal does) and decides
// nothing. It reads no clock: instants are handed in.
package health

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Severity says how urgent a problem is.
type Severity string

// The severities, from the one that stops the database to the one that can wait for office hours.
const (
	Critical Severity = "critical" // clients are affected, or a promise cannot be kept
	Warning  Severity = "warning"  // the next failure would hurt
	Notice   Severity = "notice"   // worth putting right
)

func (s Severity) rank() int {
	switch s {
	case Critical:
		return 0
	case Warning:
		return 1
	}
	return 2
}

// Problem is one lasting trouble.
type Problem struct {
	Code     string   `json:"code"` // constant-like, as in "store_unreachable"
	Severity Severity `json:"severity"`
	Sentence string   `json:"sentence"`       // what is wrong, on what
	Hint     string   `json:"hint,omitempty"` // what to do next
	// Since is when it began, on the node's CLOCK_BOOTTIME.
	Since time.Duration `json:"since_boottime_ns"`
	// DependsOn are codes of problems that explain this one while they last.
	DependsOn []string `json:"depends_on,omitempty"`
	// Explained says that one of DependsOn lasts too; set by List.
	Explained bool `json:"explained,omitempty"`
}

// Registry holds the problems of one node. The zero value is ready; it is safe for concurrent use.
type Registry struct {
	mu       sync.Mutex
	problems map[string]Problem
	changed  func(Problem, bool)
}

// OnChange has f called for each problem that begins (true) or ends (false). It must be set before
// the registry is used; f is called without a lock held.
func (r *Registry) OnChange(f func(p Problem, began bool)) { r.changed = f }

// Set reports a problem at the instant now. While it lasts, setting it again keeps Since and renews
// the rest. dependsOn are codes of problems that would explain it.
func (r *Registry) Set(now time.Duration, code string, severity Severity, sentence, hint string, dependsOn ...string) {
	p := Problem{Code: code, Severity: severity, Sentence: sentence, Hint: hint, Since: now, DependsOn: slices.Clone(dependsOn)}
	r.mu.Lock()
	old, lasts := r.problems[code]
	if lasts {
		p.Since = old.Since
	}
	if r.problems == nil {
		r.problems = map[string]Problem{}
	}
	r.problems[code] = p
	r.mu.Unlock()
	if !lasts && r.changed != nil {
		r.changed(p, true)
	}
}

// Clear ends a problem. It does nothing when there is none.
func (r *Registry) Clear(code string) {
	r.mu.Lock()
	p, lasted := r.problems[code]
	delete(r.problems, code)
	r.mu.Unlock()
	if lasted && r.changed != nil {
		r.changed(p, false)
	}
}

// Has says whether a problem lasts.
func (r *Registry) Has(code string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.problems[code]
	return ok
}

// List are the problems that last: those that no other explains first, then by severity, then by
// age, then by code.
func (r *Registry) List() []Problem {
	r.mu.Lock()
	out := make([]Problem, 0, len(r.problems))
	for _, p := range r.problems {
		for _, code := range p.DependsOn {
			if _, ok := r.problems[code]; ok && code != p.Code {
				p.Explained = true
			}
		}
		p.DependsOn = slices.Clone(p.DependsOn)
		out = append(out, p)
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b Problem) int {
		return cmp.Or(explained(a)-explained(b), a.Severity.rank()-b.Severity.rank(), cmp.Compare(a.Since, b.Since), cmp.Compare(a.Code, b.Code))
	})
	return out
}

func explained(p Problem) int {
	if p.Explained {
		return 1
	}
	return 0
}
