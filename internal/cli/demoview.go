package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/daemon"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/demo"
	"github.com/hathi-ha/hathi/internal/journal"
	"github.com/hathi-ha/hathi/internal/rest"
	"github.com/hathi-ha/hathi/internal/supervise"
	"github.com/hathi-ha/hathi/internal/term"
)

// glimpse looks at a demo from outside: the store and the members' REST APIs.
type glimpse struct {
	store  dcs.Store
	client *rest.Client
	l      *demo.Layout
}

func openGlimpse(ctx context.Context, l *demo.Layout) (*glimpse, error) {
	text, err := os.ReadFile(l.CtlFile())
	if err != nil {
		return nil, fmt.Errorf("read the demo's %s: %w", l.CtlFile(), err)
	}
	cfg, problems := config.Load(text, nil)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	store, err := daemon.OpenStore(ctx, cfg, 2*time.Second, quiet)
	if err != nil {
		return nil, err
	}
	client, err := daemon.NewClient(cfg, quiet)
	if err != nil {
		_ = store.Close()
		return nil, err
	}
	return &glimpse{store: store, client: client, l: l}, nil
}

func (g *glimpse) close() {
	_ = g.client.Close()
	_ = g.store.Close()
}

func (g *glimpse) view(ctx context.Context) (cluster.View, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	snap, err := g.store.Load(ctx)
	if err != nil {
		return cluster.View{}, err
	}
	return dcs.Decode(snap), nil
}

// own asks every node's agent for its own words, at the addresses of the layout.
func (g *glimpse) own(ctx context.Context) map[string]rest.Status {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	type reply struct {
		name string
		st   rest.Status
		err  error
	}
	ch := make(chan reply, len(g.l.Nodes))
	for _, n := range g.l.Nodes {
		go func() {
			st, err := g.client.Patroni(ctx, fmt.Sprintf("https://127.0.0.1:%d", n.Rest))
			ch <- reply{n.Name, st, err}
		}()
	}
	out := map[string]rest.Status{}
	for range g.l.Nodes {
		if r := <-ch; r.err == nil {
			out[r.name] = r.st
		}
	}
	return out
}

// events are the latest decisions of all nodes that changed something, oldest first.
func (g *glimpse) events(ctx context.Context, most int) []journal.Entry {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ch := make(chan []journal.Entry, len(g.l.Nodes))
	for _, n := range g.l.Nodes {
		go func() {
			var list []journal.Entry
			code, text, err := g.client.Do(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/decisions?n=%d", n.Rest, most), nil)
			if err == nil && code == http.StatusOK {
				_ = json.Unmarshal([]byte(text), &list) // junk shows nothing
			}
			ch <- list
		}()
	}
	var all []journal.Entry
	for range g.l.Nodes {
		all = append(all, <-ch...)
	}
	slices.SortStableFunc(all, func(a, b journal.Entry) int { return a.At.Compare(b.At) })
	return all[max(0, len(all)-most):]
}

// waitReady waits until the cluster accepts writes through the router, and says what happens
// meanwhile.
func (d *demoCmd) waitReady(ctx context.Context, l *demo.Layout) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("the demo does not accept writes after %s", readyWithin))
	defer cancel()
	g, err := openGlimpse(ctx, l)
	if err != nil {
		return err
	}
	defer g.close()
	said := map[string]string{}
	last := "nothing was heard of its processes"
	for {
		if v, err := g.view(ctx); err != nil {
			d.sayOnce(said, "etcd", "waiting for etcd")
			last = "etcd does not answer"
		} else {
			d.sayOnce(said, "etcd", "etcd answers")
			own := g.own(ctx)
			for _, name := range slices.Sorted(maps.Keys(own)) {
				if line := doing(own[name]); line != "" {
					d.sayOnce(said, name, name+": "+line)
				}
			}
			last = "nobody leads yet"
			if v.Lock.Held() && v.Lock.Ready {
				err := tryWrite(ctx, l)
				if err == nil {
					d.leads = v.Lock.Node
					d.say("%s leads on timeline %d; writable after %.1f s", v.Lock.Node, v.Lock.Timeline, time.Since(began).Seconds())
					return nil
				}
				last = fmt.Sprintf("%s leads, but a write through the router fails: %v", v.Lock.Node, err)
			}
		}
		select {
		case <-time.After(150 * time.Millisecond):
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				return fmt.Errorf("%w: %s; see the logs in %s", context.Cause(ctx), last, l.Path("log"))
			}
			return context.Cause(ctx)
		}
	}
}

