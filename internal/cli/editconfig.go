package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/term"
)

func (a *App) showConfigCommand() *cobra.Command {
	find, asJSON := finder{app: a}, false
	c := &cobra.Command{Use: "show-config [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi show-config [--json]

Show the cluster-wide configuration, as YAML.

Example:
  hathi show-config --dir /tmp/demo`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := find.bounded(c.Context())
			defer cancel()
			t, _, err := find.open(ctx, args, false)
			if err != nil {
				return err
			}
			defer t.Close()
			doc, err := t.config(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(a.Stdout)
				e.SetIndent("", "  ")
				e.SetEscapeHTML(false)
				return e.Encode(doc)
			}
			text, err := dumpYAML(doc)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.Stdout, text)
			return err
		}}
	find.bind(c, readWithin)
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// config is the dynamic configuration as it stands in the store.
func (t *target) config(ctx context.Context) (map[string]any, error) {
	_, snap, err := t.load(ctx)
	if err != nil {
		return nil, err
	}
	e, ok := snap.Entries[dcs.KeyConfig]
	if !ok {
		return nil, fmt.Errorf("%w in the cluster %s: was it ever started?", errConfigMissing, t.name)
	}
	return document(e.Value)
}

// editConfigCommand changes the cluster-wide configuration.
type editConfigCommand struct {
	app     *App
	find    finder
	ok      consentFlags
	quiet   bool
	set, pg []string
	apply   string
	replace string
}

func (a *App) editConfigCommand() *cobra.Command {
	e := &editConfigCommand{app: a, find: finder{app: a}}
	c := &cobra.Command{Use: "edit-config [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi edit-config [-s KEY=VALUE]... [-p PARAMETER=VALUE]... [--apply FILE]

Change the cluster-wide configuration: with -s a setting (its path with dots), with -p a parameter of
PostgreSQL, with --apply what a YAML file states; without any of them in $EDITOR. The value null
removes a setting. The difference is shown and you are asked before anything changes. What cannot
work is refused; members apply the rest by themselves, and "hathi list" shows where PostgreSQL must
be restarted for it ("hathi restart --pending").

Examples:
  hathi edit-config --dir /tmp/demo
  hathi edit-config --dir /tmp/demo -p work_mem=8MB -s loop_wait=2 --force
  hathi edit-config -c /etc/hathi/node.yml -s maximum_lag_on_failover=null`,
		RunE: func(c *cobra.Command, args []string) error { return e.run(c.Context(), args) }}
	e.find.bind(c, actionWithin)
	e.ok.bind(c)
	fl := c.Flags()
	fl.BoolVarP(&e.quiet, "quiet", "q", false, "do not show the difference")
	fl.StringArrayVarP(&e.set, "set", "s", nil, "set `KEY=VALUE`; may be repeated")
	fl.StringArrayVarP(&e.pg, "pg", "p", nil, "set `PARAMETER=VALUE` of PostgreSQL; may be repeated")
	fl.StringVar(&e.apply, "apply", "", "merge the YAML `FILE` (- for standard input) into the configuration")
	fl.StringVar(&e.replace, "replace", "", "put the YAML `FILE` (- for standard input) in place of the configuration")
	return c
}

