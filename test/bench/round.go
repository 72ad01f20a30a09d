package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hathi-ha/hathi/internal/boottime"
)

// minRate is how many acknowledged inserts a second the writers must reach before a fault counts.
const minRate = 40

// round is one fault and its consequences.
type round struct {
	System  string `json:"system"`
	Fault   fault  `json:"fault"`
	Number  int    `json:"number"`
	Primary string `json:"primary"`
	Next    string `json:"next_primary"`
	// EtcdOnPrimary says where etcd's leader was: on the primary, or elsewhere.
	EtcdOnPrimary bool    `json:"etcd_leader_on_primary"`
	Rate          float64 `json:"acks_per_s_before"`
	Load          string  `json:"load_average"`
	// Steal is the share of the processors' time that the hypervisor gave to others during the round.
	Steal float64 `json:"steal_percent"`
	// Outage is the longest gap between acknowledged writes of the whole round, the old primary's return
	// included; where sessions that exist go on (SIGSTOP of the postmaster), at least the time from the
	// fault to the first write on the next primary.
	Outage   float64 `json:"outage_s"`
	GapBegan float64 `json:"gap_began_s_after_fault"`
	// Later is the longest gap after the one that the fault made.
	Later float64 `json:"later_gap_s"`
	// TakenOver is when the first write was acknowledged on another timeline, in seconds after the fault;
	// 0 for never.
	TakenOver   float64 `json:"taken_over_s"`
	Errors      int     `json:"client_errors"`
	ConnectErrs int     `json:"client_errors_connecting"`
	Acked       int     `json:"acked"`
	Lost        int     `json:"acked_rows_lost"`
	Order       int     `json:"acked_out_of_order"`
	Late        int     `json:"acked_late"`
	// Rejoin is how long after it could the old primary streamed again; below 0 when it did not have
	// to or did not.
	Rejoin float64 `json:"rejoin_s"`
	// Promotion is the time from the taking of the lock until its holder accepted writes; 0 where there
	// was none, or it cannot be told.
	Promotion float64 `json:"promotion_s"`
	Phases    *phases `json:"phases,omitempty"`
	// Return is what the old primary's agent decided on its way back.
	Return []string       `json:"return,omitempty"`
	Texts  map[string]int `json:"error_texts,omitempty"`
	// Void says why the round does not count; Failed why it counts as one that did not end well.
	Void   string `json:"void,omitempty"`
	Failed string `json:"failed,omitempty"`
	// Took is what the round cost: all of it, the wait for a healthy cluster before, and the outage with
	// the second after it.
	Took       float64 `json:"took_s"`
	TookBefore float64 `json:"took_before_s"`
	TookOutage float64 `json:"took_outage_s"`
}

// bench runs rounds.
type bench struct {
	opts options
	say  func(format string, args ...any)
	file *recordsFile
	// until is the boot time after which no further round begins; 0 for no limit.
	until time.Duration
	results
}

// keep notes a result in memory and in the file.
func (b *bench) keep(rec record) {
	b.add(rec)
	if err := b.file.write(rec); err != nil {
		b.say("keep a result: %v", err)
	}
}

