package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The bounds of a file. A configuration of a hundred kilobytes would be a strange one.
const (
	maxBytes = 1 << 20
	maxDepth = 32
	maxNodes = 50_000 // after aliases are expanded
)

type kind int

const (
	null kind = iota
	scalar
	list
	mapping
)

// node is a YAML value with its aliases and merge keys expanded.
type node struct {
	kind   kind
	line   int
	text   string // of a scalar, as written
	tag    string // !!str, !!int, !!float, !!bool
	items  []*node
	fields []field
	env    string // the environment variable it came from
}

type field struct {
	key  string
	line int
	val  *node
}

func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for _, f := range n.fields {
		if f.key == key {
			return f.val
		}
	}
	return nil
}

// set puts val at path, making mappings on the way; a null or scalar in the way is replaced.
func (n *node) set(path []string, val *node) {
	if n.kind != mapping {
		*n = node{kind: mapping, line: n.line}
	}
	for i := range n.fields {
		if n.fields[i].key != path[0] {
			continue
		}
		if len(path) == 1 {
			n.fields[i].val = val
		} else {
			n.fields[i].val.set(path[1:], val)
		}
		return
	}
	if len(path) == 1 {
		n.fields = append(n.fields, field{key: path[0], val: val})
		return
	}
	child := &node{kind: mapping}
	child.set(path[1:], val)
	n.fields = append(n.fields, field{key: path[0], val: child})
}

// parser turns YAML into nodes within the bounds, and collects what is wrong.
type parser struct {
	problems Problems
	nodes    int
	over     bool
}

func (p *parser) bad(path string, line int, hint, format string, args ...any) {
	p.problems = append(p.problems, Problem{Path: path, Line: line, Severity: Error, Message: fmt.Sprintf(format, args...), Hint: hint})
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// parse reads one YAML document. An empty one is an empty mapping.
func parse(b []byte) (*node, Problems) {
	p := &parser{}
	empty := &node{kind: mapping}
	if len(b) > maxBytes {
		p.bad("", 0, "this does not look like a configuration file", "the file has %d bytes, more than the limit of %d", len(b), maxBytes)
		return empty, p.problems
	}
	if bytes.HasPrefix(b, []byte{0xff, 0xfe}) || bytes.HasPrefix(b, []byte{0xfe, 0xff}) || bytes.IndexByte(b, 0) >= 0 {
		p.bad("", 1, "save it as UTF-8", "the file is not UTF-8 text")
		return empty, p.problems
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			p.syntax(b, err)
		}
		return empty, p.problems
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		p.bad("", second.Line, "keep one document; remove the line with ---", "a second YAML document begins here; it would be ignored")
	} else if !errors.Is(err, io.EOF) {
		p.syntax(b, err)
	}
	if len(doc.Content) == 0 {
		return empty, p.problems
	}
	root := p.build(doc.Content[0], "", 0)
	if root.kind == null {
		return empty, p.problems
	}
	if root.kind != mapping {
		p.bad("", root.line, "begin with `scope: NAME`", "the file holds no settings: want KEY: VALUE lines")
		return empty, p.problems
	}
	return root, p.problems
}

// syntax reports an error of the YAML reader, whose text holds no value of the file.
func (p *parser) syntax(b []byte, err error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := yamlLine.FindStringSubmatchIndex(msg); m != nil {
		line, _ = strconv.Atoi(msg[m[2]:m[3]])
		msg = msg[:m[0]] + msg[m[1]:]
	}
	hint := ""
	for i, l := range strings.Split(string(b), "\n") {
		blank := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
		if strings.Contains(blank, "\t") && strings.TrimSpace(l) != "" {
			line, hint = i+1, "indent with spaces: this line begins with a tab"
			break
		}
	}
	p.bad("", line, hint, "not valid YAML: %s", msg)
}

