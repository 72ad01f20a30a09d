package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/postgres"
	"github.com/hathi-ha/hathi/internal/quorum"
)

// answerWithin bounds the wait for a new server to answer.
const answerWithin = 5 * time.Minute

// Bootstrap makes a new cluster: data directory, first start, roles, and the operator's own script.
// The server is left running as a primary. What a failure leaves is set aside.
func (i *Instance) Bootstrap(ctx context.Context, c cluster.Settings) (err error) {
	defer i.say("")
	i.making.Store(true)
	defer func() {
		if err == nil {
			i.bind(ctx)
		}
		i.making.Store(false)
	}()
	defer func() {
		if err == nil {
			return
		}
		clean := context.WithoutCancel(ctx)
		kctx, cancel := context.WithTimeout(clean, 10*time.Second)
		defer cancel()
		err = errors.Join(err, i.pg.KillAll(kctx))
		if state, _, serr := i.pg.DataState(); serr == nil && state != postgres.DataEmpty {
			if path, aerr := i.pg.SetAside("bootstrap-failed"); aerr == nil {
				err = fmt.Errorf("%w (what was made is kept in %s)", err, path)
			}
		}
		i.forget()
	}()
	if err := i.makeDirectory(ctx); err != nil {
		return err
	}
	i.forget()
	i.say("first start")
	spec := node.StartSpec{Primary: true, Settings: c, Members: map[string]cluster.Member{}, Rule: quorum.Rule{}}
	if err := i.Start(ctx, spec); err != nil {
		return err
	}
	if err := i.waitUp(ctx); err != nil {
		return err
	}
	i.say("roles")
	if _, err := i.pg.EnsureRoles(ctx); err != nil {
		return err
	}
	b := i.file().Bootstrap
	script := b.PostBootstrap
	if script == "" {
		script = b.PostInit
	}
	if script == "" {
		return nil
	}
	i.say("post_bootstrap")
	return i.command(ctx, "post_bootstrap", script, i.localURL())
}

func (i *Instance) makeDirectory(ctx context.Context) error {
	b := i.file().Bootstrap
	if b.Method != "" && b.Method != "initdb" {
		m, ok := b.Section(b.Method)
		if !ok {
			return fmt.Errorf("bootstrap.method: there is no section bootstrap.%s", b.Method)
		}
		i.say("bootstrap method %s", b.Method)
		return i.command(ctx, "bootstrap method "+b.Method, m.Command,
			append([]string{"--scope=" + i.file().Scope, "--datadir=" + i.c.DataDir}, optionArgs(m.Options)...)...)
	}
	i.say("initdb")
	o := postgres.InitdbOptions{}
	for _, opt := range config.Options(b.InitDB) {
		switch opt.Name {
		case "encoding":
			o.Encoding = opt.Value
		case "locale":
			o.Locale = opt.Value
		case "data-checksums":
		case "no-data-checksums":
			o.NoChecksums = true
		case "auth", "auth-host", "auth-local", "pwfile", "pgdata", "username", "pwprompt":
			// hathi sets these itself: SCRAM, and the superuser of the configuration.
		default:
			arg := "--" + opt.Name
			if opt.Value != "" {
				arg += "=" + opt.Value
			}
			o.ExtraArgs = append(o.ExtraArgs, arg)
		}
	}
	return i.pg.Initdb(ctx, o, func(line string) { i.say("initdb: %s", line) })
}

// waitUp waits until the server answers as a primary.
func (i *Instance) waitUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		db := i.Observe(ctx)
		switch {
		case db.Phase == ha.Up && db.Primary:
			return nil
		case db.Phase == ha.Down:
			return fmt.Errorf("PostgreSQL ended at its first start: %s", db.Failure)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for PostgreSQL to answer at its first start: %w", context.Cause(ctx))
		}
	}
}

