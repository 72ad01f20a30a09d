package guardian

import (
	"time"

	"github.com/hathi-ha/hathi/internal/lease"
)

// Step is a rung of the kill ladder.
type Step int64

// The rungs, in order.
const (
	StepNone Step = iota
	StepFast
	StepImmediate
	StepKill
)

func (s Step) String() string {
	switch s {
	case StepFast:
		return "fast shutdown"
	case StepImmediate:
		return "immediate shutdown"
	case StepKill:
		return "all processes killed"
	}
	return "nothing was running"
}

// due is the rung that a fence which began at began must have reached at now.
func due(now, began time.Duration, l lease.Ladder) Step {
	switch late := now - began; {
	case late >= l.Kill:
		return StepKill
	case late >= l.Immediate:
		return StepImmediate
	case late >= 0:
		return StepFast
	}
	return StepNone
}
