package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/term"
)

// watching are the flags of a command that can repeat itself.
type watching struct {
	every seconds
	on    string // of -w: its own value, or watchDefault
	w     bool
}

const watchDefault = "2s" // stands for the value of --interval

func (w *watching) bind(c *cobra.Command, short bool) {
	w.every = seconds(2 * time.Second)
	fl := c.Flags()
	fl.StringVarP(&w.on, "watch", "w", "", "go on, every 2 s or each `TIME` (-w 5, --watch=5)")
	fl.Lookup("watch").NoOptDefVal = watchDefault
	fl.VarP(&w.every, "interval", "i", "`TIME` between two looks of -w")
	if short {
		fl.BoolVarP(&w.w, "W", "W", false, "the same as -w")
		_ = fl.MarkHidden("W")
	}
}

// interval is the time between two looks, 0 for one look only. "-w 5" leaves the 5 among the
// arguments, from where it is taken.
func (w *watching) interval(c *cobra.Command, args []string) (time.Duration, []string, error) {
	if w.on == "" && !w.w {
		if c.Flags().Changed("interval") {
			return 0, nil, usagef("--interval belongs to --watch: add -w")
		}
		return 0, args, nil
	}
	d := time.Duration(w.every)
	text := w.on
	if text == watchDefault && len(args) > 0 {
		if _, err := strconv.ParseFloat(args[len(args)-1], 64); err == nil {
			text, args = args[len(args)-1], args[:len(args)-1]
		}
	}
	if text != watchDefault && text != "" {
		var err error
		if d, err = parseSeconds(text); err != nil {
			return 0, nil, usagef("--watch: %w", err)
		}
	}
	if d < 100*time.Millisecond {
		return 0, nil, usagef("--watch: %s is too short: want 0.1 or more", d)
	}
	return d, args, nil
}

// repeat calls show until it fails or the user interrupts. Where it can, it redraws one screen with
// the lines that show returns; else it writes them one below the other.
func (a *App) repeat(ctx context.Context, every time.Duration, bare bool, show func(context.Context) (string, error)) error {
	ctx, stop := signal.NotifyContext(ctx, stopSignals...)
	defer stop()
	getenv := func(k string) string { return a.Env[k] }
	var screen *term.Screen
	if !bare && term.Capable(a.Stdout, getenv) {
		screen = term.NewScreen(a.Stdout)
		defer screen.Close()
		defer fmt.Fprintln(a.Stdout)
	}
	for {
		text, err := show(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			text += "hathi: " + err.Error() + "\n"
		}
		if screen != nil {
			width, height := term.Size(a.Stdout, getenv)
			head := fmt.Sprintf("%s  every %s, Ctrl-C ends", time.Now().Format(time.TimeOnly), every)
			lines := append([]string{head}, strings.Split(strings.TrimSuffix(text, "\n"), "\n")...)
			if err := screen.Draw(lines, width, height-1); err != nil {
				return fmt.Errorf("draw: %w", err)
			}
		} else {
			to := a.Stdout
			if err != nil && bare {
				to = a.Stderr
			} else if !bare {
				text = time.Now().Format(time.DateTime) + "\n" + text
			}
			if _, err := fmt.Fprint(to, text); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
	}
}

// formatFlags are -f and --json.
type formatFlags struct {
	format string
	json   bool
}

func (f *formatFlags) bind(c *cobra.Command) {
	c.Flags().StringVarP(&f.format, "format", "f", "pretty", "output `FORMAT`: pretty, tsv, json, yaml")
	c.Flags().BoolVar(&f.json, "json", false, "the same as -f json")
}

func (f *formatFlags) parse(c *cobra.Command) (term.Format, error) {
	out, err := term.ParseFormat(f.format)
	switch {
	case err != nil:
		return "", usagef("%w", err)
	case f.json && c.Flags().Changed("format") && out != term.JSON:
		return "", usagef("--json and --format %s contradict each other", f.format)
	case f.json:
		return term.JSON, nil
	}
	return out, nil
}

// listCommand is list and topology.
type listCommand struct {
	app      *App
	find     finder
	watch    watching
	form     formatFlags
	extended bool
	stamp    bool
}

func (l *listCommand) run(c *cobra.Command, args []string, f term.Format) error {
	every, args, err := l.watch.interval(c, args)
	if err != nil {
		return err
	}
	ctx := c.Context()
	t, _, err := l.find.open(ctx, args, false)
	if err != nil {
		return err
	}
	defer t.Close()
	var locks lockWatch
	show := func(ctx context.Context) (string, error) {
		ctx, cancel := l.find.bounded(ctx)
		defer cancel()
		p, err := t.look(ctx, &locks)
		if err != nil {
			return "", err
		}
		var b bytes.Buffer
		if l.stamp {
			fmt.Fprintln(&b, time.Now().Format(time.DateTime))
		}
		to := *l.app
		to.Stdout = &b
		err = p.write(&to, f, l.extended)
		return b.String(), err
	}
	if every > 0 {
		return l.app.repeat(ctx, every, f != term.Pretty && f != term.Topology, show)
	}
	text, err := show(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(l.app.Stdout, text)
	return err
}

// ended words the end of ctx during an action.
func (f *finder) ended(ctx context.Context, action string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: interrupted before the answer came", action)
	}
	return fmt.Errorf("%s: no answer within %s (--timeout)", action, f.timeout.String())
}

func (a *App) listCommand() *cobra.Command {
	l := &listCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "list [CLUSTER]", Aliases: []string{"members"}, Args: cobra.ArbitraryArgs, Long: `hathi list [-w] [-f FORMAT | --json] [-e]

Show the members of a cluster: role, state, timeline, and how far replicas are behind (Lag in MB of
WAL, received and replayed). Notes below the table say what has no column: a pause, a scheduled
switchover, a leader that does not renew its lock, copies under way, members that do not answer.

Examples:
  hathi list --dir /tmp/demo
  hathi list -c /etc/hathi/node.yml -w
  hathi list -c /etc/hathi/node.yml --json | jq -r '.[] | select(.Role == "Leader") | .Member'`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := l.form.parse(c)
			if err != nil {
				return err
			}
			return l.run(c, args, f)
		}}
	l.find.bind(c, readWithin)
	l.watch.bind(c, true)
	l.form.bind(c)
	c.Flags().BoolVarP(&l.extended, "extended", "e", false, "show the optional columns even when they are empty")
	c.Flags().BoolVarP(&l.stamp, "timestamp", "t", false, "print the time first")
	return c
}

func (a *App) topologyCommand() *cobra.Command {
	l := &listCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "topology [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi topology [-w]

Show the members of a cluster as a tree: who streams from whom.

Example:
  hathi topology --dir /tmp/demo`,
		RunE: func(c *cobra.Command, args []string) error { return l.run(c, args, term.Topology) }}
	l.find.bind(c, readWithin)
	l.watch.bind(c, true)
	return c
}
