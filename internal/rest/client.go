package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 20

// ClientConfig is what a Client needs. The zero value speaks plain HTTP without a password.
type ClientConfig struct {
	TLS                *tls.Config // for https; with one, the password is never sent over plain http
	Username, Password string      // sent with Do and Failsafe only
}

// Client asks the REST API and the peer servers of other nodes. It follows no redirect and uses no
// proxy; every answer is bounded in size and every request by its context (and by 10 s where the
// context has no deadline, but for Do). It is safe for concurrent use: connections are reused, and a
// host that does not answer delays no request to another.
type Client struct {
	conf ClientConfig
	http *http.Client
	tr   *http.Transport
}

// NewClient makes a client; it touches nothing.
func NewClient(conf ClientConfig) *Client {
	tr := &http.Transport{
		Proxy:                  nil,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        conf.TLS,
		TLSHandshakeTimeout:    5 * time.Second,
		MaxIdleConnsPerHost:    2,
		MaxIdleConns:           64,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
	return &Client{conf: conf, tr: tr, http: &http.Client{Transport: tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Close ends idle connections. The client may still be used.
func (c *Client) Close() error {
	c.tr.CloseIdleConnections()
	return nil
}

// readWait bounds a request whose context has no deadline.
const readWait = 10 * time.Second

// Patroni is the status of the member with this API URL (its path does not matter).
func (c *Client) Patroni(ctx context.Context, apiURL string) (Status, error) {
	var st Status
	err := c.get(ctx, apiURL, "/patroni", &st)
	return st, err
}

// Peer is the live answer of a peer server.
func (c *Client) Peer(ctx context.Context, peerURL string) (cluster.PeerStatus, error) {
	var st cluster.PeerStatus
	err := c.get(ctx, peerURL, "/peer", &st)
	return st, err
}

// Alive asks a member's peer server for a sign of life.
func (c *Client) Alive(ctx context.Context, peerURL string) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	u, err := endpoint(peerURL, "/alive")
	if err != nil {
		return err
	}
	resp, _, err := c.do(ctx, http.MethodGet, u, nil, false)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: got %d", u.Redacted(), resp.StatusCode)
	}
	return err
}

// Revoke asks a member's peer server to stop receiving from the holder of the lock. An error is a
// refusal, or no answer.
func (c *Client) Revoke(ctx context.Context, peerURL string, r RevokeRequest) (cluster.PeerStatus, error) {
	var st cluster.PeerStatus
	ctx, cancel := bound(ctx)
	defer cancel()
	u, err := endpoint(peerURL, "/revoke")
	if err != nil {
		return st, err
	}
	resp, text, err := c.do(ctx, http.MethodPost, u, r, true)
	if err != nil {
		return st, err
	}
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("POST %s: got %d %s", u.Redacted(), resp.StatusCode, clip(text))
	}
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		return st, fmt.Errorf("POST %s: %w", u.Redacted(), err)
	}
	return st, nil
}

// Failsafe asks a member whether this node may stay primary without the store. accepted is false
// when the member answered no; lsn, when not 0, is what the member has received or replayed. An
// error means that it gave no answer.
func (c *Client) Failsafe(ctx context.Context, apiURL string, body FailsafeRequest) (ok bool, lsn cluster.LSN, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	u, err := endpoint(apiURL, "/failsafe")
	if err != nil {
		return false, 0, err
	}
	resp, text, err := c.do(ctx, http.MethodPost, u, body, true)
	if err != nil {
		return false, 0, err
	}
	if resp.StatusCode != http.StatusOK || text != accepted {
		if resp.StatusCode == http.StatusInternalServerError && text != "" {
			return false, 0, nil
		}
		return false, 0, fmt.Errorf("POST %s: got %d %s", u.Redacted(), resp.StatusCode, clip(text))
	}
	n, _ := strconv.ParseUint(resp.Header.Get("lsn"), 10, 64)
	return true, cluster.LSN(n), nil
}

// Do sends a request with the password, and body (nil for none) as JSON, to a whole URL. It returns
// the code and text of whatever answer comes; the context bounds how long it may take.
func (c *Client) Do(ctx context.Context, method, rawURL string, body any) (code int, text string, err error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return 0, "", err
	}
	resp, text, err := c.do(ctx, method, u, body, true)
	if err != nil {
		return 0, "", err
	}
	return resp.StatusCode, text, nil
}

func bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, readWait)
}

func (c *Client) get(ctx context.Context, rawURL, path string, into any) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	u, err := endpoint(rawURL, path)
	if err != nil {
		return err
	}
	resp, text, err := c.do(ctx, http.MethodGet, u, nil, false)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: got %d %s", u.Redacted(), resp.StatusCode, clip(text))
	}
	if err := checkDepth([]byte(text), maxDepth); err != nil {
		return fmt.Errorf("GET %s: read the answer: %w", u.Redacted(), err)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("GET %s: read the answer: %w", u.Redacted(), err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method string, u *url.URL, body any, auth bool) (*http.Response, string, error) {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, "", fmt.Errorf("%s %s: encode the body: %w", method, u.Redacted(), err)
		}
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), reader)
	if err != nil {
		return nil, "", fmt.Errorf("%s %s: %w", method, u.Redacted(), err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if auth && (c.conf.Username != "" || c.conf.Password != "") && (u.Scheme == "https" || c.conf.TLS == nil) {
		req.SetBasicAuth(c.conf.Username, c.conf.Password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error // it repeats method and URL
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, "", fmt.Errorf("%s %s: %w", method, u.Redacted(), err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, "", fmt.Errorf("%s %s: read the answer: %w", method, u.Redacted(), err)
	}
	if len(b) > maxAnswer {
		return nil, "", fmt.Errorf("%s %s: the answer is larger than %d bytes", method, u.Redacted(), maxAnswer)
	}
	return resp, string(b), nil
}

func parseURL(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("REST URL %q: want http or https, a host, and no user", clip(redact(rawURL)))
	}
	return u, nil
}

// redact hides what stands before an @, since it may be a password.
func redact(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "***" + s[i:]
	}
	return s
}

func endpoint(rawURL, path string) (*url.URL, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: path}, nil
}
