package config

// Config is the whole configuration of one node. Load makes it; it is not modified afterwards.
type Config struct {
	// Scope is the name of the cluster. All nodes of a cluster have the same.
	Scope string `yaml:"scope"`
	// Namespace is the folder of the store that holds the cluster's keys: NAMESPACE/SCOPE/.
	Namespace string `yaml:"namespace" default:"/service/"`
	// Name is the name of this node, different on every node of the cluster.
	Name string `yaml:"name"`
	// RuntimeDir is a private directory for sockets, the guardian's state and password files. It
	// must belong to the user that runs hathi. Without it, a folder beside the data directory is used.
	RuntimeDir string `yaml:"runtime_dir"`

	Log        Log        `yaml:"log"`
	RestAPI    RestAPI    `yaml:"restapi"`
	Ctl        Ctl        `yaml:"ctl"`
	Etcd3      Etcd3      `yaml:"etcd3"`
	Etcd       Etcd       `yaml:"etcd"`
	Bootstrap  Bootstrap  `yaml:"bootstrap"`
	PostgreSQL PostgreSQL `yaml:"postgresql"`
	Watchdog   Watchdog   `yaml:"watchdog"`
	// Tags are published with the member: nofailover, failover_priority, nosync, sync_priority,
	// noloadbalance, clonefrom, nostream, replicatefrom, and any of your own.
	Tags     map[string]any `yaml:"tags"`
	Citus    *Citus         `yaml:"citus"`
	Router   *Router        `yaml:"router"`
	Peer     Peer           `yaml:"peer"`
	Guardian Guardian       `yaml:"guardian"`
	// ThreadPoolSize is accepted for Patroni's sake and has no effect.
	ThreadPoolSize int `yaml:"thread_pool_size"`
	// ThreadStackSize is accepted for Patroni's sake and has no effect.
	ThreadStackSize int `yaml:"thread_stack_size"`

	lines   map[string]int    // path of every stated setting to its line; 0 from the environment
	sources map[string]string // path to the environment variable that stated it
}

// Log says what is logged and where.
type Log struct {
	// Level is the least severe level that is logged.
	Level string `yaml:"level" default:"INFO" enum:"DEBUG,INFO,WARN,WARNING,ERROR,FATAL,CRITICAL"`
	// Type is plain for text lines, json for one JSON object per line.
	Type string `yaml:"type" default:"plain" enum:"plain,json"`
	// Dir is a directory for log files; without it the log goes to standard error.
	Dir string `yaml:"dir"`
	// FileSize is the size in bytes at which a log file is rotated.
	FileSize int64 `yaml:"file_size" default:"25000000" min:"0"`
	// FileNum is the number of rotated log files kept.
	FileNum int `yaml:"file_num" default:"4" min:"0"`
	// Mode is the permission of log files, as a number.
	Mode int `yaml:"mode" min:"0" max:"511"`
	// TracebackLevel is accepted for Patroni's sake and has no effect.
	TracebackLevel string `yaml:"traceback_level"`
	// Format is a Python logging format in Patroni; it is accepted and has no effect.
	Format any `yaml:"format"`
	// DateFormat is accepted for Patroni's sake and has no effect.
	DateFormat string `yaml:"dateformat"`
	// MaxQueueSize is accepted for Patroni's sake and has no effect.
	MaxQueueSize int `yaml:"max_queue_size"`
	// StaticFields are added to every line of a JSON log.
	StaticFields map[string]any `yaml:"static_fields"`
	// Loggers maps Python logger names to levels in Patroni; it is accepted and has no effect.
	Loggers map[string]any `yaml:"loggers"`
	// DeduplicateHeartbeatLogs is accepted for Patroni's sake; hathi logs changes only.
	DeduplicateHeartbeatLogs bool `yaml:"deduplicate_heartbeat_logs"`
}

