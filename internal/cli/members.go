package cli

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/lease"
	"github.com/hathi-ha/hathi/internal/rest"
	"github.com/hathi-ha/hathi/internal/term"
)

// picture is what a command knows of a cluster at one moment: what the store says, and what the
// members say themselves.
type picture struct {
	name    string
	view    cluster.View
	answers map[string]rest.Status // by member; absent: it did not answer
	// unrenewed is for how long the lock was surely not renewed; 0 when it was, or nobody holds it.
	unrenewed time.Duration
}

// answerWithin bounds the questions to the members.
const answerWithin = time.Second

// lockWatch remembers when the lock was last seen to change, on this command's own clock.
type lockWatch struct {
	rev  int64
	seen time.Time
}

func (w *lockWatch) look(v cluster.View, now time.Time) time.Duration {
	if v.LockRev != w.rev || w.seen.IsZero() {
		w.rev, w.seen = v.LockRev, now
	}
	return now.Sub(w.seen)
}

// look reads the store, asks the members, and makes sure that the leader is one: by its own word,
// which is true only within its lease, or else by seeing the lock renewed.
func (t *target) look(ctx context.Context, w *lockWatch) (picture, error) {
	v, err := t.view(ctx)
	if err != nil {
		return picture{}, err
	}
	p := picture{name: t.name, view: v}
	w.look(v, time.Now())
	p.answers = t.askAll(ctx, v)
	leader := v.Lock.Node
	if v.LockRev == 0 || leader == "" || v.Lock.Paused {
		return p, nil
	}
	if a, ok := p.answers[leader]; ok && a.Role == cluster.RolePrimary && !a.FailsafeActive {
		return p, nil
	}
	ttl := time.Duration(v.Lock.TTL) * time.Millisecond
	every := lease.RenewEvery(max(ttl, lease.MinTTL))
	for until := time.Now().Add(2*every + 200*time.Millisecond); ; {
		age := w.look(p.view, time.Now())
		if p.view.LockRev != v.LockRev || p.view.Lock.Node != leader {
			return p, nil
		}
		if !time.Now().Before(until) {
			p.unrenewed = max(age, time.Millisecond)
			return p, nil
		}
		select {
		case <-time.After(min(every/2, 150*time.Millisecond)):
		case <-ctx.Done():
			return p, ctx.Err()
		}
		if p.view, err = t.view(ctx); err != nil {
			return picture{}, err
		}
	}
}

// askAll asks every member for its status, at once.
func (t *target) askAll(ctx context.Context, v cluster.View) map[string]rest.Status {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]rest.Status{}
	for name, m := range v.Members {
		if m.APIURL == "" {
			continue
		}
		wg.Go(func() {
			st, err := t.client.Patroni(ctx, m.APIURL)
			if err != nil || st.Patroni.Name != "" && st.Patroni.Name != name {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = st
		})
	}
	wg.Wait()
	return out
}

// row is one member as the tables show it.
type row struct {
	name, host string
	port       int
	role       string
	state      string
	timeline   any
	lsn        [2]string // received, replayed
	lag        [2]any    // in MB, or ""
	pending    bool
	reasons    map[string]cluster.PendingReason
	scheduled  string
	tags       cluster.Tags
	depth      int
}

// rows are the members in the order of their names, as Patroni's cluster_as_json has them.
func (p picture) rows() []row {
	v, leader := p.view, leaderOf(p.view)
	names := memberNames(v)
	if leader != "" && !slices.Contains(names, leader) {
		names = append(names, leader) // its key is gone, the lock is not
		slices.Sort(names)
	}
	out := make([]row, 0, len(names))
	for _, name := range names {
		out = append(out, p.row(name, leader))
	}
	return out
}

func (p picture) row(name, leader string) row {
	v := p.view
	m, known := v.Member(name)
	r := row{name: printable(name), role: "Replica", timeline: "", lag: [2]any{"", ""}, pending: m.PendingRestart, reasons: m.PendingReason, tags: m.Tags}
	mode := v.Config.SynchronousMode
	switch {
	case name == leader && len(v.Config.StandbyCluster) > 0:
		r.role = "Standby Leader"
	case name == leader:
		r.role = "Leader"
	case mode == cluster.SyncQuorum && v.Sync.Has(name):
		r.role = "Quorum Standby"
	case mode == cluster.SyncOn && v.Sync.Has(name):
		r.role = "Sync Standby"
	}
	r.state = string(m.State)
	if r.role != "Leader" && m.ReplicationState != "" {
		r.state = m.ReplicationState
	}
	if !known {
		r.state = "no sign of life"
	}
	if name == leader && p.unrenewed > 0 {
		r.state += ", lock not renewed for " + roughly(p.unrenewed)
	}
	r.state = printable(r.state)
	if host, port, err := m.HostPort(); err == nil {
		r.host = printable(host)
		r.port, _ = strconv.Atoi(port)
	}
	if m.Timeline != 0 {
		r.timeline = m.Timeline
	}
	if a, ok := p.answers[name]; ok && a.Scheduled != nil {
		r.scheduled = printable(a.Scheduled.Schedule)
		if a.Scheduled.PostgresVersion != "" {
			r.scheduled += " if version < " + printable(a.Scheduled.PostgresVersion)
		}
	}
	if name != leader {
		r.positions(m, v.Status.Optime)
	}
	return r
}

