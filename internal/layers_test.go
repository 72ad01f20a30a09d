// Package internal_test holds the shape of the program: which package may import which, and what the
// pure ones must not touch. It reads the source itself, without tests and whatever the build tags say.
package internal_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hathi-ha/hathi/"

// layers is the order of the program, lowest first. A package imports packages of lower layers, and
// none of its own layer but those in beside. Names are below internal/; cmd is itself.
var layers = []struct {
	name     string
	pure     bool // no I/O, no clock, no goroutine: see impure
	packages []string
}{
	{"vocabulary", true, []string{"cluster", "lease", "quorum"}},
	{"decisions", true, []string{"config", "ha", "pgconf", "route"}},
	{"helpers", false, []string{"atomicfile", "boottime", "dcs", "fresh", "health", "journal", "pki", "process", "resident", "spool"}},
	{"edges", false, []string{"dcs/dcstest", "dcs/etcd", "dcs/mem", "demo", "etcdserver", "guardian", "postgres", "rest", "router", "supervise", "term"}},
	{"node", false, []string{"instance", "node"}},
	{"whole", false, []string{"daemon", "sim", "sim/simmain"}},
	{"commands", false, []string{"cli"}},
	{"main", false, []string{"cmd/hathi"}},
}

// beside are the imports inside one layer, each with its reason.
var beside = map[string]string{
	"quorum → cluster":  "the store's record of the synchronous set (cluster.SyncState) is one of the two things it computes with",
	"pki → atomicfile":  "keys and certificates must survive a power cut whole",
	"instance → node":   "it implements the interface that node declares",
	"sim/simmain → sim": "it is the command of the simulator",
}

// only says which of our packages a package may import at most, where that is less than its layer allows.
var only = []struct {
	pkg     string
	allowed []string
	why     string
}{
	{"node", []string{"cluster", "lease", "quorum", "ha", "dcs"},
		"PostgreSQL, guardian, peers and clock come in through its interfaces, so that the simulator can give others"},
	{"sim", []string{"cluster", "lease", "quorum", "ha", "dcs", "dcs/mem", "node"},
		"it plays on fakes; a real edge would bring real time and chance"},
	{"guardian", []string{"lease", "atomicfile", "boottime", "process", "resident"},
		"the fence depends on as little as can be"},
	{"supervise", []string{"atomicfile", "boottime", "process"},
		"it keeps any child alive and knows nothing of PostgreSQL"},
}

// foreign are the modules, beside the standard library, that pure packages may use.
var foreign = map[string][]string{
	"config": {"go.yaml.in/yaml/v3"}, // bytes to a tree; opens nothing
}

// impure are the packages of the standard library that a pure package does without. An entry that
// ends in "/" stands for everything below it.
var impure = []string{
	"context", "crypto/rand", "database/sql", "io/ioutil", "log", "math/rand", "math/rand/v2",
	"net", "net/http", "net/http/", "net/rpc", "net/smtp", "os", "os/", "os/exec", "plugin", "runtime", "runtime/",
	"sync", "sync/", "syscall", "testing", "unsafe",
}

// clock are the names of package time that read the clock or wait for it.
var clock = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

// timeless are packages that are not pure and yet do without some of clock: what of it, and why.
var timeless = map[string]struct {
	without []string
	why     string
}{
	"node":    {[]string{"Now", "Since", "Until"}, "the daemon gives it CLOCK_BOOTTIME, the simulator virtual time"},
	"sim":     {clock, "time is what the scheduler says, so that a seed gives the same history everywhere"},
	"dcs/mem": {clock, "time is what the injected clock says"},
	"health":  {clock, "instants are handed in"},
	"journal": {clock, "instants are handed in"},
	"demo":    {[]string{"Now", "Since", "Until", "Sleep"}, "it plans and starts nothing"},
}

func TestLayers_ImportsPointDownward(t *testing.T) {
	rank, layer := map[string]int{}, map[string]string{}
	for i, l := range layers {
		for _, p := range l.packages {
			rank[p], layer[p] = i, l.name
		}
	}
	tree, used := load(t), map[string]bool{}
	for _, pkg := range sorted(tree) {
		if _, known := rank[pkg]; !known {
			t.Errorf("package %s is in no layer: put it into the table of this test, as low as what it imports allows", pkg)
			continue
		}
		for _, f := range tree[pkg] {
			for _, imported := range f.ours {
				used[pkg+" → "+imported] = true
				switch to, known := rank[imported]; {
				case !known:
					// Reported once, at the package itself.
				case to > rank[pkg]:
					t.Errorf("%s: %s (%s) imports %s (%s): imports point downward only", f.path, pkg, layer[pkg], imported, layer[imported])
				case to == rank[pkg] && beside[pkg+" → "+imported] == "":
					t.Errorf("%s: %s imports %s, which is beside it in the layer of the %s: let the caller connect them, or move what both need down", f.path, pkg, imported, layer[pkg])
				}
			}
		}
	}
	for p := range rank {
		if tree[p] == nil {
			t.Errorf("the table of layers names %s, which does not exist", p)
		}
	}
	for exception := range beside {
		if !used[exception] {
			t.Errorf("the exception %s is not needed any more: remove it", exception)
		}
	}
}

