package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
)

func lines(ps config.Problems) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "  %s: %s (%s)\n", p.Severity, p, p.Hint)
	}
	return b.String()
}

func find(ps config.Problems, path string) (config.Problem, bool) {
	for _, p := range ps {
		if p.Path == path {
			return p, true
		}
	}
	return config.Problem{}, false
}

func TestExampleParsesCleanly(t *testing.T) {
	c, ps := config.Load([]byte(config.Example()), nil)
	if len(ps) != 0 {
		t.Fatalf("got problems, want none:\n%s", lines(ps))
	}
	for _, use := range []config.Use{config.RoleAgent, config.RoleRouter, config.RoleEtcd, config.RoleCtl} {
		if ps := c.For(use); len(ps) != 0 {
			t.Errorf("for %s got problems, want none:\n%s", use, lines(ps))
		}
	}
	if got, want := c.Prefix(), "/service/orders/"; got != want {
		t.Errorf("prefix: got %q, want %q", got, want)
	}
	if got, want := c.Peer.ConnectAddress, "192.0.2.11:9008"; got != want {
		t.Errorf("peer.connect_address: got %q, want %q", got, want)
	}
	s := c.Store()
	if len(s.Endpoints) != 3 || s.Endpoints[0] != "https://192.0.2.11:2379" || !s.TLS() {
		t.Errorf("store: got %v, want three https endpoints", s.Endpoints)
	}
	if got, want := c.Etcd.Embedded.AdvertisePeer, "https://192.0.2.11:2380"; got != want {
		t.Errorf("advertise_peer: got %q, want %q", got, want)
	}
	if got, want := c.Etcd.Embedded.Quota, config.Size(256<<20); got != want {
		t.Errorf("quota: got %v, want %v", got, want)
	}
	hosts, port, err := c.PostgreSQL.ListenHosts()
	if err != nil || fmt.Sprint(hosts, port) != "[192.0.2.11 127.0.0.1] 5432" {
		t.Errorf("listen addresses: got %v %d, %v", hosts, port, err)
	}
	if c.Router.Hold != 10*time.Second {
		t.Errorf("router.hold: got %v, want 10s", c.Router.Hold)
	}
}

func TestEmptyFile_IsDefaultsWithoutProblems(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "\xef\xbb\xbf", "---\n", "null\n"} {
		c, ps := config.Load([]byte(text), nil)
		if len(ps) != 0 {
			t.Errorf("%q: got problems, want none:\n%s", text, lines(ps))
		}
		if c.Namespace != "/service/" || c.PostgreSQL.Authentication.Superuser.Username != "postgres" ||
			c.PostgreSQL.Authentication.Replication.Username != "replicator" || c.PostgreSQL.Authentication.Rewind.Username != "postgres" {
			t.Errorf("%q: got %+v, want the defaults", text, c)
		}
		if hosts, _, err := c.PostgreSQL.ListenHosts(); err == nil {
			t.Errorf("%q: got listen addresses %v, want an error", text, hosts)
		}
		if err := c.For(config.RoleAgent).Err(); err == nil {
			t.Errorf("%q: got an agent without a name, want errors", text)
		}
	}
}

