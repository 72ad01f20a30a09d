package instance

import (
	"testing"
	"time"
)

func TestProber_WhatCountsAsAHang(t *testing.T) {
	const now = time.Minute
	for name, c := range map[string]struct {
		connections, storage, writes time.Duration // since when not answered
		moved                        time.Duration
		since                        time.Duration
		why                          string
	}{
		"all answered":                                     {},
		"a connection that takes a moment":                 {connections: now - time.Second},
		"no new connection":                                {connections: now - 3*time.Second, since: now - 3*time.Second, why: "no new connection is answered"},
		"slow storage, the server writes":                  {storage: now - 10*time.Second},
		"storage and writes":                               {storage: now - 4*time.Second, writes: now - 2*time.Second, since: now - 4*time.Second, why: "its storage makes nothing durable and no write ends"},
		"writes alone, as with a process that was stopped": {writes: now - 2*time.Second, moved: now - 3*time.Second, since: now - 2*time.Second, why: "no write ends"},
		"storage that moved once more and then stopped":    {storage: now - 8*time.Second, writes: now - 6*time.Second, moved: now - 3*time.Second, since: now - 3*time.Second, why: "its storage makes nothing durable and no write ends"},
		"a write that is slow while WAL grows":             {storage: now - 4*time.Second, writes: now - 3*time.Second, moved: now - time.Second},
	} {
		p := newProber()
		p.connections.since.Store(int64(c.connections))
		p.storage.since.Store(int64(c.storage))
		p.writes.since.Store(int64(c.writes))
		since, why, ok := p.failing(now, c.moved)
		if since != c.since && ok || ok != (c.why != "") || ok && why != c.why {
			t.Errorf("%s: got %v, %q, %t, want %v, %q", name, since, why, ok, c.since, c.why)
		}
	}
}

func TestTrial_ATryCountsFromItsBeginningUntilAnAnswer(t *testing.T) {
	var r trial
	r.begin(time.Second)
	r.begin(2 * time.Second) // the next one in a row
	if got := r.unanswered(); got != time.Second {
		t.Errorf("got %v, want the first of the row", got)
	}
	r.answered()
	if got := r.unanswered(); got != 0 {
		t.Errorf("got %v after an answer, want none", got)
	}
}
