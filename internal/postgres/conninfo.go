package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

// Conninfo is a connection string of libpq, in order. Empty values are left out.
type Conninfo [][2]string

// String quotes each value, so that blanks, quotes and backslashes survive.
func (c Conninfo) String() string {
	var b strings.Builder
	for _, kv := range c {
		if kv[1] == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(kv[0])
		b.WriteString("='")
		b.WriteString(conninfoEscaper.Replace(kv[1]))
		b.WriteByte('\'')
	}
	return b.String()
}

var conninfoEscaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// From is another server to copy from or to follow.
type From struct {
	Host string
	Port int
	// Login signs in; with an empty Username the role that fits the call is used (Replication for
	// a base backup, Rewind for a rewind).
	Login
}

// conninfo has no password: libpq takes it from the password file.
func (f From) conninfo(passFile, application string) Conninfo {
	return Conninfo{
		{"host", f.Host}, {"port", strconv.Itoa(f.Port)}, {"user", f.Username},
		{"passfile", passFile}, {"sslmode", f.SSLMode}, {"sslcert", f.SSLCert}, {"sslkey", f.SSLKey},
		{"sslrootcert", f.SSLRootCert}, {"application_name", application}, {"connect_timeout", "5"},
		{"keepalives_idle", "5"}, {"keepalives_interval", "2"}, {"keepalives_count", "3"},
		{"tcp_user_timeout", "10000"},
	}
}

// PrimaryConninfo is the value of primary_conninfo for following from: the replication login, the
// password by way of the password file, and dead peers noticed within about ten seconds.
func (s *Server) PrimaryConninfo(from From, application string) string {
	if from.Username == "" {
		from.Login = s.cfg.Replication
	}
	return from.conninfo(s.cfg.PassFile, application).String()
}

// PassEntry is a line of a password file. Empty fields match everything ("*").
type PassEntry struct {
	Host, Port, Database, User, Password string
}

// FormatPassFile is the content of a password file, with ':' and '\' escaped. A newline in a field
// cannot be written and is an error, which does not quote the password.
func FormatPassFile(entries []PassEntry) ([]byte, error) {
	var b strings.Builder
	for _, e := range entries {
		for i, f := range []string{e.Host, e.Port, e.Database, e.User, e.Password} {
			if strings.ContainsAny(f, "\n\r\x00") {
				return nil, fmt.Errorf("write password file: the entry of user %q has a line break in it, which libpq cannot read", e.User)
			}
			if i > 0 {
				b.WriteByte(':')
			}
			if f == "" && i < 4 {
				b.WriteByte('*')
				continue
			}
			b.WriteString(passEscaper.Replace(f))
		}
		b.WriteByte('\n')
	}
	return []byte(b.String()), nil
}

var passEscaper = strings.NewReplacer(`\`, `\\`, `:`, `\:`)

// WritePassFile brings the password file up to date with the logins. BaseBackup, Rewind and
// WriteFiles do it themselves.
func (s *Server) WritePassFile() error { return s.writePassFile() }

func (s *Server) writePassFile(more ...PassEntry) error {
	entries := more
	// The first line that matches counts, so the order is that of EnsureRoles.
	for _, l := range []Login{s.cfg.Superuser, s.cfg.Replication, s.cfg.Rewind} {
		if l.Username != "" && l.Password != "" {
			entries = append(entries, PassEntry{User: l.Username, Password: l.Password})
		}
	}
	b, err := FormatPassFile(entries)
	if err != nil {
		return err
	}
	if _, err := s.install(s.cfg.PassFile, b, 0o600); err != nil {
		return fmt.Errorf("write password file: %w", err)
	}
	return nil
}

// install writes a file for PostgreSQL to read, if it is not already so.
func (s *Server) install(path string, data []byte, perm os.FileMode) (changed bool, err error) {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == string(data) {
		info, err := os.Lstat(path)
		if err == nil && info.Mode() == perm && s.owns(info) {
			return false, nil
		}
	}
	uid, gid := s.owner()
	return true, atomicfile.WriteOwned(filepath.Clean(path), data, perm, uid, gid)
}
