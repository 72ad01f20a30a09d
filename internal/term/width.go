package term

import (
	"unicode"
	"unicode/utf8"
)

// Width is how many columns of a terminal text takes: none for control sequences and combining
// marks, two for the wide characters of East Asia and for most emoji. Of several lines it is their
// sum; split first.
func Width(text string) int {
	n := 0
	for text != "" {
		if e := escape(text); e > 0 {
			text = text[e:]
			continue
		}
		r, size := decode(text)
		n += runeWidth(r)
		text = text[size:]
	}
	return n
}

func decode(s string) (rune, int) { return utf8.DecodeRuneInString(s) }

// escape is the length of the control sequence (ESC [ ... letter) that s begins with, 0 for none.
func escape(s string) int {
	if len(s) < 3 || s[0] != 0x1b || s[1] != '[' {
		return 0
	}
	for i := 2; i < len(s); i++ {
		if c := s[i]; c >= 0x40 && c <= 0x7e {
			return i + 1
		} else if c < 0x20 || c > 0x7e {
			return 0
		}
	}
	return 0
}

// wide are the ranges that Unicode's EastAsianWidth.txt calls wide or full-width, roughly: single
// unassigned characters inside a range are counted with it.
var wide = []struct{ from, to rune }{
	{0x1100, 0x115f}, {0x231a, 0x231b}, {0x23e9, 0x23ec}, {0x25fd, 0x25fe}, {0x2614, 0x2615},
	{0x2705, 0x2705}, {0x270a, 0x270b}, {0x274c, 0x274c}, {0x2753, 0x2755}, {0x2795, 0x2797},
	{0x2e80, 0x303e}, {0x3041, 0xa4cf}, {0xa960, 0xa97f}, {0xac00, 0xd7a3}, {0xf900, 0xfaff},
	{0xfe30, 0xfe6f}, {0xff01, 0xff60}, {0xffe0, 0xffe6}, {0x1f18e, 0x1f18e}, {0x1f191, 0x1f19a},
	{0x1f200, 0x1f320}, {0x1f32d, 0x1f335}, {0x1f337, 0x1f37c}, {0x1f37e, 0x1f393},
	{0x1f3a0, 0x1f3ca}, {0x1f400, 0x1f43e}, {0x1f442, 0x1f4fc}, {0x1f4ff, 0x1f53d},
	{0x1f5fb, 0x1f64f}, {0x1f680, 0x1f6c5}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd},
}

func runeWidth(r rune) int {
	switch {
	case r < 0x20 || r == 0x7f:
		return 0
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	}
	for _, w := range wide {
		if r < w.from {
			return 1
		}
		if r <= w.to {
			return 2
		}
	}
	return 1
}
