package config

import (
	"embed"
	"fmt"
	"reflect"
	"strings"
)

//go:embed config.go etcd.go postgresql.go router.go
var source embed.FS

//go:embed example.yml
var example string

// Example is a commented configuration file. It parses without problems.
func Example() string { return example }

// comments are the comments of all fields, by Type.Field, read from the source of this package:
// the comment of a field is its documentation, in one place.
func comments() map[string]string {
	out := map[string]string{}
	files, err := source.ReadDir(".")
	if err != nil {
		panic("config: embedded source: " + err.Error())
	}
	for _, f := range files {
		b, err := source.ReadFile(f.Name())
		if err != nil {
			panic("config: embedded source: " + err.Error())
		}
		typ, comment := "", []string(nil)
		for line := range strings.SplitSeq(string(b), "\n") {
			t := strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(t, "// "):
				comment = append(comment, t[3:])
				continue
			case strings.HasPrefix(line, "type ") && strings.HasSuffix(line, " struct {"):
				typ = strings.Fields(line)[1]
				out[typ] = strings.Join(comment, " ")
			case line == "}":
				typ = ""
			case typ != "" && strings.Contains(t, "`yaml:"):
				out[typ+"."+strings.Fields(t)[0]] = strings.Join(comment, " ")
			}
			comment = nil
		}
	}
	return out
}

// Reference is the documentation of every setting as Markdown, in the order of the structs.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration reference\n\n" +
		"One YAML file, the same for `hathi run`, `hathi etcd`, `hathi router` and all commands. Patroni's keys keep Patroni's\n" +
		"meaning. Every single-valued setting has an environment variable, named at its entry; where Patroni has one\n" +
		"(`PATRONI_...`) that is read too. This page is made from the source.\n")
	w := referenceWriter{b: &b, docs: comments(), patroni: map[string]string{}}
	names := patroniNames()
	for _, name := range sortedKeys(names) {
		if w.patroni[names[name]] == "" {
			w.patroni[names[name]] = name
		}
	}
	b.WriteString("\n## Top level\n\n")
	w.fields(reflect.TypeFor[Config](), "", 2)
	return b.String()
}

type referenceWriter struct {
	b       *strings.Builder
	docs    map[string]string
	patroni map[string]string
}

func (w referenceWriter) fields(t reflect.Type, path string, level int) {
	var sections []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || strings.HasPrefix(key, ",") {
			continue
		}
		if elem(f.Type).Kind() == reflect.Struct {
			sections = append(sections, f)
			continue
		}
		w.entry(t, f, join(path, key))
	}
	for _, f := range sections {
		at := join(path, f.Tag.Get("yaml"))
		ft := elem(f.Type)
		fmt.Fprintf(w.b, "\n%s `%s`\n\n%s\n\n", strings.Repeat("#", min(level, 4)), at, w.docs[ft.Name()])
		w.fields(ft, at, level+1)
	}
}

func elem(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func (w referenceWriter) entry(t reflect.Type, f reflect.StructField, path string) {
	facts := []string{typeWord(f.Type)}
	if e := f.Tag.Get("enum"); e != "" {
		facts[0] = strings.ReplaceAll(e, ",", " \\| ")
	}
	if l := strings.TrimSpace(limits(f.Tag.Get("min"), f.Tag.Get("max"))); l != "" {
		facts = append(facts, strings.TrimPrefix(l, "of "))
	}
	if d := f.Tag.Get("default"); d != "" {
		facts = append(facts, "default `"+d+"`")
	}
	envs := "`" + EnvName(path) + "`"
	if p := w.patroni[path]; p != "" {
		envs = "`" + p + "`, " + envs
	}
	fmt.Fprintf(w.b, "- **`%s`** (%s; %s): %s\n", path, strings.Join(facts, ", "), envs, w.docs[t.Name()+"."+f.Name])
}

func typeWord(t reflect.Type) string {
	switch t {
	case durationType:
		return "duration"
	case sizeType:
		return "size"
	case secretType:
		return "secret text"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "whole number"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "section"
	}
	return "text, list or section"
}
