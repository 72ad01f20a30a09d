package config

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// habits warns of settings that work and that somebody will regret. Each is a known way to lose
// data, availability or the machine; the hint says what to do instead.
func (k *checker) habits() {
	k.passwords()
	k.bootstrapHabits()
	k.dynamicHabits()
	k.networkHabits()
	k.pathHabits()
	if k.c.Citus != nil || k.preloads("citus") {
		k.citusHabits()
	}
	k.notYet()
}

// notYet tells of settings of Patroni that this release reads and does not carry out. Where a cluster
// would rest on one of them the node does not start.
func (k *checker) notYet() {
	c := k.c
	if k.c.Stated("watchdog.mode") {
		switch c.Watchdog.Mode {
		case "required":
			k.bad("watchdog.mode", "leave the section out: a guardian process of its own fences PostgreSQL", "this release does not use the kernel watchdog")
		case "off":
			k.warn("watchdog.mode", "use synchronous_mode: quorum, whose fence does not need this machine to run",
				"off, and this release does not use the kernel watchdog in any mode: when the whole agent and its guardian are frozen, nothing on this machine stops a former primary")
		default:
			k.warn("watchdog.mode", "leave the section out", "this release does not use the kernel watchdog; a guardian process of its own fences PostgreSQL")
		}
	}
	if k.c.Stated("restapi.http_extra_headers") || k.c.Stated("restapi.https_extra_headers") {
		k.warn("restapi.http_extra_headers", "let a proxy in front add them", "this release adds no headers to its answers")
	}
	for _, p := range []string{"restapi.keyfile_password", "ctl.keyfile_password"} {
		if k.c.Stated(p) {
			k.warn(p, "keep the key unencrypted, with mode 0600", "this release reads no encrypted keys")
		}
	}
	if c.Citus != nil {
		k.warn("citus", "", "the node keeps its keys under group %d, but this release does not look after Citus' own list of nodes", c.Citus.Group)
	}
}

// weak matches passwords that come from guides and examples.
var weak = regexp.MustCompile(`(?i)change.?(this|me|it)|example|password|passwd|secret|qwerty|12345|letmein|admin`)

func (k *checker) passwords() {
	c := k.c
	a := c.PostgreSQL.Authentication
	type stated struct {
		at, user string
		v        Secret
	}
	list := []stated{
		{"restapi.authentication.password", c.RestAPI.Authentication.Username, c.RestAPI.Authentication.Password},
		{"postgresql.authentication.superuser.password", a.Superuser.Username, a.Superuser.Password},
		{"postgresql.authentication.replication.password", a.Replication.Username, a.Replication.Password},
		{"postgresql.authentication.rewind.password", a.Rewind.Username, a.Rewind.Password},
		{"etcd3.password", c.Etcd3.Username, c.Etcd3.Password},
	}
	for _, name := range sortedKeys(c.Bootstrap.Users) {
		if u, ok := c.Bootstrap.Users[name].(map[string]any); ok {
			pw, _ := u["password"].(string)
			list = append(list, stated{"bootstrap.users." + name + ".password", name, Secret(pw)})
		}
	}
	first := map[string]stated{}
	for _, p := range list {
		text := p.v.Reveal()
		if text == "" || !c.Stated(p.at) {
			continue
		}
		switch {
		case weak.MatchString(text):
			k.warn(p.at, "generate one, e.g. with `openssl rand -base64 24`", "looks like a password of an example")
		case strings.EqualFold(text, p.user):
			k.warn(p.at, "generate one, e.g. with `openssl rand -base64 24`", "is the user's name")
		case len(text) < 12:
			k.warn(p.at, "generate one, e.g. with `openssl rand -base64 24`", "is short: %d characters", len(text))
		}
		if o, ok := first[text]; ok && o.user != p.user {
			k.warn(p.at, "give each its own", "is the same password as that of %s", o.at)
		} else if !ok {
			first[text] = p
		}
	}
	if c.Stated("postgresql.authentication.rewind.username") && a.Rewind.Username == a.Replication.Username {
		k.warn("postgresql.authentication.rewind.username", "give it a role of its own, say rewind_user; hathi creates it with the four functions it needs",
			"is the replication role %s: pg_rewind needs other rights, and each should have no more than it needs", a.Rewind.Username)
	}
	if c.Stated("postgresql.authentication.replication.username") && a.Replication.Username == a.Superuser.Username {
		k.warn("postgresql.authentication.replication.username", "give it a role of its own", "is the superuser: its password then stands on every node's disk with all rights")
	}
}

