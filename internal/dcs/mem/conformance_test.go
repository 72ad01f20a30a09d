package mem_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/dcstest"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
)

func TestConformance(t *testing.T) {
	dcstest.Run(t, func(t *testing.T) (dcs.Store, dcs.Store, func(time.Duration)) {
		var now atomic.Int64
		s := mem.NewServer(func() time.Duration { return time.Duration(now.Load()) })
		a, b := s.Client("a"), s.Client("b")
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b, func(d time.Duration) { now.Add(int64(d)); s.Expire() }
	})
}
