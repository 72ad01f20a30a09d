package ha_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/quorum"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// TestTranscripts runs the stories in testdata: commands, each followed by what it printed, in lines
// that begin with ">". Blank lines and lines that begin with "#" are kept as they are.
//
//	self NAME [tags T[=V] ...] [started=-1s] [instance=X] [noclone]
//	config [ttl=6s] [sync=off|on|quorum] [strict] [count=1] [failsafe] [pause|resume] [lag=BYTES]
//	       [start=60s] [stop=60s] [rewind=off] [keep-diverged] [keep-unrewound]
//	store [reachable|unreachable|unseen] [init=ID|init=] [lockbad] [syncbad] [statusbad] [promised=5s]
//	lock none | [node=N] epoch=E [timeline=T] [ready] [paused] [instance=X] [successor=N] [seen=-1s] [alive]
//	renewed            the holder was seen to renew the lock just now
//	sync none | leader=N standbys=N,N quorum=Q
//	status none | optime=LSN tl=T [shutdown]
//	history none | TL:LSN ...
//	failsafe N,N
//	request none | [leader=N] [to=N] [force]                  the key failover
//	member N gone | [state=S] [lsn=LSN] [replication=S] [tags ...]
//	lease none [lost="..."] [resumable] | held epoch=E [ready]
//	guardian alive|dead
//	db empty|foreign|up|down|starting|mute [standby|primary] [tl=T] [newest=T] [lsn=LSN] [streaming] [lost=-1s]
//	       [upstream=N] [control="..."] [checkpoint=LSN] [failure="..."] [fenced] [copy] [torn] [nodir] [id=ID] [since=-1s] [replaced="..."]
//	replica N gone | flushed=LSN [broken]
//	rule async | any|first NUM N,N
//	peer N gone | standby|primary [tl=T] [lsn=LSN] [oldest=LSN] [down] [eligible|why="..."] [crashing] [tags ...]
//	job none | done | failed "..." | KIND [began=-1s]
//	ask restart|reinit|reinit-from-leader|shutdown|nothing
//	advance DURATION
//	decide             one decision, printed, not performed
//	perform            perform the effects of the last decision
//	settle             decide and perform until a decision may wait
//	eligible           what this node answers to its peers
//	print lock|sync    what the store holds
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts found: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { transcript(t, f) })
	}
}

func transcript(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	var out []string
	for i, line := range strings.Split(strings.TrimRight(string(b), "\n"), "\n") {
		if strings.HasPrefix(line, ">") {
			continue
		}
		out = append(out, line)
		if line == "" || line[0] == '#' {
			continue
		}
		text, err := w.command(line)
		if err != nil {
			t.Fatalf("%s:%d: %s: %v", file, i+1, line, err)
		}
		for _, l := range text {
			out = append(out, "> "+l)
		}
	}
	got := strings.Join(out, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got == string(b) {
		return
	}
	want := strings.Split(string(b), "\n")
	for i, l := range strings.Split(got, "\n") {
		if i >= len(want) || l != want[i] {
			t.Fatalf("%s:%d: got\n\t%s\nwant\n\t%s\n(go test ./internal/ha -update rewrites the file)", file, i+1, l, append(want, "the end")[min(i, len(want))])
		}
	}
	t.Fatalf("%s: got %d lines, want %d", file, len(out), len(want)-1)
}

// args are the words of a command: bare words in order, and key=value.
type args struct {
	words []string
	vals  map[string]string
	err   error
}

func words(line string) (out []string) {
	var b strings.Builder
	quoted, any := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any {
				out = append(out, b.String())
			}
			b.Reset()
			any = false
		default:
			b.WriteRune(r)
			any = true
		}
	}
	if any {
		out = append(out, b.String())
	}
	return out
}

func parseArgs(list []string) *args {
	a := &args{vals: map[string]string{}}
	for _, w := range list {
		if k, v, ok := strings.Cut(w, "="); ok {
			a.vals[k] = v
		} else {
			a.words = append(a.words, w)
		}
	}
	return a
}

func (a *args) has(w string) bool {
	for i, x := range a.words {
		if x == w {
			a.words = append(a.words[:i:i], a.words[i+1:]...)
			return true
		}
	}
	return false
}

func (a *args) str(k string, into *string) {
	if v, ok := a.vals[k]; ok {
		*into = v
		delete(a.vals, k)
	}
}

func (a *args) parse(k string, f func(string) error) {
	if v, ok := a.vals[k]; ok {
		delete(a.vals, k)
		if err := f(v); err != nil && a.err == nil {
			a.err = err
		}
	}
}

