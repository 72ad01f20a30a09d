package main

import (
	"testing"
	"time"
)

func at(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }

func TestJudge_LongestGapEndsAfterTheFault(t *testing.T) {
	acks := []ack{{sent: at(0), acked: at(10), timeline: "00000001"}, {sent: at(4000), acked: at(5000), timeline: "00000001"}, // a gap before the fault
		{sent: at(5990), acked: at(6000), timeline: "00000001"}, {sent: at(8990), acked: at(9000), timeline: "00000002"}, {sent: at(9090), acked: at(9100), timeline: "00000002"}}
	v := judge(acks, at(6005))
	if v.outage != at(3000) || v.begin != at(6000) || v.end != at(9000) {
		t.Errorf("got a gap of %v from %v to %v, want 3s from 6s to 9s", v.outage, v.begin, v.end)
	}
	if v.order != 0 || v.late != 0 {
		t.Errorf("got order %d, late %d, want none", v.order, v.late)
	}
}

func TestJudge_OrderOfTimelines(t *testing.T) {
	acks := []ack{
		{sent: at(100), acked: at(110), timeline: "00000001"},
		{sent: at(200), acked: at(210), timeline: "00000002"},
		{sent: at(190), acked: at(220), timeline: "00000001"}, // may have been on its way
		{sent: at(230), acked: at(240), timeline: "00000001"}, // two primaries at once
		{sent: at(300), acked: at(310), timeline: "0000000A"},
		{sent: at(305), acked: at(320), timeline: "00000002"},
	}
	if v := judge(acks, 0); v.order != 1 || v.late != 2 {
		t.Errorf("got order %d, late %d, want 1 and 2", v.order, v.late)
	}
	if got := firstOn(acks, "00000002"); got != at(310) {
		t.Errorf("got the first write on a newer timeline at %v, want 310ms", got)
	}
	if got := firstOn(acks, "0000000A"); got != 0 {
		t.Errorf("got a write on a newer timeline at %v, want none", got)
	}
}

func TestLandmarks_PhasesAddUp(t *testing.T) {
	for name, c := range map[string]struct {
		m    landmarks
		want phases
	}{
		"a lease that runs out": {landmarks{begin: at(1000), first: at(7000), stand: at(7000), take: at(7100), ready: at(7300), write: at(7350)},
			phases{Fencing: 6, Election: 0.1, Promotion: 0.2, Routing: 0.05}},
		"acknowledgements revoked": {landmarks{begin: at(1000), first: at(2000), stand: at(2500), take: at(2600), ready: at(2800), write: at(2850)},
			phases{Detection: 1, Fencing: 0.5, Election: 0.1, Promotion: 0.2, Routing: 0.05}},
		"a lock handed over": {landmarks{begin: at(1000), first: at(1010), released: at(1300), stand: at(1320), take: at(1400), ready: at(1500), write: at(1550)},
			phases{Detection: 0.01, Fencing: 0.29, Election: 0.1, Promotion: 0.1, Routing: 0.05}},
		"a write before ready was seen": {landmarks{begin: at(1000), first: at(1100), released: at(1200), take: at(1300), ready: at(1500), write: at(1450)},
			phases{Detection: 0.1, Fencing: 0.1, Election: 0.1, Promotion: 0.15}},
		"a restart in place": {landmarks{begin: at(1000), first: at(1100), write: at(1450)}, phases{Detection: 0.1, Routing: 0.35}},
	} {
		got := c.m.phases()
		sum := 0.0
		for _, d := range [][2]float64{{got.Detection, c.want.Detection}, {got.Fencing, c.want.Fencing}, {got.Election, c.want.Election}, {got.Promotion, c.want.Promotion}, {got.Routing, c.want.Routing}} {
			if d[0]-d[1] > 1e-9 || d[1]-d[0] > 1e-9 {
				t.Errorf("%s: got %+v, want %+v", name, got, c.want)
				break
			}
			sum += d[0]
		}
		if want := (c.m.write - c.m.begin).Seconds(); sum-want > 1e-9 || want-sum > 1e-9 {
			t.Errorf("%s: the phases add up to %.3f s, want %.3f", name, sum, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	sample := []float64{5, 1, 4, 2, 3}
	if m, p, x := median(sample), quantile(sample, 0.95), quantile(sample, 1); m != 3 || p != 5 || x != 5 {
		t.Errorf("got median %v, p95 %v, max %v, want 3, 5, 5", m, p, x)
	}
	if m := median([]float64{1, 2}); m != 1.5 {
		t.Errorf("got median %v, want 1.5", m)
	}
	if m, q := median(nil), quantile(nil, 0.5); m != 0 || q != 0 {
		t.Errorf("got %v and %v of no sample, want 0", m, q)
	}
}
