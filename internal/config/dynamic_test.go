package config_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/hathi-ha/hathi/internal/config"
)

func doc(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCheckRemotePatch_RefusesCommands(t *testing.T) {
	for _, text := range []string{
		`{"postgresql":{"parameters":{"archive_command":"rm -rf /"}}}`,
		`{"postgresql":{"parameters":{"Restore_Command":"x"}}}`,
		`{"postgresql":{"parameters":{" shared_preload_libraries":"x"}}}`,
		`{"postgresql":{"parameters_replica":{"ssl_passphrase_command":"x"}}}`,
		`{"postgresql":{"recovery_conf":{"x":"y"}}}`,
		`{"postgresql":{"callbacks":{"on_start":"x"}}}`,
		`{"postgresql":{"pre_promote":"x"}}`,
		`{"postgresql":{"pg_hba":["local all all trust"]}}`,
		`{"postgresql":{"pg_ident":["m root postgres"]}}`,
		`{"postgresql":{"parameters":{"plperl.on_init":"x"}}}`,
		`{"standby_cluster":{"restore_command":"x"}}`,
		`{"standby_cluster":{"archive_cleanup_command":"x"}}`,
		`{"slots":[{"archive_command":"x"}]}`,
	} {
		errs := config.CheckRemotePatch(doc(t, text))
		var ce config.ErrCommandSetting
		if len(errs) != 1 || !errors.As(errs[0], &ce) {
			t.Errorf("%s: got %v, want one refusal", text, errs)
		}
	}
	for _, text := range []string{`{"ttl":20}`, `{"postgresql":{"parameters":{"work_mem":"4MB","archive_command":null}}}`, `{}`} {
		if errs := config.CheckRemotePatch(doc(t, text)); len(errs) != 0 {
			t.Errorf("%s: got %v, want none", text, errs)
		}
	}
}

func TestValidateDynamic(t *testing.T) {
	for _, tc := range []struct {
		text, path string
		sev        config.Severity
	}{
		{`{"ttl":"x"}`, "ttl", config.Error},
		{`{"tttl":20}`, "tttl", config.Warning},
		{`{"master_start_timeout":0}`, "master_start_timeout", config.Warning},
		{`{"postgresql":{"parameters":{"synchronous_standby_names":"*"}}}`, "postgresql.parameters.synchronous_standby_names", config.Error},
		{`{"postgresql":{"parameters":{"PORT":1}}}`, "postgresql.parameters.PORT", config.Warning},
		{`{"postgresql":{"parameters":{"hba_file":"/x"}}}`, "postgresql.parameters.hba_file", config.Error},
		{`{"postgresql":{"parameters":{"a;b":"/x"}}}`, "postgresql.parameters.a;b", config.Error},
		{`{"postgresql":{"parameters":{"max_wal_senders":1}}}`, "postgresql.parameters.max_wal_senders", config.Error},
		{`{"postgresql":{"use_slot":true}}`, "postgresql.use_slot", config.Warning},
		{`{"postgresql":{"pg_hba":["nonsense"]}}`, "postgresql.pg_hba[0]", config.Error},
		{`{"postgresql":[]}`, "postgresql", config.Error},
		{`{"synchronous_mode_strict":true}`, "synchronous_mode_strict", config.Warning},
		{`{"postgresql":{"parameters":{"fsync":"off"}}}`, "postgresql.parameters.fsync", config.Warning},
	} {
		ps := config.ValidateDynamic(doc(t, tc.text))
		if len(ps) != 1 || ps[0].Path != tc.path || ps[0].Severity != tc.sev {
			t.Errorf("%s: got\n%swant one %s at %s", tc.text, lines(ps), tc.sev, tc.path)
		}
	}
	for _, text := range []string{`{}`, `{"ttl":20,"loop_wait":2,"retry_timeout":3,"slots":{"a":null},"postgresql":{"parameters":{"max_connections":"101"}}}`} {
		if ps := config.ValidateDynamic(doc(t, text)); len(ps) != 0 {
			t.Errorf("%s: got\n%swant none", text, lines(ps))
		}
	}
}
