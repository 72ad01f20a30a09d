package daemon

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/node"
	"github.com/hathi-ha/hathi/internal/rest"
)

// Bounds of a round of probes.
const (
	peerWithin    = time.Second
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
