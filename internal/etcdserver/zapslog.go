package etcdserver

import (
	"context"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger passes etcd's warnings and errors on to log.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(&core{handler: log.Handler()})
}

// core is a zapcore.Core over a slog.Handler. Fields of zap that slog has no word for are passed
// on as zap's map encoder renders them.
type core struct {
	handler slog.Handler
	fields  []zapcore.Field
}

// noise are warnings about things that we chose, or that etcd says at every start.
var noise = []string{
	"Running http and grpc server on single port",
	"simple token is not cryptographically signed",
	// Before the first snapshot of new data.
	"Failed to detect schema version",
	"failed to update storage version",
}

// Enabled leaves out etcd's running commentary.
func (c *core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.WarnLevel && c.handler.Enabled(context.Background(), level(l))
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{handler: c.handler, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return ce
	}
	return ce.AddCore(e, c)
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	for _, n := range noise {
		if strings.HasPrefix(e.Message, n) {
			return nil
		}
	}
	t := e.Time
	if t.IsZero() {
		t = time.Now()
	}
	rec := slog.NewRecord(t, level(e.Level), "etcd: "+e.Message, 0)
	for _, list := range [][]zapcore.Field{c.fields, fields} {
		for _, f := range list {
			enc := zapcore.NewMapObjectEncoder()
			f.AddTo(enc)
			for k, v := range enc.Fields {
				rec.AddAttrs(slog.Any(k, v))
			}
		}
	}
	if e.Level > zapcore.ErrorLevel {
		rec.AddAttrs(slog.String("hint", lastWords(rec)))
	}
	return c.handler.Handle(context.Background(), rec)
}

// lastWords is what to do when etcd ends the process with this record.
func lastWords(rec slog.Record) string {
	full := strings.Contains(rec.Message, syscall.ENOSPC.Error())
	rec.Attrs(func(a slog.Attr) bool {
		full = full || strings.Contains(a.Value.String(), syscall.ENOSPC.Error())
		return !full
	})
	if full {
		return "this member ends, because its disk is full: make room below etcd.embedded.data_dir and start it again, it goes on where it was; the others go on while they are more than half"
	}
	return "this member ends, because it cannot go on with its files; start it again, and if it ends again, give it a new identity and an empty directory " +
		"(etcdctl member remove, then member add, at a running member); the others go on while they are more than half"
}

func (c *core) Sync() error { return nil }
