package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/dcs"
)

// pauseCommand takes the hands off the cluster, or puts them on again.
type pauseCommand struct {
	app   *App
	find  finder
	ok    consentFlags
	pause bool
	wait  bool
}

func (a *App) pauseCommand() *cobra.Command {
	p := &pauseCommand{app: a, find: finder{app: a}, pause: true}
	c := &cobra.Command{Use: "pause [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi pause [--wait]

Take the hands off the cluster: nothing is started, stopped, promoted or demoted until "hathi resume",
except what you order (restart, switchover, failover). The leader puts its fence down, so its
PostgreSQL survives the loss of the store; nobody takes over when it dies. The command returns when
the leader has confirmed it, with --wait when every member has.

Example:
  hathi pause --wait --dir /tmp/demo`,
		RunE: func(c *cobra.Command, args []string) error { return p.run(c.Context(), args) }}
	p.find.bind(c, actionWithin)
	c.Flags().BoolVar(&p.wait, "wait", false, "wait until every member has recognized it")
	return c
}

func (a *App) resumeCommand() *cobra.Command {
	p := &pauseCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "resume [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi resume [--wait] [--force]

Put the hands on the cluster again after "hathi pause". It is refused while the leader of before the
pause does not answer: its fence is down, and only you can tell whether its PostgreSQL still accepts
writes (--force resumes nevertheless).

Example:
  hathi resume --wait --dir /tmp/demo`,
		RunE: func(c *cobra.Command, args []string) error { return p.run(c.Context(), args) }}
	p.find.bind(c, actionWithin)
	p.ok.bind(c)
	c.Flags().BoolVar(&p.wait, "wait", false, "wait until every member has recognized it")
	return c
}

func (p *pauseCommand) words() (verb, done string) {
	if p.pause {
		return "pause", "paused"
	}
	return "resume", "resumed"
}

func (p *pauseCommand) run(ctx context.Context, args []string) error {
	t, _, err := p.find.open(ctx, args, false)
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := p.find.bounded(ctx)
	defer cancel()
	v, err := t.view(ctx)
	if err != nil {
		return err
	}
	switch {
	case v.Config.Pause && p.pause:
		return saidf("Cluster is already paused")
	case !v.Config.Pause && !p.pause:
		return saidf("Cluster is not paused")
	}
	if !p.pause {
		if err := p.holderAnswers(ctx, t, v); err != nil {
			return err
		}
	}
	// JSON null removes a key from the document.
	value := map[string]any{"pause": nil}
	if p.pause {
		value["pause"] = true
	}
	if err := t.changeConfig(ctx, func(doc map[string]any) (map[string]any, error) {
		next, _ := cluster.MergePatch(doc, value)
		return next, nil
	}); err != nil {
		return err
	}
	return p.await(ctx, t)
}

// holderAnswers refuses to resume while the holder of a lock without a fence is silent.
func (p *pauseCommand) holderAnswers(ctx context.Context, t *target, v cluster.View) error {
	holder := v.Lock.Node
	if !v.Lock.Paused || holder == "" {
		return nil
	}
	ask, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	m, known := v.Member(holder)
	err := errors.New("its key in the store is gone")
	if known {
		if _, err = t.client.Patroni(ask, m.APIURL); err == nil {
			return nil
		}
	}
	text := fmt.Sprintf("%s led when the cluster was paused, put its fence down, and does not answer (%v): nobody but you can tell whether its PostgreSQL still accepts writes, so nobody will take over after the pause", holder, err)
	if p.ok.given() {
		fmt.Fprintln(p.app.Stderr, "hathi: warning:", text)
		return nil
	}
	return fmt.Errorf("%s\nhint: start its agent again; or make sure that %s is off and order another leader, `hathi failover --to MEMBER --force`; `hathi resume --force` resumes nevertheless", text, holder)
}

// confirmWithin is how long the leader may take to confirm.
const confirmWithin = 5 * time.Second

// await waits until the leader has put its fence down or taken it up again, and with --wait until
// every member that answers knows it.
func (p *pauseCommand) await(ctx context.Context, t *target) error {
	verb, done := p.words()
	if p.wait {
		fmt.Fprintf(p.app.Stdout, "'%s' request sent, waiting until it is recognized by all nodes\n", verb)
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, confirmWithin)
		defer cancel()
	}
	for {
		v, err := t.view(ctx)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("the cluster is %s, but not yet confirmed: %w", done, err)
		}
		var missing []string
		if err == nil {
			if v.Config.Pause != p.pause {
				return fmt.Errorf("somebody else changed it meanwhile: the cluster is not %s", done)
			}
			if v.Lock.Held() && v.Lock.Paused != p.pause {
				missing = append(missing, v.Lock.Node)
			}
			if p.wait {
				missing = append(missing, t.unaware(ctx, v, p.pause)...)
			}
			missing = cluster.Sorted(missing)
			if len(missing) == 0 {
				fmt.Fprintf(p.app.Stdout, "Success: cluster management is %s\n", done)
				return nil
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			if p.wait {
				return fmt.Errorf("%s members didn't recognize the %s state within %s", orNone(missing), done, p.find.timeout.String())
			}
			fmt.Fprintf(p.app.Stdout, "Success: cluster management is %s\n", done)
			fmt.Fprintln(p.app.Stderr, p.app.pasteable(fmt.Sprintf("hathi: warning: not confirmed by %s yet: see `hathi list`", strings.Join(missing, ", "))))
			return nil
		}
	}
}

// unaware are the members that answer and do not know of the pause (or its end) yet.
func (t *target) unaware(ctx context.Context, v cluster.View, paused bool) []string {
	var out []string
	for name, a := range t.askAll(ctx, v) {
		if a.Pause != paused {
			out = append(out, name)
		}
	}
	return out
}

// errConfigMissing marks a cluster without a dynamic configuration.
var errConfigMissing = errors.New("the config key does not exist")

// changeConfig replaces the dynamic configuration, if nobody else does at the same moment; change
// gets the present document and is called again when somebody did.
func (t *target) changeConfig(ctx context.Context, change func(map[string]any) (map[string]any, error)) error {
	for range 5 {
		_, snap, err := t.load(ctx)
		if err != nil {
			return err
		}
		e, ok := snap.Entries[dcs.KeyConfig]
		if !ok {
			return fmt.Errorf("%w in the cluster %s: was it ever started?", errConfigMissing, t.name)
		}
		doc, err := document(e.Value)
		if err != nil {
			return err
		}
		next, err := change(doc)
		if err != nil {
			return err
		}
		value, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("encode the configuration: %w", err)
		}
		res, err := t.store.Commit(ctx, dcs.Txn{If: []dcs.Cond{{Key: dcs.KeyConfig, ModRev: e.ModRev}}, Then: []dcs.Op{{Key: dcs.KeyConfig, Value: value}}})
		if err != nil {
			return t.unreachable("change the configuration of", err)
		}
		if res.Succeeded {
			return nil
		}
	}
	return fmt.Errorf("the configuration of %s changes all the time: try again", t.name)
}

// document reads the configuration as it stands, numbers as they are written.
func document(value []byte) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(string(value)))
	d.UseNumber()
	var doc map[string]any
	if err := d.Decode(&doc); err != nil || doc == nil {
		return nil, fmt.Errorf("the configuration in the store cannot be read: %v\nhint: replace it with `hathi edit-config --replace FILE`", err)
	}
	return doc, nil
}
