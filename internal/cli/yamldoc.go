package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// dumpYAML writes a document as patronictl does: keys sorted, two blanks of indentation, lists not
// indented.
func dumpYAML(doc map[string]any) (string, error) {
	if len(doc) == 0 {
		return "{}\n", nil
	}
	n, err := toNode(doc)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(n); err != nil {
		return "", fmt.Errorf("write the configuration as YAML: %w", err)
	}
	if err := e.Close(); err != nil {
		return "", fmt.Errorf("write the configuration as YAML: %w", err)
	}
	return b.String(), nil
}

func toNode(v any) (*yaml.Node, error) {
	switch v := v.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode}
		keys := mapKeysOf(v)
		for _, k := range keys {
			var key yaml.Node
			if err := key.Encode(k); err != nil {
				return nil, fmt.Errorf("write %q as YAML: %w", k, err)
			}
			value, err := toNode(v[k])
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, &key, value)
		}
		if len(keys) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n, nil
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, e := range v {
			value, err := toNode(e)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, value)
		}
		if len(v) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n, nil
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}, nil
	}
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return nil, fmt.Errorf("write a value as YAML: %w", err)
	}
	return &n, nil
}

func mapKeysOf(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// maxNesting bounds how deep a YAML document may be nested.
const maxNesting = 50

// parseYAML reads one YAML value into what JSON can hold. What YAML takes for a time stays text;
// aliases are refused, since a short text could then be a very long document.
func parseYAML(text []byte) (any, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var n yaml.Node
	if err := d.Decode(&n); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil // empty
		}
		return nil, err
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the document")
	}
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		return fromNode(n.Content[0], 0)
	}
	return fromNode(&n, 0)
}

func fromNode(n *yaml.Node, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("line %d: nested more than %d deep", n.Line, maxNesting)
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
				return nil, fmt.Errorf("line %d: want plain text as a key", k.Line)
			}
			if _, twice := out[k.Value]; twice {
				return nil, fmt.Errorf("line %d: the key %s occurs twice", k.Line, k.Value)
			}
			v, err := fromNode(n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			out[k.Value] = v
		}
		return out, nil
	case yaml.SequenceNode:
		out := []any{}
		for _, c := range n.Content {
			v, err := fromNode(c, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case yaml.AliasNode:
		return nil, fmt.Errorf("line %d: aliases are not supported here: write the value out", n.Line)
	case yaml.ScalarNode:
		return scalar(n)
	}
	return nil, nil
}

func scalar(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!int", "!!float", "!!bool", "!!null":
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, fmt.Errorf("line %d: %w", n.Line, err)
		}
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return nil, fmt.Errorf("line %d: %s cannot be stored", n.Line, n.Value)
		}
		return v, nil
	}
	// What YAML 1.1, and so patronictl, takes for true and false.
	if n.Tag == "!!str" && n.Style == 0 {
		switch n.Value {
		case "on", "On", "ON", "yes", "Yes", "YES":
			return true, nil
		case "off", "Off", "OFF", "no", "No", "NO":
			return false, nil
		}
	}
	return n.Value, nil
}

// unifiedDiff is the difference of two texts as `diff -u` shows it, with three lines around each
// change.
func unifiedDiff(before, after string) []string {
	a, b := lines(before), lines(after)
	type op struct {
		kind byte
		text string
		i, j int
	}
	// The longest common subsequence; configurations have some hundred lines.
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var ops []op
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			ops = append(ops, op{' ', a[i], i, j})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || length[i+1][j] >= length[i][j+1]):
			ops = append(ops, op{'-', a[i], i, j})
			i++
		default:
			ops = append(ops, op{'+', b[j], i, j})
			j++
		}
	}
	const around = 3
	var out []string
	for at := 0; at < len(ops); {
		if ops[at].kind == ' ' {
			at++
			continue
		}
		from, to := max(0, at-around), at+1
		for k := at; k < len(ops) && k < to+2*around; k++ {
			if ops[k].kind != ' ' {
				to = k + 1
			}
		}
		to = min(len(ops), to+around)
		if len(out) == 0 {
			out = append(out, "---", "+++")
		}
		oldLines, newLines := 0, 0
		for _, o := range ops[from:to] {
			if o.kind != '+' {
				oldLines++
			}
			if o.kind != '-' {
				newLines++
			}
		}
		out = append(out, fmt.Sprintf("@@ -%s +%s @@", span(ops[from].i, oldLines), span(ops[from].j, newLines)))
		for _, o := range ops[from:to] {
			out = append(out, string(o.kind)+o.text)
		}
		at = to
	}
	return out
}

func span(from, n int) string {
	if n == 1 {
		return fmt.Sprint(from + 1)
	}
	if n == 0 {
		return fmt.Sprintf("%d,0", from)
	}
	return fmt.Sprintf("%d,%d", from+1, n)
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}
