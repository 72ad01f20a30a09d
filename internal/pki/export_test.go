package pki

import "time"

// SetNow replaces the clock.
func (r *Reloader) SetNow(now func() time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = now
}
