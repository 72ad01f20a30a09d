package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/process"
)

func TestReplica_CloneFollowPromoteRewind(t *testing.T) {
	dir, cred := base(t)
	a := primary(t, dir, cred)
	ctx := within(t)
	if err := a.CreateSlot(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	b := newNode(t, dir, "b", cred)
	var done, total int64
	if err := b.BaseBackup(ctx, postgres.From{Host: "127.0.0.1", Port: a.cfg.Port}, postgres.BaseBackupOptions{Slot: "b", ExtraArgs: []string{"--no-sync"}},
		func(d, n int64) { done, total = d, n }); err != nil {
		t.Fatal(err)
	}
	if done == 0 || done > total {
		t.Errorf("got progress %d of %d", done, total)
	}
	b.start(t, a, "primary_slot_name = 'b'")
	b.streams(t)
	st := b.ready(t)
	if !st.InRecovery || st.Timeline != 1 || st.LSN() == 0 || st.Receiver.SenderPort != a.cfg.Port || st.Receiver.Slot != "b" || !st.PrimaryConninfoSet {
		t.Fatalf("got %+v, receiver %+v", st, st.Receiver)
	}
	eventually(t, "the primary sees it", func() error {
		st, err := a.Status(ctx)
		if err == nil && (len(st.Replication) != 1 || st.Replication[0].ApplicationName != "b" || st.Replication[0].State != "streaming" || !st.Slots[0].Active) {
			err = fmt.Errorf("replication %+v, slots %+v", st.Replication, st.Slots)
		}
		return err
	})
	if err := a.DropSlot(ctx, "b"); !errors.Is(err, postgres.ErrSlotActive) {
		t.Fatalf("got %v, want ErrSlotActive", err)
	}

	// The primary dies; the standby is promoted; its timeline is known at once.
	if err := a.KillAll(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Promote(ctx); err != nil {
		t.Fatalf("the second time: %v", err)
	}
	if st := b.ready(t); st.InRecovery || st.Timeline != 2 {
		t.Fatalf("got %+v, want a primary on timeline 2", st)
	}
	h, err := b.ReadHistoryFile(2)
	if err != nil || len(h) != 1 || h[0].Timeline != 1 {
		t.Fatalf("got %v, %v, want one line", h, err)
	}
	if err := b.Exec(ctx, "CREATE TABLE public.t AS SELECT generate_series(1, 1000) AS i"); err != nil {
		t.Fatal(err)
	}
	if err := b.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}

	// The old one comes back on its own, writes on the dead branch, and is rewound.
	a.start(t, nil)
	if err := a.Exec(ctx, "CREATE TABLE public.lost AS SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Rewind(ctx, postgres.From{Host: "127.0.0.1", Port: b.cfg.Port}, postgres.RewindOptions{}, nil); !errors.Is(err, postgres.ErrRunning) {
		t.Fatalf("got %v, want ErrRunning", err)
	}
	a.stop(t, postgres.StopOptions{Mode: postgres.StopImmediate})
	var re *postgres.RewindError
	_, err = a.Rewind(ctx, postgres.From{Host: "127.0.0.1", Port: 1}, postgres.RewindOptions{}, nil)
	if !errors.As(err, &re) || re.Touched {
		t.Fatalf("got %v, want a failure that changed nothing", err)
	}
	if st, why, err := a.DataState(); err != nil || st != postgres.DataValid {
		t.Fatalf("got %v (%s), %v, want valid", st, why, err)
	}
	var moved int64
	needed, err := a.Rewind(ctx, postgres.From{Host: "127.0.0.1", Port: b.cfg.Port}, postgres.RewindOptions{}, func(d, _ int64) { moved = d })
	if err != nil || !needed {
		t.Fatalf("got %v, %v, want a rewind", needed, err)
	}
	if moved == 0 || !a.HasStandbySignal() {
		t.Errorf("got %d bytes copied, standby.signal %v", moved, a.HasStandbySignal())
	}
	a.start(t, b)
	a.streams(t)
	if st := a.ready(t); st.Timeline != 2 {
		t.Fatalf("got %+v, want timeline 2", st)
	}
	a.stop(t, postgres.StopOptions{})
	if needed, err := a.Rewind(ctx, postgres.From{Host: "127.0.0.1", Port: b.cfg.Port}, postgres.RewindOptions{}, nil); err != nil || needed {
		t.Fatalf("got %v, %v, want nothing to rewind", needed, err)
	}
}

func TestStop_EndsAWALSenderThatHangs(t *testing.T) {
	dir, cred := base(t)
	a := primary(t, dir, cred)
	b := standby(t, dir, cred, a)
	// A standby whose receiver is frozen never confirms the shutdown checkpoint.
	list, err := process.List(b.DataDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	frozen := 0
	for _, p := range list {
		if strings.Contains(p.Title(), "walreceiver") {
			h, err := process.Open(p.PID, p.Start)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Signal(unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			h.Close()
			frozen++
		}
	}
	if frozen != 1 {
		t.Fatalf("got %d WAL receivers, want one", frozen)
	}
	r := a.stop(t, postgres.StopOptions{WALSendersAfter: 300 * time.Millisecond})
	if r.Last != postgres.StepWALSenders || !r.Clean() {
		t.Fatalf("got %+v, want it clean after the WAL senders ended", r)
	}
	c, err := a.Control(within(t))
	if err != nil || c.State != postgres.ControlShutDown {
		t.Fatalf("got %v, %v, want it shut down", c.State, err)
	}
}

func TestDataState_KnowsAnInterruptedRewind(t *testing.T) {
	dir, cred := base(t)
	n := newNode(t, dir, "a", cred)
	if err := n.Initdb(within(t), postgres.InitdbOptions{ExtraArgs: []string{"--no-sync"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.DataDir()+".rewinding", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, _, err := n.DataState(); err != nil || st != postgres.DataHalfRewound {
		t.Fatalf("got %v, %v, want half rewound", st, err)
	}
	if _, err := n.SetAside("half rewound"); err != nil {
		t.Fatal(err)
	}
	if st, _, err := n.DataState(); err != nil || st != postgres.DataEmpty {
		t.Fatalf("got %v, %v, want empty", st, err)
	}
}

func TestShutdownEnd_IsWhatTheStandbyHas(t *testing.T) {
	dir, cred := base(t)
	a := primary(t, dir, cred)
	b := standby(t, dir, cred, a)
	a.stop(t, postgres.StopOptions{KillAfter: patience})
	c, err := a.Control(within(t))
	if err != nil {
		t.Fatal(err)
	}
	end, err := a.ShutdownEnd(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if st := b.ready(t); st.LSN() != end {
		t.Fatalf("got %s on the standby, want %s", st.LSN(), end)
	}
}
