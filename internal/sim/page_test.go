package sim_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/sim"
)

var updateFlag = flag.Bool("update", false, "rewrite the tables of docs/SAFETY.md")

const page = "../../docs/SAFETY.md"

// TestSafetyPage keeps the tables of docs/SAFETY.md in step with the list of mutations. The numbers of
// the histories that found them are written with -update and not compared.
func TestSafetyPage(t *testing.T) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	found := func(m sim.Mutation) string {
		if !*updateFlag {
			return "N"
		}
		bad, _ := search(m.Within, sim.Options{Mutation: &m})
		if bad == nil {
			return "none"
		}
		return fmt.Sprint(bad.Seed)
	}
	var rules, covered strings.Builder
	rules.WriteString("| rule | where | mutation | without it | breaks | found by | within |\n|---|---|---|---|---|---|---|\n")
	covered.WriteString("| rule | where | mutation | covered by | histories | with both off | found by | within |\n|---|---|---|---|---|---|---|---|\n")
	list := sim.Mutations()
	for _, m := range list {
		switch {
		case m.Both != nil:
		case m.Covered == "":
			fmt.Fprintf(&rules, "| %s | `%s` | %s | %s | %s | %s | %d |\n", m.Rule, m.Where, m.Name, m.Text, strings.Join(m.Breaks, ", "), found(m), m.Within)
		default:
			pair := partner(list, m.Name)
			if pair == nil {
				t.Errorf("%s: got no mutation that switches off what covers it, too; want one", m.Name)
				continue
			}
			fmt.Fprintf(&covered, "| %s | `%s` | %s | %s | %d | %s | %s | %d |\n", m.Rule, m.Where, m.Name, m.Covered, m.Within, strings.Join(pair.Both, " + "), found(*pair), pair.Within)
		}
	}
	want := put(t, put(t, text, "rules", rules.String()), "covered", covered.String())
	if *updateFlag {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, want := numberless(text), numberless(want); got != want {
		a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("%s, line %d: got\n%s\nwant\n%s\nrun: go test ./internal/sim -run TestSafetyPage -update", page, i+1, a[i], b[i])
			}
		}
		t.Fatalf("%s: got %d lines, want %d; run: go test ./internal/sim -run TestSafetyPage -update", page, len(a), len(b))
	}
}

// partner is the mutation that switches off name and what covers it.
func partner(list []sim.Mutation, name string) *sim.Mutation {
	for i, m := range list {
		if len(m.Both) > 0 && m.Both[0] == name {
			return &list[i]
		}
	}
	return nil
}

// put replaces the table of that name.
func put(t *testing.T, text, name, table string) string {
	t.Helper()
	re := regexp.MustCompile(`(?s)(<!-- begin ` + name + `:[^\n]*\n).*?(<!-- end ` + name + ` -->)`)
	if !re.MatchString(text) {
		t.Fatalf("%s: got no place for the table %s, want one", page, name)
	}
	return re.ReplaceAllStringFunc(text, func(s string) string {
		m := re.FindStringSubmatch(s)
		return m[1] + table + m[2]
	})
}

var number = regexp.MustCompile(`\| (\d+|N|none) (\| \d+ \|\n)`)

// numberless leaves out which histories found something.
func numberless(text string) string { return number.ReplaceAllString(text, "| N $2") }

// TestMutations_NameCodeThatExists: the page says where each rule is kept.
func TestMutations_NameCodeThatExists(t *testing.T) {
	sources := map[string]string{}
	source := func(pkg string) string {
		if s, ok := sources[pkg]; ok {
			return s
		}
		var all strings.Builder
		files, _ := filepath.Glob(filepath.Join("..", pkg, "*.go"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(f, "_test.go") {
				all.Write(b)
			}
		}
		sources[pkg] = all.String()
		return sources[pkg]
	}
	for _, m := range sim.Mutations() {
		for _, where := range strings.FieldsFunc(m.Where, func(r rune) bool { return r == ',' || r == ';' }) {
			parts := strings.Split(strings.TrimSpace(where), ".")
			if len(parts) < 2 {
				t.Errorf("%s: got %q, want package.Function or package.Type.Method", m.Name, where)
				continue
			}
			f := regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + parts[len(parts)-1] + `\(`)
			if !f.MatchString(source(parts[0])) {
				t.Errorf("%s: got %q, want a function of package %s", m.Name, where, parts[0])
			}
		}
	}
}
