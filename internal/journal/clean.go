package journal

import (
	"maps"
	"regexp"
	"strings"
)

const hidden = "***"

var (
	// urlPassword matches the password in scheme://user:password@host.
	urlPassword = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]*@`)
	// keyPassword matches password=... in a connection string, quoted or not.
	keyPassword = regexp.MustCompile(`(?i)\b(password|passwd|passphrase|secret)(\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)`)
)

// clean is the entry with its own copy of the facts and without what looks like a secret.
func clean(e Entry) Entry {
	e.Why = scrub(e.Why)
	if e.Facts == nil {
		return e
	}
	e.Facts = maps.Clone(e.Facts)
	for k, v := range e.Facts {
		e.Facts[k] = cleanFact(k, v)
	}
	return e
}

func cleanFact(key string, v any) any {
	k := strings.ToLower(key)
	for _, word := range []string{"password", "passwd", "passphrase", "secret", "private_key"} {
		if strings.Contains(k, word) {
			return hidden
		}
	}
	switch v := v.(type) {
	case string:
		return scrub(v)
	case error:
		return scrub(v.Error())
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = cleanFact(k, e)
		}
		return out
	case []string:
		out := make([]string, len(v))
		for i, e := range v {
			out[i] = scrub(e)
		}
		return out
	}
	return v
}

func scrub(s string) string {
	s = urlPassword.ReplaceAllString(s, "${1}:"+hidden+"@")
	return keyPassword.ReplaceAllString(s, "${1}${2}"+hidden)
}

func shorten(s string) string {
	const most = 4 << 10
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
