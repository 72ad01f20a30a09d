package instance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/pgconf"
	"github.com/hathi-ha/hathi/internal/postgres"
)

// writeFiles makes the configuration files for the wanted role and installs them. It returns the
// settings for the command line. files is held: what was written last must be made of the role as it
// was set last, or a Hold could be undone by a Configure that began before it. See reloadQuick for quick.
func (i *Instance) writeFiles(ctx context.Context, standby, quick bool) (map[string]string, error) {
	i.form.Lock()
	r := i.role
	if !quick {
		r.replayAsks = pgconf.Control{} // read it again
	}
	i.form.Unlock()
	in, err := i.input(ctx, r, standby)
	if err != nil {
		return nil, err
	}
	if standby {
		i.form.Lock()
		i.role.replayAsks = in.Control
		i.form.Unlock()
	}
	files, err := pgconf.Build(in)
	if err != nil {
		return nil, err
	}
	for _, w := range files.Warnings {
		i.warnOnce(w)
	}
	changed, err := i.pg.WriteFiles(postgres.Files{Conf: files.Conf, HBA: files.HBA, Ident: files.Ident, Standby: standby})
	if err != nil {
		return nil, err
	}
	i.look.Lock()
	i.last.pending = files.PendingRestart
	i.look.Unlock()
	if changed.Any() {
		i.c.Log.Debug("configuration files written", "conf", changed.Conf, "hba", changed.HBA, "ident", changed.Ident, "signal", changed.Signal)
	}
	return files.CommandLine, nil
}

// reload writes the files for a running server and has it read them.
func (i *Instance) reload(ctx context.Context, standby bool) error {
	i.files.Lock()
	defer i.files.Unlock()
	command, err := i.writeFiles(ctx, standby, false)
	if err != nil {
		return err
	}
	i.notePending(ctx, command)
	return i.pg.Reload(ctx)
}

// reloadQuick is reload for what a take-over waits for: a changed upstream or synchronous rule. What
// WAL replay asks of the settings is taken from the last time; a program would have to be run to
// learn it, and these settings take a restart anyhow.
func (i *Instance) reloadQuick(ctx context.Context, standby bool) error {
	i.files.Lock()
	defer i.files.Unlock()
	if _, err := i.writeFiles(ctx, standby, true); err != nil {
		return err
	}
	return i.pg.Reload(ctx)
}

// notePending notes the settings given on the command line whose wanted value differs from the one
// in force: PostgreSQL cannot know of them.
func (i *Instance) notePending(ctx context.Context, command map[string]string) {
	live, err := i.pg.Settings(ctx, slices.Sorted(maps.Keys(command)))
	if err != nil {
		return
	}
	i.look.Lock()
	defer i.look.Unlock()
	pending := maps.Clone(i.last.pending)
	for name, want := range command {
		got, ok := live[name]
		if !ok || sameSetting(got, want) {
			continue
		}
		if pending == nil {
			pending = map[string]cluster.PendingReason{}
		}
		pending[name] = cluster.PendingReason{OldValue: got, NewValue: want}
	}
	i.last.pending = pending
}

// sameSetting compares a value as SHOW prints it with a wanted one, for the settings that stand on
// the command line: words, numbers and booleans.
func sameSetting(a, b string) bool {
	norm := func(s string) string {
		s = strings.ToLower(strings.TrimSpace(s))
		switch s {
		case "true", "yes", "1":
			return "on"
		case "false", "no", "0":
			return "off"
		}
		return strings.ReplaceAll(s, " ", "")
	}
	return norm(a) == norm(b) || a == b
}

func (i *Instance) warnOnce(w string) {
	i.form.Lock()
	defer i.form.Unlock()
	if i.warned == nil {
		i.warned = map[string]bool{}
	}
	if !i.warned[w] {
		i.warned[w] = true
		i.c.Log.Warn("configuration", "warning", w)
	}
}

