package quorum

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Rule is what PostgreSQL enforces through synchronous_standby_names: a commit is acknowledged once
// Num of Names have flushed it. The zero Rule is asynchronous.
type Rule struct {
	Names []string // sorted, without repetition; the primary itself is never one
	Num   int      // 0: asynchronous
	// Any says that the setting is spelled ANY n (...). It matters to people and tools that read
	// the setting, not to the arithmetic: FIRST n (...) also needs n of the names.
	Any bool
}

// wildcard in a rule stands for every standby there may be.
const wildcard = "*"

// NewRule is the rule for num of names, normalised; num is cut to the number of names.
func NewRule(names []string, num int, anyOf bool) Rule {
	names = cluster.Sorted(names)
	num = min(max(num, 0), len(names))
	if num == 0 {
		return Rule{}
	}
	return Rule{Names: names, Num: num, Any: anyOf}
}

// Blocking is the rule under which no commit is ever acknowledged: strict mode without a standby.
func Blocking(anyOf bool) Rule {
	return Rule{Names: []string{cluster.StrictPlaceholder}, Num: 1, Any: anyOf}
}

// Async says whether commits are acknowledged without any standby.
func (r Rule) Async() bool { return r.Num <= 0 }

// Blocks says whether no commit can be acknowledged: more flushes are asked for than there are
// real names.
func (r Rule) Blocks() bool {
	return r.Num > 0 && !slices.Contains(r.Names, wildcard) && r.Num > len(r.real())
}

func (r Rule) real() []string {
	names := cluster.Sorted(r.Names)
	return slices.DeleteFunc(names, func(n string) bool { return n == cluster.StrictPlaceholder })
}

// Equal compares two rules by what they enforce, the spelling aside.
func (r Rule) Equal(o Rule) bool {
	if r.Async() || o.Async() {
		return r.Async() && o.Async()
	}
	return r.Num == o.Num && slices.Equal(cluster.Sorted(r.Names), cluster.Sorted(o.Names))
}

// same is Equal with the spelling.
func (r Rule) same(o Rule) bool { return r.Equal(o) && (r.Async() || r.Any == o.Any) }

// String is the value for synchronous_standby_names, spelled as Patroni spells it: names quoted and
// sorted without blanks after commas; one name of a plain rule stands alone; empty for asynchronous.
func (r Rule) String() string {
	if r.Async() {
		return ""
	}
	quoted := make([]string, 0, len(r.Names))
	for _, n := range cluster.Sorted(r.Names) {
		if n != wildcard && n != cluster.StrictPlaceholder {
			n = `"` + strings.ReplaceAll(n, `"`, `""`) + `"`
		}
		quoted = append(quoted, n)
	}
	switch {
	case r.Any:
		return fmt.Sprintf("ANY %d (%s)", r.Num, strings.Join(quoted, ","))
	case len(quoted) == 1 && r.Num == 1:
		return quoted[0]
	}
	return fmt.Sprintf("%d (%s)", r.Num, strings.Join(quoted, ","))
}

// ParseRule reads a value of synchronous_standby_names (src/backend/replication/syncrep_gram.y).
// A number larger than that of the names stays as it is: such a rule blocks.
func ParseRule(text string) (Rule, error) {
	toks, err := tokens(text)
	if err != nil {
		return Rule{}, fmt.Errorf("parse synchronous_standby_names %q: %w", text, err)
	}
	if len(toks) == 0 {
		return Rule{}, nil
	}
	r, err := parseTokens(toks)
	if err != nil {
		return Rule{}, fmt.Errorf("parse synchronous_standby_names %q: %w", text, err)
	}
	return r, nil
}

type token struct {
	text  string
	plain bool // not quoted: may be a keyword or number
	mark  bool // one of ( ) ,
}

func tokens(s string) ([]token, error) {
	var out []token
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			i++
		case c == '(' || c == ')' || c == ',':
			out = append(out, token{text: string(c), mark: true})
			i++
		case c == '"':
			var b strings.Builder
			for i++; ; i++ {
				if i >= len(s) {
					return nil, fmt.Errorf("a quoted name does not end")
				}
				if s[i] == '"' {
					if i+1 < len(s) && s[i+1] == '"' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(s[i])
			}
			i++
			out = append(out, token{text: b.String()})
		default:
			j := i
			for j < len(s) && !strings.ContainsRune(" \t\n\r\f\v(),\"", rune(s[j])) {
				j++
			}
			out = append(out, token{text: s[i:j], plain: true})
			i = j
		}
	}
	return out, nil
}

func parseTokens(toks []token) (Rule, error) {
	r := Rule{Num: 1}
	list := toks
	head := 0
	if toks[0].plain {
		switch strings.ToLower(toks[0].text) {
		case "any":
			r.Any, head = true, 1
		case "first":
			head = 1
		}
	}
	if open := head + 1; len(toks) > open && toks[open].mark && toks[open].text == "(" {
		n, err := strconv.ParseInt(toks[head].text, 10, 32)
		if err != nil || n < 1 {
			return Rule{}, fmt.Errorf("want a positive number of standbys, got %q", toks[head].text)
		}
		last := toks[len(toks)-1]
		if !last.mark || last.text != ")" {
			return Rule{}, fmt.Errorf("the list of names does not end with )")
		}
		r.Num = int(n)
		list = toks[open+1 : len(toks)-1]
	} else if head == 1 && len(toks) > 1 {
		return Rule{}, fmt.Errorf("want a number and a list in parentheses after %s", toks[0].text)
	} else {
		r.Any = false
	}
	for i, t := range list {
		if (i%2 == 1) != (t.mark && t.text == ",") || i%2 == 0 && t.mark {
			return Rule{}, fmt.Errorf("want names with commas between, got %q", t.text)
		}
		if i%2 == 0 {
			r.Names = append(r.Names, t.text)
		}
	}
	if len(list)%2 == 0 {
		return Rule{}, fmt.Errorf("a name is missing at the end of the list")
	}
	r.Names = cluster.Sorted(r.Names)
	return r, nil
}
