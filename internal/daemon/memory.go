package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/hathi-ha/hathi/internal/atomicfile"
	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/health"
	"github.com/hathi-ha/hathi/internal/node"
)

// storeMark is how far the store had come when this node looked last.
type storeMark struct {
	Prefix   string `json:"prefix"`
	Revision int64  `json:"revision"`
	Epoch    uint64 `json:"epoch"`
	Seq      uint64 `json:"seq"`
}

// storeMemory keeps the mark over restarts of the agent, so that one does not take for good what the
// others refuse: a store that went back in time. It is at most saveEvery old.
type storeMemory struct{ path, prefix string }

const saveEvery = 30 * time.Second

// Load reads the mark; the zero value when there is none, or that of another scope.
func (m storeMemory) Load() (storeMark, error) {
	b, err := os.ReadFile(m.path)
	if errors.Is(err, os.ErrNotExist) {
		return storeMark{}, nil
	}
	var mark storeMark
	if err == nil {
		err = json.Unmarshal(b, &mark)
	}
	if err != nil {
		return storeMark{}, fmt.Errorf("read %s: %w", m.path, err)
	}
	if mark.Prefix != m.prefix {
		return storeMark{}, nil
	}
	return mark, nil
}

// keep writes the mark down now and then: soon after the lock changed hands, and at the end.
func (m storeMemory) keep(ctx context.Context, revision func() int64, lock func() node.Mark, log *slog.Logger) {
	var last storeMark
	var at time.Duration
	save := func() {
		k := lock()
		now := storeMark{Prefix: m.prefix, Revision: revision(), Epoch: k.Epoch, Seq: k.Seq}
		if now == last || now.Epoch == last.Epoch && boottime.Now()-at < saveEvery && ctx.Err() == nil {
			return
		}
		b, err := json.Marshal(now)
		if err == nil {
			err = atomicfile.Write(m.path, append(b, '\n'), 0o600)
		}
		if err != nil {
			log.Warn("how far the store has come could not be written down", "err", err)
			return // once more with the next tick
		}
		last, at = now, boottime.Now()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			save()
		case <-ctx.Done():
			save()
			return
		}
	}
}

// The codes of what troubles the store.
const (
	storeWentBack = "store_went_back"
	storeSilent   = "store_unreachable"
	storeFull     = "store_full"
)

// lasting is how long a trouble of the store must last to be told: an election, or one stale answer,
// is none.
const lasting = 3 * time.Second

// watchStore tells the health registry what troubles the store, until ctx ends.
func watchStore(ctx context.Context, n *node.Node, problems *health.Registry, memory string) {
	var t storeTrouble
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if st, _ := n.Status(); st.At != 0 {
				t.tell(boottime.Now(), st.O.Store.Reachable, st.O.Store.WentBack, problems, memory)
			}
		case <-ctx.Done():
			return
		}
	}
}

// storeTrouble remembers since when the store is in trouble.
type storeTrouble struct{ back, silent time.Duration }

func (t *storeTrouble) tell(now time.Duration, reachable bool, wentBack string, problems *health.Registry, memory string) {
	follow := func(since *time.Duration, is bool, code, sentence, hint string) {
		switch {
		case !is:
			*since = 0
			problems.Clear(code)
		case *since == 0:
			*since = now
		case now-*since >= lasting:
			problems.Set(*since, code, health.Critical, sentence, hint)
		}
	}
	follow(&t.back, wentBack != "", storeWentBack,
		"the store is refused, because its record of who leads and who has which commits is old: "+wentBack,
		"find out why the store was restored or made anew, and go through docs/ARCHITECTURE.md, \"A store that went back in time\"; "+
			"this node goes on refusing it until "+memory+" is removed and its agent restarted")
	follow(&t.silent, !reachable && wentBack == "", storeSilent, "the store does not answer",
		"look whether etcd runs, and whether more than half of its members are up and reach each other")
}

// tellFull is a store that tells the health registry when writes are refused for want of space.
type tellFull struct {
	dcs.Store
	problems *health.Registry
}

// Commit implements dcs.Store.
func (s tellFull) Commit(ctx context.Context, t dcs.Txn) (dcs.Result, error) {
	res, err := s.Store.Commit(ctx, t)
	switch {
	case errors.Is(err, dcs.ErrFull):
		s.problems.Set(boottime.Now(), storeFull, health.Critical, "etcd is full and refuses every write, the renewals of the lock too: "+err.Error(),
			"hathi's own etcd members compact, defragment and take the alarm back by themselves; if this lasts, their logs say whose keys fill it: delete those, or raise etcd.embedded.quota")
	case err == nil && res.Succeeded && s.problems.Has(storeFull):
		s.problems.Clear(storeFull)
	}
	return res, err
}
