package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/health"
	"github.com/hathi-ha/hathi/internal/journal"
)

// whyCommand shows the last decisions.
type whyCommand struct {
	app    *App
	find   finder
	n      int
	member string
	json   bool
	facts  bool
}

func (a *App) whyCommand() *cobra.Command {
	w := &whyCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "why [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi why [-n 20] [--member MEMBER] [--facts | --json]

Show the last decisions of all members in one list, the newest last: when, who, in which epoch, doing
what, and why. Under the last one that moved the leadership stand the facts that it rested on (--facts:
under all). Times are each node's own clock. What troubles members now comes last.

Examples:
  hathi why --dir /tmp/demo
  hathi why -c /etc/hathi/node.yml -n 5 --member pg1 --facts`,
		RunE: func(c *cobra.Command, args []string) error { return w.run(c.Context(), args) }}
	w.find.bind(c, readWithin)
	fl := c.Flags()
	fl.IntVarP(&w.n, "lines", "n", 20, "show the last `N` decisions")
	fl.StringVarP(&w.member, "member", "m", "", "only those of this `MEMBER`")
	fl.BoolVar(&w.facts, "facts", false, "with the facts under each")
	fl.BoolVar(&w.json, "json", false, "as JSON, with all facts")
	return c
}

// testimony is what one member says.
type testimony struct {
	member   string
	entries  []journal.Entry
	problems []health.Problem
	err      error
}

func (w *whyCommand) run(ctx context.Context, args []string) error {
	if w.n < 1 || w.n > 500 {
		return usagef("-n %d: want 1 to 500", w.n)
	}
	t, _, err := w.find.open(ctx, args, false)
	if err != nil {
		return err
	}
	defer t.Close()
	v, err := t.view(ctx)
	if err != nil {
		// Why there is no store is what one may want to know.
		if v.Members = t.known(); len(v.Members) == 0 || errors.Is(err, errNoCluster) {
			return err
		}
		fmt.Fprintf(w.app.Stderr, "hathi: warning: %v\nasking the members known without it: %s\n", err, strings.Join(memberNames(v), ", "))
	}
	members := v.Members
	if w.member != "" {
		m, err := t.member(v, w.member)
		if err != nil {
			return err
		}
		members = map[string]cluster.Member{m.Name: m}
	}
	said := w.ask(ctx, t, members)
	var all []journal.Entry
	heard := 0
	for _, s := range said {
		if s.err == nil {
			heard++
			all = append(all, s.entries...)
		}
	}
	slices.SortStableFunc(all, func(a, b journal.Entry) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Node, b.Node), cmp.Compare(a.Seq, b.Seq))
	})
	if len(all) > w.n {
		all = all[len(all)-w.n:]
	}
	if w.json {
		if all == nil {
			all = []journal.Entry{}
		}
		e := json.NewEncoder(w.app.Stdout)
		e.SetEscapeHTML(false)
		if err := e.Encode(all); err != nil {
			return err
		}
	} else {
		w.print(all, said)
	}
	for _, s := range said {
		if s.err != nil {
			fmt.Fprintf(w.app.Stderr, "%s did not answer: %s\n", s.member, printable(s.err.Error()))
		}
	}
	if heard == 0 {
		return fmt.Errorf("no member of cluster %s told what it decided: are the agents running?", t.name)
	}
	return nil
}

// ask asks the members at once; the answers are in the order of their names.
func (w *whyCommand) ask(ctx context.Context, t *target, members map[string]cluster.Member) []testimony {
	ctx, cancel := context.WithTimeout(ctx, 2*answerWithin)
	defer cancel()
	names := slices.Sorted(maps.Keys(members))
	out := make([]testimony, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			s := testimony{member: name}
			s.err = t.get(ctx, members[name], fmt.Sprintf("/decisions?n=%d", w.n), &s.entries)
			if s.err == nil {
				_ = t.get(ctx, members[name], "/problems", &s.problems) // older agents have none
			}
			for i := range s.entries {
				if s.entries[i].Node == "" {
					s.entries[i].Node = name
				}
			}
			out[i] = s
		})
	}
	wg.Wait()
	return out
}

// get reads JSON from a member's REST API.
func (t *target) get(ctx context.Context, m cluster.Member, path string, into any) error {
	path, query, _ := strings.Cut(path, "?")
	code, text, err := t.requestQuery(ctx, m, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("GET %s of %s (%d): read the answer: %w", path, m.Name, code, err)
	}
	return nil
}

// movesLead says whether a decision took the lock, gave it away or resumed it.
func movesLead(e journal.Entry) bool {
	for _, word := range []string{"take the lock", "release the lock", "resume the lock"} {
		if strings.Contains(e.What, word) {
			return true
		}
	}
	return false
}

func (w *whyCommand) print(all []journal.Entry, said []testimony) {
	if len(all) == 0 {
		fmt.Fprintln(w.app.Stdout, "No decision is recorded")
	}
	last := -1
	nodeWidth, stateWidth := 0, 0
	for i, e := range all {
		if movesLead(e) {
			last = i
		}
		nodeWidth, stateWidth = max(nodeWidth, len(e.Node)), max(stateWidth, len(e.State))
	}
	for i, e := range all {
		fmt.Fprintf(w.app.Stdout, "%s  %-*s  epoch %-3d  %-*s  %s\n", e.At.Local().Format("2006-01-02 15:04:05.000"), nodeWidth, printable(e.Node), e.Epoch,
			stateWidth, printable(e.State), printable(e.Why))
		if problem, ok := e.Facts["error"]; ok && !w.facts && i != last {
			fmt.Fprintf(w.app.Stdout, "      failed: %s\n", printable(fmt.Sprint(problem)))
		}
		if i != last && !w.facts {
			continue
		}
		if e.What != "" && e.What != e.State {
			fmt.Fprintf(w.app.Stdout, "      did: %s\n", printable(e.What))
		}
		for _, k := range slices.Sorted(maps.Keys(e.Facts)) {
			fmt.Fprintf(w.app.Stdout, "      %s: %s\n", printable(k), printable(factText(e.Facts[k])))
		}
	}
	for _, s := range said {
		for _, p := range s.problems {
			if p.Explained {
				continue
			}
			fmt.Fprintf(w.app.Stdout, "%s has a problem (%s): %s\n", s.member, p.Severity, printable(p.Sentence))
			if p.Hint != "" {
				fmt.Fprintf(w.app.Stdout, "      hint: %s\n", printable(p.Hint))
			}
		}
	}
}

func factText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		if v == float64(int64(v)) {
			return fmt.Sprint(int64(v))
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
