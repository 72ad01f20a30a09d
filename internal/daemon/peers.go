package daemon

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/ha"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/rest"
)

// Bounds of a round of probes.
const (
	peerWithin    = ha.AskWithin
	revokeWithin  = 1500 * time.Millisecond
	unhurriedWait = 100 * time.Millisecond // for those that are expected to be silent
)

// peers asks the other members over their peer endpoints.
type peers struct {
	client *rest.Client
	log    *slog.Logger
}

func newPeers(c *rest.Client, log *slog.Logger) *peers { return &peers{client: c, log: log} }

// Ask asks everybody at once. It returns when all have answered, or shortly after everybody has but
// those in unhurried (the leader that is being replaced), or after a second.
func (p *peers) Ask(ctx context.Context, members map[string]cluster.Member, self string, unhurried []string) map[string]cluster.PeerStatus {
	ctx, cancel := context.WithTimeout(ctx, peerWithin)
	defer cancel()
	type reply struct {
		name string
		st   cluster.PeerStatus
		ok   bool
	}
	asked, hurried := 0, 0
	replies := make(chan reply, len(members))
	for name, m := range members {
		if name == self || m.PeerURL == "" {
			continue
		}
		asked++
		if !slices.Contains(unhurried, name) {
			hurried++
		}
		go func() {
			st, err := p.client.Peer(ctx, m.PeerURL)
			if err != nil {
				p.log.Debug("member does not answer", "member", name, "err", err)
			}
			replies <- reply{name, st, err == nil && st.Name == name}
		}()
	}
	out := map[string]cluster.PeerStatus{}
	var late <-chan time.Time
	for asked > 0 {
		if hurried == 0 && late == nil {
			late = time.After(unhurriedWait)
		}
		select {
		case r := <-replies:
			asked--
			if !slices.Contains(unhurried, r.name) {
				hurried--
			}
			if r.ok {
				out[r.name] = r.st
			}
		case <-late:
			return out // the rest ends with ctx
		}
	}
	return out
}

// Failsafe asks one member for its promise.
func (p *peers) Failsafe(ctx context.Context, url string, pr node.Promise) (bool, error) {
	ok, _, err := p.client.Failsafe(ctx, strings.TrimSuffix(url, "/patroni"), rest.FailsafeRequest{Name: pr.Name, ConnURL: pr.ConnURL,
		APIURL: pr.APIURL, Slots: pr.Slots, Epoch: pr.Epoch, TTL: pr.TTL})
	return ok, err
}

// Alive probes the member's agent and, when that is silent, its PostgreSQL: a connection that is only
// accepted proves nothing, because the kernel of a frozen machine's process does that, so the first
// byte of an answer is waited for.
func (p *peers) Alive(ctx context.Context, m cluster.Member) bool {
	half := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		half, cancel = context.WithDeadline(ctx, time.Now().Add(time.Until(deadline)/2))
		defer cancel()
	}
	if m.PeerURL != "" && p.client.Alive(half, m.PeerURL) == nil {
		return true
	}
	host, port, err := m.HostPort()
	if err != nil {
		return false
	}
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return false
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	sslRequest := []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}
	if _, err := c.Write(sslRequest); err != nil {
		return false
	}
	_, err = c.Read(make([]byte, 1))
	return err == nil
}

// Revoke asks the members, all at once.
func (p *peers) Revoke(ctx context.Context, members map[string]cluster.Member, self, holder string, r node.Revocation) map[string]cluster.PeerStatus {
	ctx, cancel := context.WithTimeout(ctx, revokeWithin)
	defer cancel()
	var mu sync.Mutex
	out := map[string]cluster.PeerStatus{}
	var wg sync.WaitGroup
	for name, m := range members {
		if name == self || name == holder || m.PeerURL == "" {
			continue
		}
		wg.Go(func() {
			st, err := p.client.Revoke(ctx, m.PeerURL, rest.RevokeRequest{Scope: r.Scope, Name: r.Name, Epoch: r.Epoch, LockRev: r.LockRev})
			if err != nil || st.Name != name {
				p.log.Info("member does not stop receiving from the leader", "member", name, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = st
		})
	}
	wg.Wait()
	return out
}
