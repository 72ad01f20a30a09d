package config

import "time"

// Router is the process that clients connect through: `hathi router CONFIG`.
type Router struct {
	// Listen is the host, or several with commas, that write_port and read_port are opened on.
	Listen string `yaml:"listen" default:"127.0.0.1"`
	// WritePort leads to the primary; 0 for none.
	WritePort int `yaml:"write_port" default:"6432" min:"0" max:"65535"`
	// ReadPort leads to replicas that are not too far behind; 0 for none.
	ReadPort int `yaml:"read_port" default:"6433" min:"0" max:"65535"`
	// MaxLag is how far, in bytes of WAL or with kB, MB, GB, a replica may be behind to serve reads.
	MaxLag Size `yaml:"max_lag" default:"16MB" min:"1"`
	// Hold is how long a new connection waits while there is no primary (a switchover) before it
	// gets an error.
	Hold time.Duration `yaml:"hold" default:"10s" min:"50ms" max:"10m"`
	// ConnectTimeout bounds the connection to a node.
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"2s" min:"50ms" max:"1m"`
	// MaxConnections bounds the sessions of all ports together.
	MaxConnections int `yaml:"max_connections" default:"10000" min:"1" max:"1000000"`
	// StatusListen is the HOST:PORT of the status and metrics page; empty for none.
	StatusListen string `yaml:"status_listen"`
}

// Peer is the small endpoint through which nodes ask one another for their live WAL positions.
type Peer struct {
	// Listen is the HOST:PORT to serve on. Default: the host of restapi.listen, its port + 1000.
	Listen string `yaml:"listen"`
	// ConnectAddress is the HOST:PORT at which others reach it. Default: the host of
	// restapi.connect_address, its port + 1000.
	ConnectAddress string `yaml:"connect_address"`
}

// Guardian is the process that stops PostgreSQL when the lease runs out.
type Guardian struct {
	// StateFile is where the guardian keeps its deadline. Default: a file of this data directory's in
	// /dev/shm, which does not wait for a disk.
	StateFile string `yaml:"state_file"`
}
