package pgconf

import (
	"fmt"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
)

const header = "# Written by hathi. Changes here are overwritten: use `hathi edit-config`, or postgresql.parameters\n# of the node's configuration file.\n"

// FormatConf writes postgresql.conf: the settings in alphabetical order, after an include if one is
// named. A name or value that the file cannot carry is an error.
func FormatConf(include string, settings map[string]string) ([]byte, error) {
	var b strings.Builder
	b.WriteString(header)
	if include != "" {
		fmt.Fprintf(&b, "include '%s'\n", escape(include))
	}
	for _, name := range sorted(settings) {
		if err := cluster.CheckParameter(name, settings[name]); err != nil {
			return nil, fmt.Errorf("write postgresql.conf: %w", err)
		}
		fmt.Fprintf(&b, "%s = '%s'\n", name, escape(settings[name]))
	}
	return []byte(b.String()), nil
}

// escape doubles quotes and backslashes: within quotes PostgreSQL reads both ” and \-sequences
// (src/backend/utils/misc/guc-file.l, DeescapeQuotedString).
func escape(s string) string {
	return strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(s)
}

// ParseConf reads settings in postgresql.conf's syntax, such as postgresql.auto.conf or the file
// that initdb makes. Names come out in lower case; a name stated twice has its last value; include
// directives are left out. A line that PostgreSQL would refuse is an error with its number.
func ParseConf(text string) (map[string]string, error) {
	out := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		name, value, ok, err := parseLine(strings.TrimSuffix(line, "\r"))
		if err != nil {
			return nil, fmt.Errorf("parse postgresql.conf, line %d: %w", i+1, err)
		}
		if ok {
			out[name] = value
		}
	}
	return out, nil
}

const blanks = " \t\v\f\r"

func parseLine(line string) (name, value string, ok bool, err error) {
	s := strings.TrimLeft(line, blanks)
	if s == "" || s[0] == '#' {
		return "", "", false, nil
	}
	end := 0
	for end < len(s) && (nameByte(s[end]) || end > 0 && (s[end] >= '0' && s[end] <= '9' || s[end] == '$' || s[end] == '.')) {
		end++
	}
	if end == 0 {
		return "", "", false, fmt.Errorf("want a parameter name, got %q", s[:1])
	}
	name, s = strings.ToLower(s[:end]), s[end:]
	rest := strings.TrimLeft(s, blanks)
	if strings.HasPrefix(rest, "=") {
		rest = strings.TrimLeft(rest[1:], blanks)
	} else if len(rest) == len(s) && rest != "" {
		return "", "", false, fmt.Errorf("parameter %s: want = or a blank after the name", name)
	}
	if strings.HasPrefix(rest, "'") {
		value, rest, err = unquote(rest[1:])
		if err != nil {
			return "", "", false, fmt.Errorf("parameter %s: %w", name, err)
		}
	} else {
		end = strings.IndexAny(rest, blanks+"#'=")
		if end < 0 {
			end = len(rest)
		}
		value, rest = rest[:end], rest[end:]
		if value == "" {
			return "", "", false, fmt.Errorf("parameter %s has no value", name)
		}
	}
	if rest = strings.TrimLeft(rest, blanks); rest != "" && rest[0] != '#' {
		return "", "", false, fmt.Errorf("parameter %s: something follows its value", name)
	}
	return name, value, name != "include" && name != "include_dir" && name != "include_if_exists", nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

// unquote reads up to the closing quote; s begins after the opening one.
func unquote(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte('\'')
			i++
		case s[i] == '\'':
			return b.String(), s[i+1:], nil
		case s[i] == '\\' && i+1 < len(s):
			i++
			i += unescape(&b, s[i:])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", fmt.Errorf("the value's quote is not closed")
}

// unescape writes what a backslash before s stands for, and returns how many bytes beyond the first
// it took.
func unescape(b *strings.Builder, s string) int {
	if i := strings.IndexByte("bfnrt", s[0]); i >= 0 {
		b.WriteByte("\b\f\n\r\t"[i])
		return 0
	}
	n, octal := 0, 0
	for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
		octal = octal*8 + int(s[n]-'0')
		n++
	}
	if n > 0 {
		b.WriteByte(byte(octal))
		return n - 1
	}
	b.WriteByte(s[0])
	return 0
}

// Generated says whether a postgresql.conf was written by Build.
func Generated(text string) bool { return strings.HasPrefix(text, header) }