func TestGuideHabits_EachHasAWarningWithAHint(t *testing.T) {
	text, err := os.ReadFile("testdata/habits.yml")
	if err != nil {
		t.Fatal(err)
	}
	c, ps := config.Load(text, nil)
	if err := ps.Err(); err != nil {
		t.Fatalf("got %v, want warnings only", err)
	}
	if err := c.For(config.RoleAgent).Err(); err != nil {
		t.Fatalf("for the agent: got %v, want none", err)
	}
	for path, word := range map[string]string{
		"bootstrap.pg_hba[0]":                 "trust",
		"bootstrap.pg_hba[1]":                 "md5",
		"bootstrap.pg_hba[2]":                 "md5",
		"bootstrap.pg_hba[3]":                 "md5",
		"bootstrap.pg_hba":                    "old place",
		"bootstrap.users":                     "removed in Patroni 4",
		"bootstrap.users.admin.password":      "example",
		"bootstrap.post_bootstrap":            "/opt/db/post-bootstrap.sh",
		"bootstrap.initdb":                    "en_US.UTF-8",
		"bootstrap.dcs.master_start_timeout":  "primary_start_timeout",
		"bootstrap.dcs.failsafe_mode":         "etcd is not reachable",
		"bootstrap.dcs.synchronous_mode":      "lose acknowledged commits",
		"bootstrap.dcs.ttl":                   "30s",
		"bootstrap.dcs.postgresql.parameters": "shared_buffers, effective_cache_size, work_mem",
		"bootstrap.dcs.postgresql.parameters.max_slot_wal_keep_size":   "disk is full",
		"bootstrap.dcs.postgresql.parameters.shared_preload_libraries": "no citus section",
		"bootstrap.dcs.postgresql.parameters.wal_level":                "moving shards",
		"bootstrap.dcs.postgresql.parameters.citus.node_conninfo":      "sslmode=prefer",
		"bootstrap.dcs.postgresql.parameters.log_directory":            "does not start",
		"bootstrap.dcs.postgresql.parameters.log_filename":             "disk fills",
		"bootstrap.dcs.postgresql.parameters.hot_standby":              "always on",
		"restapi.listen":                  "without TLS",
		"restapi.authentication.password": "example",
		"etcd3":                           "without TLS",
		"postgresql.authentication.superuser.password":   "example",
		"postgresql.authentication.replication.password": "example",
		"postgresql.authentication.rewind.username":      "replication role",
		"postgresql.pgpass":                              ".pgpass",
		"postgresql.data_dir":                            "Debian",
		"postgresql.parameters.ssl":                      "unencrypted",
		"watchdog.mode":                                  "off",
	} {
		found := false
		for _, p := range ps {
			if p.Path == path && strings.Contains(p.Message, word) {
				found = true
				if p.Severity != config.Warning || p.Hint == "" {
					t.Errorf("%s: got %+v, want a warning with a hint", path, p)
				}
			}
		}
		if !found {
			t.Errorf("no warning at %s with %q", path, word)
		}
	}
	for _, word := range []string{"superuser postgres included", "copy the whole cluster", "does not sign in"} {
		if !strings.Contains(lines(ps), word) {
			t.Errorf("no warning with %q", word)
		}
	}
	for _, secret := range []string{"ChangeThisNow", "ReplPassword", "PgPassword", "AdminPassword"} {
		if strings.Contains(lines(ps), secret) {
			t.Errorf("a problem shows the secret %s", secret)
		}
	}
	if t.Failed() {
		t.Log("problems:\n" + lines(ps))
	}
	if p, _ := find(ps, "bootstrap.pg_hba[1]"); p.Line != 50 {
		t.Errorf("line of bootstrap.pg_hba[1]: got %d, want 50", p.Line)
	}
	doc := c.BootstrapDynamic(3)
	pg := doc["postgresql"].(map[string]any)
	if doc["ttl"] != int64(30) || doc["master_start_timeout"] != int64(300) || len(pg["pg_hba"].([]any)) != 5 {
		t.Errorf("bootstrap document: got %v, want the file's values with pg_hba moved in", doc)
	}
	if got := pg["parameters"].(map[string]any)["hot_standby"]; got != true {
		t.Errorf("hot_standby: got %v, want true, as YAML 1.1 reads on", got)
	}
	if _, ok := c.Bootstrap.DCS["postgresql"].(map[string]any)["pg_hba"]; ok {
		t.Error("BootstrapDynamic modified the configuration")
	}
}