func (d *demoCmd) sayOnce(said map[string]string, key, text string) {
	if said[key] != text {
		said[key] = text
		d.say("  %s", text)
	}
}

// doing is what a node's agent says it does.
func doing(s rest.Status) string {
	if s.Hathi == nil {
		return ""
	}
	if s.Hathi.Job != "" {
		return s.Hathi.Job
	}
	return s.Hathi.HAState
}

// tryWrite commits through the router's write port.
func tryWrite(ctx context.Context, l *demo.Layout) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, l.WriteURI())
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	_, err = c.Exec(ctx, "SELECT pg_catalog.pg_current_xact_id()") // assigns a transaction id, so the commit is written
	return err
}

// introduce prints how to connect and what to try.
func (d *demoCmd) introduce(l *demo.Layout) {
	exe, dir := d.a.called(), shellWord(d.dir)
	victim := cmp.Or(d.leads, l.Nodes[0].Name)
	fmt.Fprintf(d.a.Stdout, `
Connect (paste as they are; the password is in a file that the string names):
  writes, through the router    psql '%s'
  reads, through the router     psql '%s'
  without the router            psql '%s'

Three things to try:
  watch            %s list --dir %s -w
  switch over      %s switchover --dir %s --force
  kill a primary   kill -9 $(head -1 %s)     # while %s leads; then watch

  what happened and why: %s why --dir %s      stop: %s demo stop --dir %s
`, l.WriteURI(), l.ReadURI(), l.MultiHostURI(), exe, dir, exe, dir, shellWord(l.DataDir(victim)+"/postmaster.pid"), victim, exe, dir, exe, dir)
}

