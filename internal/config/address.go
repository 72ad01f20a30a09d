package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// splitHostPort reads HOST:PORT, with an IPv6 address in brackets or bare where it is unambiguous.
// A missing port is def; def 0 makes it necessary.
func splitHostPort(s string, def int) (host string, port int, err error) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() && def != 0 {
		return s, def, nil
	}
	i := strings.LastIndexByte(s, ':')
	text := ""
	if i >= 0 && !strings.HasSuffix(s, "]") {
		host, text = s[:i], s[i+1:]
	} else {
		host = s
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if text == "" {
		if def == 0 || i >= 0 && !strings.HasSuffix(s, "]") {
			return "", 0, fmt.Errorf("%q has no port: want HOST:PORT", s)
		}
		return host, def, checkHost(host)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("%q: the port must be a number from 1 to 65535", s)
	}
	return host, port, checkHost(host)
}

// checkHost accepts an address, a host name, "" and "*" (all interfaces).
func checkHost(h string) error {
	if h == "" || h == "*" {
		return nil
	}
	if _, err := netip.ParseAddr(h); err == nil {
		return nil
	}
	if len(h) > 253 {
		return fmt.Errorf("host name of %d bytes: want 253 at most", len(h))
	}
	for _, r := range h {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_' {
			continue
		}
		return fmt.Errorf("host %q: character %q is in neither addresses nor host names", h, r)
	}
	return nil
}

// hostPort writes HOST:PORT, with brackets where an IPv6 address needs them.
func hostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		return fmt.Sprintf("[%s]:%d", host, port)
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// listenHosts reads Patroni's postgresql.listen: HOST[,HOST...][:PORT].
func listenHosts(s string, def int) (hosts []string, port int, err error) {
	parts := strings.Split(s, ",")
	last := len(parts) - 1
	for i, p := range parts {
		var h string
		if i == last {
			h, port, err = splitHostPort(p, def)
		} else {
			h = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(p), "["), "]")
			err = checkHost(h)
			if err == nil && h == "" {
				err = fmt.Errorf("%q: an address between the commas is missing", s)
			}
		}
		if err != nil {
			return nil, 0, err
		}
		if h == "" {
			h = "*"
		}
		hosts = append(hosts, h)
	}
	return hosts, port, nil
}

// wildcard says whether a host stands for all interfaces.
func wildcard(h string) bool {
	a, err := netip.ParseAddr(h)
	return h == "" || h == "*" || err == nil && a.IsUnspecified()
}

// loopback says whether a host is this machine alone.
func loopback(h string) bool {
	a, err := netip.ParseAddr(h)
	return strings.EqualFold(h, "localhost") || err == nil && a.IsLoopback()
}

// endpointURL makes a URL of HOST:PORT or checks a given one.
func endpointURL(s, protocol string) (string, error) {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, "://") {
		host, port, err := splitHostPort(s, 2379)
		if err != nil {
			return "", err
		}
		if wildcard(host) {
			return "", fmt.Errorf("%q is no address that can be called", s)
		}
		return protocol + "://" + hostPort(host, port), nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("want a URL with http or https, got %q", u.Scheme)
	case u.User != nil:
		return "", fmt.Errorf("a URL with a user or password in it; use username and password")
	case u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("want just PROTOCOL://HOST:PORT")
	}
	_, _, err = splitHostPort(u.Host, 2379)
	return strings.TrimSuffix(u.String(), "/"), err
}

// ListenHosts are the addresses ("*" for all) and the port of postgresql.listen; an error when it
// is not stated or malformed.
func (p PostgreSQL) ListenHosts() (hosts []string, port int, err error) {
	if p.Listen == "" {
		return nil, 0, fmt.Errorf("postgresql.listen is not stated")
	}
	return listenHosts(p.Listen, 5432)
}

// SplitHostPort reads HOST:PORT as the configuration file writes it; a missing port is def.
func SplitHostPort(s string, def int) (host string, port int, err error) {
	return splitHostPort(s, def)
}
