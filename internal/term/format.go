package term

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"
)

// cellText spells a cell for people. A block is a map in several lines.
func cellText(v any, block bool) string {
	switch v := plain(v).(type) {
	case nil:
		return "None"
	case string:
		return v
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		return floatText(v)
	case map[string]any, []any:
		n := yamlNode(v)
		if !block {
			n.Style = yaml.FlowStyle
		}
		out, err := yamlText(n)
		if err != nil {
			return jsonText(v)
		}
		return strings.TrimSpace(out)
	default:
		return fmt.Sprint(v)
	}
}

// plain turns the numbers, strings and collections of Go into the few kinds that are written:
// nil, string, bool, int64, uint64, float64, map[string]any, []any.
func plain(v any) any {
	switch v := v.(type) {
	case nil, string, bool, int64, uint64, float64, map[string]any, []any:
		return v
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case fmt.Stringer:
		return v.String()
	case error:
		return v.Error()
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Pointer, reflect.Interface:
		if r.IsNil() {
			return nil
		}
		return plain(r.Elem().Interface())
	case reflect.String:
		return r.String()
	case reflect.Bool:
		return r.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return r.Uint()
	case reflect.Float32, reflect.Float64:
		return r.Float()
	case reflect.Slice, reflect.Array:
		out := make([]any, r.Len())
		for i := range out {
			out[i] = r.Index(i).Interface()
		}
		return out
	case reflect.Map:
		out := make(map[string]any, r.Len())
		for it := r.MapRange(); it.Next(); {
			out[fmt.Sprint(it.Key().Interface())] = it.Value().Interface()
		}
		return out
	}
	return fmt.Sprint(v)
}

func floatText(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if f == math.Trunc(f) && math.Abs(f) < 1e16 {
		s = strconv.FormatFloat(f, 'f', 1, 64)
	}
	return s
}

func (t *Table) tsv(delimiter string) string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString(strings.Join(cells, delimiter) + "\n") }
	if len(t.Columns) > 0 {
		names := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			names[i] = c.Name
		}
		line(names)
	}
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = cellText(v, false)
		}
		line(cells)
	}
	return b.String()
}

// field is a cell with its key. Fields of one name are one: the last wins, in the first's place.
type field struct {
	key   string
	value any
}

func (t *Table) fields(row []any) []field {
	var out []field
	for i, c := range t.Columns {
		v := plain(row[i])
		if s, ok := v.(string); ok && s == "" && t.Title != "" {
			continue
		}
		if at := slices.IndexFunc(out, func(f field) bool { return f.key == c.Name }); at >= 0 {
			out[at].value = v
			continue
		}
		out = append(out, field{c.Name, v})
	}
	return out
}

func (t *Table) json() string {
	var b strings.Builder
	b.WriteByte('[')
	for i, row := range t.Rows {
		if i > 0 {
			b.WriteString(", ")
		}
		writeObject(&b, t.fields(row))
	}
	b.WriteString("]\n")
	return b.String()
}

func writeObject(b *strings.Builder, fields []field) {
	b.WriteByte('{')
	for i, f := range fields {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(f.key) + ": ")
		writeJSON(b, f.value)
	}
	b.WriteByte('}')
}

func jsonText(v any) string {
	var b strings.Builder
	writeJSON(&b, v)
	return b.String()
}

// writeJSON spells v as Python's json.dumps does: a blank after each comma and colon, nothing but
// ASCII.
func writeJSON(b *strings.Builder, v any) {
	switch v := plain(v).(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case string:
		b.WriteString(quote(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			b.WriteString("null")
			return
		}
		b.WriteString(floatText(v))
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			writeJSON(b, e)
		}
		b.WriteByte(']')
	case map[string]any:
		writeObject(b, sorted(v))
	default:
		fmt.Fprint(b, v)
	}
}

func sorted(m map[string]any) []field {
	out := make([]field, 0, len(m))
	for k, v := range m {
		out = append(out, field{k, v})
	}
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.key, b.key) })
	return out
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r >= 0x20 && r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (t *Table) yaml() (string, error) {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, row := range t.Rows {
		fields := t.fields(row)
		slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.key, b.key) })
		list.Content = append(list.Content, yamlMap(fields))
	}
	if len(list.Content) == 0 {
		list.Style = yaml.FlowStyle
	}
	out, err := yamlText(list)
	return out + "\n", err // a document and a line feed, as click.echo adds one
}

func yamlText(n *yaml.Node) (string, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return "", fmt.Errorf("encode yaml: %w", err)
	}
	if err := e.Close(); err != nil {
		return "", fmt.Errorf("encode yaml: %w", err)
	}
	return b.String(), nil
}

func yamlMap(fields []field) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fields {
		n.Content = append(n.Content, yamlNode(f.key), yamlNode(f.value))
	}
	if len(fields) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}

func yamlNode(v any) *yaml.Node {
	scalar := func(tag, value string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
	}
	switch v := plain(v).(type) {
	case nil:
		return scalar("!!null", "null")
	case bool:
		return scalar("!!bool", strconv.FormatBool(v))
	case string:
		n := scalar("!!str", v)
		if strings.ContainsFunc(v, unicode.IsControl) {
			n.Style = yaml.DoubleQuotedStyle // the only form that keeps all of them
		} else if needsQuotes(v) {
			n.Style = yaml.SingleQuotedStyle
		}
		return n
	case float64:
		return scalar("!!float", floatText(v))
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, e := range v {
			n.Content = append(n.Content, yamlNode(e))
		}
		if len(v) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case map[string]any:
		return yamlMap(sorted(v))
	default:
		return scalar("!!int", fmt.Sprint(v))
	}
}

// needsQuotes says whether a reader would take the bare string s for something else.
func needsQuotes(s string) bool {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte("a: "+s), &n); err != nil || len(n.Content) != 1 || len(n.Content[0].Content) != 2 {
		return true
	}
	value := n.Content[0].Content[1]
	return value.Kind != yaml.ScalarNode || value.Tag != "!!str" || value.Value != s
}
