package sim

import (
	"fmt"
	"hash/fnv"
	"time"
)

// trace is the history of a run: its lines where they are wanted, and a fingerprint of them.
type trace struct {
	keep  bool
	hash  bool
	lines []string
	sum   uint64
}

func newTrace(keep bool) *trace { return &trace{keep: keep} }

func (t *trace) on() bool { return t.keep || t.hash }

func (t *trace) line(at time.Duration, who, text string) {
	s := fmt.Sprintf("%10.3f %-6s %s", at.Seconds(), who, text)
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %d %s", t.sum, at, s)
	t.sum = h.Sum64()
	if t.keep {
		t.lines = append(t.lines, s)
	}
}
