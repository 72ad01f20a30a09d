package daemon

import (
	"slices"
	"testing"

	"github.com/hathi-ha/hathi/internal/config"
)

func TestReload_NamesWhatTakesARestartOfTheAgent(t *testing.T) {
	load := func(text string) *config.Config {
		c, problems := config.Load([]byte(text), nil)
		if err := problems.Err(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	const base = "scope: demo\nname: pg1\netcd3: {hosts: [127.0.0.1:2379]}\nrestapi: {listen: 127.0.0.1:8008}\npostgresql:\n  listen: 127.0.0.1:5432\n  data_dir: /srv/pg\n"
	for _, c := range []struct {
		name, more string
		want       []string
	}{
		{"nothing", "", nil},
		{"a parameter and a tag", "  parameters: {work_mem: 8MB}\ntags: {nofailover: true}\n", nil},
		{"pg_hba", "  pg_hba: [\"local all all peer\"]\n", nil},
		{"a password", "  authentication: {replication: {username: replicator, password: Xq7rT2}}\n", []string{"postgresql.authentication"}},
		{"the client's certificate", "ctl: {insecure: true}\n", []string{"ctl"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := changedFixed(load(base), load(base+c.more)); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