// watch shows the cluster until ctx ends.
func (d *demoCmd) watch(ctx context.Context, l *demo.Layout) {
	g, err := openGlimpse(ctx, l)
	if err != nil {
		d.say("%v", err)
		<-ctx.Done()
		return
	}
	defer g.close()
	getenv := func(k string) string { return d.a.Env[k] }
	if !term.Capable(d.a.Stdout, getenv) {
		d.watchLines(ctx, g)
		return
	}
	screen := term.NewScreen(d.a.Stdout)
	defer screen.Close()
	style := term.NewStyle(d.a.Stdout, getenv)
	for {
		w, h := term.Size(d.a.Stdout, getenv)
		if err := screen.Draw(d.picture(ctx, g, style, h), w, h); err != nil {
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// picture is one frame of the live view.
func (d *demoCmd) picture(ctx context.Context, g *glimpse, style term.Style, height int) []string {
	var lines []string
	v, err := g.view(ctx)
	if err != nil {
		lines = append(lines, style.Red("the store does not answer: ")+err.Error())
	}
	own := g.own(ctx)
	lines = append(lines, memberTable(g.l, v, own).Lines()...)
	lines = append(lines, "", style.Bold("Last events"))
	for _, e := range g.events(ctx, max(3, min(10, height-len(lines)-12))) {
		lines = append(lines, fmt.Sprintf("%s  %-5s %s", e.At.Local().Format("15:04:05.000"), e.Node, e.Why))
	}
	exe, dir := d.a.called(), shellWord(d.dir)
	leader := v.Lock.Node
	if leader == "" {
		leader = g.l.Nodes[0].Name
	}
	try := func(what, command string) string { return style.Dim(fmt.Sprintf("%-16s", what)) + style.Cyan(command) }
	return append(lines, "", style.Bold("Connect and try, from another terminal"),
		try("writes", fmt.Sprintf("psql \"$(%s dsn --router --dir %s)\"", exe, dir)),
		try("reads", fmt.Sprintf("psql \"$(%s dsn --router --read --dir %s)\"", exe, dir)),
		try("switch over", fmt.Sprintf("%s switchover --dir %s --force", exe, dir)),
		try("kill the primary", fmt.Sprintf("kill -9 $(head -1 %s)", shellWord(g.l.DataDir(leader)+"/postmaster.pid"))),
		style.Dim("Ctrl-C stops everything; the data is kept"))
}

// memberTable is the demo's own member table: from what each agent says now, not from keys that may
// be old.
func memberTable(l *demo.Layout, v cluster.View, own map[string]rest.Status) *term.Table {
	t := &term.Table{Title: "Cluster: " + l.Scope + " (" + v.Initialize + ")", Columns: []term.Column{{Name: "Member"}, {Name: "Host"}, {Name: "Role"}, {Name: "State"}, {Name: "TL", Align: term.Right}, {Name: "Lag", Align: term.Right}}}
	for _, n := range l.Nodes {
		st, ok := own[n.Name]
		host := fmt.Sprintf("127.0.0.1:%d", n.PostgreSQL)
		if !ok {
			t.Add(n.Name, host, "", "agent does not answer", "", "")
			continue
		}
		role, state := roleWord(v, n.Name, st), string(st.State)
		if st.ReplState != "" && st.State == cluster.StateRunning {
			state = st.ReplState
		}
		if st.Hathi != nil && st.Hathi.Job != "" {
			state = st.Hathi.Job
		}
		lag, tl := any(""), any("")
		if role != "Leader" && st.XLog.Replayed != 0 && v.Status.Optime != 0 {
			lag = bytesText(st.XLog.Replayed.Behind(v.Status.Optime))
		}
		if st.Timeline != 0 {
			tl = int64(st.Timeline)
		}
		t.Add(n.Name, host, role, state, tl, lag)
	}
	return t
}

func roleWord(v cluster.View, name string, st rest.Status) string {
	switch {
	case st.Role == cluster.RolePrimary:
		return "Leader"
	case st.QuorumStandby:
		return "Quorum Standby"
	case st.SyncStandby:
		return "Sync Standby"
	}
	return "Replica"
}

func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%d kB", n>>10)
	}
	return fmt.Sprintf("%d MB", n>>20)
}

// watchLines is the view where there is no terminal: a line per event.
func (d *demoCmd) watchLines(ctx context.Context, g *glimpse) {
	seen := map[string]uint64{}
	for {
		for _, e := range g.events(ctx, 50) {
			if e.Seq > seen[e.Node] {
				seen[e.Node] = e.Seq
				fmt.Fprintf(d.a.Stdout, "%s %s %s: %s\n", e.At.Format(time.RFC3339), e.Node, e.State, e.Why)
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// status shows processes and members.
func (d *demoCmd) status(ctx context.Context) error {
	l, err := d.find()
	if err != nil {
		return err
	}
	c, err := supervise.Dial(ctx, d.superviseDir(l))
	if err != nil {
		fmt.Fprintln(d.a.Stdout, d.a.pasteable(fmt.Sprintf("the demo in %s is not running: `hathi demo start --dir %s` starts it", d.dir, shellWord(d.dir))))
		return silentError{1}
	}
	report, err := c.Status(ctx)
	if err != nil {
		return err
	}
	t := &term.Table{Columns: []term.Column{{Name: "Process"}, {Name: "State"}, {Name: "PID", Align: term.Right}, {Name: "Restarts", Align: term.Right}, {Name: "Log"}}}
	for _, p := range report.Processes {
		t.Add(p.Name, string(p.State), int64(p.PID), int64(p.Restarts), p.LogFile)
	}
	if err := t.Write(d.a.Stdout, term.Pretty); err != nil {
		return err
	}
	g, err := openGlimpse(ctx, l)
	if err != nil {
		return err
	}
	defer g.close()
	v, verr := g.view(ctx)
	if err := memberTable(l, v, g.own(ctx)).Write(d.a.Stdout, term.Pretty); err != nil {
		return err
	}
	d.leads = v.Lock.Node
	d.introduce(l)
	if verr != nil {
		return fmt.Errorf("the store does not answer: %w", verr)
	}
	if !v.Lock.Held() || !v.Lock.Ready {
		return fmt.Errorf("nobody accepts writes now: see `hathi why --dir %s`", d.dir)
	}
	return nil
}
