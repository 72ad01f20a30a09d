package config

import (
	"fmt"
	"log/slog"
)

// Secret is a text that must not be printed. Every way of formatting it gives "***" ("" when it
// is empty); Reveal gives the text.
type Secret string

const hidden = "***"

// Reveal is the text itself.
func (s Secret) Reveal() string { return string(s) }

// String is "***", or "" when the secret is empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString is what %#v prints.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format keeps the secret out of every verb, %x and %q included.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		fmt.Fprintf(f, "%q", s.String())
		return
	}
	_, _ = f.Write([]byte(s.String()))
}

// MarshalText serves JSON, YAML keys and flags.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML hides it in YAML.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue hides it in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Size is a number of bytes; in the file a whole number, or text with kB, MB, GB or TB (of 1024).
type Size int64

// String is the largest unit that gives a whole number.
func (s Size) String() string {
	for _, u := range []struct {
		name string
		n    Size
	}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"kB", 1 << 10}} {
		if s != 0 && s%u.n == 0 {
			return fmt.Sprintf("%d%s", int64(s/u.n), u.name)
		}
	}
	return fmt.Sprintf("%d", int64(s))
}
