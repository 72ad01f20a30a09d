package node

import (
	"maps"
	"sync"
)

// failsafeWrites are writes of /failsafe that this node sent and has not seen stored. Who is in the
// store's list may lead once the lease has run out, so the holder has to ask those of a write that may
// have happened, too; and while the list may be gone, everybody may lead, and no promises are enough.
type failsafeWrites struct {
	mu      sync.Mutex
	members map[string]string // of all of them
	last    map[string]string // of the last one; nil: it removes the list
	removed bool              // one of them removes the list
	open    bool              // there is one
	sure    bool              // the last one was confirmed, so that no earlier one can still happen
}

// writing notes a write of members, nil to remove the list, before it is sent.
func (f *failsafeWrites) writing(members map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.members == nil {
		f.members = map[string]string{}
	}
	maps.Copy(f.members, members)
	f.last, f.open, f.sure = members, true, false
	f.removed = f.removed || members == nil
}

// confirmed notes that the last write was carried out.
func (f *failsafeWrites) confirmed() { f.mu.Lock(); defer f.mu.Unlock(); f.sure = true }

// settled takes in the list as the store shows it, and says whether nothing is open any more.
func (f *failsafeWrites) settled(stored map[string]string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open && f.sure && maps.Equal(f.last, stored) {
		f.members, f.last, f.removed, f.open, f.sure = nil, nil, false, false, false
	}
	return !f.open
}

// toAsk are the members whose promises are needed, for the list that the store showed last; ok is
// false when no promises are enough.
func (f *failsafeWrites) toAsk(stored map[string]string) (members map[string]string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.open {
		return stored, true
	}
	members = maps.Clone(stored)
	maps.Copy(members, f.members)
	return members, !f.removed
}
