package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs/mem"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/node"
)

func TestLeadership_APauseWhoseReplyWasLostPutsTheFenceDown(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	b.client.SetFault(func(string) mem.Fault { return mem.FaultLost })
	if err := b.lead.Pause(t.Context(), true); err == nil {
		t.Fatal("got no error, want an unknown outcome")
	}
	b.client.SetFault(nil)
	if err := b.renew(); err != nil {
		t.Fatal(err)
	}
	if !b.view().Lock.Paused {
		t.Fatal("got a lock that is not paused, want the one that the lost reply was about")
	}
	if b.guard.deadline != 0 {
		t.Errorf("got the guardian armed in a pause, want its fence down")
	}
	b.clock += time.Hour
	b.held(true)
}

// waits tells when somebody waits for the right to talk to the store.
type waits struct{ begun chan struct{} }

func (w waits) Timeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
func (w waits) Receive(ctx context.Context, ch <-chan struct{}) error {
	close(w.begun)
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
func (w waits) Each(context.Context, int, func(context.Context, int)) {}

func TestLeadership_ARenewalUnderWayDoesNotOutliveTheEndOfThePause(t *testing.T) {
	b := newBench(t)
	b.take(6 * time.Second)
	if err := b.lead.Pause(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	b.lead.Vouch(b.clock + time.Minute)
	sent, answered := make(chan struct{}), make(chan struct{})
	first := true
	b.client.SetFault(func(string) mem.Fault {
		if first {
			first = false
			close(sent)
			<-answered
		}
		return mem.FaultNone
	})
	renewed, resumed := make(chan error, 1), make(chan error, 1)
	go func() { renewed <- b.lead.Renew(t.Context()) }()
	<-sent
	w := waits{make(chan struct{})}
	go func() { resumed <- b.lead.Pause(node.WithVirtual(t.Context(), w), false) }()
	<-w.begun
	close(answered)
	if err := <-renewed; err != nil {
		t.Fatal(err)
	}
	if err := <-resumed; err != nil {
		t.Fatal(err)
	}
	if want := lease.FenceAt(b.clock, 6*time.Second); b.guard.deadline != want {
		t.Errorf("got a deadline at %s, want %s", b.guard.deadline, want)
	}
	if until, _ := b.lead.Held(); until != b.guard.deadline {
		t.Errorf("got a hold until %s, want it to end with the guardian's deadline %s", until, b.guard.deadline)
	}
	b.clock += 6 * time.Second
	b.held(false)
}
