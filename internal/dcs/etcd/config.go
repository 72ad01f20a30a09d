package etcd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"
)

// Config says where the store is and how long to wait for it.
type Config struct {
	// Endpoints are the client addresses of the etcd members, in order of preference (the member
	// of one's own machine first): "https://10.0.0.1:2379" or "10.0.0.1:2379". Addresses by IP
	// avoid DNS; a name is looked up again at each connect.
	Endpoints []string
	// TLS is used for every endpoint; nil means plain text (or, with https, the system's roots).
	TLS *tls.Config
	// TLSFor, if set, is used instead of TLS and gives the configuration for one host (a name or
	// an IP). It is for configurations that re-read their files and need to know whom to expect.
	TLSFor func(host string) *tls.Config
	// Username and Password for etcd's own authentication. Empty: none.
	Username, Password string
	// Prefix is the scope, "/service/demo/". It begins and ends with a slash.
	Prefix string
	// DialTimeout bounds one attempt to connect. Default 1 s.
	DialTimeout time.Duration
	// RequestTimeout bounds every request, whether or not its context has a deadline; the earlier
	// of the two counts. Default 2 s. Choose it well above one etcd election.
	RequestTimeout time.Duration
	// Seen is a revision that this store is known to have reached (an earlier process saw it). Answers
	// from before it are refused. 0: nothing is known.
	Seen int64
	// Logger gets changes of the preferred endpoint. nil: no log.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Endpoints) == 0 {
		return c, errors.New("no endpoints given")
	}
	if c.DialTimeout <= 0 {
		c.DialTimeout = time.Second
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if len(c.Prefix) < 2 || !strings.HasPrefix(c.Prefix, "/") || !strings.HasSuffix(c.Prefix, "/") {
		return c, fmt.Errorf("prefix %q does not begin and end with a slash", c.Prefix)
	}
	if (c.Username == "") != (c.Password == "") {
		return c, errors.New("username and password must be given together")
	}
	seen := map[string]bool{}
	for _, ep := range c.Endpoints {
		host, scheme, err := splitEndpoint(ep)
		if err != nil {
			return c, err
		}
		if scheme == "http" && (c.TLS != nil || c.TLSFor != nil) {
			return c, fmt.Errorf("endpoint %q is plain text although TLS is configured; write https://%s", ep, host)
		}
		if seen[ep] {
			return c, fmt.Errorf("endpoint %q is given twice", ep)
		}
		seen[ep] = true
	}
	return c, nil
}

// splitEndpoint takes "https://host:port", "http://host:port" or "host:port" apart.
func splitEndpoint(ep string) (hostport, scheme string, err error) {
	full := ep
	if !strings.Contains(ep, "://") {
		full = "tcp://" + ep
	}
	u, err := url.Parse(full)
	if err != nil {
		// url.Error quotes the whole text, which could hold a password; say only what is wrong.
		return "", "", errors.New("an endpoint is not an address such as https://10.0.0.1:2379")
	}
	if u.User != nil {
		return "", "", fmt.Errorf("endpoint with host %q holds credentials; give them as username and password", u.Host)
	}
	switch u.Scheme {
	case "http", "https", "tcp":
	default:
		return "", "", fmt.Errorf("endpoint %q: scheme %q is neither http nor https", ep, u.Scheme)
	}
	if u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", "", fmt.Errorf("endpoint %q is not an address such as https://10.0.0.1:2379", ep)
	}
	return u.Host, u.Scheme, nil
}
