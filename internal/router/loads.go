package router

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hathi-ha/hathi/internal/route"
)

// load counts what one backend carries.
type load struct {
	name, addr string
	sessions   atomic.Int64
	total      atomic.Int64
	failures   atomic.Int64
	failedAt   atomic.Int64 // instant of the last failed attempt, 0 after a good one
}

// loads are the counters of every backend that was ever used, by name. It is copied on change, so
// that readers need no lock.
type loads struct {
	mu sync.Mutex
	p  atomic.Pointer[map[string]*load]
	rr uint64
}

func (l *loads) all() map[string]*load {
	if m := l.p.Load(); m != nil {
		return *m
	}
	return nil
}

// get finds or makes the counters of b. It is called with l.mu held.
func (l *loads) get(b route.Backend) *load {
	if c := l.all()[b.Name]; c != nil && c.addr == b.Addr {
		return c
	}
	next := map[string]*load{}
	for k, v := range l.all() {
		next[k] = v
	}
	c := &load{name: b.Name, addr: b.Addr}
	next[b.Name] = c
	l.p.Store(&next)
	return c
}

// penalty is how long a replica that could not be reached is passed over while there are others.
const penalty = 2 * time.Second

// take chooses the backend with the fewest sessions, those that failed just now last, ties in turn,
// and counts one session on it. The caller gives it back.
func (l *loads) take(of []route.Backend, now time.Duration) (route.Backend, *load) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rr++
	best, bestCost := -1, int64(0)
	var bestLoad *load
	for i := range of {
		k := int((uint64(i) + l.rr) % uint64(len(of)))
		c := l.get(of[k])
		cost := c.sessions.Load()
		if at := c.failedAt.Load(); at != 0 && now-time.Duration(at) < penalty {
			cost += 1 << 40
		}
		if best < 0 || cost < bestCost {
			best, bestCost, bestLoad = k, cost, c
		}
	}
	bestLoad.sessions.Add(1)
	return of[best], bestLoad
}
