// Package boottime reads CLOCK_BOOTTIME, the only clock by which hathi decides.
//
// It never jumps when somebody sets the wall clock, and unlike Go's monotonic reading it goes on
// while the machine is suspended. Instants are durations since boot; they mean nothing on another
// machine or after a reboot, which BootID tells apart.
package boottime

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time since boot, suspension included. It panics where the kernel has no such clock
// (before Linux 2.6.39), because nothing could be decided there.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("boottime: read CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// BootID names this boot of the machine (/proc/sys/kernel/random/boot_id): 36 characters.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" {
		return "", fmt.Errorf("read the boot id: /proc/sys/kernel/random/boot_id is empty")
	}
	return id, nil
}

// slice bounds one sleep: Go's timers stand still while the machine is suspended, so a longer one
// would end too late by the length of the suspension.
const slice = 100 * time.Millisecond

// SleepUntil returns nil once Now has reached t, or ctx's cause when it ends first. After a
// suspension it may be late by 100 ms.
func SleepUntil(ctx context.Context, t time.Duration) error {
	for {
		left := t - Now()
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(min(left, slice))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// NapUntil blocks the calling thread in the kernel until t on CLOCK_BOOTTIME, or until a signal
// arrives. It allocates nothing and does not touch Go's timers.
func NapUntil(t time.Duration) {
	ts := unix.NsecToTimespec(int64(t))
	_ = unix.ClockNanosleep(unix.CLOCK_BOOTTIME, unix.TIMER_ABSTIME, &ts, nil)
}
