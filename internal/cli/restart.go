package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/term"
)

// restartWithin bounds the restart of one member; the agent's own bound is the same.
const restartWithin = 5 * time.Minute

// restartCommand restarts PostgreSQL on members.
type restartCommand struct {
	app       *App
	find      finder
	ok        consentFlags
	role      string
	any       bool
	pending   bool
	scheduled string
	version   string
}

func (a *App) restartCommand() *cobra.Command {
	r := &restartCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "restart MEMBER...", Args: cobra.ArbitraryArgs, Long: `hathi restart MEMBER... [--role ROLE] [--pending] [--any] [--scheduled TIME]

Restart PostgreSQL on members, one after the other, the leader last, or first where a setting was
lowered of which standbys must not have less (max_connections and the like). It returns when
PostgreSQL answers again on all of them; at the first failure it stops and leaves the others alone.
Without a member --role (primary, replica, any) or --pending say which.

Examples:
  hathi restart pg2 --dir /tmp/demo
  hathi restart --pending --force -c /etc/hathi/node.yml
  hathi restart pg1 --scheduled 2030-01-31T03:00:00+00:00 --force -c /etc/hathi/node.yml`,
		RunE: func(c *cobra.Command, args []string) error { return r.run(c.Context(), args) }}
	r.find.bind(c, restartWithin)
	r.ok.bind(c)
	fl := c.Flags()
	fl.StringVarP(&r.role, "role", "r", "", "only members with this `ROLE`: primary, replica, standby-leader, any")
	fl.BoolVar(&r.any, "any", false, "only one of the chosen members, no matter which")
	fl.BoolVar(&r.pending, "pending", false, "only members on which a restart is pending")
	fl.StringVar(&r.scheduled, "scheduled", "", "do it at this `TIME`, as 2030-01-31T03:00:00+00:00")
	fl.StringVar(&r.version, "pg-version", "", "only where PostgreSQL is older than this `VERSION`, as 15.4")
	return c
}

var pgVersion = regexp.MustCompile(`^[0-9]{1,4}(\.[0-9]{1,4}){1,2}$`)

func (r *restartCommand) run(ctx context.Context, args []string) error {
	role, err := parseRole(r.role)
	if err != nil {
		return err
	}
	at, err := parseScheduled(r.scheduled)
	if err != nil {
		return err
	}
	if r.version != "" && !pgVersion.MatchString(r.version) {
		return usagef("--pg-version %q: want a version such as 15.4", r.version)
	}
	t, names, err := r.find.open(ctx, args, true)
	if err != nil {
		return err
	}
	defer t.Close()
	p, err := t.introduce(ctx, r.ok.given())
	if err != nil {
		return err
	}
	if !at.IsZero() && p.view.Config.Pause {
		return saidf("Can't schedule restart in the paused state")
	}
	members, err := t.choose(p.view, selection{names: names, role: role, pending: r.pending && at.IsZero(), verb: "restart", all: r.pending})
	if err != nil {
		return err
	}
	if r.any && len(members) > 1 {
		members = members[rand.IntN(len(members)):][:1]
	}
	if len(members) == 0 {
		fmt.Fprintln(r.app.Stdout, "No member to restart")
		return nil
	}
	down := at.IsZero() && leaderBefore(members, leaderOf(p.view))
	question := fmt.Sprintf("Are you sure you want to restart members %s?", namesOf(members))
	if !at.IsZero() {
		question = fmt.Sprintf("Are you sure you want to schedule restart of members %s at %s?", namesOf(members), at.Format(time.RFC3339))
	}
	if err := r.app.consent(r.ok.given(), question); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	for i, m := range members {
		if err := r.one(ctx, t, p, m, at); err != nil {
			if rest := members[i+1:]; len(rest) > 0 {
				return fmt.Errorf("%w\nnot restarted: %s", err, namesOf(rest))
			}
			return err
		}
		for n := 1; down && i > 0 && n < roundsLowered && t.stillLowered(ctx, m.Name); n++ {
			if err := r.one(ctx, t, p, m, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *restartCommand) one(ctx context.Context, t *target, p picture, m cluster.Member, at time.Time) error {
	if r.find.timeout != 0 { // a little longer than the member itself tries
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.find.timeout)+5*time.Second)
		defer cancel()
	}
	body := map[string]any{}
	if r.pending {
		body["restart_pending"] = true
	}
	if r.version != "" {
		body["postgres_version"] = r.version
	}
	if r.find.timeout != 0 && at.IsZero() {
		body["timeout"] = max(1, int(time.Duration(r.find.timeout).Seconds()))
	}
	if !at.IsZero() {
		body["schedule"] = at.Format(time.RFC3339Nano)
		if a, ok := p.answers[m.Name]; ok && a.Scheduled != nil && r.ok.given() {
			if _, _, err := t.request(ctx, m, http.MethodDelete, "/restart", nil); err != nil {
				return err
			}
		}
	}
	code, _, err := t.request(ctx, m, http.MethodPost, "/restart", body)
	var no *refusedError
	switch {
	case errors.As(err, &no) && no.code == http.StatusConflict:
		return fmt.Errorf("another restart is already scheduled on member %s: `hathi flush restart %s` takes it back", m.Name, m.Name)
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%w; the restart of %s may still be under way: see `hathi list`", r.find.ended(ctx, "restart"), m.Name)
	case err != nil:
		return err
	case code == http.StatusAccepted:
		fmt.Fprintf(r.app.Stdout, "Success: restart scheduled on member %s\n", m.Name)
		return nil
	}
	fmt.Fprintf(r.app.Stdout, "Success: restart on member %s\n", m.Name)
	return nil
}

// introduce reads the cluster and shows it, unless the user wants no questions.
func (t *target) introduce(ctx context.Context, quiet bool) (picture, error) {
	var locks lockWatch
	p, err := t.look(ctx, &locks)
	if err != nil || quiet {
		return p, err
	}
	return p, p.write(t.app, term.Pretty, false)
}

// reloadCommand has members read their files again.
type reloadCommand struct {
	app  *App
	find finder
	ok   consentFlags
	role string
}

func (a *App) reloadCommand() *cobra.Command {
	r := &reloadCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "reload [MEMBER...]", Args: cobra.ArbitraryArgs, Long: `hathi reload [MEMBER...] [--role ROLE]

Have members read their configuration files again (all members when none is named). Nothing is
restarted; "hathi list" shows where a restart is pending.

Example:
  hathi reload --dir /tmp/demo`,
		RunE: func(c *cobra.Command, args []string) error { return r.run(c.Context(), args) }}
	r.find.bind(c, actionWithin)
	r.ok.bind(c)
	c.Flags().StringVarP(&r.role, "role", "r", "", "only members with this `ROLE`: primary, replica, standby-leader, any")
	return c
}