func TestLoad_Refusals(t *testing.T) {
	for name, tc := range map[string]struct{ text, path, message string }{
		"duplicate key":          {"scope: a\nname: b\nscope: c\n", "scope", "stated twice, on lines 1 and 3"},
		"nested duplicate":       {"router:\n  hold: 1s\n  hold: 2s\n", "router.hold", "on lines 2 and 3"},
		"tab":                    {"router:\n\twrite_port: 1\n", "", "not valid YAML"},
		"two documents":          {"scope: a\n---\nscope: b\n", "", "second YAML document"},
		"not a mapping":          {"- a\n- b\n", "", "holds no settings"},
		"UTF-16":                 {"\xff\xfes\x00c\x00", "", "not UTF-8"},
		"NUL":                    {"scope: a\x00b", "", "not UTF-8"},
		"name with slash":        {"name: a/b", "name", "unusable name"},
		"name with dots":         {"name: ..", "name", "unusable name"},
		"name is reserved":       {"name: ANY", "name", "reserved"},
		"name with quote":        {`name: "a'b"`, "name", "unusable name"},
		"name with newline":      {`name: "a\nb"`, "name", "line break"},
		"name too long":          {"name: " + strings.Repeat("x", 64), "name", "63 bytes"},
		"emoji":                  {"name: 🐘", "name", "unusable name"},
		"scope traversal":        {"scope: ../other", "scope", "unusable name"},
		"namespace traversal":    {"namespace: /service/../etc/", "namespace", ".."},
		"namespace empty part":   {"namespace: /a//b/", "namespace", "1 to 63"},
		"data_dir is root":       {"postgresql: {data_dir: /}", "postgresql.data_dir", "holds more than"},
		"data_dir is /var/lib":   {"postgresql: {data_dir: /var/lib/}", "postgresql.data_dir", "holds more than"},
		"data_dir relative":      {"postgresql: {data_dir: data/pg}", "postgresql.data_dir", "relative path"},
		"section is a word":      {"postgresql: yes", "postgresql", "want a section"},
		"list for a word":        {"scope: [a]", "scope", "want one value"},
		"section for a list":     {"postgresql: {pg_hba: {a: b}}", "postgresql.pg_hba", "want a list"},
		"text for hba":           {"postgresql: {pg_hba: local all all peer}", "postgresql.pg_hba", "want a list"},
		"port too large":         {"router: {write_port: 70000}", "router.write_port", "from 0 to 65535"},
		"port is text":           {"router: {write_port: many}", "router.write_port", "whole number"},
		"port is infinite":       {"router: {write_port: 1e309}", "router.write_port", "whole number"},
		"negative duration":      {"router: {hold: -1}", "router.hold", "duration"},
		"bool for duration":      {"router: {hold: true}", "router.hold", "duration"},
		"negative size":          {"router: {max_lag: -1}", "router.max_lag", "size"},
		"ttl too small":          {"bootstrap: {dcs: {ttl: 2}}", "bootstrap.dcs.ttl", "3 to 600"},
		"ttl is a list":          {"bootstrap: {dcs: {ttl: [3]}}", "bootstrap.dcs.ttl", "seconds"},
		"ttl infinite":           {"bootstrap: {dcs: {ttl: .inf}}", "bootstrap.dcs.ttl", "finite"},
		"no port":                {"restapi: {listen: myhost}\nrouter: {status_listen: myhost}", "router.status_listen", "no port"},
		"bad port":               {"restapi: {listen: 'myhost:http'}", "restapi.listen", "port must be"},
		"bad host":               {"restapi: {listen: 'my host:8008'}", "restapi.listen", "character"},
		"wildcard to connect":    {"restapi: {listen: '*:8008', connect_address: '0.0.0.0:8008'}", "restapi.connect_address", "no address"},
		"wildcard not guessable": {"postgresql: {listen: '0.0.0.0:5432'}", "postgresql.connect_address", "cannot be guessed"},
		"srv":                    {"etcd3: {srv: example.org}", "etcd3.srv", "refused"},
		"URL with password":      {"etcd3: {hosts: ['http://u:pw@h:2379']}", "etcd3.hosts[0]", "user or password"},
		"file URL":               {"etcd3: {hosts: ['file:///etc/passwd']}", "etcd3.hosts[0]", "http or https"},
		"another store":          {"consul: {host: localhost}", "consul", "etcd only"},
		"hba: unknown method":    {"postgresql: {pg_hba: [local all all trusty]}", "postgresql.pg_hba[0]", "unknown method"},
		"hba: no mask":           {"postgresql: {pg_hba: [host all all 10.0.0.1 md5]}", "postgresql.pg_hba[0]", "no mask"},
		"hba: few words":         {"postgresql: {pg_hba: [host all]}", "postgresql.pg_hba[0]", "got 2 words"},
		"hba: open quote":        {"postgresql: {pg_hba: ['local \"all all peer']}", "postgresql.pg_hba[0]", "not closed"},
		"password with newline":  {"restapi: {authentication: {username: u, password: \"a\\nb\"}}", "restapi.authentication.password", "line break"},
		"parameter injection":    {"postgresql: {parameters: {work_mem: \"1\\nfsync=off\"}}", "postgresql.parameters.work_mem", "line break"},
		"parameter name":         {"postgresql: {parameters: {\"a b\": 1}}", "postgresql.parameters.a b", "parameter name"},
		"role name":              {`postgresql: {authentication: {superuser: {username: 'a"b'}}}`, "postgresql.authentication.superuser.username", "role name"},
		"router on PostgreSQL's": {"postgresql: {listen: '10.0.0.1:5432', connect_address: '10.0.0.1:5432'}\nrouter: {listen: '*', write_port: 5432}", "router.write_port", "also the port of postgresql.listen"},
		"router twice":           {"router: {write_port: 5000, read_port: 5000}", "router.read_port", "also the port of router.write_port"},
		"election timeout":       {"etcd: {embedded: {name: a, election_timeout: 200ms}}", "etcd.embedded.election_timeout", "5 × heartbeat = 5 × 60ms = 300ms"},
		"etcd inside data_dir":   {"postgresql: {data_dir: /d/pg}\netcd: {embedded: {name: a, data_dir: /d/pg/etcd}}", "etcd.embedded.data_dir", "lies in"},
		"not in initial cluster": {"etcd: {embedded: {name: a, initial_cluster: {b: 'http://h:1'}}}", "etcd.embedded.initial_cluster", "does not name this member"},
		"verify_client, no CA":   {"restapi: {verify_client: required}", "restapi.verify_client", "cafile"},
		"enum":                   {"watchdog: {mode: automatik}", "watchdog.mode", "want one of off, automatic, required"},
		"replicates from itself": {"name: a\ntags: {replicatefrom: a}", "tags.replicatefrom", "itself"},
		"bootstrap method":       {"bootstrap: {method: walg}", "bootstrap.method", "no section"},
		"connections":            {"bootstrap: {dcs: {postgresql: {parameters: {max_connections: 30, superuser_reserved_connections: 30}}}}", "bootstrap.dcs.postgresql.parameters.max_connections", "30 + 0 = 30"},
		"synchronous_commit":     {"bootstrap: {dcs: {synchronous_mode: on, postgresql: {parameters: {synchronous_commit: local}}}}", "bootstrap.dcs.postgresql.parameters.synchronous_commit", "no standby has"},
		"wal_level minimal":      {"bootstrap: {dcs: {postgresql: {parameters: {wal_level: minimal}}}}", "bootstrap.dcs.postgresql.parameters.wal_level", "replica or logical"},
		"max_connections":        {"bootstrap: {dcs: {postgresql: {parameters: {max_connections: many}}}}", "bootstrap.dcs.postgresql.parameters.max_connections", "at least 25"},
		"allow":                  {"postgresql: {allow: [10.0.0.0/40]}", "postgresql.allow[0]", "network"},
		"half a login":           {"restapi: {authentication: {username: u}}", "restapi.authentication", "both"},
		"too large":              {"scope: " + strings.Repeat("a", 1<<20), "", "limit of 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			_, ps := config.Load([]byte(tc.text), nil)
			for _, p := range ps.Errors() {
				if p.Path == tc.path && strings.Contains(p.Message, tc.message) {
					return
				}
			}
			t.Errorf("got no error at %q with %q; problems:\n%s", tc.path, tc.message, lines(ps))
		})
	}
}

