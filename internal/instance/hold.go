package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/node"
)

const (
	// holdWithin bounds the wait for a WAL receiver to end.
	holdWithin = time.Second
	holdPoll   = 10 * time.Millisecond
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
	before, err := i.pg.Status(ctx)
	if err != nil {
		return err
	}
	if !before.InRecovery {
		return errors.New("PostgreSQL is no standby")
	}
	retry, err := i.retryInterval(ctx)
	if err != nil {
		return err
	}
	i.form.Lock()
	i.role.upstream, i.role.primary = node.Upstream{}, false
	i.form.Unlock()
	if err := i.reload(ctx, true); err != nil {
		return err
	}
	var clear time.Duration
	for {
		st, err := i.pg.Status(ctx)
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

// retryInterval is wal_retrieve_retry_interval. Longer than half a second the wait would not be worth
// it.
func (i *Instance) retryInterval(ctx context.Context) (time.Duration, error) {
	text, err := i.pg.Setting(ctx, "wal_retrieve_retry_interval")
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(strings.ReplaceAll(text, "min", "m"))
	if n, nerr := strconv.Atoi(text); nerr == nil {
		d, err = time.Duration(n)*time.Millisecond, nil
	}
	if err != nil || d > 500*time.Millisecond {
		return 0, fmt.Errorf("wal_retrieve_retry_interval is %s: with more than 500ms a standby cannot be sure in time that it receives nothing", text)
	}
	return d, nil
}
