package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cli"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/mem"
	"github.com/hathi-ha/hathi/internal/rest"
)

// world is a cluster as commands see it: a store in memory, and REST servers that answer what the
// test tells them to.
type world struct {
	t      *testing.T
	store  *mem.Server
	client *mem.Client
	files  map[string]string
	env    map[string]string
	stdin  string
	tty    bool

	mu      sync.Mutex
	asked   []string // actions, as "pg1 POST /restart {body}"
	status  map[string]rest.Status
	answers map[string]answer // by "pg1 POST /restart"
	urls    map[string]*httptest.Server
}

type answer struct {
	code int
	text string
	do   func()
}

// demo is a cluster of three: pg1 leads, pg2 and pg3 are quorum standbys.
func demo(t *testing.T) *world {
	w := &world{t: t, files: map[string]string{"node.yml": "scope: demo\netcd3: {hosts: [127.0.0.1:1]}\n"}, env: map[string]string{},
		status: map[string]rest.Status{}, answers: map[string]answer{}, urls: map[string]*httptest.Server{}}
	w.store = mem.NewServer(func() time.Duration { return 0 })
	w.client = w.store.Client("test")
	for i, name := range []string{"pg1", "pg2", "pg3"} {
		w.serve(name)
		m := w.member(name, 5432+i)
		if i == 0 {
			m.Role, m.ReplicationState, m.ReceiveLSN, m.ReplayLSN, m.XLogLocation = cluster.RolePrimary, "", 0, 0, 0x5000000
		}
		w.put(dcs.MemberKey(name), m)
	}
	w.status["pg1"] = rest.Status{State: cluster.StateRunning, Role: cluster.RolePrimary, Patroni: rest.Identity{Name: "pg1"}}
	w.put(dcs.KeyLock, cluster.Lock{Node: "pg1", Epoch: 1, Seq: 7, Timeline: 1, TTL: 3000, Ready: true})
	w.raw(dcs.KeyLeader, "pg1")
	w.raw(dcs.KeyInitialize, "7384519283746520123")
	w.raw(dcs.KeyConfig, `{"ttl":6,"loop_wait":1,"retry_timeout":2,"synchronous_mode":"quorum","postgresql":{"parameters":{"max_connections":100}}}`)
	w.put(dcs.KeySync, cluster.SyncState{Leader: "pg1", Standbys: []string{"pg2", "pg3"}, Quorum: 1})
	w.put(dcs.KeyStatus, cluster.Status{Optime: 0x5000000})
	return w
}

func (w *world) member(name string, port int) cluster.Member {
	return cluster.Member{APIURL: w.urls[name].URL + "/patroni", ConnURL: fmt.Sprintf("postgres://10.0.0.1:%d/postgres", port), State: cluster.StateRunning,
		Role: cluster.RoleReplica, ReplicationState: "streaming", Timeline: 1, ReceiveLSN: 0x5000000, ReplayLSN: 0x4000000, XLogLocation: 0x4000000}
}

func (w *world) serve(name string) {
	w.status[name] = rest.Status{State: cluster.StateRunning, Role: cluster.RoleReplica, ReplState: "streaming", Patroni: rest.Identity{Name: name}}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		key := name + " " + r.Method + " " + r.URL.Path
		w.mu.Lock()
		a, ok := w.answers[key]
		st := w.status[name]
		if r.Method != http.MethodGet {
			w.asked = append(w.asked, strings.TrimSpace(key+" "+string(body)))
		}
		w.mu.Unlock()
		switch {
		case ok:
			if a.do != nil {
				a.do()
			}
			rw.WriteHeader(a.code)
			fmt.Fprint(rw, a.text)
		case r.Method == http.MethodGet && r.URL.Path == "/patroni":
			_ = json.NewEncoder(rw).Encode(st)
		case r.Method == http.MethodGet:
			rw.WriteHeader(http.StatusNotFound)
		}
	}))
	w.t.Cleanup(s.Close)
	w.urls[name] = s
}

func (w *world) raw(key, value string) {
	w.t.Helper()
	if _, err := w.store.Client("setup").Commit(context.Background(), dcs.Txn{Then: []dcs.Op{{Key: key, Value: []byte(value)}}}); err != nil {
		w.t.Error(err)
	}
}

func (w *world) put(key string, v any) {
	w.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		w.t.Error(err)
	}
	w.raw(key, string(b))
}

func (w *world) stored(key string) string {
	w.t.Helper()
	s, err := w.store.Client("look").Load(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return string(s.Entries[key].Value)
}

func (w *world) actions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.asked...)
}

// run runs a command line with -c node.yml, unless it finds its cluster another way.
func (w *world) run(args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	return w.runIn(w.t.Context(), append(args[:1:1], append([]string{"-c", "node.yml"}, args[1:]...)...)...)
}

func (w *world) runIn(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	app := &cli.App{Stdin: strings.NewReader(w.stdin), Stdout: &out, Stderr: &errs, Env: w.env, Version: "test",
		ReadFile: func(name string) ([]byte, error) {
			if text, ok := w.files[name]; ok {
				return []byte(text), nil
			}
			return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		},
		OpenStore: func(_ context.Context, c *config.Config) (dcs.Store, error) {
			if c.Prefix() != "/service/demo/" {
				return mem.NewServer(func() time.Duration { return 0 }).Client("another"), nil
			}
			return w.client, nil
		},
		Interactive: func() bool { return w.tty }}
	code = app.Main(ctx, args)
	// Every command closes its store.
	w.client = w.store.Client("test")
	return code, out.String(), errs.String()
}

// fails runs a command that must end with this code and exactly this on standard error.
func (w *world) fails(want int, text string, args ...string) {
	w.t.Helper()
	code, stdout, stderr := w.run(args...)
	if code != want || stderr != "hathi: "+text+"\n" {
		w.t.Errorf("%q: got code %d and\n%s\nwant %d and\nhathi: %s\n\n(stdout: %s)", args, code, stderr, want, text, stdout)
	}
}

// prints runs a command that must succeed and print exactly this.
func (w *world) prints(text string, args ...string) {
	w.t.Helper()
	code, stdout, stderr := w.run(args...)
	if code != 0 || stdout != text {
		w.t.Errorf("%q: got code %d and\n%s\nwant 0 and\n%s\n(stderr: %s)", args, code, stdout, text, stderr)
	}
}
