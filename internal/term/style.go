package term

// Style colours words, or leaves them alone. The zero value leaves them alone.
type Style struct{ on bool }

// NewStyle is a Style for w: it colours when w is a capable terminal and NO_COLOR is unset or empty
// (https://no-color.org).
func NewStyle(w any, getenv func(string) string) Style {
	return Style{on: getenv("NO_COLOR") == "" && Capable(w, getenv)}
}

// Colours is a Style that always colours (true) or never does.
func Colours(on bool) Style { return Style{on: on} }

// On says whether it colours.
func (s Style) On() bool { return s.on }

func (s Style) wrap(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold is for what matters most.
func (s Style) Bold(text string) string { return s.wrap("1", text) }

// Dim is for what may be overlooked.
func (s Style) Dim(text string) string { return s.wrap("2", text) }

// Red is for what is broken.
func (s Style) Red(text string) string { return s.wrap("31", text) }

// Green is for what is in order.
func (s Style) Green(text string) string { return s.wrap("32", text) }

// Yellow is for what needs a look.
func (s Style) Yellow(text string) string { return s.wrap("33", text) }

// Cyan is for names and things to copy.
func (s Style) Cyan(text string) string { return s.wrap("36", text) }