func (a *args) uint(k string, into *uint64) {
	a.parse(k, func(s string) (err error) { *into, err = strconv.ParseUint(s, 10, 64); return })
}

func (a *args) int(k string, into *int) {
	a.parse(k, func(s string) (err error) { *into, err = strconv.Atoi(s); return })
}

func (a *args) tl(k string, into *uint32) {
	a.parse(k, func(s string) error { n, err := strconv.ParseUint(s, 10, 32); *into = uint32(n); return err })
}

func (a *args) lsn(k string, into *cluster.LSN) {
	a.parse(k, func(s string) (err error) { *into, err = cluster.ParseLSN(s); return })
}

// span reads a duration, counted from base.
func (a *args) span(k string, base time.Duration, into *time.Duration) {
	a.parse(k, func(s string) error { d, err := time.ParseDuration(s); *into = base + d; return err })
}

// tags takes the words after "tags".
func (a *args) tags(into *cluster.Tags) {
	for i, w := range a.words {
		if w != "tags" {
			continue
		}
		*into = cluster.Tags{}
		for _, k := range a.words[i+1:] {
			(*into)[k] = true
		}
		for k, v := range a.vals {
			if n, err := strconv.Atoi(v); err == nil && strings.HasSuffix(k, "priority") {
				(*into)[k] = n
				delete(a.vals, k)
			} else if k == "replicatefrom" {
				(*into)[k] = v
				delete(a.vals, k)
			}
		}
		a.words = a.words[:i]
		return
	}
}

