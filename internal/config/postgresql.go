package config

// PostgreSQL is the server that this node runs.
type PostgreSQL struct {
	// Listen are the addresses and the port to listen on, HOST[,HOST]:PORT.
	Listen string `yaml:"listen"`
	// ConnectAddress is the HOST:PORT at which others reach this node's PostgreSQL.
	// Default: the first host of listen, unless that is a wildcard.
	ConnectAddress string `yaml:"connect_address"`
	// ProxyAddress is the HOST:PORT of a proxy or pooler in front of it, published for tools.
	ProxyAddress string `yaml:"proxy_address"`
	// DataDir is the data directory, an absolute path. hathi initializes it; it must be empty or
	// hold a cluster of this scope.
	DataDir string `yaml:"data_dir"`
	// ConfigDir holds postgresql.conf, pg_hba.conf and pg_ident.conf. Default: data_dir.
	ConfigDir string `yaml:"config_dir"`
	// ConfigBaseName is the name of postgresql.conf without its ending.
	ConfigBaseName string `yaml:"config_base_name" default:"postgresql"`
	// BinDir holds PostgreSQL's programs. Default: the PATH.
	BinDir string `yaml:"bin_dir"`
	// BinName gives programs other names: postgres, initdb, pg_ctl, pg_basebackup, pg_rewind, ...
	BinName map[string]string `yaml:"bin_name"`
	// PgPass is the password file that hathi writes for replication and rewind. Default: in runtime_dir.
	PgPass string `yaml:"pgpass"`
	// UseUnixSocket is accepted; hathi always uses the socket for its own connections.
	UseUnixSocket bool `yaml:"use_unix_socket" default:"true"`
	// UseUnixSocketRepl is accepted; hathi uses the socket for local replication connections.
	UseUnixSocketRepl bool           `yaml:"use_unix_socket_repl" default:"true"`
	Authentication    Authentication `yaml:"authentication"`
	// Allow are networks (CIDR) that applications connect from, for the pg_hba.conf that hathi
	// makes when pg_hba is not stated. Default: this host alone.
	Allow []string `yaml:"allow"`
	// Parameters are settings of PostgreSQL for this node. Those that must be equal on all nodes
	// belong in the dynamic configuration.
	Parameters map[string]any `yaml:"parameters"`
	// ParametersPrimary are added to parameters while this node is the primary.
	ParametersPrimary map[string]any `yaml:"parameters_primary"`
	// ParametersReplica are added to parameters while this node is a replica.
	ParametersReplica map[string]any `yaml:"parameters_replica"`
	// ParametersStandbyLeader are added to parameters while this node is a standby leader.
	ParametersStandbyLeader map[string]any `yaml:"parameters_standby_leader"`
	// PgHBA are the lines of pg_hba.conf for this node; they replace those of the dynamic
	// configuration and the ones that hathi would make.
	PgHBA []string `yaml:"pg_hba"`
	// PgIdent are lines of pg_ident.conf.
	PgIdent []string `yaml:"pg_ident"`
	// CreateReplicaMethods are tried in order to make a replica; basebackup is the built-in one,
	// every other names a section of postgresql with a command.
	CreateReplicaMethods []string `yaml:"create_replica_methods"`
	// BaseBackup are options of pg_basebackup, as a list or a mapping.
	BaseBackup any `yaml:"basebackup"`
	// Rewind are options of pg_rewind, as a list or a mapping.
	Rewind any `yaml:"rewind"`
	// Callbacks are commands run at on_start, on_stop, on_restart, on_reload and on_role_change,
	// with action, role and scope appended.
	Callbacks map[string]string `yaml:"callbacks"`
	// RecoveryConf are recovery settings for standbys of this node, such as restore_command.
	RecoveryConf map[string]any `yaml:"recovery_conf"`
	// CustomConf is the path of an extra configuration file in place of the original one.
	CustomConf string `yaml:"custom_conf"`
	// PgCtlTimeout is how long, in seconds, starting and stopping may take before it is reported.
	PgCtlTimeout int `yaml:"pg_ctl_timeout" default:"60" min:"0"`
	// UsePgRewind lets a former primary rejoin by pg_rewind.
	UsePgRewind bool `yaml:"use_pg_rewind" default:"true"`
	// UseSlots belongs in the dynamic configuration; here it has no effect.
	UseSlots bool `yaml:"use_slots" default:"true"`
	// RemoveOnRewindFailure clones again when pg_rewind fails; the old directory is set aside first.
	RemoveOnRewindFailure bool `yaml:"remove_data_directory_on_rewind_failure"`
	// RemoveOnDiverged clones again when timelines diverged and pg_rewind cannot be used; the old
	// directory is set aside first.
	RemoveOnDiverged bool `yaml:"remove_data_directory_on_diverged_timelines"`
	// PrePromote is a command that must succeed before this node is promoted.
	PrePromote string `yaml:"pre_promote"`
	// BeforeStop is a command run before PostgreSQL is stopped.
	BeforeStop string `yaml:"before_stop"`
	// Other holds the sections of create_replica_methods by name.
	Other map[string]any `yaml:",rest"`
}