// positions fills the columns of WAL positions. Members of Patroni before 4.1 publish one only.
func (r *row) positions(m cluster.Member, end cluster.LSN) {
	at := [2]cluster.LSN{m.ReceiveLSN, m.ReplayLSN}
	if at[0] == 0 && at[1] == 0 && m.XLogLocation != 0 {
		if r.state == string(cluster.StateStreaming) {
			at[0] = m.XLogLocation
		} else {
			at[1] = m.XLogLocation
		}
	}
	for i, l := range at {
		if l == 0 {
			r.lsn[i], r.lag[i] = "unknown", ""
			continue
		}
		r.lsn[i], r.lag[i] = l.String(), int64(math.RoundToEven(float64(l.Behind(end))/(1<<20)))
	}
}

// roughly spells a time for people.
func roughly(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// table is Patroni's table of members. extended shows the optional columns even when they are empty.
func (p picture) table(f term.Format, extended bool) *term.Table {
	rows := p.rows()
	if f == term.Topology {
		rows = tree(rows)
	}
	id := p.view.Initialize
	switch {
	case p.view.InitializeRev == 0:
		id = "uninitialized"
	case id == "":
		id = "initializing"
	}
	t := &term.Table{Title: fmt.Sprintf("Cluster: %s (%s)", p.name, printable(id)), Columns: []term.Column{
		{Name: "Cluster", Plain: true}, {Name: "Member"}, {Name: "Host"}, {Name: "Role"}, {Name: "State"}, {Name: "TL", Align: term.Right},
		{Name: "Receive LSN", Align: term.Right}, {Name: "Receive Lag", Short: "Lag", Align: term.Right},
		{Name: "Replay LSN", Align: term.Right}, {Name: "Replay Lag", Short: "Lag", Align: term.Right}}}
	optional := []struct {
		name string
		cell func(row) any
	}{
		{"Pending restart", func(r row) any {
			if r.pending {
				return "*"
			}
			return ""
		}},
		{"Pending restart reason", func(r row) any { return reasonText(r.reasons, f == term.Pretty || f == term.Topology) }},
		{"Scheduled restart", func(r row) any { return r.scheduled }},
		{"Tags", func(r row) any {
			if len(r.tags) == 0 {
				return ""
			}
			return map[string]any(r.tags)
		}},
	}
	optional = slices.DeleteFunc(optional, func(o struct {
		name string
		cell func(row) any
	}) bool {
		return !extended && !slices.ContainsFunc(rows, func(r row) bool { return o.cell(r) != any("") })
	})
	for _, o := range optional {
		t.Columns = append(t.Columns, term.Column{Name: o.name})
	}
	withPort := ports(rows)
	for _, r := range rows {
		host := r.host
		if withPort && host != "" && r.port != 0 {
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			host += ":" + strconv.Itoa(r.port)
		}
		name := r.name
		if r.depth > 0 {
			name = strings.Repeat(" ", (r.depth-1)*2) + "+ " + name
		}
		cells := []any{p.name, name, host, r.role, r.state, r.timeline, r.lsn[0], r.lag[0], r.lsn[1], r.lag[1]}
		for _, o := range optional {
			cells = append(cells, o.cell(r))
		}
		t.Add(cells...)
	}
	return t
}

// ports says whether hosts are shown with their ports: when one is not 5432 or a host occurs twice.
func ports(rows []row) bool {
	seen := map[string]bool{}
	for _, r := range rows {
		if r.host == "" {
			continue
		}
		if r.port != 5432 || seen[r.host] {
			return true
		}
		seen[r.host] = true
	}
	return false
}

func reasonText(reasons map[string]cluster.PendingReason, short bool) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		line := printable(name + ": " + reasons[name].OldValue + "->" + reasons[name].NewValue)
		if short && len(line) > 50 {
			line = printable(name) + ": [hidden - too long]"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// tree orders the members by who streams from whom. A member that belongs under none (a circle of
// replicatefrom) comes last rather than being left out.
func tree(rows []row) []row {
	isLeader := func(r row) bool { return strings.HasSuffix(r.role, "Leader") }
	byName := map[string]row{}
	leader := ""
	for _, r := range rows {
		byName[r.name] = r
		if isLeader(r) {
			leader = r.name
		}
	}
	children := map[string][]row{}
	for _, r := range rows {
		if isLeader(r) {
			continue
		}
		parent := r.tags.ReplicateFrom()
		if up, ok := byName[parent]; !ok || parent == r.name || isLeader(up) {
			parent = leader
		}
		children[parent] = append(children[parent], r)
	}
	var out []row
	done := map[string]bool{}
	var walk func(r row, depth int)
	walk = func(r row, depth int) {
		if done[r.name] {
			return
		}
		done[r.name] = true
		r.depth = depth
		out = append(out, r)
		for _, c := range children[r.name] {
			walk(c, depth+1)
		}
	}
	if leader != "" {
		walk(byName[leader], 0)
	} else {
		for _, r := range children[""] {
			walk(r, 1)
		}
	}
	for _, r := range rows {
		walk(r, 1)
	}
	return out
}

// notes are what the table has no column for, a line each.
func (p picture) notes() []string {
	v := p.view
	var out []string
	add := func(format string, args ...any) { out = append(out, printable(fmt.Sprintf(format, args...))) }
	if v.Config.Pause {
		add("Maintenance mode: on")
	}
	if f := v.Failover; f != nil && f.ScheduledAt != "" {
		add("Switchover scheduled at: %s", f.ScheduledAt)
		for _, x := range []struct{ word, name string }{{"from", f.Leader}, {"to", f.Candidate}} {
			if x.name != "" {
				add("%24s: %s", x.word, x.name)
			}
		}
	}
	lock := v.Lock
	switch {
	case v.LockBad:
		add("The lock cannot be read: nobody may lead until it is repaired")
	case v.LockRev == 0 && v.Leader == "":
		add("No leader: nobody has taken the lock yet")
	case v.LockRev != 0 && !lock.Held():
		next := ""
		if lock.Successor != "" {
			next = " for " + lock.Successor
		}
		add("No leader: the lock was given back in epoch %d%s", lock.Epoch, next)
	case lock.Paused && !p.answered(lock.Node):
		add("%s put its fence down for the pause and does not answer: only you can tell whether its PostgreSQL still accepts writes", lock.Node)
	case lock.Paused && !v.Config.Pause:
		add("%s put its fence down for the pause and has not taken it up again", lock.Node)
	case p.unrenewed > 0:
		add("%s holds the lock of epoch %d and has not renewed it for %s: it may be gone", lock.Node, lock.Epoch, roughly(p.unrenewed))
	case lock.Held() && !lock.Ready:
		add("%s leads in epoch %d and does not accept writes yet", lock.Node, lock.Epoch)
	}
	var silent []string
	for _, name := range memberNames(v) {
		a, ok := p.answers[name]
		if !ok {
			silent = append(silent, name)
			if v.Members[name].Role == cluster.RolePrimary && name != leaderOf(v) {
				add("%s called itself primary last and does not answer: its PostgreSQL may still run as one", name)
			}
			continue
		}
		if a.FailsafeActive {
			add("Failsafe mode is active on %s: it stays primary without the store, on the promises of the other members", name)
		}
		if h := a.Hathi; h != nil {
			if h.Job != "" {
				add("%s: %s", name, h.Job)
			}
			for _, sentence := range h.Critical {
				add("%s: %s (hathi why says what to do)", name, printable(sentence))
			}
		}
	}
	if len(silent) > 0 {
		add("No answer from the REST API of: %s", strings.Join(silent, ", "))
	}
	for _, problem := range v.Problems {
		add("Unreadable in the store: %s", problem)
	}
	return out
}

func (p picture) answered(name string) bool {
	_, ok := p.answers[name]
	return ok
}

// write writes the table, and the notes where people read.
func (p picture) write(a *App, f term.Format, extended bool) error {
	if err := p.table(f, extended).Write(a.Stdout, f); err != nil {
		return err
	}
	if f == term.Pretty || f == term.Topology {
		for _, n := range p.notes() {
			fmt.Fprintln(a.Stdout, " "+n)
		}
	}
	return nil
}
