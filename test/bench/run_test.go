package main

import (
	"slices"
	"testing"
)

func TestPlans_EventsOfOneClusterShareIt(t *testing.T) {
	o, err := parse([]string{"-what", "node-loss-quorum,postmaster,storage,quorum"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[plan0]bool{}
	for _, p := range o.plans() {
		key := plan0{p.ttl, p.sync, p.disks}
		if seen[key] {
			t.Errorf("%+v: two clusters of one kind", key)
		}
		seen[key] = true
		for _, f := range p.faults {
			if onDisk := f == storage || f == wholeDisk; onDisk != p.disks {
				t.Errorf("%+v: %s happens to a cluster whose disks are its own: %t", key, f, p.disks)
			}
		}
		if key == (plan0{6, "quorum", false}) {
			for _, f := range everyFault {
				n := 0
				for _, g := range p.faults {
					if g == f {
						n++
					}
				}
				if n != 1 {
					t.Errorf("%s happens %d times a round to %+v, want once", f, n, key)
				}
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("got clusters %v, want async and quorum, each with and without disks", seen)
	}
}

// plan0 is what tells clusters apart.
type plan0 struct {
	ttl   int
	sync  string
	disks bool
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-rounds", "7", "-what", "all", "-peer", "patroni", "-peer-tunings", "minimum"})
	if err != nil {
		t.Fatal(err)
	}
	if o.peerRounds != 7 || len(o.tunings) != 1 || o.tunings[0].name != fastTuning.name {
		t.Errorf("got %d rounds of %v, want 7 of the minimum", o.peerRounds, o.tunings)
	}
	for _, w := range extras {
		if !slices.Contains(o.what, w) {
			t.Errorf("all leaves out %s", w)
		}
	}
	for _, args := range [][]string{{"-what", "nothing"}, {"-peer", "stolon"}, {"-peer-tunings", "wild"}, {"-rounds", "0"}, {"-cost-blocks", "1"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v: got no error", args)
		}
	}
}