func (e *editConfigCommand) run(ctx context.Context, args []string) error {
	if e.apply == "-" && e.replace == "-" {
		return usagef("--apply - and --replace - both want standard input")
	}
	changes, err := pairs(e.set, e.pg)
	if err != nil {
		return err
	}
	t, _, err := e.find.open(ctx, args, false)
	if err != nil {
		return err
	}
	defer t.Close()
	_, snap, err := t.load(ctx)
	if err != nil {
		return err
	}
	entry, ok := snap.Entries[dcs.KeyConfig]
	if !ok {
		return fmt.Errorf("%w in the cluster %s: was it ever started?", errConfigMissing, t.name)
	}
	before, err := document(entry.Value)
	if err != nil {
		if e.replace == "" {
			return err
		}
		before = map[string]any{} // what cannot be read can be replaced
	}
	after, err := e.change(ctx, t, before, changes)
	if err != nil {
		return err
	}
	old, err := dumpYAML(before)
	if err != nil {
		return err
	}
	text, err := dumpYAML(after)
	if err != nil {
		return err
	}
	value, err := json.Marshal(after)
	if err != nil {
		return fmt.Errorf("encode the configuration: %w", err)
	}
	if old == text && json.Valid(entry.Value) {
		if !e.quiet {
			fmt.Fprintln(e.app.Stdout, "Not changed")
		}
		return nil
	}
	if !e.quiet {
		e.showDiff(old, text)
	}
	for _, p := range config.ValidateDynamic(after).Warnings() {
		fmt.Fprintf(e.app.Stderr, "hathi: warning: %s\n", printable(problemText(p)))
	}
	if (e.apply == "-" || e.replace == "-") && !e.ok.given() {
		return usagef("the configuration came from standard input, so nobody can be asked: Use --force option to apply changes")
	}
	if err := e.app.consent(e.ok.given(), "Apply these changes?"); err != nil {
		return err
	}
	ctx, cancel := e.find.bounded(ctx)
	defer cancel()
	res, err := t.store.Commit(ctx, dcs.Txn{If: []dcs.Cond{{Key: dcs.KeyConfig, ModRev: entry.ModRev}}, Then: []dcs.Op{{Key: dcs.KeyConfig, Value: value}}})
	if err != nil {
		return t.unreachable("change the configuration of", err)
	}
	if !res.Succeeded {
		return saidf("Config modification aborted due to concurrent changes: look at it again and repeat")
	}
	fmt.Fprintln(e.app.Stdout, "Configuration changed")
	return nil
}

// change makes the new document: from files, from -s and -p, or in the editor.
func (e *editConfigCommand) change(ctx context.Context, t *target, before map[string]any, changes []pair) (map[string]any, error) {
	after := before
	asked := false
	if e.replace != "" {
		doc, err := e.file(e.replace)
		if err != nil {
			return nil, err
		}
		after, asked = withoutNulls(doc), true
	}
	if e.apply != "" {
		doc, err := e.file(e.apply)
		if err != nil {
			return nil, err
		}
		after, _ = cluster.MergePatch(after, doc)
		asked = true
	}
	for _, p := range changes {
		after, asked = p.apply(after, 0), true
	}
	if !asked {
		return e.edit(ctx, t, before)
	}
	return after, refusals(after)
}

// refusals are the reasons why a document cannot be the configuration, all at once.
func refusals(doc map[string]any) error {
	errs := config.ValidateDynamic(doc).Errors()
	if len(errs) == 0 {
		return nil
	}
	var b strings.Builder
	for _, p := range errs {
		b.WriteString("\n  " + printable(problemText(p)))
	}
	return fmt.Errorf("the configuration is refused and was not changed:%s", b.String())
}

func problemText(p config.Problem) string {
	if p.Hint != "" {
		return p.String() + " (" + p.Hint + ")"
	}
	return p.String()
}

func withoutNulls(doc map[string]any) map[string]any {
	out, _ := cluster.MergePatch(nil, doc)
	return out
}

