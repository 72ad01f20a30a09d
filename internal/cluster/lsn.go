package cluster

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log, in bytes from its beginning. Zero is
// PostgreSQL's InvalidXLogRecPtr: unknown, or none.
type LSN uint64

// ParseLSN reads PostgreSQL's text form, two hexadecimal numbers and a slash ("16/B374D848").
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(strings.TrimSpace(s), "/")
	if !ok {
		return 0, fmt.Errorf("parse WAL position %q: want two hexadecimal numbers with a slash between, as in 16/B374D848", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse WAL position %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse WAL position %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// String is PostgreSQL's text form.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) }

// Behind is how many bytes l lies before other, and 0 when it does not.
func (l LSN) Behind(other LSN) int64 {
	if l >= other {
		return 0
	}
	return int64(other - l)
}
