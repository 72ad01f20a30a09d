package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hathi-ha/hathi/internal/node"
)

const (
	// holdWithin bounds the wait for a WAL receiver to end.
	holdWithin = time.Second
	holdPoll   = 10 * time.Millisecond
	// maxRetryInterval is the longest wal_retrieve_retry_interval with which the wait is worth it.
	maxRetryInterval = 500 * time.Millisecond
)

// Hold has a running standby receive nothing any more.
//
// The startup process starts and ends the WAL receiver, and reads the settings again when it gets to
// it. One that it had just begun to start with the old setting shows within one
// wal_retrieve_retry_interval, and is ended when the setting is read; so for longer than that none must
// be seen.
func (i *Instance) Hold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, holdWithin)
	defer cancel()
	before, err := i.pg.Receiving(ctx)
	if err != nil {
		return err
	}
	if !before.InRecovery {
		return errors.New("PostgreSQL is no standby")
	}
	retry := time.Duration(before.RetryIntervalMillis) * time.Millisecond
	if retry > maxRetryInterval {
		return fmt.Errorf("wal_retrieve_retry_interval is %s: with more than %s a standby cannot be sure in time that it receives nothing", retry, maxRetryInterval)
	}
	i.form.Lock()
	i.role.upstream, i.role.known, i.role.primary = node.Upstream{}, true, false
	i.form.Unlock()
	if err := i.reloadQuick(ctx, true); err != nil {
		return err
	}
	var clear time.Duration
	for {
		st, err := i.pg.Receiving(ctx)
		switch {
		case err != nil:
			return err
		case !st.InRecovery:
			return errors.New("PostgreSQL is no standby any more")
		case st.ReceiverRuns || st.PrimaryConninfoSet:
			clear = 0
		case clear == 0:
			clear = i.c.Now()
		case i.c.Now()-clear > retry+retry/2:
			return nil
		}
		select {
		case <-time.After(holdPoll):
		case <-ctx.Done():
			return fmt.Errorf("wait for the WAL receiver to end: %w", context.Cause(ctx))
		}
	}
}