// Authentication are the database roles that hathi uses.
type Authentication struct {
	Superuser   Role `yaml:"superuser" default-username:"postgres"`
	Replication Role `yaml:"replication" default-username:"replicator"`
	Rewind      Role `yaml:"rewind"`
}

// Role is one database role and the client's side of its TLS.
type Role struct {
	// Username is the role's name. Default: postgres for superuser, replicator for replication; a
	// rewind role that is not stated is the superuser.
	Username string `yaml:"username"`
	// Password is the role's password. It reaches other programs in a password file only.
	Password Secret `yaml:"password"`
	// SSLMode is libpq's sslmode: disable, allow, prefer, require, verify-ca or verify-full.
	SSLMode string `yaml:"sslmode" enum:"disable,allow,prefer,require,verify-ca,verify-full"`
	// SSLCert is the client certificate.
	SSLCert string `yaml:"sslcert"`
	// SSLKey is the key of sslcert.
	SSLKey string `yaml:"sslkey"`
	// SSLPassword decrypts sslkey.
	SSLPassword Secret `yaml:"sslpassword"`
	// SSLRootCert holds the authorities that the server's certificate must come from.
	SSLRootCert string `yaml:"sslrootcert"`
	// SSLCRL is a list of revoked certificates.
	SSLCRL string `yaml:"sslcrl"`
	// SSLCRLDir is a directory of such lists.
	SSLCRLDir string `yaml:"sslcrldir"`
	// GSSEncMode is libpq's gssencmode.
	GSSEncMode string `yaml:"gssencmode" enum:"disable,prefer,require"`
	// ChannelBinding is libpq's channel_binding.
	ChannelBinding string `yaml:"channel_binding" enum:"disable,prefer,require"`
	// SSLNegotiation is libpq's sslnegotiation, from PostgreSQL 17.
	SSLNegotiation string `yaml:"sslnegotiation" enum:"postgres,direct"`
}

// Bootstrap says how a new cluster begins. It is used once, by the node that initializes it.
type Bootstrap struct {
	// DCS is the dynamic configuration that the cluster begins with; change it later with
	// `hathi edit-config`. Without it, hathi's own safe defaults are used.
	DCS map[string]any `yaml:"dcs"`
	// InitDB are options of initdb: bare words and NAME: VALUE. Data checksums are on in any case
	// unless no-data-checksums is stated.
	InitDB any `yaml:"initdb"`
	// Method is how the first node gets its data: initdb, or the name of a section beside with a command.
	Method string `yaml:"method" default:"initdb"`
	// PostBootstrap is a command run after initialization, with a connection string appended.
	PostBootstrap string `yaml:"post_bootstrap"`
	// PostInit is the older name of post_bootstrap.
	PostInit string `yaml:"post_init"`
	// PgHBA is the old place of pg_hba; hathi moves the lines to the dynamic configuration.
	PgHBA []string `yaml:"pg_hba"`
	// Users was removed in Patroni 4; hathi creates the roles of postgresql.authentication only.
	Users map[string]any `yaml:"users"`
	// Other holds the sections of bootstrap methods by name.
	Other map[string]any `yaml:",rest"`
}

// Method is a custom way to bootstrap or to make a replica: a section with a command.
type Method struct {
	Name string
	// Command is split like a shell would.
	Command string
	// Options are the section's other keys, passed to the command as --key=value.
	Options map[string]any
}

func methodFrom(sections map[string]any, name string) (Method, bool) {
	m, ok := sections[name].(map[string]any)
	if !ok {
		return Method{}, false
	}
	out := Method{Name: name, Options: map[string]any{}}
	for k, v := range m {
		if k == "command" {
			out.Command, _ = v.(string)
			continue
		}
		out.Options[k] = v
	}
	return out, true
}

// Method is the section of a custom bootstrap method.
func (b Bootstrap) Section(name string) (Method, bool) { return methodFrom(b.Other, name) }

// ReplicaMethod is the section of a replica creation method.
func (p PostgreSQL) ReplicaMethod(name string) (Method, bool) { return methodFrom(p.Other, name) }

// Option is one option of a program: a bare word when Value is empty.
type Option struct{ Name, Value string }

// Options reads a list or mapping of options (initdb, basebackup, rewind), the way Patroni does:
// bare words and NAME: VALUE, in the order of the file where that is a list. A mapping is sorted.
func Options(v any) []Option {
	var out []Option
	switch v := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(v) {
			out = append(out, Option{k, optionText(v[k])})
		}
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, Option{Name: s})
				continue
			}
			out = append(out, Options(e)...)
		}
	}
	return out
}
