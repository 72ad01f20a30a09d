package config_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/config"
)

func TestEnvironment_AloneIsEnough(t *testing.T) {
	c, ps := config.Load(nil, map[string]string{
		"PATRONI_SCOPE": "s", "PATRONI_NAME": "n1", "PATRONI_NAMESPACE": "/x/", "PATH": "/bin", "PATRONI_LOG_LEVEL": "DEBUG",
		"PATRONI_ETCD3_HOST": "localhost:2379", "PATRONI_RESTAPI_USERNAME": "username", "PATRONI_RESTAPI_PASSWORD": "password",
		"PATRONI_RESTAPI_CAFILE": "/ca", "PATRONI_RESTAPI_CERTFILE": "/crt", "PATRONI_RESTAPI_KEYFILE": "/key",
		"PATRONI_RESTAPI_VERIFY_CLIENT": "required", "PATRONI_CTL_INSECURE": "on", "PATRONI_CTL_CERTFILE": "/c", "PATRONI_CTL_KEYFILE": "/k",
		"PATRONI_POSTGRESQL_LISTEN": "127.0.0.1:5361", "PATRONI_POSTGRESQL_DATA_DIR": "/d/n1", "PATRONI_REPLICATION_USERNAME": "r",
		"PATRONI_REPLICATION_PASSWORD": "pw", "PATRONI_REPLICATION_SSLMODE": "verify-ca", "PATRONI_REWIND_USERNAME": "w", "PATRONI_REWIND_PASSWORD": "pw2",
		"PATRONI_RESTAPI_HTTP_EXTRA_HEADERS": "'X-Frame-Options': 'SAMEORIGIN', 'X-A': 'b'", "PATRONI_RESTAPI_ALLOWLIST": "10.0.0.1, 10.1.0.0/16",
		"PATRONI_CITUS_GROUP": "2", "PATRONI_CITUS_DATABASE": "app", "PATRONI_RESTAPI_CIPHERS": "",
		"HATHI_ROUTER_WRITE_PORT": "7000", "HATHI_ROUTER_HOLD": "3s", "HATHI_RUNTIME_DIR": "/run/h", "HATHI_ETCD_EMBEDDED_INITIAL_CLUSTER": "n1: http://127.0.0.1:2380"})
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.For(config.RoleAgent).Err(); err != nil {
		t.Fatalf("for the agent: %v", err)
	}
	type got struct {
		scope, name, prefix, store, rest, ctl, repl, rewind string
		port                                                int
		hold                                                time.Duration
		insecure                                            bool
	}
	g := got{c.Scope, c.Name, c.Prefix(), strings.Join(c.Store().Endpoints, " "), c.RestAPI.URL(), c.Ctl.CertFile, c.PostgreSQL.Authentication.Replication.SSLMode,
		c.PostgreSQL.Authentication.Rewind.Password.Reveal(), c.Router.WritePort, c.Router.Hold, c.Ctl.Insecure}
	want := got{"s", "n1", "/x/s/2/", "http://localhost:2379", "https://127.0.0.1:8008", "/c", "verify-ca", "pw2", 7000, 3 * time.Second, true}
	if g != want {
		t.Errorf("got %+v, want %+v", g, want)
	}
	if !reflect.DeepEqual(c.RestAPI.HTTPExtraHeaders, map[string]string{"X-Frame-Options": "SAMEORIGIN", "X-A": "b"}) {
		t.Errorf("headers: got %v", c.RestAPI.HTTPExtraHeaders)
	}
	if !reflect.DeepEqual(c.RestAPI.Allowlist, []string{"10.0.0.1", "10.1.0.0/16"}) {
		t.Errorf("allowlist: got %v", c.RestAPI.Allowlist)
	}
	if c.Ctl.Authentication.Password.Reveal() != "password" {
		t.Error("ctl.authentication: want restapi.authentication")
	}
}

func TestEnvironment_OverridesTheFile(t *testing.T) {
	c, ps := config.Load([]byte("scope: a\netcd3: {hosts: 'x:1, y:2'}\n"), map[string]string{"PATRONI_SCOPE": "b", "HATHI_NAME": "n"})
	if ps.Err() != nil {
		t.Fatal(ps.Err())
	}
	if c.Scope != "b" || c.Name != "n" || len(c.Store().Endpoints) != 2 {
		t.Errorf("got scope %q, name %q, store %v", c.Scope, c.Name, c.Store().Endpoints)
	}
}

func TestEnvironment_Troubles(t *testing.T) {
	_, ps := config.Load([]byte("scope: a\n"), map[string]string{"PATRONI_SCOPE": "b", "HATHI_SCOPE": "c", "HATHI_ROUTER_WRITE_PROT": "1",
		"HATHI_ROUTER_READ_PORT": "x", "PATRONI_ETCD3_HOSTS": "[a:1", "HATHI_CONFIG": "/x", "HATHI_TEST_PG": "1"})
	for _, want := range []string{"PATRONI_SCOPE and HATHI_SCOPE disagree", "HATHI_ROUTER_WRITE_PROT names no setting", "did you mean HATHI_ROUTER_WRITE_PORT",
		`router.read_port: want a whole number from 0 to 65535, got "x" (from the environment variable HATHI_ROUTER_READ_PORT)`, "etcd3.hosts: not valid YAML"} {
		if !strings.Contains(lines(ps), want) {
			t.Errorf("no problem with %q in\n%s", want, lines(ps))
		}
	}
	if strings.Contains(lines(ps), "HATHI_CONFIG") || strings.Contains(lines(ps), "HATHI_TEST") {
		t.Errorf("HATHI_CONFIG is no setting, want no word about it:\n%s", lines(ps))
	}
}

func TestEnvironment_WholeConfiguration(t *testing.T) {
	c, ps := config.Load(nil, map[string]string{"PATRONI_CONFIGURATION": "scope: q"})
	if c.Scope != "q" || len(ps) != 0 {
		t.Errorf("got %q and %v, want scope q", c.Scope, ps)
	}
}
