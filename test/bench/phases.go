package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/journal"
)

// landmarks are the instants of a failover that the phases lie between; 0 for none.
type landmarks struct {
	begin    time.Duration // the fault, or the last write before the gap where that is later
	first    time.Duration // the first decision of any agent afterwards
	released time.Duration // the lock was given back
	stand    time.Duration // the first agent stood for election
	take     time.Duration // the lock was taken
	ready    time.Duration // its holder said that it accepts writes
	write    time.Duration // the first write was acknowledged to a client
}

// phases puts the landmarks in order.
//
// Fencing ends when the lock is given back, or, where it never is, when the first agent stands: it
// does so once the lease has run out or the old primary can get no acknowledgement any more.
// Detection ends with the first decision that any agent records. Where that is already the standing,
// nobody detected anything: the lease was waited out, and all of it counts as fencing.
func (m landmarks) phases() phases {
	var p phases
	fenced := m.released
	if fenced == 0 {
		fenced = m.stand
	}
	at := m.begin
	step := func(to time.Duration) float64 {
		// A write may be acknowledged before the watch has told of what made it possible.
		if to = min(to, m.write); to <= at {
			return 0
		}
		d := to - at
		at = to
		return d.Seconds()
	}
	if m.first > 0 && (fenced == 0 || m.first < fenced) {
		p.Detection = step(m.first)
	}
	p.Fencing = step(fenced)
	p.Election = step(m.take)
	p.Promotion = step(m.ready)
	p.Routing = step(m.write)
	return p
}

// phases of hathi come from the lock in the store and from the agents' journals.
func (h *hathi) phases(f fault, old string, began, begin, write time.Duration) phases {
	m := landmarks{begin: begin, write: write}
	rel := func(at time.Duration) string { return fmt.Sprintf("%+.3f", (at - began).Seconds()) }
	type note struct {
		at   time.Duration
		text string
	}
	var notes []note
	var prev cluster.Lock
	for _, e := range h.lock.since(began - 15*time.Second) {
		l, err := cluster.ParseLock(e.value)
		if err != nil || e.at > write+time.Second {
			continue
		}
		if e.at > began {
			if prev.Node != "" && l.Node == "" && m.released == 0 {
				m.released = e.at
			}
			if prev.Epoch > 0 && l.Epoch > prev.Epoch && m.take == 0 {
				m.take = e.at
			}
			if m.take > 0 && l.Ready && m.ready == 0 {
				m.ready = e.at
			}
		}
		if near := e.at > began-500*time.Millisecond && e.at < began+time.Second; near || l.Node != prev.Node || l.Epoch != prev.Epoch || l.Ready != prev.Ready {
			notes = append(notes, note{e.at, fmt.Sprintf("lock: node=%s epoch=%d seq=%d ready=%t successor=%s ttl=%d", l.Node, l.Epoch, l.Seq, l.Ready, l.Successor, l.TTL)})
		}
		prev = l
	}
	for _, n := range h.names {
		for _, d := range h.decisions(n, began) {
			if d.Boottime > write+time.Second {
				continue
			}
			// What a node decides that nobody can hear helps nobody else.
			if cut := n == old && f.silences(); !cut && (m.take == 0 || d.Boottime < m.take) {
				if m.first == 0 || d.Boottime < m.first {
					m.first = d.Boottime
				}
				if d.State == "candidate" && !strings.HasPrefix(d.What, "stop receiving") && (m.stand == 0 || d.Boottime < m.stand) {
					m.stand = d.Boottime
				}
			}
			notes = append(notes, note{d.Boottime, describe(n, d)})
		}
	}
	p := m.phases()
	slices.SortFunc(notes, func(a, b note) int { return int(a.at - b.at) })
	for _, n := range notes {
		p.Notes = append(p.Notes, rel(n.at)+" "+n.text)
	}
	return p
}

func describe(node string, d journal.Entry) string {
	return fmt.Sprintf("%s [%s] %s: %s %v", node, d.State, d.What, strings.TrimSpace(d.Why), d.Facts)
}

// story is what a node's agent decided from an instant on.
func (h *hathi) story(node string, from time.Duration) []string {
	var out []string
	for _, d := range h.decisions(node, from) {
		out = append(out, fmt.Sprintf("%+.3f %s", (d.Boottime-from).Seconds(), describe(node, d)))
	}
	return out
}
