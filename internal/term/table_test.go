package term_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/hathi-ha/hathi/internal/term"
)

var update = flag.Bool("update", false, "rewrite the snapshots")

const title = "Cluster: demo (7384519283746520123)"

// tables are the tables whose snapshots stand in testdata. They were made by patronictl's own
// print_output (Patroni 4, prettytable 3.18), but for multiline.yaml, whose reason is quoted another
// way, and the order of the tags in tags.json.
func tables() map[string]*term.Table {
	members := func(more ...term.Column) *term.Table {
		return &term.Table{Title: title, Columns: append([]term.Column{
			{Name: "Cluster", Plain: true}, {Name: "Member"}, {Name: "Host"}, {Name: "Role"}, {Name: "State"},
			{Name: "TL", Align: term.Right}, {Name: "Lag in MB", Align: term.Right}}, more...)}
	}
	rows := [][]any{
		{"demo", "pg1", "127.0.0.1:5432", "Leader", "running", uint32(1), ""},
		{"demo", "pg2", "127.0.0.1:5433", "Quorum Standby", "streaming", 1, 0},
		{"demo", "pg3", "127.0.0.1:5434", "Replica", "streaming", 1, int64(12)},
	}
	row := func(i int, more ...any) []any { return append(append([]any(nil), rows[i]...), more...) }

	list := members()
	list.Rows = rows
	tags := members(term.Column{Name: "Tags"})
	tags.Rows = [][]any{row(0, ""), row(1, map[string]any{
		"nofailover": true, "clonefrom": false, "failover_priority": 0, "zone": "a b"})}
	multi := members(term.Column{Name: "Pending restart"}, term.Column{Name: "Pending restart reason"})
	multi.Rows = [][]any{row(0, "*", "max_connections: 100->200\nwork: [hidden - too long]"), row(1, "", "")}
	long := &term.Table{Title: title, Columns: []term.Column{{Name: "A"}, {Name: "B"}}}
	long.Add(1, 2)
	history := &term.Table{Columns: []term.Column{{Name: "TL", Align: term.Right}, {Name: "LSN", Align: term.Right},
		{Name: "Reason"}, {Name: "Timestamp"}, {Name: "New Leader"}}}
	history.Add(1, 25623960, "no recovery target specified", "2026-01-02T03:04:05.000000+00:00", "pg2")
	history.Add(2, 123, "", "", "")
	bare := &term.Table{}
	bare.Add("2026-01-01", "ERROR, SQLSTATE: 42P01")
	values := &term.Table{Columns: []term.Column{{Name: "n"}, {Name: "b", Align: term.Center},
		{Name: "f", Align: term.Right}, {Name: "s"}, {Name: "wide"}}}
	values.Add(nil, true, 1.5, `tab"x`, "日本")
	values.Add(nil, false, 2.0, "é", "a: b")
	lag := &term.Table{Title: "Cluster: x (1)", Columns: []term.Column{{Name: "Member"}, {Name: "Receive LSN"},
		{Name: "Lag", Align: term.Right}, {Name: "Replay LSN"}, {Name: "Lag", Align: term.Right}}}
	lag.Add("pg1", "0/1", 0, "0/1", 10)
	return map[string]*term.Table{"members": list, "empty": members(), "tags": tags, "multiline": multi,
		"longtitle": long, "history": history, "nocolumns": bare, "values": values, "newlag": lag}
}

func TestTable_IsThatOfPatronictl(t *testing.T) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v, %v, want snapshots", files, err)
	}
	all := tables()
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			name, format, _ := strings.Cut(filepath.Base(file), ".")
			table := all[name]
			if table == nil {
				t.Fatalf("no table for %s", file)
			}
			f, err := term.ParseFormat(format)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := table.Write(&got, f); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

func TestTable_JSONAndYAMLSayTheSame(t *testing.T) {
	for name, table := range tables() {
		var j, y bytes.Buffer
		if err := table.Write(&j, term.JSON); err != nil {
			t.Fatal(err)
		}
		if err := table.Write(&y, term.YAML); err != nil {
			t.Fatal(err)
		}
		var fromJSON, fromYAML any
		if err := json.Unmarshal(j.Bytes(), &fromJSON); err != nil {
			t.Fatalf("%s: %v in %s", name, err, j.String())
		}
		if err := yaml.Unmarshal(y.Bytes(), &fromYAML); err != nil {
			t.Fatalf("%s: %v in %s", name, err, y.String())
		}
		a, _ := json.Marshal(fromJSON)
		b, err := json.Marshal(fromYAML)
		if err != nil || string(a) != string(b) {
			t.Errorf("%s: got json %s, yaml %s (%v), want the same", name, a, b, err)
		}
	}
}

func TestTable_RefusesARowOfTheWrongLength(t *testing.T) {
	table := &term.Table{Columns: []term.Column{{Name: "a"}, {Name: "b"}}}
	table.Add("only one")
	if err := table.Write(&bytes.Buffer{}, term.Pretty); err == nil {
		t.Error("got nil, want an error")
	}
	if _, err := term.ParseFormat("xml"); err == nil {
		t.Error("got nil, want an error for format xml")
	}
}

// FuzzTable_StringsSurvive: whatever a cell holds, json and yaml give it back, and every line of the
// box is equally wide.
func FuzzTable_StringsSurvive(f *testing.F) {
	for _, s := range []string{"", "x", "a: b", "- a", "#", "12", "null", "2026-01-01", "日本", "a\nb", "'\"\\", "\x00", " x ", "~", "[", "é\u0301", "a #b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		table := &term.Table{Columns: []term.Column{{Name: "k"}}}
		table.Add(s)
		var b bytes.Buffer
		if err := table.Write(&b, term.JSON); err != nil {
			t.Fatal(err)
		}
		var got []map[string]string
		if err := json.Unmarshal(b.Bytes(), &got); err != nil || got[0]["k"] != s {
			t.Fatalf("got %q, %v from json %q, want %q", got, err, b.String(), s)
		}
		b.Reset()
		if err := table.Write(&b, term.YAML); err != nil {
			t.Fatal(err)
		}
		var back []map[string]string
		if err := yaml.Unmarshal(b.Bytes(), &back); err != nil || back[0]["k"] != s {
			t.Fatalf("got %q, %v from yaml %q, want %q", back, err, b.String(), s)
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return
		}
		lines := table.Lines()
		for _, line := range lines {
			if term.Width(line) != term.Width(lines[0]) {
				t.Fatalf("got width %d in %q, want %d", term.Width(line), line, term.Width(lines[0]))
			}
		}
	})
}