// cloneBy tries the replica methods in the order of the file.
func (i *Instance) cloneBy(ctx context.Context, src postgres.From, from node.Upstream) error {
	methods := i.file().PostgreSQL.CreateReplicaMethods
	if len(methods) == 0 {
		methods = []string{"basebackup"}
	}
	var errs []error
	for _, name := range methods {
		var err error
		if name == "basebackup" {
			err = i.pg.BaseBackup(ctx, src, postgres.BaseBackupOptions{ExtraArgs: basebackupArgs(i.file().PostgreSQL.BaseBackup)},
				i.bytesProgress("copying from "+from.Name))
		} else {
			err = i.customClone(ctx, name, from)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("replica method %s: %w", name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func basebackupArgs(v any) []string {
	var args []string
	for _, o := range config.Options(v) {
		switch o.Name {
		case "checkpoint", "progress", "wal-method", "pgdata", "format", "no-password":
			continue // stated by hathi
		}
		arg := "--" + o.Name
		if o.Value != "" {
			arg += "=" + o.Value
		}
		args = append(args, arg)
	}
	return args
}

func (i *Instance) customClone(ctx context.Context, name string, from node.Upstream) error {
	m, ok := i.file().PostgreSQL.ReplicaMethod(name)
	if !ok || m.Command == "" {
		return fmt.Errorf("there is no section postgresql.%s with a command", name)
	}
	for _, k := range []string{"no_leader", "no_master", "keep_data", "no_params", "keep_existing_recovery_conf"} {
		delete(m.Options, k)
	}
	args := append([]string{"--scope=" + i.file().Scope, "--role=replica", "--datadir=" + i.c.DataDir,
		fmt.Sprintf("--connstring=host=%s port=%s user=%s", from.Host, from.Port, i.c.Replication)}, optionArgs(m.Options)...)
	if err := i.command(ctx, "replica method "+name, m.Command, args...); err != nil {
		return err
	}
	if state, why, err := i.pg.DataState(); err != nil || state != postgres.DataValid {
		return fmt.Errorf("the command succeeded, but left no data directory: %s", why)
	}
	return nil
}

func optionArgs(options map[string]any) []string {
	var args []string
	for _, o := range config.Options(options) {
		args = append(args, "--"+o.Name+"="+o.Value)
	}
	return args
}

// localURL is a connection string over the local socket, without the password.
func (i *Instance) localURL() string { return i.pg.LocalConninfo() }

// Command runs an operator's command of the configuration file; see command.
func (i *Instance) Command(ctx context.Context, what, text string, args ...string) error {
	return i.command(ctx, what, text, args...)
}

// command runs an operator's command from the configuration file: split like a shell would, without
// a shell, with arguments appended, as the user of the server.
func (i *Instance) command(ctx context.Context, what, text string, more ...string) error {
	argv, err := splitWords(text)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if len(argv) == 0 {
		return fmt.Errorf("%s: the command is empty", what)
	}
	argv = append(argv, more...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(i.pg.Environ(), "PGPASSFILE="+i.pg.PassFile(), "PATH="+os.Getenv("PATH"))
	cmd.SysProcAttr = i.pg.Attr()
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &tail{buf: &out}, &tail{buf: &out}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %s: %w: %s", what, argv[0], err, strings.TrimSpace(out.String()))
	}
	return nil
}

// tail keeps the last part of what a command prints.
type tail struct{ buf *bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - 4096; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

// splitWords splits a command the way a POSIX shell splits words: blanks, quotes, backslashes; no
// expansion of any kind.
func splitWords(s string) ([]string, error) {
	var words []string
	var word []rune
	in, quote, escaped := false, rune(0), false
	for _, r := range s {
		switch {
		case escaped:
			if quote == '"' && !slices.Contains([]rune{'"', '\\', '$', '`'}, r) {
				word = append(word, '\\')
			}
			word, escaped, in = append(word, r), false, true
		case r == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word = append(word, r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if in {
				words, word, in = append(words, string(word)), nil, false
			}
		default:
			word, in = append(word, r), true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("unfinished quotation in the command %q", s)
	}
	if in {
		words = append(words, string(word))
	}
	return words, nil
}
