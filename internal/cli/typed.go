package cli

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// called is this program as the user called it, so that what is printed can be pasted: with the path
// that was typed, when the shell did not find it by itself.
func (a *App) called() string {
	if a.Called == "" {
		return "hathi"
	}
	return shellWord(a.Called)
}

// calledAs is argv[0] where the shell leaves what was typed; otherwise the program's own file.
func calledAs(argv0, exe string) string {
	if argv0 == "" {
		return exe
	}
	if !strings.Contains(argv0, "/") {
		return argv0 // it was found in PATH
	}
	if _, err := os.Stat(argv0); err != nil {
		return exe // somebody chose a name of his own for argv[0]
	}
	return argv0
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./~^-]+$`)

// shellWord quotes a word for a POSIX shell where it has to be.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ours are the commands in a text: in quotation marks of either kind, or at the beginning of a line.
var ours = regexp.MustCompile("(?m)(`|\"|^ *)hathi ([a-z][a-z-]*|--help|COMMAND)([^`\"\n]*)(`|\"|$)")

// onACluster are the commands that take a cluster.
var onACluster = []string{"list", "topology", "history", "why", "dsn", "query", "switchover", "failover", "restart", "reinit", "reload",
	"pause", "resume", "show-config", "edit-config", "flush"}

// others are the commands that do not, and what stands for one.
var others = []string{"demo", "run", "etcd", "router", "validate", "version", "guardian", "demo-app", "--help", "COMMAND"}

// pasteable puts the program into a text as the user called it, and into commands in backquotes the
// cluster that was named on the command line.
func (a *App) pasteable(text string) string {
	return ours.ReplaceAllStringFunc(text, func(m string) string {
		p := ours.FindStringSubmatch(m)
		before, command, rest, after := p[1], p[2], p[3], p[4]
		if !slices.Contains(onACluster, command) && !slices.Contains(others, command) {
			return m // a sentence about hathi
		}
		if a.pointed != "" && before == "`" && after == "`" && slices.Contains(onACluster, command) &&
			!strings.Contains(rest, "--dir ") && !strings.Contains(rest, "-c ") {
			if flags, sql, ok := strings.Cut(rest, " -- "); ok {
				rest = flags + " " + a.pointed + " -- " + sql
			} else {
				rest += " " + a.pointed
			}
		}
		return before + a.called() + " " + command + rest + after
	})
}

// flagValue is what is wrong with a flag: what was given, and what it takes.
func flagValue(err error) (string, bool) {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return "", false
	}
	f := bad.GetFlag()
	want := map[string]string{"int": "a whole number", "duration": "a time with its unit, such as 6s or 2m", "bool": "true or false"}[f.Value.Type()]
	if want == "" {
		return "", false
	}
	_, usage := pflag.UnquoteUsage(f)
	return "--" + f.Name + " " + shellWord(bad.GetValue()) + ": want " + want + " (" + usage + ")", true
}
