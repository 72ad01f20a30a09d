package term

import (
	"os"
	"strconv"

	xterm "golang.org/x/term"
)

// File is what is asked for the size: *os.File is one.
type File interface{ Fd() uintptr }

// IsTerminal says whether w is a terminal. Anything without a file descriptor is none.
func IsTerminal(w any) bool {
	f, ok := w.(File)
	return ok && xterm.IsTerminal(int(f.Fd()))
}

// Size is the width and height of the terminal w in characters. Where w is no terminal, or does not
// know, COLUMNS and LINES of the environment count, and then 80 and 24.
func Size(w any, getenv func(string) string) (width, height int) {
	if f, ok := w.(File); ok {
		if cols, rows, err := xterm.GetSize(int(f.Fd())); err == nil && cols > 0 && rows > 0 {
			return cols, rows
		}
	}
	return number(getenv("COLUMNS"), 80), number(getenv("LINES"), 24)
}

func number(s string, otherwise int) int {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 10000 {
		return n
	}
	return otherwise
}

// Capable says whether control sequences may be written to w: it is a terminal, and TERM is neither
// empty nor "dumb".
func Capable(w any, getenv func(string) string) bool {
	t := getenv("TERM")
	return t != "" && t != "dumb" && IsTerminal(w)
}

var _ File = (*os.File)(nil)
