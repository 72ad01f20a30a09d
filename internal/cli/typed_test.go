package cli

import (
	"errors"
	"slices"
	"testing"

	"github.com/spf13/pflag"
)

func TestPasteable(t *testing.T) {
	for _, tt := range []struct{ called, pointed, in, want string }{
		{"", "", "see `hathi list`", "see `hathi list`"},
		{"bin/hathi", "", "see `hathi list` and `hathi why`", "see `bin/hathi list` and `bin/hathi why`"},
		{"bin/hathi", "--dir /srv/d", "see `hathi list -w`, or `hathi failover --to MEMBER`", "see `bin/hathi list -w --dir /srv/d`, or `bin/hathi failover --to MEMBER --dir /srv/d`"},
		{"bin/hathi", "--dir /srv/d", "`hathi edit-config --dir /x -s ttl=6`", "`bin/hathi edit-config --dir /x -s ttl=6`"},
		{"bin/hathi", "-c n.yml", "`hathi query -m pg1 -- select 1`", "`bin/hathi query -m pg1 -c n.yml -- select 1`"},
		{"bin/hathi", "-c n.yml", "`hathi demo status`, `hathi --help`", "`bin/hathi demo status`, `bin/hathi --help`"},
		{"my dir/hathi", "", "`hathi list`", "`'my dir/hathi' list`"},
		{"bin/hathi", "-c n.yml", "hathi demo: unknown flag: see `hathi list --help`", "hathi demo: unknown flag: see `bin/hathi list --help`"},
		{"bin/hathi", "", "until \"hathi resume\"", "until \"bin/hathi resume\""},
		{"bin/hathi", "", "no agent of hathi listens; is hathi list a word", "no agent of hathi listens; is hathi list a word"},
	} {
		a := &App{Called: tt.called, pointed: tt.pointed}
		if got := a.pasteable(tt.in); got != tt.want {
			t.Errorf("%q as %q on %q: got %q, want %q", tt.in, tt.called, tt.pointed, got, tt.want)
		}
	}
}

func TestHelp(t *testing.T) {
	a := &App{Called: "bin/hathi"}
	in := "hathi runs and operates PostgreSQL.\n  hathi list     members\n  hathi restart|reinit MEMBER\nhathi list [-w]\nhathi: see `hathi why`"
	want := "hathi runs and operates PostgreSQL.\n  bin/hathi list     members\n  bin/hathi restart|reinit MEMBER\nbin/hathi list [-w]\nhathi: see `bin/hathi why`"
	if got := a.help(in); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Every command is known to what makes texts pasteable.
func TestPasteable_KnowsEveryCommand(t *testing.T) {
	for _, c := range (&App{}).root().Commands() {
		if !slices.Contains(onACluster, c.Name()) && !slices.Contains(others, c.Name()) {
			t.Errorf("the command %s is in neither list of typed.go", c.Name())
		}
	}
}

func TestShellWord(t *testing.T) {
	for in, want := range map[string]string{"/var/lib/x": "/var/lib/x", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "a;b": "'a;b'"} {
		if got := shellWord(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestCalledAs(t *testing.T) {
	here := t.TempDir()
	for _, tt := range []struct{ argv0, want string }{
		{"hathi", "hathi"},
		{here, here},                        // any file that exists
		{"./no/such/file", "/usr/bin/real"}, // exec -a
		{"", "/usr/bin/real"},
	} {
		if got := calledAs(tt.argv0, "/usr/bin/real"); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.argv0, got, tt.want)
		}
	}
}

func TestFlagValue(t *testing.T) {
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.Int("nodes", 0, "how many nodes, 1 to 7")
	f.Duration("ttl", 0, "lease duration")
	for arg, want := range map[string]string{
		"--nodes=abc": "--nodes abc: want a whole number (how many nodes, 1 to 7)",
		"--ttl=6":     "--ttl 6: want a time with its unit, such as 6s or 2m (lease duration)",
	} {
		if got, ok := flagValue(f.Parse([]string{arg})); !ok || got != want {
			t.Errorf("%s: got %q %v, want %q", arg, got, ok, want)
		}
	}
	if got, ok := flagValue(errors.New("unknown flag")); ok {
		t.Errorf("got %q for another error", got)
	}
}
