package rest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// VerifyClient is restapi.verify_client.
type VerifyClient string

// What is asked of a client's certificate: nothing, a valid one for unsafe requests, or a valid one
// for every request.
const (
	VerifyNone     VerifyClient = "none"
	VerifyOptional VerifyClient = "optional"
	VerifyRequired VerifyClient = "required"
)

// Access says who may send unsafe requests (everything but GET, HEAD and OPTIONS). With neither a
// password, nor client certificates, nor an allowlist, only this machine itself may.
type Access struct {
	Username, Password string // both empty: no password is asked for
	Allowlist          []netip.Prefix
	AllowNames         []string // of the allowlist: host names, looked up at each request
	AllowMembers       bool     // allowlist_include_members: the members' own addresses too
	// Hosts are names under which browsers may reach this server, beside IP addresses, localhost
	// and the members' own hosts.
	Hosts []string
}

func (a Access) password() bool { return a.Username != "" || a.Password != "" }

// refusal is an answer that ends a request.
type refusal struct {
	code   int
	text   string
	header http.Header
}

const openText = "unsafe requests are answered only to this machine itself, because neither a password (restapi.authentication) nor client certificates (restapi.verify_client) nor an allowlist (restapi.allowlist) are configured"

// allow checks an unsafe request; nil means that it may go on. byMember is true for requests that
// members send each other (POST /failsafe).
func (a Access) allow(r *http.Request, verify VerifyClient, members map[string]cluster.Member, byMember bool) *refusal {
	if ref := sameOrigin(r, a.Hosts, members); ref != nil {
		return ref
	}
	from := remoteIP(r)
	checkMembers := a.AllowMembers && !byMember
	listed := len(a.Allowlist) > 0 || len(a.AllowNames) > 0
	if listed || checkMembers {
		if !contains(a.Allowlist, from) && !named(r.Context(), from, a.AllowNames) && (!checkMembers || !isMember(r.Context(), from, members)) {
			return &refusal{code: http.StatusForbidden, text: "Access is denied"}
		}
	}
	wantCert := r.TLS != nil && (verify == VerifyOptional || verify == VerifyRequired)
	if wantCert && len(r.TLS.VerifiedChains) == 0 {
		return &refusal{code: http.StatusForbidden, text: "client certificate required"}
	}
	if a.password() {
		return a.basic(r)
	}
	if wantCert || listed || checkMembers || from.IsLoopback() {
		return nil
	}
	if byMember && isMember(r.Context(), from, members) {
		return nil
	}
	return &refusal{code: http.StatusForbidden, text: openText}
}

func (a Access) basic(r *http.Request) *refusal {
	text := "not authenticated"
	if r.Header.Get("Authorization") == "" {
		text = "no auth header received"
	} else if user, pass, ok := r.BasicAuth(); ok {
		// Hashes of fixed length, so that the time tells nothing about lengths either.
		gotU, wantU := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(a.Username))
		gotP, wantP := sha256.Sum256([]byte(pass)), sha256.Sum256([]byte(a.Password))
		if subtle.ConstantTimeCompare(gotU[:], wantU[:])&subtle.ConstantTimeCompare(gotP[:], wantP[:]) == 1 {
			return nil
		}
	}
	return &refusal{code: http.StatusUnauthorized, text: text, header: http.Header{"Www-Authenticate": {`Basic realm="Patroni"`}}}
}

// sameOrigin refuses what a browser sends on behalf of another site, and of a name that was bound
// to this address for that purpose. Programs send neither Origin nor Sec-Fetch-Site.
func sameOrigin(r *http.Request, hosts []string, members map[string]cluster.Member) *refusal {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	if origin == "" && site == "" {
		return nil
	}
	no := &refusal{code: http.StatusForbidden, text: "cross-origin requests are refused"}
	if site != "" && site != "same-origin" && site != "none" {
		return no
	}
	if origin != "" {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
			return no
		}
	}
	if !knownHost(r.Host, hosts, members) {
		return &refusal{code: http.StatusForbidden, text: "this host name is not one of this node: browsers may use its IP address or restapi.connect_address"}
	}
	return nil
}

func knownHost(hostport string, hosts []string, members map[string]cluster.Member) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return true
	}
	for _, h := range hosts {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	for _, m := range members {
		if u, err := url.Parse(m.APIURL); err == nil && strings.EqualFold(u.Hostname(), host) && host != "" {
			return true
		}
	}
	return false
}

// remoteIP is the peer of the connection; forwarding headers are for proxies to invent and count
// for nothing.
func remoteIP(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func contains(list []netip.Prefix, ip netip.Addr) bool {
	for _, p := range list {
		if p.Contains(ip) || p.Addr().Is4In6() && netip.PrefixFrom(p.Addr().Unmap(), max(p.Bits()-96, 0)).Contains(ip) {
			return true
		}
	}
	return false
}

// isMember says whether ip is an address of a member's REST API. Names are looked up, for at most
// two seconds in all.
func isMember(ctx context.Context, ip netip.Addr, members map[string]cluster.Member) bool {
	var names []string
	for _, m := range members {
		u, err := url.Parse(m.APIURL)
		if err != nil || u.Hostname() == "" {
			continue
		}
		if a, err := netip.ParseAddr(u.Hostname()); err != nil {
			names = append(names, u.Hostname())
		} else if a.Unmap() == ip {
			return true
		}
	}
	return named(ctx, ip, names)
}

// named says whether one of the names stands for ip.
func named(ctx context.Context, ip netip.Addr, names []string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, n := range names {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", n)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if a.Unmap() == ip {
				return true
			}
		}
	}
	return false
}
