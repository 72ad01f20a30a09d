package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// consentFlags are --force and --yes.
type consentFlags struct{ force, yes bool }

func (f *consentFlags) bind(c *cobra.Command) {
	c.Flags().BoolVar(&f.force, "force", false, "do not ask")
	c.Flags().BoolVarP(&f.yes, "yes", "y", false, "the same as --force")
}

func (f *consentFlags) given() bool { return f.force || f.yes }

// saidf is an error in patronictl's own words, which scripts look for; they begin with a capital.
func saidf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// refusedError is an answer of a member that did not do as it was asked.
type refusedError struct {
	action, member, text string
	code                 int
}

func (e *refusedError) Error() string {
	text := printable(strings.TrimSpace(e.text))
	if text == "" {
		text = http.StatusText(e.code)
	}
	switch e.code {
	case http.StatusUnauthorized:
		text += "\nhint: state the user and password of the REST API in ctl.authentication (or restapi.authentication) of the configuration"
	case http.StatusForbidden:
		text += "\nhint: run the command on a node, or see restapi.allowlist and ctl.certfile in the configuration"
	}
	return fmt.Sprintf("%s refused by %s (%d): %s", e.action, e.member, e.code, text)
}

// request sends an action to a member's REST API. An answer of 400 or more is a refusedError.
func (t *target) request(ctx context.Context, m cluster.Member, method, path string, body any) (code int, text string, err error) {
	return t.requestQuery(ctx, m, method, path, "", body)
}

func (t *target) requestQuery(ctx context.Context, m cluster.Member, method, path, query string, body any) (code int, text string, err error) {
	action := strings.TrimPrefix(path, "/")
	if m.APIURL == "" {
		return 0, "", fmt.Errorf("%s: member %s publishes no REST address (api_url): is its agent running?", action, m.Name)
	}
	u, err := url.Parse(m.APIURL)
	if err != nil || u.Host == "" {
		return 0, "", fmt.Errorf("%s: member %s publishes a REST address that is none", action, m.Name)
	}
	code, text, err = t.client.Do(ctx, method, (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: path, RawQuery: query}).String(), body)
	if err != nil {
		return 0, "", fmt.Errorf("%s on member %s: %w", action, m.Name, err)
	}
	if code >= 400 {
		return code, text, &refusedError{action: action, member: m.Name, text: text, code: code}
	}
	return code, text, nil
}

// unsent says whether a request surely did not reach the member: there was no connection.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// selection is which members an action is for.
type selection struct {
	names   []string // as given
	all     bool     // naming none means all
	role    string   // primary, replica, standby_leader, any; "" for any
	pending bool
	verb    string
}

// parseRole reads the words of --role, Patroni's older ones included.
func parseRole(s string) (string, error) {
	switch s {
	case "", "any", "primary", "replica", "standby-leader", "standby_leader":
		return strings.ReplaceAll(s, "_", "-"), nil
	case "leader", "master":
		return "primary", nil
	}
	return "", usagef("--role %q: want primary, replica, standby-leader or any", s)
}

// choose picks the members, replicas first and the leader last, so that a run through all of them
// disturbs clients once.
func (t *target) choose(v cluster.View, s selection) ([]cluster.Member, error) {
	leader := leaderOf(v)
	standby := len(v.Config.StandbyCluster) > 0
	fits := func(m cluster.Member) bool {
		switch s.role {
		case "primary":
			if m.Name != leader || standby {
				return false
			}
		case "standby-leader":
			if m.Name != leader || !standby {
				return false
			}
		case "replica":
			if m.Name == leader {
				return false
			}
		}
		return !s.pending || m.PendingRestart
	}
	names := s.names
	if len(names) == 1 && names[0] == t.name { // patronictl's first argument, and no member
		if _, ok := v.Member(names[0]); !ok {
			names, s.all = nil, true
		}
	}
	if len(names) == 0 && s.role == "" && !s.pending && !s.all {
		return nil, usagef("%s: which member? name one of %s, or use --role", s.verb, orNone(memberNames(v)))
	}
	named := len(names) > 0
	if !named {
		names = memberNames(v)
	}
	var out []cluster.Member
	for _, n := range names {
		m, err := t.member(v, n)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o cluster.Member) bool { return o.Name == n }) {
			continue
		}
		if fits(m) {
			out = append(out, m)
		}
	}
	if len(out) == 0 && len(s.names) > 0 && s.role != "" && s.role != "any" {
		return nil, saidf("No %s among provided members", s.role)
	}
	slices.SortStableFunc(out, func(a, b cluster.Member) int {
		switch {
		case a.Name == leader:
			return 1
		case b.Name == leader:
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

func namesOf(ms []cluster.Member) string {
	out := make([]string, len(ms))
	for i, m := range ms {
		out[i] = m.Name
	}
	return strings.Join(out, ", ")
}

// parseScheduled reads the time of --scheduled; the zero time for "now" and nothing. A time without
// an offset is local.
func parseScheduled(s string) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" || s == "now" {
		return time.Time{}, nil
	}
	if t, err := cluster.ParseSchedule(s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04",
		"2006-01-02T15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("Unable to parse scheduled timestamp (%s). It should be in an unambiguous format (e.g. ISO 8601: %s)", s,
		time.Now().Add(time.Hour).Format("2006-01-02T15:04Z07:00"))
}
