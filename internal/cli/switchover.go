package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/term"
)

// moveCommand moves the leadership: switchover, planned, from a leader that works; failover, ordered
// by an operator, to one member.
type moveCommand struct {
	app       *App
	find      finder
	ok        consentFlags
	planned   bool
	leader    string
	to        string
	scheduled string
}

func (m *moveCommand) action() string {
	if m.planned {
		return "switchover"
	}
	return "failover"
}

func (a *App) switchoverCommand() *cobra.Command {
	m := &moveCommand{app: a, find: finder{app: a}, planned: true}
	c := &cobra.Command{Use: "switchover [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi switchover [--to MEMBER] [--scheduled TIME]

Move the leadership to another member, planned: the leader stops cleanly once the other has
everything, so that no commit is lost. Without --to the cluster chooses. The command returns when the
new leader accepts writes, or says why nothing changed (exit code 1). With --scheduled it returns at
once; "hathi flush switchover" takes it back.

Examples:
  hathi switchover --dir /tmp/demo
  hathi switchover -c /etc/hathi/node.yml --to pg2 --force
  hathi switchover -c /etc/hathi/node.yml --to pg2 --scheduled 2030-01-31T03:00:00+00:00 --force`,
		RunE: func(c *cobra.Command, args []string) error { return m.run(c.Context(), args) }}
	m.bind(c)
	c.Flags().StringVar(&m.leader, "leader", "", "the `MEMBER` that must lead now")
	c.Flags().StringVar(&m.leader, "primary", "", "the same")
	c.Flags().StringVar(&m.leader, "master", "", "the same")
	_ = c.Flags().MarkHidden("primary")
	_ = c.Flags().MarkHidden("master")
	c.Flags().StringVar(&m.scheduled, "scheduled", "", "do it at this `TIME`, as 2030-01-31T03:00:00+00:00")
	m.ok.bind(c)
	return c
}

func (a *App) failoverCommand() *cobra.Command {
	m := &moveCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "failover --to MEMBER", Args: cobra.ArbitraryArgs, Long: `hathi failover --to MEMBER [--force]

Order the leadership to a member although the leader is gone or is not to be trusted. The member is
refused while it may miss commits that were acknowledged to clients. With --force it leads
nevertheless: the command says what may be lost, and asks where it can (--yes: it does not ask). A
leader that works is stopped first; for that "hathi switchover" is the better command.

Examples:
  hathi failover --dir /tmp/demo --to pg2
  hathi failover -c /etc/hathi/node.yml --to pg2 --force --yes`,
		RunE: func(c *cobra.Command, args []string) error { return m.run(c.Context(), args) }}
	m.bind(c)
	c.Flags().BoolVar(&m.ok.force, "force", false, "even if acknowledged commits may be lost")
	c.Flags().BoolVarP(&m.ok.yes, "yes", "y", false, "do not ask")
	return c
}

func (m *moveCommand) bind(c *cobra.Command) {
	m.find.bind(c, actionWithin)
	c.Flags().StringVar(&m.to, "to", "", "the `MEMBER` to lead next")
	c.Flags().StringVar(&m.to, "candidate", "", "the same")
	_ = c.Flags().MarkHidden("candidate")
}

func (m *moveCommand) run(ctx context.Context, args []string) error {
	if !m.planned && m.to == "" {
		return usagef("Failover could be performed only to a specific candidate: name it with --to MEMBER")
	}
	at, err := parseScheduled(m.scheduled)
	if err != nil {
		return err
	}
	t, _, err := m.find.open(ctx, args, false)
	if err != nil {
		return err
	}
	defer t.Close()
	var locks lockWatch
	p, err := t.look(ctx, &locks)
	if err != nil {
		return err
	}
	fmt.Fprintln(m.app.Stdout, "Current cluster topology")
	if err := p.write(m.app, term.Pretty, false); err != nil {
		return err
	}
	leader, err := m.check(t, p.view, at)
	if err != nil {
		return err
	}
	if err := m.confirm(ctx, t, p, leader, at); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	return m.move(ctx, t, p, leader, at)
}

// check refuses what cannot succeed, in Patroni's words, and says who leads now.
func (m *moveCommand) check(t *target, v cluster.View, at time.Time) (leader string, err error) {
	leader = leaderOf(v)
	if m.planned {
		switch {
		case leader == "":
			return "", saidf("This cluster has no leader: a switchover needs one that works (see `hathi why`, or `hathi failover --to MEMBER`)")
		case m.leader != "" && m.leader != leader:
			return "", saidf("Member %s is not the leader of cluster %s: %s is", printable(m.leader), t.name, leader)
		case !at.IsZero() && v.Config.Pause:
			return "", saidf("Can't schedule switchover in the paused state")
		case v.Config.Pause && m.to == "":
			return "", saidf("Switchover is possible only to a specific candidate in a paused state: name it with --to MEMBER")
		}
	}
	var candidates []string
	for _, n := range memberNames(v) {
		if n != leader && v.Members[n].Tags.FailoverPriority() > 0 {
			candidates = append(candidates, n)
		}
	}
	switch {
	case len(candidates) == 0:
		return "", saidf("No candidates found to %s to", m.action())
	case m.to == "" || slices.Contains(candidates, m.to):
		return leader, nil
	case m.to == leader:
		return "", saidf("Member %s is already the leader of cluster %s", m.to, t.name)
	}
	return "", saidf("Member %s does not exist in cluster %s or is tagged as nofailover (candidates: %s)", printable(m.to), t.name, strings.Join(candidates, ", "))
}

func (m *moveCommand) confirm(ctx context.Context, t *target, p picture, leader string, at time.Time) error {
	demote := ""
	if leader != "" {
		demote = ", demoting current leader " + leader
	}
	if m.planned {
		question := fmt.Sprintf("Are you sure you want to switchover cluster %s%s?", t.name, demote)
		if !at.IsZero() {
			question = fmt.Sprintf("Are you sure you want to schedule switchover of cluster %s at %s%s?", t.name, at.Format(time.RFC3339), demote)
		}
		return m.app.consent(m.ok.given(), question)
	}
	question := fmt.Sprintf("Are you sure you want to failover cluster %s to %s%s?", t.name, m.to, demote)
	if !m.ok.force {
		return m.app.consent(m.ok.yes, question)
	}
	for _, line := range t.possibleLoss(ctx, p, m.to) {
		fmt.Fprintln(m.app.Stderr, printable(line))
	}
	return m.app.consent(m.ok.yes || !m.app.interactive(), question+" Acknowledged commits may be lost.")
}

// possibleLoss says what would be lost if the member led now.
func (t *target) possibleLoss(ctx context.Context, p picture, to string) []string {
	v := p.view
	m := v.Members[to]
	at, live := max(m.ReceiveLSN, m.ReplayLSN, m.XLogLocation), false
	timeline := m.Timeline
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if st, err := t.client.Peer(ctx, m.APIURL); err == nil && st.Name == to {
		at, timeline, live = st.LSN, st.Timeline, true
	}
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !live {
		add("%s does not answer: its last published position is %s", to, at)
	}
	sync := v.Sync
	switch {
	case v.SyncBad:
		add("the synchronous state in the store cannot be read: %s may miss acknowledged commits", to)
	case !sync.Empty() && sync.Leader == to:
		add("%s led last under the synchronous rules: it has every acknowledged commit", to)
	case !sync.Empty() && !sync.Has(to):
		add("%s is not one of the synchronous standbys of %s (%s): it may miss commits that were acknowledged", to, sync.Leader, orNone(sync.Standbys))
	case !sync.Empty() && sync.Quorum > 0:
		add("%s is one of %d synchronous standbys of %s, of which %d others must confirm that they are not ahead; without that it may miss commits that were acknowledged", to, len(sync.Standbys), sync.Leader, sync.Quorum)
	case !sync.Empty():
		add("%s is a synchronous standby of %s: it has every acknowledged commit", to, sync.Leader)
	default:
		add("commits are asynchronous: what %s wrote in its last moments and sent to nobody is lost", orAny(leaderOf(v)))
	}
	if end := v.Status.Optime; v.StatusBad || end == 0 {
		add("the last position of the leader is not known, %s is at %s", to, at)
	} else {
		add("%s is at %s, %d bytes behind the last position that the leader published (%s)", to, at, at.Behind(end), end)
	}
	if want := v.Lock.Timeline; want != 0 && timeline != 0 && timeline < want {
		add("%s is on timeline %d, and timeline %d was written: everything that was committed there is lost", to, timeline, want)
	}
	if v.Lock.Paused {
		add("%s put its fence down for the pause: make sure that its PostgreSQL does not run, or two primaries will accept writes", v.Lock.Node)
	}
	return out
}

func orAny(name string) string {
	if name == "" {
		return "the last leader"
	}
	return name
}

// move sends the request to the first member that takes it, and waits until the new state is safe.
func (m *moveCommand) move(ctx context.Context, t *target, p picture, leader string, at time.Time) error {
	ctx, cancel := m.find.bounded(ctx)
	defer cancel()
	body := map[string]any{}
	if m.to != "" {
		body["candidate"] = m.to
	}
	if m.planned {
		body["leader"] = leader
	}
	if !at.IsZero() {
		body["scheduled_at"] = at.Format(time.RFC3339Nano)
	}
	if !m.planned && m.ok.force {
		body["force"] = true
	}
	began := time.Now()
	code, text, err := m.send(ctx, t, p, body)
	var no *refusedError
	switch {
	case errors.As(err, &no):
		if no.code == http.StatusServiceUnavailable { // it may still be under way
			return m.unfinished(ctx, t, p, err)
		}
		return err
	case err != nil && ctx.Err() != nil:
		return m.unfinished(ctx, t, p, fmt.Errorf("%w: the member that was asked may still carry it out", m.find.ended(ctx, m.action())))
	case err != nil:
		return err
	case code == http.StatusAccepted:
		fmt.Fprintf(m.app.Stdout, "%s at %s\n", printable(text), at.Format(time.RFC3339))
		return nil
	}
	fmt.Fprintln(m.app.Stdout, stamp(), printable(text))
	v, err := t.awaitReady(ctx, m.to, p.view.Lock.Epoch)
	if err != nil {
		return m.unfinished(ctx, t, p, err)
	}
	fmt.Fprintf(m.app.Stdout, "%s leads and accepts writes, %s after the request\n", leaderOf(v), roughly(time.Since(began)))
	return t.showAfter(ctx)
}

// stamp is the time as patronictl prints it.
func stamp() string { return time.Now().Format("2006-01-02 15:04:05.00000") }

// send tries the members, the leader first. Only a member without a connection is passed over: a
// request that may have arrived is not repeated.
func (m *moveCommand) send(ctx context.Context, t *target, p picture, body any) (int, string, error) {
	order := leaderFirst(p.view)
	slices.SortStableFunc(order, func(a, b cluster.Member) int { // those that answered just now first
		return rank(p, a) - rank(p, b)
	})
	var failed []string
	for _, member := range order {
		code, text, err := t.request(ctx, member, http.MethodPost, "/"+m.action(), body)
		if err != nil && unsent(err) && ctx.Err() == nil {
			failed = append(failed, err.Error())
			continue
		}
		return code, text, err
	}
	return 0, "", fmt.Errorf("%s: no member of cluster %s can be reached:\n  %s\nhint: is any agent running? see `hathi list`",
		m.action(), t.name, strings.Join(append(failed, "members with a REST address: "+namesOf(order)), "\n  "))
}

func rank(p picture, m cluster.Member) int {
	if _, ok := p.answers[m.Name]; ok {
		return 0
	}
	return 1
}

// unfinished shows where the cluster stands after an attempt whose end is not known.
func (m *moveCommand) unfinished(ctx context.Context, t *target, before picture, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWithin)
	defer cancel()
	if err := t.showAfter(ctx); err != nil {
		return errors.Join(why, err)
	}
	_, snap, err := t.load(ctx)
	if err != nil {
		return errors.Join(why, err)
	}
	v := dcs.Decode(snap)
	switch {
	case v.Failover != nil && v.Failover.ScheduledAt == "":
		return fmt.Errorf("%w\nthe request stands in the store: watch with `hathi list -w`, see `hathi why`", why)
	case v.Lock.Epoch > before.view.Lock.Epoch && !v.Lock.Ready:
		return fmt.Errorf("%w\n%s has taken over and does not accept writes yet: watch with `hathi list -w`", why, orAny(v.Lock.Node))
	case v.Lock.Epoch > before.view.Lock.Epoch:
		return fmt.Errorf("%w\n%s leads now and accepts writes", why, v.Lock.Node)
	}
	return why
}

func (t *target) showAfter(ctx context.Context) error {
	var locks lockWatch
	p, err := t.look(ctx, &locks)
	if err != nil {
		return err
	}
	return p.write(t.app, term.Pretty, false)
}

// awaitReady waits until somebody (to, when named) holds the lock in a later epoch and accepts
// writes.
func (t *target) awaitReady(ctx context.Context, to string, epoch uint64) (cluster.View, error) {
	for {
		v, err := t.view(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return v, err
		case err != nil:
		case v.LockRev == 0 && v.Leader != "": // run by Patroni
			return v, nil
		case v.Lock.Held() && v.Lock.Ready && (v.Lock.Node == to || to == "" && v.Lock.Epoch > epoch):
			return v, nil
		case v.Lock.Held() && v.Lock.Ready && v.Lock.Epoch > epoch:
			return v, fmt.Errorf("%s leads now, not %s", v.Lock.Node, to)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return v, fmt.Errorf("no new leader accepted writes in time")
		}
	}
}
