package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ack is one commit that the server acknowledged to a client. Instants are this machine's monotonic
// clock, so their order between clients is the true one.
type ack struct {
	id        int64
	sent, got time.Time
	timeline  uint32 // as the server said in the same statement
	port      int    // of the server
}

// writers are sessions that insert unique ids until they are stopped, and keep what the server told
// them. A session that is cut connects again at once.
type writers struct {
	r      *rig
	began  time.Time
	cancel context.CancelFunc
	wg     sync.WaitGroup
	count  atomic.Int64 // acknowledged
	next   atomic.Int64
	uri    string

	mu   sync.Mutex
	acks []ack
	errs map[string]int
}

// clientBound is how long a client waits for an answer before it gives up: nobody may hang.
const clientBound = 45 * time.Second

const insert = `insert into e2e values ($1) returning ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int, inet_server_port()`

// write starts n writers through the router's write port, and waits until they have written enough
// for what follows to mean anything.
func (c *rig) write(n int) *writers {
	c.t.Helper()
	w := c.writeTo(c.l.WriteURI(), n)
	w.more(100)
	return w
}

// writeTo starts n writers that connect to uri.
func (c *rig) writeTo(uri string, n int) *writers {
	c.t.Helper()
	c.await(30*time.Second, "the table of the writers is made", func() error {
		_, err := c.exec(c.l.WriteURI(), "create table if not exists e2e (id bigint not null)")
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{r: c, began: time.Now(), cancel: cancel, errs: map[string]int{}, uri: uri}
	// Ids go on where an earlier group of the same cluster ended.
	w.next.Store(time.Now().UnixNano())
	for range n {
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			w.session(ctx)
		}()
	}
	c.t.Cleanup(w.end)
	return w
}

func (w *writers) end() {
	w.cancel()
	w.wg.Wait()
}

// session writes until ctx ends.
func (w *writers) session(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	var degraded atomic.Bool
	for ctx.Err() == nil {
		if conn == nil {
			var err error
			if conn, err = connect(ctx, w.uri, &degraded); err != nil {
				w.failed(ctx, "connect", err)
				conn = nil
				pause(ctx, 20*time.Millisecond)
				continue
			}
		}
		a := ack{id: w.next.Add(1), sent: time.Now()}
		// A statement that is under way when the writers are stopped is let end: its outcome counts.
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), clientBound)
		degraded.Store(false)
		err := conn.QueryRow(one, insert, pgx.QueryExecModeExec, a.id).Scan(&a.timeline, &a.port)
		cancel()
		a.got = time.Now()
		switch {
		case err != nil:
			w.failed(ctx, "insert", err)
			_ = conn.Close(context.Background())
			conn = nil
		case degraded.Load():
			w.failed(ctx, "insert", errors.New("the wait for the standbys was cancelled"))
		default:
			w.mu.Lock()
			w.acks = append(w.acks, a)
			w.mu.Unlock()
			w.count.Add(1)
			pause(ctx, 2*time.Millisecond)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func connect(ctx context.Context, uri string, degraded *atomic.Bool) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(uri)
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = clientBound
	if degraded != nil {
		// "canceling wait for synchronous replication": the commit is here and perhaps nowhere else.
		cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			if strings.Contains(n.Message, "synchronous replication") {
				degraded.Store(true)
			}
		}
	}
	return pgx.ConnectConfig(ctx, cfg)
}

func (w *writers) failed(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs[what+": "+kind(err)]++
}

// kind sorts errors by what a client sees of them.
func kind(err error) string {
	var pg *pgconn.PgError
	var op *net.OpError
	switch {
	case errors.As(err, &pg):
		return pg.Code + " " + pg.Message
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err):
		return "no answer within the client's bound"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i > 0 {
		text = text[i+2:]
	}
	return text
}

// more waits for n more acknowledged writes. A run without them proves nothing.
func (w *writers) more(n int64) {
	w.r.t.Helper()
	want := w.count.Load() + n
	w.r.await(60*time.Second, fmt.Sprintf("%d more writes are acknowledged", n), func() error {
		if got := w.count.Load(); got < want {
			w.mu.Lock()
			defer w.mu.Unlock()
			return fmt.Errorf("got %d of %d; errors: %s", got, want, tally(w.errs))
		}
		return nil
	})
}