// input gathers what the files depend on.
func (i *Instance) input(ctx context.Context, r role, standby bool) (pgconf.Input, error) {
	p := i.file().PostgreSQL
	v, err := i.version(ctx)
	if err != nil {
		return pgconf.Input{}, err
	}
	hosts, port, err := p.ListenHosts()
	if err != nil {
		return pgconf.Input{}, fmt.Errorf("postgresql.listen: %w", err)
	}
	in := pgconf.Input{
		Settings:      r.settings,
		Parameters:    parameters(p.Parameters),
		PgHBA:         p.PgHBA,
		PgIdent:       p.PgIdent,
		ServerVersion: v.Num(),
		SyncFS:        postgres.SyncFSTells(),
		Base:          i.base(),
		Include:       p.CustomConf,
		Node:          pgconf.Node{Scope: i.file().Scope, Listen: hosts, Port: port, SocketDir: i.c.SocketDir},
		Primary:       !standby,
		Access: pgconf.Access{Superuser: p.Authentication.Superuser.Username, Replication: p.Authentication.Replication.Username,
			Rewind: p.Authentication.Rewind.Username, OSUsers: i.osUsers(), Allow: p.Allow},
		SynchronousStandbyNames: r.rule.String(),
	}
	if on, _ := cluster.ParameterText(p.Parameters["ssl"]); on == "on" || on == "true" {
		in.TLS = pgconf.TLS{Cert: in.Parameters["ssl_cert_file"], Key: in.Parameters["ssl_key_file"], CA: in.Parameters["ssl_ca_file"]}
	}
	more := p.ParametersReplica
	if !standby {
		more = p.ParametersPrimary
	}
	maps.Copy(in.Parameters, parameters(more))
	// A member that is away keeps its entry: its key is gone with its lease, and it has to get in to
	// rejoin.
	i.form.Lock()
	for _, m := range r.members {
		if host, _, err := m.HostPort(); err == nil {
			if i.hosts == nil {
				i.hosts = map[string]bool{}
			}
			i.hosts[host] = true
		}
	}
	in.Access.Members = slices.Collect(maps.Keys(i.hosts))
	i.form.Unlock()
	slices.Sort(in.Access.Members)
	for name, value := range p.RecoveryConf {
		if text, ok := cluster.ParameterText(value); ok && standby {
			in.Parameters[strings.ToLower(name)] = text
		}
	}
	if standby {
		i.standbyInput(ctx, r, &in)
	}
	return in, nil
}

// version asks the installed programs once: a new major version takes another data directory.
func (i *Instance) version(ctx context.Context) (postgres.Version, error) {
	i.form.Lock()
	defer i.form.Unlock()
	if i.installed.Major != 0 {
		return i.installed, nil
	}
	v, err := i.pg.Version(ctx)
	if err == nil {
		i.installed = v
	}
	return v, err
}

func (i *Instance) standbyInput(ctx context.Context, r role, in *pgconf.Input) {
	if r.upstream.Name != "" {
		repl := i.file().PostgreSQL.Authentication.Replication
		port, _ := strconv.Atoi(r.upstream.Port)
		c := pgconf.Conninfo{Host: r.upstream.Host, Port: port, User: repl.Username, ApplicationName: i.file().Name, PassFile: i.pg.PassFile(),
			SSLMode: repl.SSLMode, SSLCert: repl.SSLCert, SSLKey: repl.SSLKey, SSLRootCert: repl.SSLRootCert, SSLCRL: repl.SSLCRL,
			SSLCRLDir: repl.SSLCRLDir, SSLNegotiation: repl.SSLNegotiation, GSSEncMode: repl.GSSEncMode, ChannelBinding: repl.ChannelBinding,
			Timeout: r.settings.TTL}
		in.Standby.Conninfo = c.String()
		if r.settings.UseSlots {
			in.Standby.SlotName = cluster.SlotName(i.file().Name)
		}
	}
	if r.replayAsks != (pgconf.Control{}) {
		in.Control = r.replayAsks
		return
	}
	if cd, err := i.pg.Control(ctx); err == nil {
		in.Control = pgconf.Control{MaxConnections: cd.MaxConnections, MaxWorkerProcesses: cd.MaxWorkerProcesses, MaxWALSenders: cd.MaxWALSenders,
			MaxPreparedTransactions: cd.MaxPreparedXacts, MaxLocksPerTransaction: cd.MaxLocksPerXact}
	}
}

func parameters(m map[string]any) map[string]string {
	out := map[string]string{}
	for name, v := range m {
		if text, ok := cluster.ParameterText(v); ok {
			out[strings.ToLower(name)] = text
		}
	}
	return out
}

// baseFile keeps the configuration that initdb made, beside the generated one.
const baseFile = "postgresql.base.conf"

// base are the settings of the file that initdb made. The first time it is moved aside.
func (i *Instance) base() map[string]string {
	path := filepath.Join(i.c.DataDir, baseFile)
	if _, err := os.Stat(path); err != nil {
		conf := filepath.Join(i.c.DataDir, "postgresql.conf")
		b, err := os.ReadFile(conf)
		if err != nil || pgconf.Generated(string(b)) {
			return nil
		}
		if err := os.Rename(conf, path); err != nil {
			i.c.Log.Warn("the original postgresql.conf could not be kept", "err", err)
			return nil
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	base, err := pgconf.ParseConf(string(b))
	if err != nil {
		i.c.Log.Warn("the original postgresql.conf cannot be read", "err", err)
	}
	return base
}

// osUsers are the operating-system users that may become the superuser over the socket: the one
// that PostgreSQL runs as and the one that hathi runs as.
func (i *Instance) osUsers() []string {
	var out []string
	add := func(id string) {
		if u, err := user.LookupId(id); err == nil && !slices.Contains(out, u.Username) {
			out = append(out, u.Username)
		}
	}
	add(strconv.Itoa(os.Geteuid()))
	if info, err := os.Stat(i.c.DataDir); err == nil {
		if uid, ok := ownerOf(info); ok {
			add(strconv.Itoa(uid))
		}
	}
	return out
}