func (k *checker) bootstrapHabits() {
	b := k.c.Bootstrap
	if len(b.Users) > 0 {
		k.warn("bootstrap.users", "create them over SQL once the cluster runs",
			"was removed in Patroni 4 and is ignored: %s will not be created", strings.Join(sortedKeys(b.Users), ", "))
	}
	if b.PgHBA != nil {
		k.warn("bootstrap.pg_hba", "move the lines to bootstrap.dcs.postgresql.pg_hba", "is the old place; hathi moves the lines into the dynamic configuration of a new cluster")
	}
	for _, s := range []string{"post_bootstrap", "post_init"} {
		if k.c.Stated("bootstrap." + s) {
			k.warn("bootstrap."+s, "it gets a connection string as its last argument and must use it; it cannot use sudo",
				"%s runs as the user of PostgreSQL on the first node; if it fails the bootstrap is undone", b.PostBootstrap)
		}
	}
	for _, o := range Options(b.InitDB) {
		switch {
		case strings.HasPrefix(o.Name, "auth") && (o.Value == "trust" || o.Value == "md5"):
			k.warn("bootstrap.initdb", "remove it; pg_hba.conf is written by hathi", "%s=%s", o.Name, o.Value)
		case o.Name == "locale" && o.Value != "C" && o.Value != "C.UTF-8" && o.Value != "POSIX":
			k.warn("bootstrap.initdb", "use locale: C.UTF-8, or locale-provider: icu",
				"locale %s must be installed on every node, and a different C library there sorts differently: indexes are then corrupt after a fail-over", o.Value)
		case o.Name == "no-data-checksums":
			k.warn("bootstrap.initdb", "remove it", "without data checksums a bad disk page is not noticed, and pg_rewind depends on wal_log_hints alone")
		}
	}
}

func (k *checker) dynamicHabits() {
	if k.c.Bootstrap.DCS == nil {
		return
	}
	doc := k.c.Bootstrap.DCS
	dyn, _ := cluster.DynamicFrom(doc)
	const at = "bootstrap.dcs."
	if !dyn.FailsafeMode {
		k.warn(at+"failsafe_mode", "failsafe_mode: true", "is off: while etcd is not reachable the database takes no writes, even when all nodes see each other")
	}
	if dyn.SynchronousMode == cluster.SyncOff && k.c.Citus == nil {
		k.warn(at+"synchronous_mode", "synchronous_mode: quorum, with three nodes or more",
			"is off: a fail-over may lose acknowledged commits, up to maximum_lag_on_failover = %d bytes and what was written within ttl = %v", dyn.MaximumLagOnFailover, dyn.TTL)
	}
	if dyn.TTL > 15*time.Second {
		k.warn(at+"ttl", "hathi's own default is ttl: 6, loop_wait: 1, retry_timeout: 2", "%v: when the primary's machine is lost, nobody takes over for that long", dyn.TTL)
	}
	if dyn.PrimaryStartTimeout >= 300*time.Second {
		name := "primary_start_timeout"
		if _, old := doc["master_start_timeout"]; old {
			name = "master_start_timeout"
		}
		k.warn(at+name, "primary_start_timeout: 60", "a primary that crashed may take %v to recover before another takes over", dyn.PrimaryStartTimeout)
	}
	const pars = at + "postgresql.parameters."
	if _, ok := dyn.Parameters["max_slot_wal_keep_size"]; dyn.UseSlots && !ok {
		k.warn(pars+"max_slot_wal_keep_size", "max_slot_wal_keep_size: 10GB", "is not set: the slot of a node that is away keeps WAL until the primary's disk is full; hathi uses 10GB")
	} else if dyn.Parameters["max_slot_wal_keep_size"] == "-1" {
		k.warn(pars+"max_slot_wal_keep_size", "max_slot_wal_keep_size: 10GB", "-1: the slot of a node that is away keeps WAL until the primary's disk is full")
	}
	if strings.EqualFold(dyn.Parameters["password_encryption"], "md5") {
		k.warn(pars+"password_encryption", "scram-sha-256", "md5 hashes can be used to sign in, and are deprecated")
	}
	var memory []string
	for _, n := range []string{"shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem", "wal_buffers"} {
		if _, ok := dyn.Parameters[n]; ok {
			memory = append(memory, n)
		}
	}
	if len(memory) > 0 {
		k.warn(at+"postgresql.parameters", "state them in postgresql.parameters of each node",
			"%s hold for all nodes alike: a node with less memory cannot start, or is killed", strings.Join(memory, ", "))
	}
	k.logHabits(pars, dyn.Parameters)
	k.logHabits("postgresql.parameters.", k.localText())
}

// localText are the node's own parameters as text.
func (k *checker) localText() map[string]string {
	out := map[string]string{}
	for n, v := range k.c.PostgreSQL.Parameters {
		out[strings.ToLower(n)], _ = cluster.ParameterText(v)
	}
	return out
}

func (k *checker) logHabits(at string, params map[string]string) {
	if dir := params["log_directory"]; strings.HasPrefix(dir, "/") {
		k.warn(at+"log_directory", "create it with the right owner on every node, or leave it in the data directory",
			"PostgreSQL does not start on a node that cannot write to %s", dir)
	}
	if name := params["log_filename"]; (strings.Contains(name, "%d") || strings.Contains(name, "%Y")) && params["log_truncate_on_rotation"] != "on" {
		k.warn(at+"log_filename", "log_filename: postgresql-%a.log with log_truncate_on_rotation: on keeps a week",
			"a new file each day, none is ever removed: the disk fills")
	}
}