func (a *args) rest() error {
	if a.err != nil {
		return a.err
	}
	if len(a.words) > 0 || len(a.vals) > 0 {
		return fmt.Errorf("unknown words %v %v", a.words, a.vals)
	}
	return nil
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func (w *world) command(line string) ([]string, error) {
	ws := words(line)
	a := parseArgs(ws[1:])
	name := ""
	first := func() string {
		if len(a.words) > 0 {
			name, a.words = a.words[0], a.words[1:]
		}
		return name
	}
	o, view := &w.o, &w.o.Store.View
	s := &view.Config.Settings
	switch ws[0] {
	case "self":
		a.tags(&o.Self.Tags)
		o.Self.Name = first()
		o.Self.Instance = "disk-" + name
		a.str("instance", &o.Self.Instance)
		a.span("started", o.Now, &o.Self.Started)
		o.Self.CanClone = !a.has("noclone")
	case "config":
		a.span("ttl", 0, &s.TTL)
		a.parse("sync", func(m string) error { s.SynchronousMode = cluster.SyncMode(m); return nil })
		a.int("count", &s.SynchronousNodeCount)
		a.parse("lag", func(v string) (err error) {
			s.MaximumLagOnFailover, err = strconv.ParseInt(v, 10, 64)
			return
		})
		a.span("start", 0, &s.PrimaryStartTimeout)
		a.span("stop", 0, &s.PrimaryStopTimeout)
		a.parse("rewind", func(v string) error { s.UsePgRewind = v != "off"; return nil })
		s.SynchronousStrict = a.has("strict") || s.SynchronousStrict
		s.FailsafeMode = a.has("failsafe") || s.FailsafeMode
		s.Pause = (a.has("pause") || s.Pause) && !a.has("resume")
		s.RemoveDiverged = !a.has("keep-diverged") && s.RemoveDiverged
		s.RemoveOnRewindFail = !a.has("keep-unrewound") && s.RemoveOnRewindFail
	case "store":
		switch {
		case a.has("reachable"):
			o.Store.Reachable, o.Store.Seen = true, true
		case a.has("unreachable"):
			o.Store.Reachable = false
		case a.has("unseen"):
			o.Store.Reachable, o.Store.Seen = false, false
		}
		a.str("init", &view.Initialize)
		view.LockBad, view.SyncBad, view.StatusBad = a.has("lockbad"), a.has("syncbad"), a.has("statusbad")
		a.span("promised", o.Now, &o.Store.PromisedUntil)
	case "lock":
		view.Lock, o.Store.LockAlive = cluster.Lock{}, false
		if a.has("none") {
			view.LockRev = 0
			break
		}
		view.LockRev++
		l := &view.Lock
		a.str("node", &l.Node)
		if l.Node != "" {
			l.Instance = "disk-" + l.Node
		}
		a.str("instance", &l.Instance)
		a.uint("epoch", &l.Epoch)
		a.tl("timeline", &l.Timeline)
		a.str("successor", &l.Successor)
		l.Ready, l.Paused, o.Store.LockAlive = a.has("ready"), a.has("paused"), a.has("alive")
		o.Store.LockSeenAt = o.Now
		a.span("seen", o.Now, &o.Store.LockSeenAt)
	case "sync":
		view.Sync = cluster.SyncState{}
		view.SyncRev++
		if a.has("none") {
			break
		}
		a.str("leader", &view.Sync.Leader)
		a.parse("standbys", func(v string) error { view.Sync.Standbys = cluster.Sorted(list(v)); return nil })
		a.int("quorum", &view.Sync.Quorum)
	case "status":
		view.Status = cluster.Status{Shutdown: a.has("shutdown")}
		a.has("none")
		a.lsn("optime", &view.Status.Optime)
		a.tl("tl", &view.Status.Timeline)
	case "history":
		view.History = nil
		for _, x := range a.words {
			if tl, lsn, ok := strings.Cut(x, ":"); ok {
				n, err := strconv.ParseUint(tl, 10, 32)
				if err != nil {
					return nil, err
				}
				at, err := cluster.ParseLSN(lsn)
				if err != nil {
					return nil, err
				}
				view.History = append(view.History, cluster.HistoryLine{Timeline: uint32(n), LSN: at})
			}
		}
		a.words = nil
	case "failsafe":
		view.Failsafe = map[string]string{}
		for _, n := range list(first()) {
			view.Failsafe[n] = "http://" + n
		}
	case "request":
		view.Failover = nil
		if a.has("none") {
			break
		}
		view.FailoverRev++
		f := &cluster.FailoverRequest{Force: a.has("force")}
		a.str("leader", &f.Leader)
		a.str("to", &f.Candidate)
		view.Failover = f
	case "member":
		m := cluster.Member{State: cluster.StateRunning}
		a.tags(&m.Tags)
		m.Name = first()
		if a.has("gone") {
			delete(view.Members, m.Name)
			break
		}
		a.parse("state", func(v string) error { m.State = cluster.State(v); return nil })
		a.str("replication", &m.ReplicationState)
		a.lsn("lsn", &m.XLogLocation)
		view.Members[m.Name] = m
	case "lease":
		l := ha.Lease{GuardianAlive: o.Lease.GuardianAlive, Held: a.has("held"), Ready: a.has("ready"), Resumable: a.has("resumable")}
		a.has("none")
		a.str("lost", &l.Lost)
		a.uint("epoch", &l.Epoch)
		if l.Held {
			l.FenceAt = o.Now + s.TTL*3/4
		}
		a.span("fence", o.Now, &l.FenceAt)
		o.Lease = l
	case "guardian":
		o.Lease.GuardianAlive = !a.has("dead")
		a.has("alive")
	case "db":
		if err := w.setDB(a, first()); err != nil {
			return nil, err
		}
	case "replica":
		n := first()
		var keep []ha.Replica
		for _, r := range o.DB.Replicas {
			if r.Name != n {
				keep = append(keep, r)
			}
		}
		if !a.has("gone") {
			r := ha.Replica{Name: n, Streaming: !a.has("broken")}
			a.lsn("flushed", &r.Flushed)
			keep = append(keep, r)
		}
		o.DB.Replicas = keep
	case "rule":
		o.DB.RuleKnown = true
		kind := first()
		if kind == "async" {
			o.DB.Rule = quorum.Rule{}
			break
		}
		n, err := strconv.Atoi(first())
		if err != nil {
			return nil, err
		}
		o.DB.Rule = quorum.NewRule(list(first()), n, kind == "any")
	case "peer":
		p := cluster.PeerStatus{State: cluster.StateRunning, Running: true}
		a.tags(&p.Tags)
		p.Name = first()
		if a.has("gone") {
			delete(w.peers, p.Name)
			break
		}
		p.InRecovery = !a.has("primary")
		a.has("standby")
		p.Running = !a.has("down")
		p.Eligible = a.has("eligible")
		p.CrashLoop = a.has("crashing")
		a.str("why", &p.Why)
		a.tl("tl", &p.Timeline)
		a.lsn("lsn", &p.LSN)
		a.lsn("oldest", &p.OldestLSN)
		w.peers[p.Name] = p
	case "job":
		switch kind := first(); kind {
		case "done":
			w.finish("")
		case "failed":
			w.finish(first())
		case "none":
			o.Job = ha.Job{}
		default:
			w.job(ha.JobKind(kind))
			a.span("began", o.Now, &o.Job.Began)
		}
	case "renewed":
		o.Store.LockSeenAt, o.Store.LockAlive = o.Now, true
	case "ask":
		switch first() {
		case "restart":
			o.Request.Restart = true
		case "reinit":
			o.Request.Reinit = true
		case "reinit-from-leader":
			o.Request.Reinit, o.Request.FromLeader = true, true
		case "shutdown":
			o.Request.Shutdown = true
		case "nothing":
			o.Request = ha.Request{}
		}
	case "advance":
		d, err := time.ParseDuration(first())
		if err != nil {
			return nil, err
		}
		o.Now += d
	case "decide":
		return w.show(), nil
	case "perform":
		w.perform()
	case "settle":
		var out []string
		for range 12 {
			out = append(out, w.show()...)
			w.perform()
			if w.last.Wait > 0 || w.last.State == ha.StateStopped {
				return out, nil
			}
		}
		return nil, fmt.Errorf("no end of decisions at once:\n%s", strings.Join(out, "\n"))
	case "eligible":
		if ok, why := ha.Eligible(w.o); !ok {
			return []string{"no: " + why}, nil
		}
		return []string{"yes"}, nil
	case "print":
		switch first() {
		case "lock":
			l := view.Lock
			return []string{fmt.Sprintf("node=%s epoch=%d timeline=%d ready=%t paused=%t successor=%s", l.Node, l.Epoch, l.Timeline, l.Ready, l.Paused, l.Successor)}, nil
		case "sync":
			return []string{fmt.Sprintf("leader=%s standbys=%v quorum=%d", view.Sync.Leader, view.Sync.Standbys, view.Sync.Quorum)}, nil
		}
	default:
		return nil, fmt.Errorf("unknown command %s", ws[0])
	}
	return nil, a.rest()
}

func (w *world) setDB(a *args, phase string) error {
	db := &w.o.DB
	switch phase {
	case "empty":
		*db = ha.Database{PhaseAt: w.o.Now}
		return nil
	case "foreign":
		*db = ha.Database{Dir: ha.DirForeign, DirWhy: "it holds lost+found", PhaseAt: w.o.Now}
		return nil
	}
	phases := map[string]ha.Phase{"up": ha.Up, "down": ha.Down, "starting": ha.Starting, "mute": ha.Mute}
	p, ok := phases[phase]
	if !ok {
		return fmt.Errorf("unknown phase %q", phase)
	}
	if db.Dir != ha.DirValid {
		db.Dir, db.SystemID = ha.DirValid, "1"
	}
	if p == ha.Down {
		w.ended(false)
	}
	w.phase(p)
	if a.has("nodir") {
		db.Dir = ha.DirEmpty
	}
	db.Failure, db.Fenced, db.Streaming, db.Copy, db.Torn = "", a.has("fenced"), a.has("streaming"), a.has("copy"), a.has("torn")
	if a.has("primary") {
		db.Primary = true
	}
	if a.has("standby") {
		db.Primary = false
	}
	if v, ok := a.vals["tl"]; ok && p == ha.Down {
		a.vals["control-tl"] = v
	}
	a.tl("tl", &db.Timeline)
	a.tl("control-tl", &db.ControlTimeline)
	a.tl("newest", &db.NewestTimeline)
	a.lsn("lsn", &db.LSN)
	a.lsn("checkpoint", &db.ControlCheckpoint)
	a.parse("control", func(v string) error { db.Control = ha.ControlState(v); return nil })
	a.str("failure", &db.Failure)
	a.str("replaced", &db.Replaced)
	a.str("upstream", &db.Upstream)
	a.str("id", &db.SystemID)
	a.span("since", w.o.Now, &db.PhaseAt)
	a.span("lost", w.o.Now, &db.StreamingLost)
	db.Hang, db.StalledAt = "", 0
	if a.has("hang") {
		db.Hang = "no write ends"
	}
	a.span("stalled", w.o.Now, &db.StalledAt)
	db.History = nil
	a.parse("from", func(v string) error { // where the timeline before this one ended here
		at, err := cluster.ParseLSN(v)
		db.History = cluster.History{{Timeline: max(db.Timeline, db.ControlTimeline) - 1, LSN: at}}
		return err
	})
	return nil
}

func (w *world) show() []string {
	d := w.decide()
	out := []string{fmt.Sprintf("%s: %s", d.State, d.Why)}
	for _, e := range d.Effects {
		out = append(out, "- "+e.String())
	}
	end := fmt.Sprintf("wait %s", d.Wait)
	if d.Vouch > 0 {
		end = fmt.Sprintf("vouch %s, ", d.Vouch) + end
	}
	return append(out, end)
}
