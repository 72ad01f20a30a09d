package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

// promiseFile keeps the promise not to receive from the holder of the lock at a revision.
type promiseFile struct{ path string }

type promiseJSON struct {
	LockRev int64 `json:"lock_rev"`
}

// Load reads the promise; 0 when there is none.
func (p promiseFile) Load() (int64, error) {
	b, err := os.ReadFile(p.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var j promiseJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return 0, fmt.Errorf("read %s: %w", p.path, err)
	}
	return j.LockRev, nil
}

// Save writes it through to the disk.
func (p promiseFile) Save(lockRev int64) error {
	b, err := json.Marshal(promiseJSON{LockRev: lockRev})
	if err != nil {
		return err
	}
	return atomicfile.Write(p.path, b, 0o600)
}
