package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// The errors that callers decide on.
var (
	// ErrNotRunning: no postmaster of this data directory runs, or nobody listens on its socket.
	ErrNotRunning = errors.New("PostgreSQL is not running")
	// ErrRunning: a postmaster of this data directory runs already, and the call needs it stopped.
	ErrRunning = errors.New("PostgreSQL is running")
	// ErrStarting: the server answers that it takes no connections yet (57P03).
	ErrStarting = errors.New("PostgreSQL is starting up, shutting down or recovering")
)

// Credential is the operating system user that PostgreSQL runs as.
type Credential struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups
	Home     string
}

// LookupCredential finds a user with its groups.
func LookupCredential(name string) (*Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("look up the operating system user %q for PostgreSQL: %w", name, err)
	}
	c := &Credential{Home: u.HomeDir}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look up the groups of %q: %w", name, err)
	}
	number := func(s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		return uint32(n), err
	}
	if c.UID, err = number(u.Uid); err != nil {
		return nil, fmt.Errorf("look up %q: user id: %w", name, err)
	}
	if c.GID, err = number(u.Gid); err != nil {
		return nil, fmt.Errorf("look up %q: group id: %w", name, err)
	}
	for _, id := range ids {
		g, err := number(id)
		if err != nil {
			return nil, fmt.Errorf("look up %q: group id: %w", name, err)
		}
		c.Groups = append(c.Groups, g)
	}
	return c, nil
}

// Login is a database role with what it needs to sign in.
type Login struct {
	Username, Password string
	// SSLMode and the files are libpq's; empty means libpq's default.
	SSLMode, SSLCert, SSLKey, SSLRootCert string
}

// Config describes one PostgreSQL. DataDir, SocketDir, Port and the usernames are required.
type Config struct {
	// DataDir is the data directory, an absolute path. It may be a symbolic link.
	DataDir string
	// BinDir holds postgres and its programs; empty: FindBinDir chooses.
	BinDir string
	// SocketDir is the directory of the unix socket. It must exist.
	SocketDir string
	// Port of the server, which is also in the name of the socket.
	Port int
	// ListenAddresses is PostgreSQL's listen_addresses; empty listens on the socket alone.
	ListenAddresses string
	// RunAs is the user to run PostgreSQL and its programs as; nil: this process' own. Another
	// one takes root.
	RunAs *Credential
	// PassFile is where the password file for libpq is kept (mode 0600), outside the data
	// directory; empty: DataDir + ".pgpass".
	PassFile string
	// Superuser signs in over the socket; Replication streams; Rewind reads for pg_rewind.
	Superuser, Replication, Rewind Login
	// LogFile takes the output of the server, appended; empty: DataDir + ".log".
	LogFile string
	// Logger; nil: slog.Default().
	Logger *slog.Logger
	// SQLTimeout bounds each statement of ours (not CHECKPOINT); 0: 5 s.
	SQLTimeout time.Duration
}

// Server is one PostgreSQL, running or not.
type Server struct {
	cfg Config
	log *slog.Logger

	mu sync.Mutex
	pm *Postmaster // the one that was started or adopted last; nil before

	connMu chan struct{} // a lock that can be waited for with a context; guards conn
	conn   *pgx.Conn     // the reserved connection
}

// New fills in defaults. It touches nothing.
func New(c Config) *Server {
	if c.SQLTimeout == 0 {
		c.SQLTimeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.DataDir = filepath.Clean(c.DataDir)
	if c.PassFile == "" {
		c.PassFile = c.DataDir + ".pgpass"
	}
	if c.LogFile == "" {
		c.LogFile = c.DataDir + ".log"
	}
	s := &Server{cfg: c, log: c.Logger, connMu: make(chan struct{}, 1)}
	return s
}

// Close lets go of PostgreSQL: its connections and the watch on its postmaster, which lives on.
// It may be called twice.
func (s *Server) Close() error {
	s.dropConn()
	s.mu.Lock()
	pm := s.pm
	s.mu.Unlock()
	if pm != nil {
		return pm.watch.Close()
	}
	return nil
}

// DataDir is the data directory as configured.
func (s *Server) DataDir() string { return s.cfg.DataDir }

// dataDir is the data directory with symbolic links resolved, so that what is made beside it lies
// on the same file system.
func (s *Server) dataDir() string {
	if real, err := filepath.EvalSymlinks(s.cfg.DataDir); err == nil {
		return real
	}
	return s.cfg.DataDir
}

// attr is how programs of PostgreSQL are started.
func (s *Server) attr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{}
	if r := s.cfg.RunAs; r != nil {
		a.Credential = &syscall.Credential{Uid: r.UID, Gid: r.GID, Groups: r.Groups}
	}
	return a
}

// owner is the user and group of the files PostgreSQL reads; -1 for this process' own.
func (s *Server) owner() (uid, gid int) {
	if r := s.cfg.RunAs; r != nil {
		return int(r.UID), int(r.GID)
	}
	return -1, -1
}

// chown gives path to the user PostgreSQL runs as.
func (s *Server) chown(path string) error {
	if s.cfg.RunAs == nil {
		return nil
	}
	uid, gid := s.owner()
	return os.Lchown(path, uid, gid)
}

// environ is the whole environment of a program of PostgreSQL: nothing of ours is passed on.
func (s *Server) environ(extra ...string) []string {
	home := "/"
	if r := s.cfg.RunAs; r != nil && r.Home != "" {
		home = r.Home
	} else if h := os.Getenv("HOME"); r == nil && h != "" {
		home = h
	}
	return append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "LC_ALL=C"}, extra...)
}