func TestLoad_AllProblemsAtOnce(t *testing.T) {
	_, ps := config.Load([]byte("name: a/b\nrouter:\n  write_port: x\n  hold: never\npostgresql:\n  data_dir: /\n"), nil)
	if got := len(ps.Errors()); got != 4 {
		t.Errorf("got %d errors, want 4:\n%s", got, lines(ps))
	}
	err := ps.Err()
	if err == nil || !strings.Contains(err.Error(), "line 3: router.write_port") || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("got %v, want all of them with lines and hints", err)
	}
}

func TestLoad_Bombs(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	for name, text := range map[string]string{"aliases": b.String(), "depth": "tags: " + strings.Repeat("[", 500) + strings.Repeat("]", 500),
		"itself": "tags: &a\n  b: *a\n"} {
		_, ps := config.Load([]byte(text), nil)
		if ps.Err() == nil {
			t.Errorf("%s: got no error, want the bound reported", name)
		}
	}
}

func TestLoad_AnchorsAndMerges(t *testing.T) {
	c, ps := config.Load([]byte("postgresql:\n  authentication:\n    superuser: &tls\n      sslmode: verify-full\n      sslrootcert: /ca\n    replication:\n      <<: *tls\n      username: repl\n"), nil)
	if ps.Err() != nil {
		t.Fatal(ps.Err())
	}
	if r := c.PostgreSQL.Authentication.Replication; r.SSLMode != "verify-full" || r.Username != "repl" || r.SSLRootCert != "/ca" {
		t.Errorf("got %+v, want the merged role", r)
	}
}