// RestAPI is the HTTP interface of the agent.
type RestAPI struct {
	// Listen is the address and port to serve on, HOST:PORT. Default: the host of
	// postgresql.connect_address, port 8008.
	Listen string `yaml:"listen"`
	// ConnectAddress is the HOST:PORT at which others reach this node's REST API.
	// Default: listen, unless that is a wildcard; then the host of postgresql.connect_address.
	ConnectAddress string `yaml:"connect_address"`
	// CertFile is the server certificate (PEM). It switches HTTPS on.
	CertFile string `yaml:"certfile"`
	// KeyFile is the key of certfile (PEM), when that file does not hold it.
	KeyFile string `yaml:"keyfile"`
	// KeyFilePassword is accepted for Patroni's sake; encrypted keys are not read.
	KeyFilePassword Secret `yaml:"keyfile_password"`
	// CAFile holds the authorities (PEM) that client certificates must come from; members show each other
	// theirs on the peer port, so it is needed beside certfile.
	CAFile string `yaml:"cafile"`
	// Ciphers is accepted for Patroni's sake; hathi serves TLS 1.2 and later with Go's choice.
	Ciphers string `yaml:"ciphers"`
	// VerifyClient asks for client certificates: none, optional (for actions only) or required.
	VerifyClient string `yaml:"verify_client" default:"none" enum:"none,optional,required"`
	// Authentication is the user and password that actions ask for.
	Authentication Login `yaml:"authentication"`
	// Allowlist are addresses or networks that may call actions; empty for all.
	Allowlist []string `yaml:"allowlist"`
	// AllowlistIncludeMembers adds the members of the cluster to allowlist.
	AllowlistIncludeMembers bool `yaml:"allowlist_include_members"`
	// HTTPExtraHeaders is accepted for Patroni's sake and has no effect.
	HTTPExtraHeaders map[string]string `yaml:"http_extra_headers"`
	// HTTPSExtraHeaders is accepted for Patroni's sake and has no effect.
	HTTPSExtraHeaders map[string]string `yaml:"https_extra_headers"`
	// RequestQueueSize is accepted for Patroni's sake and has no effect.
	RequestQueueSize int `yaml:"request_queue_size" min:"0" max:"4096"`
	// ServerTokens is accepted for Patroni's sake; hathi sends no Server header.
	ServerTokens string `yaml:"server_tokens"`
	// ThreadPoolSize is accepted for Patroni's sake and has no effect.
	ThreadPoolSize int `yaml:"thread_pool_size"`
}

// Login is a user name and a password.
type Login struct {
	// Username is the name to sign in with.
	Username string `yaml:"username"`
	// Password belongs to username.
	Password Secret `yaml:"password"`
}

// Ctl is how commands and other nodes call REST APIs.
type Ctl struct {
	// Insecure skips the check of server certificates. For tests only.
	Insecure bool `yaml:"insecure"`
	// CACert holds the authorities (PEM) that server certificates must come from. Default: restapi.cafile.
	CACert string `yaml:"cacert"`
	// CertFile is the client certificate (PEM). Default: restapi.certfile.
	CertFile string `yaml:"certfile"`
	// KeyFile is the key of certfile. Default: restapi.keyfile.
	KeyFile string `yaml:"keyfile"`
	// KeyFilePassword is accepted for Patroni's sake; encrypted keys are not read.
	KeyFilePassword Secret `yaml:"keyfile_password"`
	// Authentication signs in to REST APIs. Default: restapi.authentication.
	Authentication Login `yaml:"authentication"`
}

// Watchdog is Patroni's section for the kernel's watchdog device, which this release does not use.
type Watchdog struct {
	// Mode is off, automatic or required. None has an effect; required is refused.
	Mode string `yaml:"mode" default:"automatic" enum:"off,automatic,required"`
	// Device is the path of the watchdog. It has no effect.
	Device string `yaml:"device" default:"/dev/watchdog"`
	// SafetyMargin is how many seconds before the end of the lease the watchdog fires; -1 for half
	// of the lease.
	SafetyMargin int `yaml:"safety_margin" default:"5" min:"-1"`
	// Driver is default, or testing for a FIFO in place of a device.
	Driver string `yaml:"driver" default:"default"`
}

// Citus makes the cluster a part of a Citus cluster.
type Citus struct {
	// Group is 0 for the coordinator, 1 and up for workers.
	Group int `yaml:"group" min:"0" max:"65535"`
	// Database is the distributed database.
	Database string `yaml:"database"`
	// Databases are the distributed databases, where there are several.
	Databases []string `yaml:"databases"`
}

// Names are the distributed databases, Database first, without repetition.
func (c *Citus) Names() []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, n := range append([]string{c.Database}, c.Databases...) {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}
