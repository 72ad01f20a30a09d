package sim

import (
	"slices"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// record is a piece of WAL. Its id is unique in the world and it is written once, after one history,
// so two directories that hold the same id at the same place hold the same WAL up to there.
type record struct {
	id  int64
	tl  uint32
	end cluster.LSN
}

// dir is a data directory.
type dir struct {
	system   string
	instance string
	wal      []record
	history  cluster.History // of the timeline of the last record
	newest   uint32          // highest timeline of which a history file is here
	standby  bool            // standby.signal
	torn     bool            // a rewind was interrupted
	manual   bool            // a human promoted it, or what it was copied from, by hand
	copied   bool            // a clone that was never started

	control    ha.ControlState
	checkpoint cluster.LSN // where the last checkpoint's record begins
	ckptTL     uint32
	minTL      uint32 // timeline of the minimum recovery point; 0 on a primary

	rule quorum.Rule // in the configuration files
}

func (d *dir) lsn() cluster.LSN {
	if len(d.wal) == 0 {
		return 0
	}
	return d.wal[len(d.wal)-1].end
}

func (d *dir) timeline() uint32 {
	if len(d.wal) == 0 {
		return 1
	}
	return d.wal[len(d.wal)-1].tl
}

// add appends a record.
func (d *dir) add(r record) {
	if tl := d.timeline(); len(d.wal) > 0 && r.tl != tl {
		d.history = append(slices.Clone(d.history), cluster.HistoryLine{Timeline: tl, LSN: d.lsn(), Reason: "promoted"})
		d.newest = max(d.newest, r.tl)
	}
	d.wal = append(d.wal, r)
	d.newest = max(d.newest, r.tl)
}

// holds says whether the record lies at this place.
func (d *dir) holds(at int, id int64) bool {
	return at < len(d.wal) && d.wal[at].id == id
}

// prefixOf says whether everything in d is in o.
func (d *dir) prefixOf(o *dir) bool {
	n := len(d.wal)
	return n == 0 || o.holds(n-1, d.wal[n-1].id)
}

// common is how many records both have, truly.
func (d *dir) common(o *dir) int {
	lo, hi := 0, min(len(d.wal), len(o.wal))
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if d.wal[mid-1].id == o.wal[mid-1].id {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// canFollow says whether PostgreSQL would stream to d from a server with o: by timelines and
// positions, which is all that it looks at.
func (d *dir) canFollow(o *dir) bool {
	tl := d.timeline()
	if tl == o.timeline() {
		return d.lsn() <= o.lsn()
	}
	end, ok := o.history.SwitchPoint(tl)
	return ok && d.lsn() <= end
}

// parted is where d left the history of o by the timeline history files, which is what pg_rewind
// goes by; ok is false when d lies wholly in o's past.
func (d *dir) parted(o *dir) (cluster.LSN, bool) {
	if d.timeline() == o.timeline() {
		return 0, false
	}
	if d.canFollow(o) {
		return 0, false
	}
	type era struct {
		tl         uint32
		begin, end cluster.LSN
	}
	eras := func(x *dir) []era {
		var out []era
		var at cluster.LSN
		for _, h := range x.history {
			out = append(out, era{h.Timeline, at, h.LSN})
			at = h.LSN
		}
		return append(out, era{x.timeline(), at, 1 << 62})
	}
	a, b := eras(d), eras(o)
	var at cluster.LSN
	for i := range min(len(a), len(b)) {
		if a[i].tl != b[i].tl || a[i].begin != b[i].begin {
			break
		}
		at = min(a[i].end, b[i].end)
	}
	return at, true
}

// copyWAL takes over the WAL of o.
func (d *dir) copyWAL(o *dir) {
	d.wal = slices.Clone(o.wal)
	d.history = slices.Clone(o.history)
	d.newest = o.newest
	d.manual = o.manual
}
