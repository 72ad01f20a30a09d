package cli

import (
	"context"
	"fmt"
	"net/http"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/rest"
)

// reinitCommand copies members anew.
type reinitCommand struct {
	app        *App
	find       finder
	ok         consentFlags
	fromLeader bool
	wait       bool
	within     seconds
}

func (a *App) reinitCommand() *cobra.Command {
	r := &reinitCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "reinit MEMBER...", Args: cobra.ArbitraryArgs, Long: `hathi reinit MEMBER... [--wait] [--from-leader]

Copy a replica anew: its PostgreSQL is stopped and its data directory is made again from another
member. With --wait the command returns when PostgreSQL runs there again and follows; it shows the
progress meanwhile, and gives up when the member has not answered for a minute.

Examples:
  hathi reinit pg3 --wait --dir /tmp/demo
  hathi reinit pg3 --force --wait -c /etc/hathi/node.yml`,
		RunE: func(c *cobra.Command, args []string) error { return r.run(c.Context(), args) }}
	r.find.bind(c, actionWithin)
	r.ok.bind(c)
	c.Flags().BoolVar(&r.fromLeader, "from-leader", false, "copy from the leader, not from a replica")
	c.Flags().BoolVar(&r.wait, "wait", false, "return when it is done")
	c.Flags().Var(&r.within, "wait-timeout", "with --wait: give up after this `TIME` (default: as long as the member answers)")
	return c
}

func (r *reinitCommand) run(ctx context.Context, args []string) error {
	t, names, err := r.find.open(ctx, args, true)
	if err != nil {
		return err
	}
	defer t.Close()
	p, err := t.introduce(ctx, r.ok.given())
	if err != nil {
		return err
	}
	if len(names) == 1 {
		if m, ok := p.view.Member(names[0]); ok && m.Name == leaderOf(p.view) {
			return fmt.Errorf("%s is the leader, and the leader is not copied anew: switch over first (`hathi switchover`)", m.Name)
		}
	}
	members, err := t.choose(p.view, selection{names: names, role: "replica", verb: "reinit"})
	if err != nil {
		return err
	}
	if len(members) == 0 {
		return usagef("reinit: which member? name one of %s", orNone(memberNames(p.view)))
	}
	if err := r.app.consent(r.ok.given(), fmt.Sprintf("Are you sure you want to reinitialize members %s?", namesOf(members))); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	body := map[string]any{"force": r.ok.given(), "from_leader": r.fromLeader}
	for _, m := range members {
		ask, cancel := r.find.bounded(ctx)
		_, _, err := t.request(ask, m, http.MethodPost, "/reinitialize", body)
		if err != nil && ask.Err() != nil {
			err = fmt.Errorf("%w; it may still begin: see `hathi list`", r.find.ended(ask, "reinitialize of "+m.Name))
		}
		cancel()
		if err != nil {
			return err
		}
		fmt.Fprintf(r.app.Stdout, "Success: reinitialize for member %s\n", m.Name)
	}
	if !r.wait {
		return nil
	}
	if r.within != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.within))
		defer cancel()
	}
	fmt.Fprintf(r.app.Stdout, "Waiting for reinitialize to complete on: %s\n", namesOf(members))
	for _, m := range members {
		if err := r.await(ctx, t, m, p.answers[m.Name]); err != nil {
			return err
		}
		fmt.Fprintf(r.app.Stdout, "Reinitialize is completed on: %s\n", m.Name)
	}
	return nil
}

// silentFor is how long a member may give no answer before the wait for it ends.
const silentFor = time.Minute

// await waits until the member runs a PostgreSQL that was started after before, and follows.
func (r *reinitCommand) await(ctx context.Context, t *target, m cluster.Member, before rest.Status) error {
	last, heard := "", time.Now()
	for {
		ask, cancel := context.WithTimeout(ctx, readWithin)
		st, err := t.client.Patroni(ask, m.APIURL)
		cancel()
		if err == nil {
			heard = time.Now()
			anew := before.PostmasterStart.IsZero() || !st.PostmasterStart.Equal(before.PostmasterStart.Time)
			copying := st.State == cluster.StateCreatingReplica || st.Hathi != nil && st.Hathi.Job != ""
			follows := st.Hathi == nil || st.ReplState != ""
			if st.State == cluster.StateRunning && anew && !copying && follows {
				return nil
			}
			now := string(st.State)
			if st.Hathi != nil && st.Hathi.Job != "" {
				now = st.Hathi.Job
			} else if st.Hathi != nil && st.Hathi.Why != "" {
				now = st.Hathi.Why
			}
			if now != last {
				fmt.Fprintf(r.app.Stderr, "%s: %s\n", m.Name, printable(now))
				last = now
			}
		}
		if time.Since(heard) > silentFor {
			return fmt.Errorf("reinitialize of %s: no answer for %s (%w); it may go on there: see `hathi list`", m.Name, silentFor, err)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("reinitialize of %s: not done yet when the wait ended; it goes on there: see `hathi list`", m.Name)
		}
	}
}