func (e *editConfigCommand) file(name string) (map[string]any, error) {
	var text []byte
	var err error
	if name == "-" {
		name = "standard input"
		text, err = io.ReadAll(io.LimitReader(e.app.Stdin, 1<<20))
	} else {
		text, err = e.app.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return mapping(name, text)
}

func mapping(name string, text []byte) (map[string]any, error) {
	v, err := parseYAML(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: want a YAML mapping (KEY: VALUE)", name)
	}
	return doc, nil
}

// pair is one KEY=VALUE.
type pair struct {
	path  []string
	value any
}

func pairs(set, pg []string) ([]pair, error) {
	var out []pair
	add := func(flag, text, prefix string) error {
		key, value, ok := strings.Cut(text, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return usagef("Invalid parameter setting %s: want %s KEY=VALUE", text, flag)
		}
		v, err := parseYAML([]byte(value))
		if err != nil {
			return usagef("%s %s: the value is no YAML: %w", flag, text, err)
		}
		p := strings.Split(prefix+key, ".")
		for _, part := range p {
			if part == "" {
				return usagef("%s %s: a part of the path is empty", flag, text)
			}
		}
		// Names of parameters hold dots of their own.
		if len(p) > 3 && p[0] == "postgresql" && strings.HasPrefix(p[1], "parameters") {
			p = []string{p[0], p[1], strings.Join(p[2:], ".")}
		}
		out = append(out, pair{p, v})
		return nil
	}
	for _, s := range set {
		if err := add("-s", s, ""); err != nil {
			return nil, err
		}
	}
	for _, s := range pg {
		if err := add("-p", s, "postgresql.parameters."); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// apply returns a copy of doc with the value at the path; a section that becomes empty is removed.
func (p pair) apply(doc map[string]any, depth int) map[string]any {
	out := map[string]any{}
	for k, v := range doc {
		out[k] = v
	}
	key := p.path[depth]
	if depth == len(p.path)-1 {
		if p.value == nil {
			delete(out, key)
		} else {
			out[key] = p.value
		}
		return out
	}
	section, _ := out[key].(map[string]any)
	if section = p.apply(section, depth+1); len(section) == 0 {
		delete(out, key)
	} else {
		out[key] = section
	}
	return out
}

func (e *editConfigCommand) showDiff(before, after string) {
	style := term.NewStyle(e.app.Stdout, func(k string) string { return e.app.Env[k] })
	for _, l := range unifiedDiff(before, after) {
		l = printable(l)
		switch {
		case strings.HasPrefix(l, "+"):
			l = style.Green(l)
		case strings.HasPrefix(l, "-"):
			l = style.Red(l)
		}
		fmt.Fprintln(e.app.Stdout, l)
	}
}

// edit opens the document in an editor, again until it can be used or the user has had enough.
func (e *editConfigCommand) edit(ctx context.Context, t *target, before map[string]any) (map[string]any, error) {
	if !e.app.interactive() {
		return nil, usagef("edit-config opens an editor, and standard input is no terminal: state the change with -s, -p or --apply")
	}
	words := strings.Fields(e.app.Env["EDITOR"])
	for _, name := range []string{"editor", "vi"} {
		if path, err := exec.LookPath(name); len(words) == 0 && err == nil {
			words = []string{path}
		}
	}
	if len(words) == 0 {
		return nil, errors.New("no editor: $EDITOR is not set, and there is neither editor nor vi; or state the change with -s, -p or --apply")
	}
	text, err := dumpYAML(before)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hathi-edit-")
	if err != nil {
		return nil, fmt.Errorf("make a file for the editor: %w", err)
	}
	keep := false
	file := filepath.Join(dir, t.name+"-config.yaml")
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("make a file for the editor: %w", err)
	}
	for {
		cmd := exec.CommandContext(ctx, words[0], append(words[1:], file)...)
		cmd.Stdout, cmd.Stderr = e.app.Stdout, e.app.Stderr
		if f, ok := e.app.Stdin.(*os.File); ok { // anything else would be read to its end
			cmd.Stdin = f
		}
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("the editor %s: %w: nothing was changed", words[0], err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the edited file: %w", err)
		}
		var doc map[string]any
		if len(bytes.TrimSpace(b)) == 0 {
			err = errors.New("the edited file is empty")
		} else if doc, err = mapping("the edited file", b); err == nil {
			doc = withoutNulls(doc)
			err = refusals(doc)
		}
		if err == nil {
			return doc, nil
		}
		fmt.Fprintln(e.app.Stderr, "hathi:", err)
		again, askErr := e.app.ask("Edit it again?", true)
		if askErr != nil || !again {
			keep = true
			return nil, fmt.Errorf("nothing was changed; your text is in %s", file)
		}
	}
}