func (p *parser) build(y *yaml.Node, path string, depth int) *node {
	n := &node{line: y.Line}
	p.nodes++
	if p.nodes > maxNodes || depth > maxDepth {
		if !p.over {
			p.over = true
			p.bad(path, y.Line, "remove the aliases (*name) that repeat large parts, or the deep nesting",
				"the file expands to more than %d values or %d levels", maxNodes, maxDepth)
		}
		return n
	}
	if p.over {
		return n
	}
	switch y.Kind {
	case yaml.AliasNode:
		a := p.build(y.Alias, path, depth+1)
		a.line = y.Line
		return a
	case yaml.ScalarNode:
		p.scalar(n, y)
	case yaml.SequenceNode:
		n.kind = list
		for i, c := range y.Content {
			n.items = append(n.items, p.build(c, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
	case yaml.MappingNode:
		n.kind = mapping
		p.mapping(n, y, path, depth)
	}
	return n
}

// scalar reads a plain word the way Patroni's YAML 1.1 does: on, off, yes and no are booleans.
func (p *parser) scalar(n *node, y *yaml.Node) {
	n.kind, n.text, n.tag = scalar, y.Value, y.ShortTag()
	plain := y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch n.tag {
	case "!!null":
		n.kind = null
	case "!!int", "!!float", "!!bool":
	default:
		n.tag = "!!str"
		if plain && y.Tag != "!" {
			switch strings.ToLower(y.Value) {
			case "on", "off", "yes", "no":
				n.tag = "!!bool"
			}
		}
	}
}

func (p *parser) mapping(n *node, y *yaml.Node, path string, depth int) {
	var merges []*node
	seen := map[string]int{} // key to its line
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.ShortTag() == "!!merge" {
			m := p.build(v, path, depth+1)
			if m.kind == list {
				merges = append(merges, m.items...)
			} else {
				merges = append(merges, m)
			}
			continue
		}
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			p.bad(path, k.Line, "", "a key must be one word")
			continue
		}
		key, at := k.Value, join(path, k.Value)
		val := p.build(v, at, depth+1)
		if line, ok := seen[key]; ok {
			p.bad(at, k.Line, "remove one of them", "stated twice, on lines %d and %d", line, k.Line)
			continue
		}
		seen[key] = k.Line
		n.fields = append(n.fields, field{key: key, line: k.Line, val: val})
	}
	for _, m := range merges {
		for _, f := range m.fields {
			if _, ok := seen[f.key]; !ok {
				seen[f.key] = f.line
				n.fields = append(n.fields, f)
			}
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// value is the node as plain Go data, fit for JSON: map[string]any, []any, string, bool, int64,
// float64, nil. A number outside the range of those is a problem.
func (n *node) value(path string, bad func(line int, path, message string)) any {
	switch n.kind {
	case list:
		out := make([]any, 0, len(n.items))
		for i, e := range n.items {
			out = append(out, e.value(fmt.Sprintf("%s[%d]", path, i), bad))
		}
		return out
	case mapping:
		out := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			out[f.key] = f.val.value(join(path, f.key), bad)
		}
		return out
	case scalar:
		return n.scalarValue(path, bad)
	}
	return nil
}

func (n *node) scalarValue(path string, bad func(line int, path, message string)) any {
	digits := strings.ReplaceAll(n.text, "_", "")
	switch n.tag {
	case "!!bool":
		b, _ := truth(n.text)
		return b
	case "!!int":
		if len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "01234567") == "" {
			digits = "0o" + digits[1:] // YAML 1.1, which Patroni reads
		}
		if i, err := strconv.ParseInt(digits, 0, 64); err == nil {
			return i
		}
		bad(n.line, path, "the number is too large")
	case "!!float":
		if f, err := strconv.ParseFloat(digits, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
		bad(n.line, path, "want a finite number")
	default:
		return n.text
	}
	return nil
}

func truth(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "on", "true", "yes", "1":
		return true, true
	case "off", "false", "no", "0":
		return false, true
	}
	return false, false
}
