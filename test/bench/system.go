package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// system is a cluster of three nodes with a proxy in front, to be disturbed and measured.
type system interface {
	// name says which system and settings this is.
	name() string
	// start brings it up until it accepts writes and every standby streams.
	start(ctx context.Context) error
	// writeURI leads to the primary through the proxy.
	writeURI() string
	// directURI leads to one node.
	directURI(node string) string
	nodes() []string
	host(node string) *host
	dataDir(node string) string
	// primary is the node that leads now.
	primary(ctx context.Context) (string, error)
	// leads is the node that led last, as far as the program has been told: it asks nobody. "" for not
	// known.
	leads() string
	// healthy says what is missing for a round: every node a member, all standbys streaming.
	healthy(ctx context.Context) error
	etcd() *etcdCluster
	// powerOn starts a node's daemons again after a power cut.
	powerOn(node string) error
	// startAgent starts a node's agent, as its service manager would.
	startAgent(node string) error
	// disksOf are a node's disks: the whole of its files, and in it that of PostgreSQL's data. None where
	// the system was made without.
	disksOf(node string) []*disk
	// forget removes what a power cut would have wiped from memory.
	forget(node string)
	// switchover moves the leadership, planned, and returns when the system says that it is done.
	switchover(ctx context.Context, from, to string) error
	// repair makes a standby anew that does not come back by itself, as an operator would.
	repair(ctx context.Context, node string) error
	// longest is how long a failover may take before a round is given up.
	longest() time.Duration
	// phases tells what happened after the fault at began, from begin until the first write.
	phases(f fault, old string, began, begin, write time.Duration) phases
	// promotion is how long the first promotion after an instant took; 0 where that cannot be told.
	promotion(after time.Duration) time.Duration
	// story is what a node decided from an instant on, for people.
	story(node string, from time.Duration) []string
	close() error
}

// phases are the parts of an outage, in seconds; they add up to it. A part that cannot be told is
// counted with the one that follows it.
type phases struct {
	Detection float64  `json:"detection_s"` // the fault until the winner knew that something is wrong
	Fencing   float64  `json:"fencing_s"`   // until the old primary surely acknowledged nothing any more
	Election  float64  `json:"election_s"`  // until the lock was taken
	Promotion float64  `json:"promotion_s"` // until the new primary accepted writes
	Routing   float64  `json:"routing_s"`   // until a client's write was acknowledged
	Notes     []string `json:"notes,omitempty"`
}

// base is what the systems have in common.
type base struct {
	title  string
	dir    string
	hosts  map[string]*host
	names  []string
	proxy  *host
	disks  map[string][]*disk
	user   *user
	store  *etcdCluster
	binDir string
}

func (b *base) name() string           { return b.title }
func (b *base) nodes() []string        { return b.names }
func (b *base) host(node string) *host { return b.hosts[node] }
func (b *base) etcd() *etcdCluster     { return b.store }
func (b *base) path(parts ...string) string {
	return filepath.Join(append([]string{b.dir}, parts...)...)
}

// makeHosts makes nodes and the proxy's host in 10.91.k.0/24.
func (b *base) makeHosts(k, nodes int) error {
	b.hosts = map[string]*host{}
	for i := 1; i <= nodes; i++ {
		n := "pg" + strconv.Itoa(i)
		h, err := newHost(fmt.Sprintf("%d-%d", k, i), fmt.Sprintf("10.91.%d.%d", k, 10+i))
		if err != nil {
			return err
		}
		b.hosts[n], b.names = h, append(b.names, n)
	}
	var err error
	b.proxy, err = newClientHost(fmt.Sprintf("%d-proxy", k), fmt.Sprintf("10.91.%d.1", k))
	return err
}

func (b *base) disksOf(node string) []*disk { return b.disks[node] }

// makeDisks gives every node a disk for all of its files, and in it one for PostgreSQL's data, in the
// folder disk.
func (b *base) makeDisks() error {
	b.disks = map[string][]*disk{}
	if err := os.MkdirAll(b.path("images"), 0o755); err != nil {
		return err
	}
	for _, n := range b.names {
		for i, at := range []string{b.path(n), b.path(n, "disk")} {
			d, err := newDisk(b.path("images", fmt.Sprintf("%s-%d.img", b.hosts[n].ns, i)), at, b.user)
			if d != nil {
				b.disks[n] = append(b.disks[n], d)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *base) close() error {
	var errs []error
	for _, disks := range b.disks { // what hangs on them cannot be killed
		for _, d := range disks {
			errs = append(errs, d.thaw())
		}
	}
	if b.store != nil {
		b.store.close()
	}
	for _, n := range b.names {
		errs = append(errs, b.hosts[n].remove())
	}
	if b.proxy != nil {
		errs = append(errs, b.proxy.remove())
	}
	for _, disks := range b.disks {
		for _, d := range slices.Backward(disks) {
			errs = append(errs, d.remove())
		}
	}
	return errors.Join(errs...)
}

// psql runs SQL as the superuser over a node's Unix socket.
func (b *base) psql(ctx context.Context, node, socketDir string, port int, db, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := b.hosts[node].command(ctx, b.user, filepath.Join(b.binDir, "psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-h", socketDir, "-p", strconv.Itoa(port), "-U", "postgres", "-d", db, "-c", sql).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql on %s: %w: %s", node, err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// streaming are the standbys that a node streams to.
func streaming(ctx context.Context, uri string) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, uri)
	if err != nil {
		return nil, err
	}
	defer hangUp(c)
	rows, err := c.Query(ctx, "SELECT application_name FROM pg_catalog.pg_stat_replication WHERE state = 'streaming'", pgx.QueryExecModeExec)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out, err
}

// allStream says which standbys of primary do not stream.
func allStream(ctx context.Context, s system, primary string) error {
	have, err := streaming(ctx, s.directURI(primary))
	if err != nil {
		return fmt.Errorf("ask %s for its standbys: %w", primary, err)
	}
	for _, n := range s.nodes() {
		if n != primary && !have[n] {
			return fmt.Errorf("%s does not stream from %s", n, primary)
		}
	}
	return nil
}
