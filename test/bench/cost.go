package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/boottime"
)

// pgbench's load for the cost.
const (
	costScale   = 10
	costClients = 4
	// costWarm is how long the load runs before it counts.
	costWarm = 1
)

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+) \(without initial`)

// bare is a primary as hathi's is set up, with as many standbys, that nobody looks after.
type bare struct {
	h      *hathi
	number int
	port   int
}

func (s *bare) dir(node string) string    { return s.h.path(node, fmt.Sprintf("bare-%d", s.number)) }
func (s *bare) socket(node string) string { return s.h.path(node, fmt.Sprintf("socket-%d", s.number)) }

// tool runs one of PostgreSQL's programs on a node.
func (h *hathi) tool(ctx context.Context, node string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	argv[0] = filepath.Join(h.binDir, argv[0])
	out, err := h.hosts[node].command(ctx, h.user, argv...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// settings are those of the running primary that differ from PostgreSQL's own, without what names
// places and other servers.
func (h *hathi) settings(ctx context.Context, node string) (string, error) {
	return h.psql(ctx, node, h.socketDir(node), h.node(node).PostgreSQL, "postgres",
		`SELECT pg_catalog.string_agg(name || ' = ' || pg_catalog.quote_literal(CASE WHEN unit IS NULL THEN setting ELSE pg_catalog.current_setting(name) END), E'\n')
		   FROM pg_catalog.pg_settings WHERE source IN ('configuration file', 'command line') AND context <> 'internal'
		    AND name NOT IN ('data_directory', 'config_file', 'hba_file', 'ident_file', 'external_pid_file', 'listen_addresses', 'port', 'unix_socket_directories',
		        'primary_conninfo', 'primary_slot_name', 'restore_command', 'cluster_name', 'synchronous_standby_names')`)
}

// startBare makes a server on every node of h, the first of them the primary, and fills it.
func startBare(ctx context.Context, h *hathi, number int, settings string) (*bare, error) {
	s := &bare{h: h, number: number, port: 6000 + number}
	for i, n := range h.names {
		if err := errors.Join(os.MkdirAll(s.socket(n), 0o700), os.Chown(s.socket(n), int(h.user.uid), int(h.user.gid))); err != nil {
			return nil, err
		}
		conf := settings + fmt.Sprintf("\nlisten_addresses = '%s'\nport = %d\nunix_socket_directories = '%s'\n", h.hosts[n].ip, s.port, s.socket(n))
		if i == 0 {
			if _, err := h.tool(ctx, n, "initdb", "-D", s.dir(n), "-U", "postgres", "-E", "UTF8", "--data-checksums", "--auth=trust"); err != nil {
				return nil, err
			}
			hba := "local all all trust\nhost replication all 10.91.0.0/16 trust\n"
			if err := os.WriteFile(filepath.Join(s.dir(n), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
				return nil, err
			}
			if len(h.names) > 1 {
				conf += fmt.Sprintf("synchronous_standby_names = 'ANY 1 (%s)'\n", strings.Join(h.names[1:], ", "))
			}
		} else {
			first := h.hosts[h.names[0]].ip
			if _, err := h.tool(ctx, n, "pg_basebackup", "-D", s.dir(n), "-h", first, "-p", strconv.Itoa(s.port), "-U", "postgres", "-c", "fast", "-X", "stream"); err != nil {
				return nil, err
			}
			conf += fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=postgres application_name=%s'\n", first, s.port, n)
			signal := filepath.Join(s.dir(n), "standby.signal")
			if err := errors.Join(os.WriteFile(signal, nil, 0o600), os.Chown(signal, int(h.user.uid), int(h.user.gid))); err != nil {
				return nil, err
			}
		}
		auto := filepath.Join(s.dir(n), "postgresql.auto.conf")
		if err := errors.Join(os.WriteFile(auto, []byte(conf), 0o600), os.Chown(auto, int(h.user.uid), int(h.user.gid))); err != nil {
			return nil, err
		}
		if _, err := h.tool(ctx, n, "pg_ctl", "-D", s.dir(n), "-w", "-l", s.dir(n)+".log", "start"); err != nil {
			return nil, err
		}
	}
	n := h.names[0]
	if err := until(ctx, time.Minute, 200*time.Millisecond, "the bare server's standbys", func(ctx context.Context) error {
		have, err := h.psql(ctx, n, s.socket(n), s.port, "postgres", "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication WHERE state = 'streaming'")
		if err == nil && have != strconv.Itoa(len(h.names)-1) {
			err = fmt.Errorf("%s of %d stream", have, len(h.names)-1)
		}
		return err
	}); err != nil {
		return nil, err
	}
	_, err := pgbench(ctx, h, n, s.socket(n), s.port, "-i", "-q", "-s", strconv.Itoa(costScale))
	return s, err
}

// pgbench runs on a node, over the Unix socket, and says how many transactions a second there were.
func pgbench(ctx context.Context, h *hathi, node, socket string, port int, args ...string) (float64, error) {
	out, err := h.tool(ctx, node, append([]string{"pgbench", "-h", socket, "-p", strconv.Itoa(port), "-U", "postgres"}, append(args, "postgres")...)...)
	if err != nil {
		return 0, err
	}
	m := tpsLine.FindStringSubmatch(out)
	if m == nil {
		if args[0] == "-i" {
			return 0, nil
		}
		return 0, fmt.Errorf("pgbench said nothing of transactions: %s", shorten(out))
	}
	return strconv.ParseFloat(m[1], 64)
}

// cost compares pgbench's TPC-B at hathi's PostgreSQL, without the router, with two bare servers of the
// same settings and as many standbys. A block is one short run of each; every other block goes the
// other way round, so that what drifts favours nobody. hathi's daemons and its PostgreSQL are stopped while a bare server is
// measured: idle, they would be a cost of that side too. The bare servers stay up; an idle one does nothing. The two
// of them side by side tell how much of a difference is noise.
func (b *bench) cost(ctx context.Context, h *hathi, what string) error {
	node := h.names[0]
	port := h.node(node).PostgreSQL
	if len(h.names) > 1 {
		// The bare primaries are on the first node; so must hathi's be.
		if p, err := h.primary(ctx); err != nil {
			return err
		} else if p != node {
			if err := h.switchover(ctx, p, node); err != nil {
				return err
			}
		}
	}
	settings, err := h.settings(ctx, node)
	if err != nil {
		return err
	}
	if _, err := pgbench(ctx, h, node, h.socketDir(node), port, "-i", "-q", "-s", strconv.Itoa(costScale)); err != nil {
		return err
	}
	var bares [2]*bare
	for i := range bares {
		if bares[i], err = startBare(ctx, h, i+1, settings); err != nil {
			return err
		}
	}
	run := boottime.Now().Seconds()
	measure := func(block, server int) error {
		socket, p := h.socketDir(node), port
		if server == 0 {
			if err := h.resume(ctx, node); err != nil {
				return err
			}
		} else {
			if err := h.suspend(); err != nil {
				return err
			}
			s := bares[server-1]
			socket, p = s.socket(node), s.port
		}
		if _, err := h.psql(ctx, node, socket, p, "postgres", "CHECKPOINT"); err != nil {
			return err
		}
		args := []string{"-n", "-M", "prepared", "-c", strconv.Itoa(costClients), "-j", "2", "-T"}
		if _, err := pgbench(ctx, h, node, socket, p, append(args, strconv.Itoa(costWarm))...); err != nil {
			return err
		}
		cpu := cpuTimes()
		tps, err := pgbench(ctx, h, node, socket, p, append(args, strconv.Itoa(b.opts.costSeconds))...)
		if err != nil {
			return err
		}
		b.keep(record{Sample: &sample{What: what, System: h.name(), Values: map[string]float64{"run": run, "block": float64(block), "server": float64(server), "tps": tps, "steal_percent": steal(cpu, cpuTimes())}}})
		return nil
	}
	for i := range b.opts.costBlocks {
		if b.late() {
			break
		}
		order := []int{0, 1, 2}
		switch i % 4 { // the first and the last of neighbouring blocks are the same side, which saves a restart
		case 1:
			order = []int{2, 1, 0}
		case 2:
			order = []int{0, 2, 1}
		case 3:
			order = []int{1, 2, 0}
		}
		for _, server := range order {
			if err := measure(i, server); err != nil {
				return err
			}
		}
		if i%4 == 3 {
			b.say("%s, %d blocks: %s", what, i+1, costOf(b.results, what))
		}
	}
	return nil
}

// suspend stops hathi's daemons on every node, and with them its PostgreSQL; nothing when they are
// stopped.
func (h *hathi) suspend() error {
	for _, name := range []string{"agent", "etcd"} {
		for _, n := range h.names {
			if p := h.hosts[n].procs[name]; p != nil {
				_ = p.cmd.Process.Signal(syscall.SIGTERM)
			}
		}
		for _, n := range h.names {
			p := h.hosts[n].procs[name]
			if p == nil {
				continue
			}
			select {
			case <-p.done:
				delete(h.hosts[n].procs, name)
			case <-time.After(time.Minute):
				return fmt.Errorf("%s of %s did not stop within a minute", name, n)
			}
		}
	}
	return nil
}

// resume starts them again and waits until node is the primary, with every standby there.
func (h *hathi) resume(ctx context.Context, node string) error {
	for _, n := range h.names {
		if h.hosts[n].procs["etcd"] == nil {
			if err := h.startEtcd(n); err != nil {
				return err
			}
		}
		if h.hosts[n].procs["agent"] == nil {
			if err := h.startAgent(n); err != nil {
				return err
			}
		}
	}
	if err := until(ctx, time.Minute, 100*time.Millisecond, "hathi back", h.healthy); err != nil {
		return err
	}
	p, err := h.primary(ctx)
	if err != nil || p == node {
		return err
	}
	if err := h.switchover(ctx, p, node); err != nil {
		return err
	}
	return until(ctx, time.Minute, 100*time.Millisecond, "hathi's primary on "+node, h.healthy)
}