func TestLayers_SomePackagesKnowLess(t *testing.T) {
	tree := load(t)
	for _, rule := range only {
		for _, f := range tree[rule.pkg] {
			for _, imported := range f.ours {
				if !slices.Contains(rule.allowed, imported) {
					t.Errorf("%s: %s imports %s and may not: %s", f.path, rule.pkg, imported, rule.why)
				}
			}
		}
	}
}

func TestLayers_PurePackagesTouchNothing(t *testing.T) {
	tree := load(t)
	for _, l := range layers {
		if !l.pure {
			continue
		}
		for _, pkg := range l.packages {
			for _, f := range tree[pkg] {
				for _, imported := range f.others {
					if isImpure(imported) {
						t.Errorf("%s: %s is pure and imports %s: hand the value in, or do it at an edge", f.path, pkg, imported)
					}
					if strings.Contains(strings.Split(imported, "/")[0], ".") && !slices.Contains(foreign[pkg], imported) {
						t.Errorf("%s: %s is pure and imports the module %s, which nobody vouched for (foreign, in this test)", f.path, pkg, imported)
					}
				}
				for _, use := range f.usesOfTime(clock) {
					t.Errorf("%s: %s is pure and uses %s: hand the instant in", use.at, pkg, use.name)
				}
				for _, at := range f.goroutines() {
					t.Errorf("%s: %s is pure and starts a goroutine", at, pkg)
				}
			}
		}
	}
}

func TestLayers_SomePackagesReadNoClock(t *testing.T) {
	tree := load(t)
	for _, pkg := range sorted(tree) {
		for _, f := range tree[pkg] {
			for _, use := range f.usesOfTime(timeless[pkg].without) {
				t.Errorf("%s: %s uses %s and may not: %s", use.at, pkg, use.name, timeless[pkg].why)
			}
		}
	}
}

// A rule that nothing can break protects nothing: the readers themselves are tried on a bad file.
func TestLayers_ReaderSeesTheClockAndTheGoroutine(t *testing.T) {
	const bad = `package bad
import clock "time"
func f() { go func() { clock.Sleep(1) }(); g(clock.Now) }
func g(now func() clock.Time) {}
`
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, "bad.go", bad, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	f := newFile("bad.go", set, parsed)
	var got []string
	for _, use := range f.usesOfTime(clock) {
		got = append(got, use.at+" "+use.name)
	}
	for _, at := range f.goroutines() {
		got = append(got, at+" go")
	}
	if want := []string{"bad.go:3 time.Sleep", "bad.go:3 time.Now", "bad.go:3 go"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for name, want := range map[string]bool{"os": true, "os/exec": true, "net": true, "net/netip": false, "net/url": false, "sync/atomic": true, "slices": false} {
		if got := isImpure(name); got != want {
			t.Errorf("isImpure(%q): got %v, want %v", name, got, want)
		}
	}
}

// file is one source file and what it imports.
type file struct {
	path   string
	set    *token.FileSet
	syntax *ast.File
	ours   []string // packages of this module, as the tables name them
	others []string
	time   string // what the file calls package time; empty when it does not import it
}

func newFile(name string, set *token.FileSet, syntax *ast.File) file {
	f := file{path: name, set: set, syntax: syntax}
	for _, spec := range syntax.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if own, ok := strings.CutPrefix(imported, module); ok {
			f.ours = append(f.ours, strings.TrimPrefix(own, "internal/"))
			continue
		}
		f.others = append(f.others, imported)
		if imported == "time" {
			f.time = "time"
			if spec.Name != nil {
				f.time = spec.Name.Name
			}
		}
	}
	return f
}

type use struct{ at, name string }

// usesOfTime finds the uses of the given names of package time, as calls or as values.
func (f file) usesOfTime(names []string) []use {
	var found []use
	if f.time == "" || len(names) == 0 {
		return nil
	}
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == f.time && slices.Contains(names, s.Sel.Name) {
				found = append(found, use{f.position(s), "time." + s.Sel.Name})
			}
		}
		return true
	})
	return found
}

func (f file) goroutines() []string {
	var found []string
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if s, ok := n.(*ast.GoStmt); ok {
			found = append(found, f.position(s))
		}
		return true
	})
	return found
}

func (f file) position(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.set.Position(n.Pos()).Line)
}

func isImpure(imported string) bool {
	return slices.ContainsFunc(impure, func(entry string) bool {
		return imported == entry || strings.HasSuffix(entry, "/") && strings.HasPrefix(imported, entry)
	})
}

// load parses every file below internal and cmd that is no test, by package.
func load(t *testing.T) map[string][]file {
	t.Helper()
	tree, set := map[string][]file{}, token.NewFileSet()
	for _, root := range []string{".", "../cmd"} {
		err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && (entry.Name() == "testdata" || len(entry.Name()) > 2 && strings.ContainsAny(entry.Name()[:1], "._")):
				return fs.SkipDir
			case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
				return nil
			}
			syntax, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			pkg := strings.TrimPrefix(path.Dir(filepath.ToSlash(name)), "../")
			tree[pkg] = append(tree[pkg], newFile(name, set, syntax))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(tree) == 0 {
		t.Fatal("no source found")
	}
	return tree
}

func sorted(tree map[string][]file) []string {
	var names []string
	for name := range tree {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
