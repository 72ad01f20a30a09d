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

// quoted are commands in a text, in quotation marks of either kind; first, those that begin a line.
var (
	quoted = regexp.MustCompile("(`|\")hathi ([a-z][a-z-]*|--help|COMMAND)([^`\"\n]*)(`|\")")
	first  = regexp.MustCompile(`(?m)^( *)hathi ([a-z][a-z-]*)( |\||$)`)
)

// onACluster are the commands that take a cluster.
var onACluster = []string{"list", "topology", "history", "why", "dsn", "query", "switchover", "failover", "restart", "reinit", "reload",
	"pause", "resume", "show-config", "edit-config", "flush"}

// others are the commands that do not, and what stands for one.
var others = []string{"demo", "run", "etcd", "router", "validate", "version", "guardian", "demo-app", "--help", "COMMAND"}

func isCommand(word string) bool {
	return slices.Contains(onACluster, word) || slices.Contains(others, word)
}

// pasteable puts the program into the commands of a text as the user called it, and where they are in
// backquotes the cluster that was named on the command line.
func (a *App) pasteable(text string) string {
	return quoted.ReplaceAllStringFunc(text, func(m string) string {
		p := quoted.FindStringSubmatch(m)
		before, command, rest, after := p[1], p[2], p[3], p[4]
		if !isCommand(command) {
			return m // a sentence about hathi
		}
		if a.pointed != "" && before == "`" && after == "`" && slices.Contains(onACluster, command) &&
			!strings.Contains(rest, "--dir ") && !strings.Contains(rest, "-c ") && !strings.Contains(rest, "--help") {
			if flags, sql, ok := strings.Cut(rest, " -- "); ok {
				rest = flags + " " + a.pointed + " -- " + sql
			} else {
				rest += " " + a.pointed
			}
		}
		return before + a.called() + " " + command + rest + after
	})
}

// help is pasteable for the text of a help page, where commands begin lines.
func (a *App) help(text string) string {
	return first.ReplaceAllStringFunc(a.pasteable(text), func(m string) string {
		p := first.FindStringSubmatch(m)
		if !isCommand(p[2]) {
			return m
		}
		return p[1] + a.called() + " " + p[2] + p[3]
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
