package daemon

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/rest"
)

// schedule keeps at most one restart for a later time. The zero value is ready; close ends it.
type schedule struct {
	mu     sync.Mutex
	wg     sync.WaitGroup
	closed bool
	req    *rest.RestartRequest // not begun
	cancel context.CancelFunc   // of req
	stops  map[*rest.RestartRequest]context.CancelFunc
}

// set has run called, in a goroutine of its own, when the time of r has come. Its context ends with
// the schedule.
func (s *schedule) set(r rest.RestartRequest, run func(context.Context, rest.RestartRequest)) rest.Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return rest.Answer{Code: http.StatusServiceUnavailable, Text: "the agent is ending"}
	case s.req != nil:
		return rest.Answer{Code: http.StatusConflict, Text: "Another restart is already scheduled"}
	}
	ctx, cancel := context.WithCancel(context.Background())
	own := &r
	if s.stops == nil {
		s.stops = map[*rest.RestartRequest]context.CancelFunc{}
	}
	s.req, s.cancel, s.stops[own] = own, cancel, cancel
	s.wg.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.stops, own)
			s.mu.Unlock()
			cancel()
		}()
		timer := time.NewTimer(time.Until(own.Schedule))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if s.begin(own) {
			now := *own
			now.Schedule = time.Time{}
			run(ctx, now)
		}
	})
	return rest.Answer{Code: http.StatusAccepted, Text: "Restart scheduled"}
}

// begin takes r out of the schedule; false when it was dropped meanwhile.
func (s *schedule) begin(r *rest.RestartRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.req != r || s.closed {
		return false
	}
	s.req, s.cancel = nil, nil
	return true
}

// pending is the restart whose time has not come.
func (s *schedule) pending() (rest.RestartRequest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.req == nil {
		return rest.RestartRequest{}, false
	}
	return *s.req, true
}

// drop forgets it; false when there is none.
func (s *schedule) drop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.req == nil {
		return false
	}
	s.cancel()
	s.req, s.cancel = nil, nil
	return true
}

// close forgets what is scheduled, ends what runs and waits for it.
func (s *schedule) close() error {
	s.mu.Lock()
	s.closed, s.req, s.cancel = true, nil, nil
	for _, stop := range s.stops {
		stop()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}