func tally(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d x %q", m[k], k))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// verdict is what the checker found.
type verdict struct {
	acked, lost int
	gap         time.Duration
	errs        map[string]int
	acks        []ack
}

// stop ends the writers and compares what they were told with the table on the leader. What is wrong
// in any mode fails the test here; lost acknowledged writes are the caller's to judge.
func (w *writers) stop() verdict {
	w.r.t.Helper()
	w.end()
	t := w.r.t
	v := verdict{acked: len(w.acks), errs: w.errs, acks: w.acks}
	var final map[int64]int
	w.r.await(60*time.Second, "the final table can be read", func() (err error) {
		final, err = w.r.table(w.r.l.WriteURI())
		return err
	})
	for id, n := range final {
		if n > 1 {
			t.Errorf("got id %d %d times in the table, want once", id, n)
		}
	}
	for _, a := range w.acks {
		if final[a.id] == 0 {
			v.lost++
		}
	}
	v.gap = gap(w.acks)
	if msg := dual(w.acks); msg != "" {
		t.Error(msg)
	}
	if n := v.errs["insert: no answer within the client's bound"]; n > 0 {
		t.Errorf("got %d inserts without any answer within %s, want an answer, an error or a closed connection", n, clientBound)
	}
	by := map[string]int{}
	for _, a := range w.acks {
		by[fmt.Sprintf("timeline %d on port %d", a.timeline, a.port)]++
	}
	t.Logf("%d writes acknowledged in %s, longest gap %s, %d lost; by server: %s; errors: %s", v.acked,
		time.Since(w.began).Round(100*time.Millisecond), v.gap.Round(time.Millisecond), v.lost, tally(by), tally(v.errs))
	return v
}

// safe ends the writers where no acknowledged write may be lost.
func (w *writers) safe() verdict {
	w.r.t.Helper()
	v := w.stop()
	if v.lost > 0 {
		w.r.t.Errorf("got %d of %d acknowledged writes lost, want none", v.lost, v.acked)
	}
	return v
}

// gap is the longest time without an acknowledgement to anybody.
func gap(acks []ack) (longest time.Duration) {
	got := make([]time.Time, 0, len(acks))
	for _, a := range acks {
		got = append(got, a.got)
	}
	slices.SortFunc(got, time.Time.Compare)
	for i := 1; i < len(got); i++ {
		longest = max(longest, got[i].Sub(got[i-1]))
	}
	return longest
}

// dual says whether an older timeline acknowledged after a newer one had. An answer may lie in a
// client's socket for a moment, so what counts is a statement that was sent after the first answer of
// the newer timeline, or one that was answered much later.
func dual(acks []ack) string {
	const lies = 2 * time.Second
	first := map[uint32]time.Time{}
	port := map[uint32]int{}
	for _, a := range acks {
		if at, ok := first[a.timeline]; !ok || a.got.Before(at) {
			first[a.timeline] = a.got
		}
		if p, ok := port[a.timeline]; ok && p != a.port {
			return fmt.Sprintf("got acknowledgements on timeline %d from the servers on ports %d and %d, want one server", a.timeline, p, a.port)
		}
		port[a.timeline] = a.port
	}
	for _, a := range acks {
		for tl, at := range first {
			if tl > a.timeline && (a.sent.After(at) || a.got.Sub(at) > lies) {
				return fmt.Sprintf("got an acknowledgement on timeline %d (port %d), sent %s and answered %s after the first on timeline %d (port %d): want none",
					a.timeline, a.port, a.sent.Sub(at), a.got.Sub(at), tl, port[tl])
			}
		}
	}
	return ""
}

// table reads all ids from a server.
func (c *rig) table(uri string) (map[int64]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := connect(ctx, uri, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "select id from e2e")
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	out := make(map[int64]int, len(ids))
	for _, id := range ids {
		out[id]++
	}
	return out, nil
}

// exec runs a statement as the application and returns its single value as text.
func (c *rig) exec(uri, sql string) (string, error) { return c.execWithin(clientBound, uri, sql) }

func (c *rig) execWithin(bound time.Duration, uri, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	conn, err := connect(ctx, uri, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	r, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	if len(r) == 0 || len(r[len(r)-1].Rows) == 0 {
		return "", nil
	}
	return string(r[len(r)-1].Rows[0][0]), nil
}

// direct is the connection string of one node's own PostgreSQL, past the router.
func (c *rig) direct(node string) string {
	return strings.Replace(c.l.WriteURI(), fmt.Sprintf(":%d/", c.l.Router.Write), fmt.Sprintf(":%d/", c.node(node).PostgreSQL), 1)
}

// same waits until all nodes hold the same rows.
func (c *rig) same(nodes ...string) {
	c.t.Helper()
	c.await(60*time.Second, fmt.Sprintf("%v hold the same rows", nodes), func() error {
		const q = "select count(*) || ' rows, sum ' || coalesce(sum(id), 0) from e2e"
		var want string
		for i, n := range nodes {
			got, err := c.exec(c.direct(n), q)
			if err != nil {
				return fmt.Errorf("%s: %w", n, err)
			}
			if i > 0 && got != want {
				return fmt.Errorf("%s has %s, %s has %s", n, got, nodes[0], want)
			}
			want = got
		}
		return nil
	})
}

// newcomers are clients that connect to the write port again and again and ask where they are.
type newcomers struct {
	cancel       context.CancelFunc
	wg           sync.WaitGroup
	served, held atomic.Int64 // on a primary; after having waited
	wrong        atomic.Pointer[error]
}

// newcomers starts a few, with TLS, of which the router sees nothing.
func (c *rig) newcomers() *newcomers {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &newcomers{cancel: cancel}
	for range 3 {
		n.wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				got, err := c.execWithin(clientBound, c.l.WriteURI(), "select pg_is_in_recovery()")
				switch {
				case err == nil && got != "f":
					wrong := errors.New("a newcomer on the write port was led to a standby")
					n.wrong.CompareAndSwap(nil, &wrong)
				case err == nil:
					n.served.Add(1)
				}
				if time.Since(began) > time.Second {
					n.held.Add(1)
				}
				pause(ctx, 10*time.Millisecond)
			}
		})
	}
	c.t.Cleanup(n.end)
	return n
}

func (n *newcomers) end() {
	n.cancel()
	n.wg.Wait()
}

// fault is what must not happen to any of them.
func (n *newcomers) fault() error {
	if p := n.wrong.Load(); p != nil {
		return *p
	}
	return nil
}
