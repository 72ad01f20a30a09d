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
)

// pgbench's load for the cost.
const (
	costScale   = 10
	costClients = 4
	costSeconds = 15
	costRounds  = 6
)

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+) \(without initial`)

// cost compares pgbench's TPC-B at hathi's PostgreSQL, without standbys and without the router, with
// a bare server of the same settings. They take turns, and neither runs while the other is measured.
// Both are reached over the Unix socket.
func (b *bench) cost(ctx context.Context, h *hathi) error {
	node := h.names[0]
	port := h.node(node).PostgreSQL
	settings, err := h.psql(ctx, node, h.socketDir(node), port, "postgres",
		`SELECT pg_catalog.string_agg(name || ' = ' || pg_catalog.quote_literal(CASE WHEN unit IS NULL THEN setting ELSE pg_catalog.current_setting(name) END), E'\n')
		   FROM pg_catalog.pg_settings WHERE source IN ('configuration file', 'command line') AND context <> 'internal'
		    AND name NOT IN ('data_directory', 'config_file', 'hba_file', 'ident_file', 'external_pid_file', 'listen_addresses', 'port', 'unix_socket_directories',
		        'primary_conninfo', 'primary_slot_name', 'restore_command', 'cluster_name', 'synchronous_standby_names')`)
	if err != nil {
		return err
	}
	bareDir, bareSocket := h.path("bare"), h.path("bare-socket")
	for _, d := range []string{bareDir, bareSocket} {
		if err := errors.Join(os.MkdirAll(d, 0o700), os.Chown(d, int(h.user.uid), int(h.user.gid))); err != nil {
			return err
		}
	}
	run := func(argv ...string) (string, error) {
		cctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		argv[0] = filepath.Join(h.binDir, argv[0])
		out, err := h.hosts[node].command(cctx, h.user, argv...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
		}
		return string(out), nil
	}
	if _, err := run("initdb", "-D", bareDir, "-U", "postgres", "-E", "UTF8", "--data-checksums", "--auth=trust"); err != nil {
		return err
	}
	conf := settings + fmt.Sprintf("\nlisten_addresses = ''\nport = %d\nunix_socket_directories = '%s'\n", port, bareSocket)
	if err := os.WriteFile(filepath.Join(bareDir, "postgresql.auto.conf"), []byte(conf), 0o600); err != nil {
		return err
	}
	if err := os.Chown(filepath.Join(bareDir, "postgresql.auto.conf"), int(h.user.uid), int(h.user.gid)); err != nil {
		return err
	}
	pgbench := func(socket string, args ...string) (float64, error) {
		out, err := run(append([]string{"pgbench", "-h", socket, "-p", strconv.Itoa(port), "-U", "postgres"}, append(args, "postgres")...)...)
		if err != nil {
			return 0, err
		}
		m := tpsLine.FindStringSubmatch(out)
		if m == nil {
			return 0, nil
		}
		return strconv.ParseFloat(m[1], 64)
	}
	measure := func(socket string) (float64, error) {
		if _, err := run("psql", "-X", "-h", socket, "-p", strconv.Itoa(port), "-U", "postgres", "-d", "postgres", "-c", "CHECKPOINT"); err != nil {
			return 0, err
		}
		args := []string{"-n", "-M", "prepared", "-c", strconv.Itoa(costClients), "-j", "2"}
		if _, err := pgbench(socket, append(args, "-T", "3")...); err != nil {
			return 0, err
		}
		return pgbench(socket, append(args, "-T", strconv.Itoa(costSeconds))...)
	}
	bare := func(first bool) (float64, error) {
		if _, err := run("pg_ctl", "-D", bareDir, "-w", "-l", h.path("log", "bare.log"), "start"); err != nil {
			return 0, err
		}
		if first {
			if _, err := pgbench(bareSocket, "-i", "-q", "-s", strconv.Itoa(costScale)); err != nil {
				return 0, err
			}
		}
		tps, err := measure(bareSocket)
		_, stop := run("pg_ctl", "-D", bareDir, "-w", "-m", "fast", "stop")
		return tps, errors.Join(err, stop)
	}
	if _, err := pgbench(h.socketDir(node), "-i", "-q", "-s", strconv.Itoa(costScale)); err != nil {
		return err
	}
	var with, without []float64
	load := loadAverage()
	for i := range costRounds {
		if i > 0 {
			if err := h.powerOn(node); err != nil {
				return err
			}
			if err := until(ctx, time.Minute, 200*time.Millisecond, "hathi back", func(ctx context.Context) error {
				_, err := h.primary(ctx)
				if err != nil {
					return err
				}
				_, err = h.psql(ctx, node, h.socketDir(node), port, "postgres", "SELECT 1/(NOT pg_catalog.pg_is_in_recovery())::int")
				return err
			}); err != nil {
				return err
			}
		}
		a, err := measure(h.socketDir(node))
		if err != nil {
			return err
		}
		for _, name := range []string{"agent", "etcd"} {
			p := h.hosts[node].procs[name]
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-p.done:
			case <-time.After(time.Minute):
				return fmt.Errorf("%s did not stop", name)
			}
		}
		c, err := bare(i == 0)
		if err != nil {
			return err
		}
		with, without = append(with, a), append(without, c)
		b.say("  cost, round %d: %.0f tps with hathi, %.0f bare", i+1, a, c)
	}
	ratio := 100 * (1 - median(with)/median(without))
	b.add(line{System: h.name(), What: "cost", Values: map[string]float64{"tps_hathi": median(with), "tps_bare": median(without), "cost_percent": ratio},
		Text: fmt.Sprintf("pgbench TPC-B, %d clients, %d s, %d rounds each in turn: %.0f tps (%.0f to %.0f) against %.0f (%.0f to %.0f) bare: cost %.1f %% (load average %s to %s)", costClients, costSeconds, costRounds,
			median(with), quantile(with, 0), quantile(with, 1), median(without), quantile(without, 0), quantile(without, 1), ratio, load, loadAverage())})
	return nil
}