func (k *checker) networkHabits() {
	c := k.c
	local := func(addr string) bool {
		host, _, err := splitHostPort(addr, 1)
		return addr == "" || err == nil && loopback(host)
	}
	if rest := c.RestAPI; rest.Listen != "" && !local(rest.Listen) {
		if !rest.TLS() {
			k.warn("restapi.listen", "state restapi.certfile, keyfile and cafile", "the REST API is served without TLS: its password and every answer can be read on the network")
		}
		if rest.Authentication.Username == "" && rest.VerifyClient == "none" {
			k.warn("restapi.authentication", "state username and password, or verify_client: required",
				"nobody is asked who they are: whoever reaches %s can restart or switch over the cluster", rest.Listen)
		}
	}
	_, section := c.client()
	s := c.Store()
	remote := slices.ContainsFunc(s.Endpoints, func(e string) bool {
		_, hp, _ := strings.Cut(e, "://")
		return !local(hp)
	})
	if remote && !s.TLS() {
		k.warn(section, "state "+section+".cacert, cert and key", "etcd is spoken to without TLS: whoever reaches it can read and change everything there, take the lead, or run commands through the configuration")
	}
	if remote && s.Cert == "" && s.Username == "" {
		k.warn(section, "state "+section+".cert and key (or username and password), and switch authentication on in etcd",
			"hathi does not sign in to etcd, so etcd must let anybody in")
	}
	if e := c.Etcd.Embedded; e != nil && e.TLS.CertFile == "" && (!local(e.ListenClient) || !local(e.ListenPeer)) {
		k.warn("etcd.embedded.tls", "state certfile, keyfile and cafile", "the embedded etcd listens on the network without TLS: whoever reaches it can change the cluster")
	}
	if hosts, _, err := listenHosts(c.PostgreSQL.Listen, 5432); c.PostgreSQL.Listen != "" && err == nil && !slices.ContainsFunc(hosts, func(h string) bool { return !loopback(h) }) {
		return
	}
	if c.PostgreSQL.Listen != "" && !on(k.localText()["ssl"]) && !on(c.dynamicParams()["ssl"]) {
		k.warn("postgresql.parameters.ssl", "ssl: on with ssl_cert_file and ssl_key_file", "is not on: clients and standbys send everything unencrypted")
	}
	if c.Ctl.Insecure {
		k.warn("ctl.insecure", "state ctl.cacert", "certificates of REST APIs are not checked: anybody on the way can pose as a node")
	}
}

func on(s string) bool { v, ok := truth(s); return ok && v }

var debianData = regexp.MustCompile(`^/var/lib/postgresql/\d+/[^/]+$`)

func (k *checker) pathHabits() {
	c := k.c
	if c.Stated("postgresql.pgpass") && path.Base(c.PostgreSQL.PgPass) == ".pgpass" {
		k.warn("postgresql.pgpass", "remove the line; hathi keeps its own in runtime_dir", "%s is a login user's own password file, and hathi would overwrite it", c.PostgreSQL.PgPass)
	}
	if debianData.MatchString(c.PostgreSQL.DataDir) {
		k.warn("postgresql.data_dir", "use another directory, or set create_main_cluster = false in /etc/postgresql-common/createcluster.conf before PostgreSQL is installed",
			"%s is where Debian's package makes a cluster of its own: it would differ on every node, and hathi would not initialize over it", c.PostgreSQL.DataDir)
	}
}

func (k *checker) preloads(lib string) bool {
	for _, list := range []string{k.c.dynamicParams()["shared_preload_libraries"], k.localText()["shared_preload_libraries"]} {
		for w := range strings.SplitSeq(list, ",") {
			if strings.Trim(w, " \"'") == lib {
				return true
			}
		}
	}
	return false
}

var lowMode = regexp.MustCompile(`sslmode\s*=\s*'?(disable|allow|prefer)\b`)

func (k *checker) citusHabits() {
	params := k.c.dynamicParams()
	const pars = "bootstrap.dcs.postgresql.parameters."
	if k.c.Citus == nil {
		k.warn(pars+"shared_preload_libraries", "add `citus: {group: 0, database: NAME}`",
			"loads citus, but there is no citus section: nobody keeps the list of nodes right after a fail-over, and nothing is sharded")
	}
	if l := params["wal_level"]; l != "" && !strings.EqualFold(l, "logical") {
		k.warn(pars+"wal_level", "wal_level: logical", "%s with citus: moving shards then blocks writes, and changing it later needs a restart", l)
	}
	for _, p := range []struct {
		at string
		v  string
	}{{pars, params["citus.node_conninfo"]}, {"postgresql.parameters.", k.localText()["citus.node_conninfo"]}} {
		if m := lowMode.FindStringSubmatch(p.v); m != nil {
			k.warn(p.at+"citus.node_conninfo", "sslmode=verify-full with a certificate authority of the cluster",
				"%s lets the links between nodes go unencrypted, and switches off the TLS that citus sets up by itself", fmt.Sprintf("sslmode=%s", m[1]))
		}
	}
}
