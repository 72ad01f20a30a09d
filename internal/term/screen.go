package term

import (
	"bytes"
	"io"
	"strings"
)

const (
	clearScreen = "\x1b[2J"
	home        = "\x1b[H"
	clearLine   = "\x1b[K" // from the cursor to the end of the line
	clearBelow  = "\x1b[J" // from the cursor to the end of the screen
	hideCursor  = "\x1b[?25l"
	showCursor  = "\x1b[?25h"
)

// Screen is a terminal that shows one picture after the other in the same place. It has one user
// at a time. The terminal must be Capable.
type Screen struct {
	w    io.Writer
	open bool
	last []byte
}

// NewScreen is a screen on w. It writes nothing yet.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// Draw shows lines, cut to width and height (0: not cut), in place of the picture before. The
// first call clears the terminal and hides the cursor. A picture that did not change is not
// written again; call Clear after a change of size.
func (s *Screen) Draw(lines []string, width, height int) error {
	var b bytes.Buffer
	b.WriteString(home)
	if height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		// The line is cleared before it is written: a cursor that waits behind the last column would
		// otherwise take the last character with it.
		b.WriteString(clearLine)
		if width > 0 {
			line = Cut(line, width)
		}
		b.WriteString(line)
	}
	b.WriteString("\r\n" + clearBelow)
	if height > 0 && len(lines) == height {
		b.Truncate(b.Len() - len("\r\n"+clearBelow)) // a line feed here would scroll
	}
	if s.open && bytes.Equal(b.Bytes(), s.last) {
		return nil
	}
	s.last = bytes.Clone(b.Bytes())
	var out []byte
	if !s.open {
		s.open = true
		out = append(out, hideCursor+clearScreen...)
	}
	_, err := s.w.Write(append(out, s.last...)) // in one piece, so that it does not flicker
	return err
}

// Clear makes the next Draw paint the whole terminal.
func (s *Screen) Clear() error {
	s.last = nil
	_, err := io.WriteString(s.w, home+clearScreen)
	return err
}

// Close shows the cursor again and leaves the last picture where it is. It may be called twice.
func (s *Screen) Close() error {
	if !s.open {
		return nil
	}
	s.open, s.last = false, nil
	_, err := io.WriteString(s.w, showCursor)
	return err
}

// Cut shortens text to at most width columns of the terminal. Control sequences take no room, and
// one that colours is ended where the text was cut.
func Cut(text string, width int) string {
	if Width(text) <= width {
		return text
	}
	var b strings.Builder
	used, coloured := 0, false
	for rest := text; rest != ""; {
		if n := escape(rest); n > 0 {
			b.WriteString(rest[:n])
			coloured = true
			rest = rest[n:]
			continue
		}
		r, size := decode(rest)
		w := runeWidth(r)
		if used+w > width {
			break
		}
		b.WriteString(rest[:size])
		used += w
		rest = rest[size:]
	}
	if coloured {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}
