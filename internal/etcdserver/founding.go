package etcdserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
)

// The refusals of a member without data.
var (
	// ErrLostData: the cluster knows this member with data, and the data is gone.
	ErrLostData = errors.New("this member has lost its data")
	// ErrNotAdded: the cluster lives and has no such member.
	ErrNotAdded = errors.New("the cluster does not have this member")
)

const (
	foundingPath = "/hathi/founding"
	// foundingAsk bounds one question to one member, foundingPause is between two rounds of them, and
	// foundingTell between two lines in the log.
	foundingAsk   = 2 * time.Second
	foundingPause = 200 * time.Millisecond
	foundingTell  = 10 * time.Second
)

// begin says how a member without data begins: it founds the cluster together with the others, or
// joins one to which it was added. initial are then the members to begin with.
//
// A member that lost its data must not begin under its old identity: it forgot what it acknowledged and
// whom it voted for, and could help to elect a leader that lacks what was committed. etcd asks the
// others for this, but takes no answer for "there is no cluster", and after a power cut nobody answers
// at first. So a cluster is founded only when each of its members has been heard: one that has no data
// either (both ask and answer on the peers' port, before etcd does), or a running one that has never
// seen this member run.
func (s *Server) begin(ctx context.Context) (join bool, initial map[string]string, err error) {
	c := s.config
	waiting := maps.Clone(c.InitialCluster)
	delete(waiting, c.Name)
	if len(waiting) == 0 {
		return false, c.InitialCluster, nil
	}
	info := c.embedded(zapLogger(c.Logger)).PeerTLSInfo
	trip, err := transport.NewTransport(info, foundingAsk)
	if err != nil {
		return false, nil, fmt.Errorf("peers' certificates: %w", err)
	}
	defer trip.CloseIdleConnections()
	client := &http.Client{Transport: trip, Timeout: foundingAsk}
	stop, err := c.answerFounders(info)
	if err != nil {
		return false, nil, err
	}
	defer stop()
	told := time.Time{}
	for {
		for _, name := range slices.Sorted(maps.Keys(waiting)) {
			if ctx.Err() != nil {
				break
			}
			list, founding, err := c.ask(ctx, client, waiting[name])
			switch {
			case err != nil:
				// It may come yet.
			case founding:
				delete(waiting, name)
			default:
				join, initial, err := c.amongThe(list)
				if err != nil || join {
					return join, initial, err
				}
				delete(waiting, name)
			}
		}
		if len(waiting) == 0 {
			return false, c.InitialCluster, nil
		}
		if time.Since(told) >= foundingTell {
			if !told.IsZero() {
				c.Logger.Warn("this etcd member has no data, and founds the cluster only when all its members are there",
					"waiting_for", slices.Sorted(maps.Values(waiting)),
					"hint", "start them; if the cluster was founded already and this member lost its data, it says so as soon as one of them answers")
			}
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return false, nil, fmt.Errorf("wait for the other members %s to found the cluster: %w", strings.Join(slices.Sorted(maps.Values(waiting)), ", "), context.Cause(ctx))
		case <-time.After(foundingPause):
		}
	}
}

// founder is what a member without data says of itself.
type founder struct {
	Name  string `json:"name"`
	Token string `json:"cluster_token"`
}

// answerFounders says on the peers' ports that this member has no data yet, until stop.
func (c Config) answerFounders(info transport.TLSInfo) (stop func(), err error) {
	urls, err := parseURLs(c.ListenPeerURLs, c.PeerTLS.enabled())
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+foundingPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(founder{c.Name, c.ClusterToken}) // whoever asked asks again
	})
	srv := &http.Server{Handler: mux, ReadTimeout: foundingAsk, WriteTimeout: foundingAsk, IdleTimeout: foundingAsk,
		ErrorLog: log.New(io.Discard, "", 0)} // connections that end when it is done are no news
	var wg sync.WaitGroup
	stop = func() { _ = srv.Close(); wg.Wait() }
	for _, u := range urls {
		l, err := net.Listen("tcp", u.Host)
		if err != nil {
			stop()
			return nil, fmt.Errorf("listen for peers: %w", err)
		}
		if c.PeerTLS.enabled() {
			conf, err := info.ServerConfig()
			if err != nil {
				l.Close()
				stop()
				return nil, fmt.Errorf("peers' certificates: %w", err)
			}
			l = tls.NewListener(l, conf)
		}
		wg.Go(func() { _ = srv.Serve(l) }) // ends with stop
	}
	return stop, nil
}

// listed is a member as a running etcd lists it.
type listed struct {
	ID         types.ID `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

// ask asks one member whether it has no data either, or else which members it knows.
func (c Config) ask(ctx context.Context, client *http.Client, base string) (list []listed, founding bool, err error) {
	get := func(path string, into any) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", base+path, resp.Status)
		}
		return json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into)
	}
	var f founder
	if err := get(foundingPath, &f); err == nil {
		if f.Token != c.ClusterToken || c.InitialCluster[f.Name] != base {
			return nil, false, fmt.Errorf("%s is member %q of cluster %q", base, f.Name, f.Token)
		}
		return nil, true, nil
	}
	if err := get("/members", &list); err != nil {
		return nil, false, err
	}
	return list, false, nil
}

// amongThe finds this member in the list of a running one.
func (c Config) amongThe(list []listed) (join bool, initial map[string]string, err error) {
	var own *listed
	for i := range list {
		if slices.ContainsFunc(list[i].PeerURLs, func(u string) bool { return slices.Contains(c.AdvertisePeerURLs, u) }) {
			own = &list[i]
		}
	}
	peers := strings.Join(c.AdvertisePeerURLs, ",")
	add := fmt.Sprintf("etcdctl member add %s --peer-urls=%s", c.Name, peers)
	switch {
	case own == nil:
		return false, nil, fmt.Errorf("%w: it is running without one at %s; add it (%s, at a running member) and start it again", ErrNotAdded, peers, add)
	case len(own.ClientURLs) > 0:
		return false, nil, fmt.Errorf("%w: the cluster knows it as %s, and its directory holds none; under its old identity it could undo what it had acknowledged; "+
			"give it a new one at a running member (etcdctl member remove %s; %s) and start it again", ErrLostData, own.ID, own.ID, add)
	case own.Name != "":
		return false, nil, nil // it is being founded with us
	}
	initial = map[string]string{c.Name: peers}
	for _, m := range list {
		if m.ID != own.ID && len(m.PeerURLs) > 0 {
			initial[cmp.Or(m.Name, "member-"+m.ID.String())] = m.PeerURLs[0]
		}
	}
	return true, initial, nil
}
