package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hathi-ha/hathi/internal/boottime"
)

// fault is what happens to the primary in a round.
type fault string

// The faults.
const (
	cable      fault = "cable pulled"
	power      fault = "power cut"
	sigkill    fault = "postmaster SIGKILL"
	sigstop    fault = "postmaster SIGSTOP"
	switchover fault = "planned switchover"
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
	// EtcdLeader says where etcd's leader was: on the primary, or elsewhere.
	EtcdOnPrimary bool    `json:"etcd_leader_on_primary"`
	Rate          float64 `json:"acks_per_s_before"`
	Load          string  `json:"load_average"`
	// Outage is the longest gap between acknowledged writes; for SIGSTOP, under which sessions that
	// exist go on, the time from the fault to the first write on the next primary.
	Outage      float64 `json:"outage_s"`
	GapBegan    float64 `json:"gap_began_s_after_fault"`
	Errors      int     `json:"client_errors"`
	ConnectErrs int     `json:"client_errors_connecting"`
	Acked       int     `json:"acked"`
	Lost        int     `json:"acked_rows_lost"`
	Order       int     `json:"acked_out_of_order"`
	Late        int     `json:"acked_late"`
	// Rejoin is how long after it could the old primary streamed again; below 0 when it did not have
	// to or did not.
	Rejoin float64 `json:"rejoin_s"`
	Phases *phases `json:"phases,omitempty"`
	// Return is what the old primary's agent decided on its way back.
	Return []string       `json:"return,omitempty"`
	Texts  map[string]int `json:"error_texts,omitempty"`
	// Void says why the round does not count; Failed why it counts as one that did not end well.
	Void   string `json:"void,omitempty"`
	Failed string `json:"failed,omitempty"`
}

// bench runs rounds.
type bench struct {
	opts options
	say  func(format string, args ...any)
	all  []round
	// lines are the figures that are not of rounds.
	lines []line
}

// play is one round against a system. An error ends the run of this system.
func (b *bench) play(ctx context.Context, s system, f fault, n int) (*round, error) {
	r := &round{System: s.name(), Fault: f, Number: n, EtcdOnPrimary: n%2 == 0, Rejoin: -1}
	if err := until(ctx, 3*time.Minute, 300*time.Millisecond, s.name()+" healthy before a round", s.healthy); err != nil {
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
	if p, err := s.primary(ctx); err != nil || p != old {
		r.Void = fmt.Sprintf("the primary changed before the fault (%s, then %q, %v)", old, p, err)
		return r, nil
	}
	r.Load = loadAverage()
	oldTL := lastTimeline(l)

	began := boottime.Now()
	calls := make(chan error, 1)
	stopped := 0
	switch f {
	case cable:
		err = s.host(old).cut()
	case power:
		if err = s.host(old).powerOff(); err == nil {
			s.forget(old)
		}
	case sigkill, sigstop:
		var pid int
		if pid, err = postmaster(s.dataDir(old)); err == nil {
			sig := syscall.SIGKILL
			if f == sigstop {
				sig, stopped = syscall.SIGSTOP, pid
			}
			err = syscall.Kill(pid, sig)
		}
	case switchover:
		go func() { calls <- s.switchover(ctx, old, next) }()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}

	back := b.awaitWrites(ctx, s, l, f, began, oldTL)
	acks, _ := l.since(began - 2*time.Second)
	v := judge(acks, began)
	r.Outage, r.GapBegan = v.outage.Seconds(), (v.begin - began).Seconds()
	newAt := firstOn(acks, oldTL)
	if f == sigstop && newAt > 0 {
		r.Outage, r.GapBegan = (newAt - began).Seconds(), 0
	}
	if back != nil {
		r.Failed = back.Error()
		r.Outage = max(r.Outage, (boottime.Now() - began).Seconds())
	} else if newAt > 0 || f == sigkill {
		end := newAt
		if end == 0 {
			end = v.end
		}
		begin := began
		if f == switchover {
			begin = max(began, v.begin)
		}
		p := s.phases(f, old, began, begin, end)
		r.Phases = &p
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
	switch f {
	case cable:
		can = boottime.Now()
		err = s.host(old).plug()
	case power:
		if err = s.host(old).plug(); err == nil {
			can = boottime.Now()
			err = s.powerOn(old)
		}
	case sigstop:
		if back != nil {
			_ = syscall.Kill(stopped, syscall.SIGCONT)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("undo %s: %w", f, err)
	}
	if newAt > 0 {
		if err := b.awaitRejoin(ctx, s, old, can, r); err != nil {
			return nil, err
		}
	}
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	acks, fails := l.stop()
	v = judge(acks, began)
	r.Acked, r.Order, r.Late = len(acks), v.order, v.late
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
	if err := until(ctx, time.Minute, 300*time.Millisecond, s.name()+" healthy after a round", s.healthy); err != nil {
		if r.Failed == "" {
			r.Failed = err.Error()
		}
		b.say("%v: making %s anew", err, old)
		if err := s.repair(ctx, old); err != nil {
			return r, err
		}
		if err := until(ctx, 3*time.Minute, 300*time.Millisecond, s.name()+" healthy after a repair", s.healthy); err != nil {
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

// awaitWrites waits until the system writes again after the fault.
func (b *bench) awaitWrites(ctx context.Context, s system, l *load, f fault, began time.Duration, oldTL string) error {
	within := s.longest()
	if f == sigstop {
		within = min(within, time.Minute) // a postmaster that nobody misses by then is not missed at all
	}
	return until(ctx, within, 50*time.Millisecond, "writes after the fault", func(context.Context) error {
		acks, fails := l.since(began)
		newAt := firstOn(acks, oldTL)
		hit := newAt > 0 || f == sigkill && len(fails) > 0 && len(acks) > 0 && acks[len(acks)-1].acked > fails[0].at
		if !hit {
			return errors.New("no write on a new timeline")
		}
		if newAt == 0 { // a restart in place
			newAt = fails[0].at
		}
		now := boottime.Now()
		n := 0
		for _, a := range acks {
			if a.acked > max(newAt, now-1500*time.Millisecond) {
				n++
			}
		}
		if n < minRate || now-newAt < time.Second {
			return fmt.Errorf("only %d acknowledged writes in the last 1.5 s", n)
		}
		return nil
	})
}

// awaitRejoin waits until the old primary streams from the new one.
func (b *bench) awaitRejoin(ctx context.Context, s system, old string, can time.Duration, r *round) error {
	var leads time.Duration // since when the old primary is shown as the primary again
	err := until(ctx, 2*time.Minute, 40*time.Millisecond, old+" streaming again", func(ctx context.Context) error {
		p, err := s.primary(ctx)
		if err != nil {
			leads = 0
			return err
		}
		r.Next = p
		if p == old {
			// It may have been promoted again in its place, or not have heard yet that it is not.
			if leads == 0 {
				leads = boottime.Now()
			}
			if boottime.Now()-leads < 5*time.Second {
				return fmt.Errorf("%s is still shown as the primary", old)
			}
			return nil
		}
		leads = 0
		have, err := streaming(ctx, s.directURI(p))
		if err != nil {
			return err
		}
		if !have[old] {
			return errors.New("not streaming")
		}
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		r.Failed = err.Error()
		return nil
	}
	if r.Next != old {
		r.Rejoin = (boottime.Now() - can).Seconds()
		r.Return = s.story(old, can)
	}
	return nil
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