func TestLoad_UnknownKeysNameTheNearest(t *testing.T) {
	_, ps := config.Load([]byte("postgresql:\n  listn: a\nscop: x\nttl: 5\nrouter:\n  wite_port: 1\n"), nil)
	for path, hint := range map[string]string{"postgresql.listn": "postgresql.listen?", "scop": "scope?", "ttl": "bootstrap.dcs", "router.wite_port": "router.write_port?"} {
		p, ok := find(ps, path)
		if !ok || p.Severity != config.Warning || !strings.Contains(p.Hint, hint) {
			t.Errorf("%s: got %+v, want a warning with hint %q", path, p, hint)
		}
	}
}

func TestLoad_TimeoutsRuleShowsArithmetic(t *testing.T) {
	_, ps := config.Load([]byte("bootstrap: {dcs: {ttl: 20, loop_wait: 10, retry_timeout: 10}}"), nil)
	p, _ := find(ps, "bootstrap.dcs.retry_timeout")
	if !strings.Contains(p.Message, "10s + 2 × 10s = 30s is more than ttl = 20s") || p.Severity != config.Warning {
		t.Errorf("got %+v, want the rule with its arithmetic", p)
	}
	s := cluster.DefaultSettings()
	s.TTL = 20 * time.Second
	s, _ = config.AdjustTimeouts(s)
	if s.LoopWait != time.Second || s.RetryTimeout != 9*time.Second {
		t.Errorf("got loop_wait %v, retry_timeout %v; want 1s and 9s, as Patroni adjusts", s.LoopWait, s.RetryTimeout)
	}
}

func TestNewClusterDocument_IsWithoutProblems(t *testing.T) {
	c, _ := config.Load(nil, nil)
	for n := range 5 {
		if ps := config.ValidateDynamic(c.BootstrapDynamic(n)); len(ps) != 0 {
			t.Errorf("%d nodes: got\n%s", n, lines(ps))
		}
	}
}

