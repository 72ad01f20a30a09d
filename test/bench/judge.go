package main

import (
	"slices"
	"time"
)

// verdict is what the acknowledgement log of one round says.
type verdict struct {
	outage     time.Duration
	begin, end time.Duration // of the longest gap
	// order counts acknowledgements of an older timeline for statements that were sent after the
	// first acknowledgement of a newer one: proof that two nodes acknowledged at once.
	order int
	// late counts those that were sent before and answered after it. The answer may merely have been
	// on its way.
	late int
}

// judge looks for the longest gap between acknowledged writes that ends after the fault.
func judge(acks []ack, fault time.Duration) verdict {
	var v verdict
	byTime := slices.Clone(acks)
	slices.SortFunc(byTime, func(a, b ack) int { return int(a.acked - b.acked) })
	for i := 1; i < len(byTime); i++ {
		from, to := byTime[i-1].acked, byTime[i].acked
		if to > fault && to-from > v.outage {
			v.outage, v.begin, v.end = to-from, from, to
		}
	}
	// Timelines are eight hexadecimal digits: text order is their order.
	first := map[string]time.Duration{}
	for _, a := range byTime {
		if _, ok := first[a.timeline]; !ok {
			first[a.timeline] = a.acked
		}
	}
	for _, a := range byTime {
		newer := time.Duration(-1)
		for tl, at := range first {
			if tl > a.timeline && (newer < 0 || at < newer) {
				newer = at
			}
		}
		switch {
		case newer < 0:
		case a.sent > newer:
			v.order++
		case a.acked > newer:
			v.late++
		}
	}
	return v
}

// firstOn is when the first write was acknowledged on a timeline newer than old; 0 for none.
func firstOn(acks []ack, old string) time.Duration {
	var at time.Duration
	for _, a := range acks {
		if a.timeline > old && (at == 0 || a.acked < at) {
			at = a.acked
		}
	}
	return at
}

// quantile is the smallest value that at least the share q of the sample does not exceed (nearest
// rank). 0 for an empty sample.
func quantile(sample []float64, q float64) float64 {
	if len(sample) == 0 {
		return 0
	}
	s := slices.Clone(sample)
	slices.Sort(s)
	i := int(q*float64(len(s))+0.999999) - 1
	return s[min(max(i, 0), len(s)-1)]
}

// median is the middle of a sample, or the mean of the two middle values.
func median(sample []float64) float64 {
	if len(sample) == 0 {
		return 0
	}
	s := slices.Clone(sample)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
