package postgres

import (
	"strconv"
	"syscall"
)

// LocalConninfo is a connection string over the local socket as the superuser, without the password:
// libpq takes that from PassFile.
func (s *Server) LocalConninfo() string {
	return Conninfo{{"host", s.cfg.SocketDir}, {"port", strconv.Itoa(s.cfg.Port)}, {"user", s.cfg.Superuser.Username}, {"dbname", "postgres"}}.String()
}

// PassFile is the password file that WriteFiles keeps.
func (s *Server) PassFile() string { return s.cfg.PassFile }

// Environ is the environment that programs of PostgreSQL get; nothing of ours is passed on.
func (s *Server) Environ() []string { return s.environ() }

// Attr makes a process run as the user of the server.
func (s *Server) Attr() *syscall.SysProcAttr { return s.attr() }