func TestSecrets_NeverPrinted(t *testing.T) {
	c, _ := config.Load([]byte("restapi: {authentication: {username: u, password: hunter2hunter2}}"), map[string]string{"PATRONI_SUPERUSER_PASSWORD": "hunter2hunter2"})
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(j), fmt.Sprintf("%v %+v %#v %s %q %x", *c, *c, *c, c.RestAPI.Authentication, c.RestAPI.Authentication.Password, c.RestAPI.Authentication.Password)} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "68756e74") {
			t.Errorf("a secret shows in %s", text)
		}
	}
	if got := c.PostgreSQL.Authentication.Superuser.Password.Reveal(); got != "hunter2hunter2" {
		t.Errorf("Reveal: got %q", got)
	}
}

func TestReference_NamesAndExplainsEverySetting(t *testing.T) {
	ref := config.Reference()
	for _, line := range strings.Split(ref, "\n") {
		if strings.HasPrefix(line, "- **") && len(line) < 60 || strings.HasSuffix(line, ": ") {
			t.Errorf("setting without a comment: %s", line)
		}
	}
	for _, want := range []string{"`router.write_port`", "PATRONI_POSTGRESQL_LISTEN", "HATHI_ETCD_EMBEDDED_DATA_DIR", "`postgresql.authentication.rewind.sslkey`", "default `256MB`"} {
		if !strings.Contains(ref, want) {
			t.Errorf("the reference lacks %s", want)
		}
	}
}

func TestOptions_ListAndMapping(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []config.Option
	}{
		{"[{encoding: UTF8}, data-checksums, {wal-segsize: 64}]", []config.Option{{"encoding", "UTF8"}, {Name: "data-checksums"}, {"wal-segsize", "64"}}},
		{"{max-rate: 100M, checkpoint: fast}", []config.Option{{"checkpoint", "fast"}, {"max-rate", "100M"}}},
	} {
		c, ps := config.Load([]byte("bootstrap: {initdb: "+tc.text+"}"), nil)
		if ps.Err() != nil {
			t.Fatal(ps.Err())
		}
		if got := config.Options(c.Bootstrap.InitDB); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.text, got, tc.want)
		}
	}
}

func TestTags_KeepTheirTypes(t *testing.T) {
	c, ps := config.Load([]byte("tags: {clonefrom: 'true', failover_priority: '1', nosync: off, zone: 3}"), nil)
	if ps.Err() != nil {
		t.Fatal(ps.Err())
	}
	want := map[string]any{"clonefrom": "true", "failover_priority": "1", "nosync": false, "zone": int64(3)}
	if !reflect.DeepEqual(c.Tags, want) {
		t.Errorf("got %#v, want %#v", c.Tags, want)
	}
	_, ps = config.Load([]byte("tags: {nofailover: true, failover_priority: 1}"), nil)
	if p, _ := find(ps, "tags.nofailover"); p.Message != "Conflicting configuration between nofailover: True and failover_priority: 1. Defaulting to nofailover: True" {
		t.Errorf("got %q, want Patroni's sentence", p.Message)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(config.Example(), "PATRONI_ETCD3_HOSTS", "a:1,b:2")
	habits, _ := os.ReadFile("testdata/habits.yml")
	f.Add(string(habits), "PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "{a: b}")
	f.Add("a: &a [*a]", "HATHI_ROUTER_HOLD", "-1")
	f.Add("? {a: b}\n: c\n<<: [1, {x: y}]", "HATHI_POSTGRESQL_PARAMETERS", "{a: }")
	f.Fuzz(func(t *testing.T, text, name, value string) {
		c, ps := config.Load([]byte(text), map[string]string{name: value})
		for _, use := range []config.Use{config.RoleAgent, config.RoleRouter, config.RoleEtcd, config.RoleCtl} {
			_ = c.For(use)
		}
		if ps.Err() == nil {
			if _, err := json.Marshal(c.BootstrapDynamic(3)); err != nil {
				t.Fatalf("accepted a document that is no JSON: %v", err)
			}
		}
	})
}
