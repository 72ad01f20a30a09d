package main

import (
	"testing"
	"time"
)

func TestIsAuxiliary(t *testing.T) {
	const stat = "77 (postgres: x) y) S 42 77 77 0"
	for title, want := range map[string]bool{
		"postgres: walwriter \x00\x00":            true,
		"postgres: bench: walwriter":              true,
		"postgres: checkpointer":                  false,
		"postgres: app walwriter 10.0.0.1 INSERT": false,
		"sh -c : walwriter":                       false,
	} {
		if got := isAuxiliary(title, stat, 42, "walwriter"); got != want {
			t.Errorf("%q: got %t, want %t", title, got, want)
		}
	}
	if isAuxiliary("postgres: walwriter", stat, 43, "walwriter") {
		t.Error("got the process of another postmaster")
	}
	if isAuxiliary("postgres: walwriter", "", 42, "walwriter") {
		t.Error("got a process that has ended")
	}
}

func TestFault_Bounds(t *testing.T) {
	if got := cable.bound(2 * time.Minute); got != 2*time.Minute {
		t.Errorf("a node loss: got %v, want the system's own bound", got)
	}
	if got := sigstop.bound(2 * time.Minute); got != unnoticed {
		t.Errorf("a frozen postmaster: got %v, want %v", got, unnoticed)
	}
}

func TestRound_MeasureOfSessionsThatGoOn(t *testing.T) {
	v := verdict{outage: at(200), begin: at(1100), end: at(1300)}
	r := round{Fault: sigstop}
	if r.measure(v, at(4000), at(1000)); r.Outage != 3 || r.TakenOver != 3 || r.GapBegan != 0 {
		t.Errorf("got %+v, want the 3 s until a new session can write", r)
	}
	r = round{Fault: cable}
	if r.measure(v, at(4000), at(1000)); r.Outage != 0.2 || r.TakenOver != 3 || r.GapBegan != 0.1 {
		t.Errorf("got %+v, want the longest gap", r)
	}
	r = round{Fault: walwriter}
	if r.measure(v, 0, at(1000)); r.Outage != 0.2 || r.TakenOver != 0 {
		t.Errorf("got %+v, want the longest gap and nobody who took over", r)
	}
	r = round{Fault: sigstop}
	if r.measure(verdict{outage: at(3500)}, at(4000), at(1000)); r.Outage != 3.5 {
		t.Errorf("got %+v, want the gap, which is longer", r)
	}
}

func TestSteal(t *testing.T) {
	before := parseCPU("cpu  100 0 50 800 0 0 0 50 7 0\ncpu0 1 2 3\n")
	after := parseCPU("cpu  150 0 70 820 0 0 0 60 7 0\n")
	if got := steal(before, after); got != 10 {
		t.Errorf("got %v %%, want 10", got)
	}
	if got := steal(nil, after); got != 0 {
		t.Errorf("got %v %% of nothing, want 0", got)
	}
	if got := parseCPU("intr 1 2 3"); got != nil {
		t.Errorf("got %v from a line that is not of processors", got)
	}
}