func (r *reloadCommand) run(ctx context.Context, args []string) error {
	role, err := parseRole(r.role)
	if err != nil {
		return err
	}
	t, names, err := r.find.open(ctx, args, true)
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := r.find.bounded(ctx)
	defer cancel()
	v, err := t.view(ctx)
	if err != nil {
		return err
	}
	members, err := t.choose(v, selection{names: names, role: role, verb: "reload", all: true})
	if err != nil {
		return err
	}
	if len(members) == 0 {
		return fmt.Errorf("cluster %s has no member to reload", t.name)
	}
	var failed []error
	for _, m := range members {
		code, _, err := t.request(ctx, m, http.MethodPost, "/reload", map[string]any{})
		switch {
		case err != nil:
			failed = append(failed, err)
		case code == http.StatusAccepted:
			fmt.Fprintf(r.app.Stdout, "Reload request received for member %s and will be processed within %d seconds\n", m.Name, int(v.Config.LoopWait.Seconds()))
		default:
			fmt.Fprintf(r.app.Stdout, "No changes to apply on member %s\n", m.Name)
		}
	}
	return errors.Join(failed...)
}

// flushCommand takes back what was scheduled.
type flushCommand struct {
	app  *App
	find finder
	ok   consentFlags
	role string
}

func (a *App) flushCommand() *cobra.Command {
	f := &flushCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "flush {switchover|restart} [MEMBER...]", Args: cobra.ArbitraryArgs, Long: `hathi flush switchover
hathi flush restart [MEMBER...]

Take back a scheduled switchover, or the scheduled restarts of members (of all when none is named).

Example:
  hathi flush switchover --dir /tmp/demo`,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c.Context(), args) }}
	f.find.bind(c, actionWithin)
	f.ok.bind(c)
	c.Flags().StringVarP(&f.role, "role", "r", "", "only members with this `ROLE`: primary, replica, standby-leader, any")
	return c
}

func (f *flushCommand) run(ctx context.Context, args []string) error {
	role, err := parseRole(f.role)
	if err != nil {
		return err
	}
	what := ""
	for i, a := range args { // first, or last as patronictl has it
		if (i == 0 || i == len(args)-1) && (a == "switchover" || a == "restart") {
			what, args = a, slices.Delete(slices.Clone(args), i, i+1)
			break
		}
	}
	if what == "" {
		return usagef("flush what? `hathi flush switchover` or `hathi flush restart [MEMBER...]`")
	}
	t, names, err := f.find.open(ctx, args, what == "restart")
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := f.find.bounded(ctx)
	defer cancel()
	v, err := t.view(ctx)
	if err != nil {
		return err
	}
	if what == "switchover" {
		return f.switchover(ctx, t, v)
	}
	members, err := t.choose(v, selection{names: names, role: role, verb: "flush", all: true})
	if err != nil {
		return err
	}
	var failed []error
	for _, m := range members {
		_, _, err := t.request(ctx, m, http.MethodDelete, "/restart", nil)
		var no *refusedError
		switch {
		case errors.As(err, &no) && no.code == http.StatusNotFound:
			fmt.Fprintf(f.app.Stdout, "No scheduled restart for member %s\n", m.Name)
		case err != nil:
			failed = append(failed, err)
		default:
			fmt.Fprintf(f.app.Stdout, "Success: flush scheduled restart for member %s\n", m.Name)
		}
	}
	return errors.Join(failed...)
}

func (f *flushCommand) switchover(ctx context.Context, t *target, v cluster.View) error {
	if v.Failover == nil || v.Failover.ScheduledAt == "" {
		fmt.Fprintln(f.app.Stdout, "No pending scheduled switchover")
		return nil
	}
	var failed []string
	for _, m := range leaderFirst(v) {
		_, text, err := t.request(ctx, m, http.MethodDelete, "/switchover", nil)
		var no *refusedError
		if err != nil && !errors.As(err, &no) && ctx.Err() == nil {
			failed = append(failed, err.Error())
			continue
		}
		if err == nil {
			fmt.Fprintf(f.app.Stdout, "Success: %s\n", printable(text))
		}
		return err
	}
	return fmt.Errorf("flush: no member of cluster %s can be reached:\n  %s", t.name, strings.Join(failed, "\n  "))
}
