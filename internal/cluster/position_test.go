package cluster_test

import (
	"testing"
	"testing/quick"

	"github.com/hathi-ha/hathi/internal/cluster"
)

func TestLSN_TextForms(t *testing.T) {
	for text, want := range map[string]cluster.LSN{"0/0": 0, "0/1": 1, "16/B374D848": 0x16B374D848, "ffffffff/FFFFFFFF": 1<<64 - 1, " 1/0\n": 1 << 32} {
		if got, err := cluster.ParseLSN(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "/", "1", "1/", "/1", "1/2/3", "-1/0", "1/-1", "g/0", "100000000/0", "0x1/0", "1_0/0", "+1/0"} {
		if got, err := cluster.ParseLSN(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
	roundTrip := func(v uint64) bool {
		got, err := cluster.ParseLSN(cluster.LSN(v).String())
		return err == nil && got == cluster.LSN(v)
	}
	if err := quick.Check(roundTrip, nil); err != nil {
		t.Error(err)
	}
	behind := func(a, b uint64) bool {
		x, y := cluster.LSN(a>>1), cluster.LSN(b>>1)
		return x.Behind(y) >= 0 && (x.Behind(y) == 0 || y.Behind(x) == 0) && x.Behind(y)-y.Behind(x) == int64(y)-int64(x)
	}
	if err := quick.Check(behind, nil); err != nil {
		t.Error(err)
	}
}

func TestParseTimelineHistory(t *testing.T) {
	h, err := cluster.ParseTimelineHistory("# comment\n1\t0/3000158\tno recovery target specified\n\n2\t0/5000060\tno recovery target specified\n")
	if err != nil || len(h) != 2 || h[1].Timeline != 2 || h[0].Reason != "no recovery target specified" {
		t.Fatalf("got %+v, %v", h, err)
	}
	if at, ok := h.SwitchPoint(1); !ok || at != 0x3000158 {
		t.Errorf("switch point of 1: got %v, %v", at, ok)
	}
	for _, tc := range []struct {
		own, tl uint32
		lsn     cluster.LSN
		want    bool
	}{
		{3, 3, 1 << 40, true},    // its own timeline
		{3, 2, 0x5000060, true},  // an ancestor, up to its end
		{3, 2, 0x5000061, false}, // an ancestor, beyond its end: diverged
		{3, 1, 0x3000158, true},  //
		{3, 1, 0x4000000, false}, //
		{3, 4, 0, false},         // a timeline of the future
		{3, 7, 0x1, false},       // a branch it never was on
	} {
		if got := h.Contains(tc.own, tc.tl, tc.lsn); got != tc.want {
			t.Errorf("Contains(%d, %d, %v): got %v, want %v", tc.own, tc.tl, tc.lsn, got, tc.want)
		}
	}
	for _, bad := range []string{"x", "1", "1\tx", "2\t0/1\ta\n1\t0/2\tb", "1\t0/1\n1\t0/2", "-1\t0/1", "4294967296\t0/1"} {
		if h, err := cluster.ParseTimelineHistory(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, h)
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := cluster.ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := cluster.ParseLSN(l.String()); err != nil || again != l {
			t.Fatalf("%q: got %v, %v; want %v", s, again, err, l)
		}
	})
}

func FuzzParseTimelineHistory(f *testing.F) {
	f.Add("1\t0/3000158\tno recovery target specified\n2\t0/5000060\tx")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := cluster.ParseTimelineHistory(s)
		if err != nil {
			return
		}
		for i := 1; i < len(h); i++ {
			if h[i].Timeline <= h[i-1].Timeline {
				t.Fatalf("timelines do not grow: %+v", h)
			}
		}
	})
}