// play is one round against a system. An error says that the cluster is of no use any more; the round
// may count nevertheless.
func (b *bench) play(ctx context.Context, s system, f fault, n int) (r *round, err error) {
	entered := boottime.Now()
	r = &round{System: s.name(), Fault: f, Number: n, EtcdOnPrimary: n%2 == 0, Rejoin: -1}
	defer func() {
		if r != nil {
			r.Took = (boottime.Now() - entered).Seconds()
		}
	}()
	if err := until(ctx, 2*time.Minute, 100*time.Millisecond, s.name()+" healthy before a round", s.healthy); err != nil {
		return nil, err
	}
	old, err := s.primary(ctx)
	if err != nil {
		return nil, err
	}
	r.Primary = old
	i := slices.Index(s.nodes(), old)
	next := s.nodes()[(i+1)%len(s.nodes())]
	at := next
	if r.EtcdOnPrimary {
		at = old
	}
	if err := s.etcd().moveLeader(ctx, at); err != nil {
		return nil, err
	}
	firstID := lastID.Load()
	l, err := startLoad(s.writeURI())
	if err != nil {
		return nil, err
	}
	defer l.stop()
	if r.Rate, err = l.awaitRate(ctx, minRate, 15*time.Second); err != nil {
		r.Void = err.Error()
		return r, nil
	}
	calls := make(chan error, 1)
	hurt, err := prepare(ctx, s, f, old, next, calls)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", f, err)
	}
	if hurt.undo != nil {
		defer func() { _ = hurt.undo() }() // however the round ends
	}
	if p, err := s.primary(ctx); err != nil || p != old {
		r.Void = fmt.Sprintf("the primary changed before the fault (%s, then %q, %v)", old, p, err)
		return r, nil
	}
	r.Load = loadAverage()
	oldTL := lastTimeline(l)
	w := watchRejoin(ctx, s, old, !hurt.returns)
	defer w.close()
	cpu := cpuTimes()

	began := boottime.Now()
	r.TookBefore = (began - entered).Seconds()
	if err := hurt.do(); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	back := awaitWrites(ctx, s, l, f, began, oldTL)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r.TookOutage = (boottime.Now() - began).Seconds()
	acks, _ := l.since(began - 2*time.Second)
	v := judge(acks, began)
	newAt := firstOn(acks, oldTL)
	r.measure(v, newAt, began)
	if back != nil {
		r.Failed = back.Error()
		r.Outage = max(r.Outage, (boottime.Now() - began).Seconds())
	} else if newAt > 0 || f == sigkill {
		end := newAt
		if end == 0 {
			end = v.end
		}
		begin := began
		if !f.sessionsGoOn() { // some faults take time to be felt
			begin = max(began, v.begin)
		}
		p := s.phases(f, old, began, begin, end)
		r.Phases = &p
		r.Promotion = s.promotion(began).Seconds()
	}
	if f == switchover {
		select {
		case err := <-calls:
			if err != nil && r.Failed == "" {
				r.Failed = err.Error()
			}
		case <-time.After(30 * time.Second):
			r.Failed = "the switchover request was not answered within 30 s of the writes' return"
		}
	}

	can := newAt
	if hurt.undo != nil {
		if hurt.returns {
			can = boottime.Now()
		}
		if err := hurt.undo(); err != nil {
			return nil, fmt.Errorf("undo %s: %w", f, err)
		}
	}
	if newAt > 0 {
		took, streams, err := w.await(ctx, can)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			r.Failed = err.Error()
		case streams:
			r.Rejoin, r.Next = max(took.Seconds(), 0), w.next.Load().(string)
			r.Return = s.story(old, can)
		}
	}
	w.close()
	// What the return itself costs the clients shows at once.
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return nil, err
	}
	acks, fails := l.stop()
	r.Steal = steal(cpu, cpuTimes())
	all := judge(acks, began)
	r.Acked, r.Order, r.Late = len(acks), all.order, all.late
	if back == nil {
		r.Later = judge(acks, max(v.end, newAt)).outage.Seconds()
		r.Outage = max(r.Outage, r.Later)
	}
	r.Texts = map[string]int{}
	for _, e := range fails {
		if e.at < began {
			continue
		}
		r.Errors++
		if e.connect {
			r.ConnectErrs++
		}
		r.Texts[shorten(e.text)]++
	}
	if err := until(ctx, time.Minute, 100*time.Millisecond, s.name()+" healthy after a round", s.healthy); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		if r.Failed == "" {
			r.Failed = err.Error()
		}
		b.say("%v: making %s anew", err, old)
		if err := s.repair(ctx, old); err != nil {
			return r, err
		}
		if err := until(ctx, 2*time.Minute, 200*time.Millisecond, s.name()+" healthy after a repair", s.healthy); err != nil {
			return r, err
		}
	}
	have, err := rows(ctx, s.writeURI(), firstID)
	if err != nil {
		return r, err
	}
	for _, a := range acks {
		if !have[a.id] {
			r.Lost++
		}
	}
	return r, nil
}

// measure notes what the acknowledgements up to the writes' return say; newAt is the first on another
// timeline, 0 for none.
func (r *round) measure(v verdict, newAt, began time.Duration) {
	r.Outage, r.GapBegan = v.outage.Seconds(), (v.begin - began).Seconds()
	if newAt == 0 {
		return
	}
	r.TakenOver = (newAt - began).Seconds()
	if r.Fault.sessionsGoOn() && r.TakenOver > r.Outage {
		r.Outage, r.GapBegan = r.TakenOver, 0
	}
}

// awaitWrites waits until the system writes again after the fault, and has done so for a second.
func awaitWrites(ctx context.Context, s system, l *load, f fault, began time.Duration, oldTL string) error {
	return until(ctx, f.bound(s.longest()), 50*time.Millisecond, "writes after the fault", func(context.Context) error {
		acks, fails := l.since(began)
		now := boottime.Now()
		at := firstOn(acks, oldTL)
		switch {
		case at > 0:
		case f == sigkill && len(fails) > 0 && len(acks) > 0 && acks[len(acks)-1].acked > fails[0].at:
			at = fails[0].at // restarted in place
		case f.mayPass() && now-began >= f.window():
			at = began // nothing happened, or it is over
		default:
			return errors.New("no write on a new timeline")
		}
		n := 0
		for _, a := range acks {
			if a.acked > max(at, now-1500*time.Millisecond) {
				n++
			}
		}
		if n < minRate || now-at < time.Second {
			return fmt.Errorf("only %d acknowledged writes in the last 1.5 s", n)
		}
		return nil
	})
}

func lastTimeline(l *load) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks[len(l.acks)-1].timeline
}

// rows are the ids above first that the table holds.
func rows(ctx context.Context, uri string, first int64) (map[int64]bool, error) {
	out := map[int64]bool{}
	err := until(ctx, time.Minute, time.Second, "read the table", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, uri)
		if err != nil {
			return err
		}
		defer hangUp(c)
		rs, err := c.Query(ctx, "SELECT id FROM bench WHERE id > $1", first)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rs, pgx.RowTo[int64])
		for _, id := range ids {
			out[id] = true
		}
		return err
	})
	return out, err
}

// makeTable makes the writers' table.
func makeTable(ctx context.Context, uri string) error {
	return until(ctx, 30*time.Second, 500*time.Millisecond, "make the table", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, uri)
		if err != nil {
			return err
		}
		defer hangUp(c)
		_, err = c.Exec(ctx, schema)
		return err
	})
}
