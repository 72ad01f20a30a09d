package main

import (
	"os"
	"strconv"
	"strings"
)

// cpuTimes are the counters of all processors together, from /proc/stat: user, nice, system, idle,
// iowait, irq, softirq, steal, in ticks.
func cpuTimes() []float64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil
	}
	return parseCPU(string(b))
}

func parseCPU(stat string) []float64 {
	first, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(first)
	if len(f) < 9 || f[0] != "cpu" {
		return nil
	}
	out := make([]float64, 8) // guest time, which follows, is part of user time
	for i := range out {
		out[i], _ = strconv.ParseFloat(f[i+1], 64)
	}
	return out
}

// steal is the share, in percent, of the time between two readings that the hypervisor gave to others.
func steal(before, after []float64) float64 {
	if len(before) != 8 || len(after) != 8 {
		return 0
	}
	total := 0.0
	for i := range after {
		total += after[i] - before[i]
	}
	if total <= 0 {
		return 0
	}
	return 100 * (after[7] - before[7]) / total
}
