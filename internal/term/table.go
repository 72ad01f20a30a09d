package term

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Align is where a cell stands in its column. The zero value is on the left.
type Align byte

// The alignments.
const (
	Left Align = iota
	Right
	Center
)

// Column is one column of a Table.
type Column struct {
	// Name is the heading, and the key in json and yaml.
	Name string
	// Short is the heading in the pretty and topology formats, where it differs (patronictl says
	// "Lag" there for "Receive Lag"). Empty: Name.
	Short string
	Align Align
	// Plain columns are left out of the pretty and topology formats: the title tells what they tell
	// (the cluster's name).
	Plain bool
}

// Table is rows under headings.
//
// A cell is a string, an integer, a float, a bool, nil, or a map[string]any, []any of those. They
// are spelled as patronictl spells them: None, True and False in the formats for people; a map is
// YAML, in several lines in the pretty format and in one in topology and tsv.
type Table struct {
	// Title stands in the top border, cut to the table's width. With a title, empty cells are left out
	// of json and yaml, as patronictl's list does.
	Title   string
	Columns []Column
	// Rows have as many cells as there are columns. With no columns at all the pretty format names
	// them "Field 1" and so on.
	Rows [][]any
}

// Add appends a row.
func (t *Table) Add(cells ...any) { t.Rows = append(t.Rows, cells) }

// Format is a way to write a Table.
type Format string

// The formats of patronictl's -f.
const (
	Pretty   Format = "pretty"
	Topology Format = "topology"
	TSV      Format = "tsv"
	JSON     Format = "json"
	YAML     Format = "yaml"
)

// ParseFormat reads the value of a --format option. "yml" is yaml.
func ParseFormat(s string) (Format, error) {
	switch f := Format(strings.ToLower(s)); f {
	case Pretty, Topology, TSV, JSON, YAML:
		return f, nil
	case "yml":
		return YAML, nil
	}
	return "", fmt.Errorf("unknown output format %q: use pretty, topology, tsv, json or yaml", s)
}

// Write writes the table to w in format f.
func (t *Table) Write(w io.Writer, f Format) error {
	for i, row := range t.Rows {
		if n := len(t.Columns); n > 0 && len(row) != n {
			return fmt.Errorf("write table: row %d has %d cells, want %d", i, len(row), n)
		}
	}
	var out string
	var err error
	switch f {
	case Pretty, Topology:
		out = t.box(f)
	case TSV:
		out = t.tsv("\t")
	case JSON:
		out = t.json()
	case YAML:
		out, err = t.yaml()
	default:
		err = fmt.Errorf("unknown output format %q", string(f))
	}
	if err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	if _, err := io.WriteString(w, out); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// Lines is the pretty table in lines, for a Screen.
func (t *Table) Lines() []string { return strings.Split(strings.TrimSuffix(t.box(Pretty), "\n"), "\n") }

// columns are the headings, made up where there are none.
func (t *Table) columns() []Column {
	if len(t.Columns) > 0 || len(t.Rows) == 0 {
		return t.Columns
	}
	out := make([]Column, len(t.Rows[0]))
	for i := range out {
		out[i].Name = "Field " + strconv.Itoa(i+1)
	}
	return out
}

// box draws the table with borders.
func (t *Table) box(f Format) string {
	columns := t.columns()
	var shown []int
	var widths []int
	var head [][]string
	for i, c := range columns {
		if c.Plain {
			continue
		}
		name := c.Name
		if c.Short != "" {
			name = c.Short
		}
		shown = append(shown, i)
		head = append(head, []string{name})
		widths = append(widths, Width(name))
	}
	tall := false // a cell of several lines puts a rule between all rows
	rows := make([][][]string, len(t.Rows))
	for r, row := range t.Rows {
		rows[r] = make([][]string, len(shown))
		for k, i := range shown {
			if i >= len(row) {
				continue
			}
			lines := strings.Split(cellText(row[i], f == Pretty), "\n")
			tall = tall || len(lines) > 1
			for _, line := range lines {
				widths[k] = max(widths[k], Width(line))
			}
			rows[r][k] = lines
		}
	}

	var rule strings.Builder
	rule.WriteByte('+')
	for _, w := range widths {
		rule.WriteString(strings.Repeat("-", w+2) + "+")
	}
	var b strings.Builder
	b.WriteString(titled(rule.String(), t.Title) + "\n")
	line := func(cells [][]string) {
		height := 1
		for _, c := range cells {
			height = max(height, len(c))
		}
		for n := range height {
			b.WriteByte('|')
			for k, c := range cells {
				text := ""
				if n < len(c) {
					text = c[n]
				}
				b.WriteString(" " + pad(text, widths[k], columns[shown[k]].Align) + " |")
			}
			b.WriteByte('\n')
		}
	}
	line(head)
	b.WriteString(rule.String() + "\n")
	for _, row := range rows {
		line(row)
		if tall {
			b.WriteString(rule.String() + "\n")
		}
	}
	if !tall {
		b.WriteString(rule.String() + "\n")
	}
	return b.String()
}

// titled puts title over the dashes of rule, all but the last character.
func titled(rule, title string) string {
	if title == "" {
		return rule
	}
	title = " " + strings.TrimSpace(title) + " "
	if room := len(rule) - 2; Width(title) > room {
		title = Cut(title, room)
	}
	return rule[:1] + title + rule[1+Width(title):]
}

func pad(s string, width int, a Align) string {
	room := max(width-Width(s), 0)
	switch a {
	case Right:
		return strings.Repeat(" ", room) + s
	case Center:
		// The odd blank goes to the left of a text of even width and to the right of the others.
		left := room / 2
		if room%2 == 1 && Width(s)%2 == 0 {
			left++
		}
		return strings.Repeat(" ", left) + s + strings.Repeat(" ", room-left)
	}
	return s + strings.Repeat(" ", room)
}
