package sim

import (
	"fmt"
	"iter"
	"runtime/debug"
	"time"
)

// event is something that happens at an instant. Events of one instant happen in the order in which
// they were scheduled.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// eventHeap is a heap with four children to a node: container/heap, with its calls through
// an interface and its boxed events, took a fifth of the time of a history.
type eventHeap []event

func (h *eventHeap) push(e event) {
	*h = append(*h, e)
	a := *h
	i := len(a) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&a[up]) {
			break
		}
		a[i] = a[up]
		i = up
	}
	a[i] = e
}

func (h *eventHeap) pop() event {
	a := *h
	top := a[0]
	n := len(a) - 1
	e := a[n]
	a[n] = event{}
	a = a[:n]
	*h = a
	if n == 0 {
		return top
	}
	i := 0
	for {
		first := 4*i + 1
		if first >= n {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, n); c++ {
			if a[c].before(&a[least]) {
				least = c
			}
		}
		if !a[least].before(&e) {
			break
		}
		a[i] = a[least]
		i = least
	}
	a[i] = e
	return top
}

// scheduler is virtual time.
type scheduler struct {
	now    time.Duration // since the beginning of the world; never shown to a node
	seq    uint64
	events eventHeap
	cur    *proc // the coroutine that runs now; nil in an event
}

// after schedules do.
func (s *scheduler) after(d time.Duration, do func()) {
	s.seq++
	s.events.push(event{at: s.now + max(d, 0), seq: s.seq, do: do})
}

// step runs the next event and says whether there was one.
func (s *scheduler) step() bool {
	if len(s.events) == 0 {
		return false
	}
	e := s.events.pop()
	s.now = e.at
	e.do()
	return true
}

// life is a process of the operating system, as far as its coroutines care: while it is frozen none
// of them runs.
type life struct {
	frozen func() bool
	procs  []*proc // in the order of their beginning
}

// proc is a coroutine: code that may wait in virtual time.
type proc struct {
	s       *scheduler
	life    *life
	next    func() (struct{}, bool)
	stop    func()
	yield   func(struct{}) bool
	token   uint64 // grows with each wait; an older alarm is stale
	pending bool   // was due while frozen
	idling  bool   // in idle
	woken   bool   // wake was called outside of idle
	ended   bool
	cleanup []func() // run when the coroutine is ended from outside
}

// killed unwinds a coroutine whose process died.
type killed struct{}

// spawn starts a coroutine at once (in an event of its own).
func (s *scheduler) spawn(l *life, work func(p *proc)) *proc {
	p := &proc{s: s, life: l}
	p.next, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		p.yield = yield
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(killed); !ok {
					// Here, because what goes on from the caller of next does not have this stack.
					panic(fmt.Sprintf("%v\n%s", r, debug.Stack()))
				}
			}
		}()
		work(p)
	})
	l.procs = append(l.procs, p)
	s.after(0, func() { p.resume(0) })
	return p
}

// resume runs the coroutine until it waits again, unless the alarm is stale.
func (p *proc) resume(token uint64) {
	if p.ended || token != p.token {
		return
	}
	if p.life.frozen != nil && p.life.frozen() {
		p.pending = true
		return
	}
	p.pending = false
	p.run()
}

func (p *proc) run() {
	before := p.s.cur
	p.s.cur = p
	_, more := p.next()
	p.s.cur = before
	if !more {
		p.finish()
	}
}

func (p *proc) finish() {
	if p.ended {
		return
	}
	p.ended = true
	for i, x := range p.life.procs {
		if x == p {
			p.life.procs = append(p.life.procs[:i:i], p.life.procs[i+1:]...)
			break
		}
	}
}

// park gives control back until resume is called with the present token.
func (p *proc) park() {
	if !p.yield(struct{}{}) {
		panic(killed{})
	}
}

// sleep waits for d.
func (p *proc) sleep(d time.Duration) {
	p.token++
	t := p.token
	until := p.s.now + max(d, 0)
	p.s.after(d, func() { p.resume(t) })
	for {
		p.park()
		if p.s.now >= until {
			return
		}
	}
}

// idle waits for d or until wake was called, before or meanwhile.
func (p *proc) idle(d time.Duration) {
	if p.woken {
		p.woken = false
		d = 0
	}
	p.token++
	t := p.token
	p.idling = true
	p.s.after(d, func() { p.resume(t) })
	p.park()
	p.idling, p.woken = false, false
}

// wake ends an idle wait soon.
func (p *proc) wake(d time.Duration) {
	p.s.after(d, func() {
		if !p.idling {
			p.woken = true
			return
		}
		p.resume(p.token)
	})
}

// kill ends the coroutine where it stands.
func (p *proc) kill() {
	if p.ended {
		return
	}
	p.finish()
	p.stop()
	for _, c := range p.cleanup {
		c()
	}
}

// thaw lets everything go on that was due while the process was frozen.
func (l *life) thaw() {
	for _, p := range append([]*proc(nil), l.procs...) {
		if p.pending && !p.ended {
			t := p.token
			p.s.after(0, func() { p.resume(t) })
		}
	}
}

// killAll ends every coroutine of the process.
func (l *life) killAll() {
	for _, p := range append([]*proc(nil), l.procs...) {
		p.kill()
	}
}
