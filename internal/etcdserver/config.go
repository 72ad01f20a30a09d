package etcdserver

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// TLS are the files of one side. All three are needed; the other side must show a certificate of
// CAFile. Certificate and key are read again at each handshake, the authority only at start.
type TLS struct{ CertFile, KeyFile, CAFile string }

func (t TLS) enabled() bool { return t != TLS{} }

// Config describes one member.
type Config struct {
	// Name of this member, unique in the cluster.
	Name string
	// DataDir holds the member's data and nothing else. It is made with mode 0700.
	DataDir string
	// Listen addresses, by IP: "https://10.0.0.1:2379" for clients, ":2380" for peers. The
	// advertised ones are what others connect to; empty means the same.
	ListenClientURLs, AdvertiseClientURLs []string
	ListenPeerURLs, AdvertisePeerURLs     []string
	// InitialCluster gives the peer URL of every member by name, this one included. It counts only
	// until this member has data.
	InitialCluster map[string]string
	// Join says that the cluster exists and this member was added to it. It counts only until this
	// member has data. Without it the first start asks the others, and founds the cluster together with
	// them, or joins.
	Join bool
	// ClusterToken tells clusters apart whose members could mistake each other by address.
	ClusterToken string
	// ClientTLS and PeerTLS; the zero value means plain text, for tests and loopback only.
	ClientTLS, PeerTLS TLS
	// HeartbeatInterval and ElectionTimeout: default 60 ms and 300 ms. A follower waits between
	// one and two election timeouts after the last heartbeat before it stands: 0.3 to 0.6 s, and a
	// vote takes a round trip and a sync to disk (BenchmarkElection).
	//
	// In three members two are left to stand, and now and then (about one time in ten) they stand at
	// the same moment, split the vote, and wait once more. Whoever takes the lock after the loss of a
	// node waits for that, so the second vote has to be over in about the time of the quorum fence's
	// own doubt, a second; with 500 ms it took up to two.
	//
	// Why the shortest lease, L = 3 s, survives elections: the primary renews every 0.4 s, gives a
	// renewal 0.75 s, and its fence is at t0 + 2.2 s, t0 being when the last good one was sent (package
	// lease). At worst etcd's leader dies just before the next one, at t0 + 0.4 s; the election is over
	// by t0 + 0.4 + 0.6 + a vote = t0 + 1.1 s, a split one by t0 + 1.7 s. The renewal that was under way
	// ends as unknown at t0 + 1.15 s; the next is refused as leaderless and tried again every 50 ms.
	//
	// Shorter would save little, and a sync of a quarter of a second (common on a loaded disk) would
	// unseat a healthy leader. All members need the same values.
	HeartbeatInterval, ElectionTimeout time.Duration
	// QuotaBytes bounds the database. Default 256 MiB; a cluster's state takes a few.
	QuotaBytes int64
	// CompactionRetention is how long past revisions are kept for watches that begin late.
	// Default 5 minutes; at least 1000 revisions and at most 10000 are kept besides.
	CompactionRetention time.Duration
	// BatchInterval is how often what was written reaches the database file, and with it the size that
	// the quota is compared with. Default 1 s.
	BatchInterval time.Duration
	// Gateway serves etcd's JSON API too, which patronictl and Patroni's etcd3 client speak. It
	// costs a few MB of memory.
	Gateway bool
	// Logger gets etcd's warnings and errors, and what the care loop does. nil: no log.
	Logger *slog.Logger
}

// Defaults.
const (
	DefaultHeartbeatInterval   = 60 * time.Millisecond
	DefaultElectionTimeout     = 300 * time.Millisecond
	DefaultQuotaBytes          = 256 << 20
	DefaultCompactionRetention = 5 * time.Minute
	DefaultBatchInterval       = time.Second
)

const (
	// httpSocket, in the data directory, serves etcd's /metrics, /health and /version to its owner and
	// to root where the client port is left to gRPC.
	httpSocket = "http.sock"
	// maxSocketPath is what fits into a sockaddr_un.
	maxSocketPath = 107
)

func (c Config) withDefaults() Config {
	if c.HeartbeatInterval == 0 {
		c.HeartbeatInterval = DefaultHeartbeatInterval
	}
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = DefaultElectionTimeout
	}
	if c.QuotaBytes == 0 {
		c.QuotaBytes = DefaultQuotaBytes
	}
	if c.CompactionRetention == 0 {
		c.CompactionRetention = DefaultCompactionRetention
	}
	if c.BatchInterval == 0 {
		c.BatchInterval = DefaultBatchInterval
	}
	if len(c.AdvertiseClientURLs) == 0 {
		c.AdvertiseClientURLs = c.ListenClientURLs
	}
	if len(c.AdvertisePeerURLs) == 0 {
		c.AdvertisePeerURLs = c.ListenPeerURLs
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// validate reports every problem that can be seen without touching anything.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || strings.ContainsAny(c.Name, "=,") {
		bad("name %q is empty or holds '=' or ','", c.Name)
	}
	if c.DataDir == "" {
		bad("no data directory given")
	}
	if c.ClusterToken == "" {
		bad("no cluster token given")
	}
	if c.HeartbeatInterval < 10*time.Millisecond || c.ElectionTimeout < 5*c.HeartbeatInterval || c.ElectionTimeout > 10*time.Second {
		bad("heartbeat interval %v and election timeout %v: the first must be at least 10ms, the second at least 5 times that and at most 10s",
			c.HeartbeatInterval, c.ElectionTimeout)
	}
	if c.QuotaBytes < 1<<20 {
		bad("quota of %d bytes is below 1 MiB", c.QuotaBytes)
	}
	if c.BatchInterval < 0 || c.BatchInterval > 10*time.Second {
		bad("batch interval %v is not within 0 and 10s", c.BatchInterval)
	}
	if c.CompactionRetention < 0 {
		bad("compaction retention %v is below zero", c.CompactionRetention)
	}
	for name, side := range map[string]struct {
		tls  TLS
		urls [][]string
	}{
		"client": {c.ClientTLS, [][]string{c.ListenClientURLs, c.AdvertiseClientURLs}},
		"peer":   {c.PeerTLS, [][]string{c.ListenPeerURLs, c.AdvertisePeerURLs, slices.Collect(maps.Values(c.InitialCluster))}},
	} {
		if t := side.tls; t.enabled() && (t.CertFile == "" || t.KeyFile == "" || t.CAFile == "") {
			bad("%s TLS needs certificate, key and authority", name)
		}
		if len(side.urls[0]) == 0 {
			bad("no %s address to listen on", name)
		}
		for _, list := range side.urls {
			if _, err := parseURLs(list, side.tls.enabled()); err != nil {
				bad("%s address: %w", name, err)
			}
		}
	}
	if u, ok := c.InitialCluster[c.Name]; !ok {
		bad("the initial cluster does not name this member %q", c.Name)
	} else if !slices.Contains(c.AdvertisePeerURLs, u) {
		bad("the initial cluster gives %s for this member, which advertises %v", u, c.AdvertisePeerURLs)
	}
	return errors.Join(errs...)
}

func parseURLs(list []string, secure bool) ([]url.URL, error) {
	want := "http"
	if secure {
		want = "https"
	}
	var out []url.URL
	for _, s := range list {
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" || u.Port() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("%q is not an address such as %s://10.0.0.1:2379", s, want)
		}
		if u.Scheme != want {
			return nil, fmt.Errorf("%s must begin with %s:// as TLS is configured", s, want)
		}
		out = append(out, *u)
	}
	return out, nil
}

// embedded translates the configuration for etcd. It is called with a valid one.
func (c Config) embedded(log *zap.Logger) *embed.Config {
	e := embed.NewConfig()
	e.Name, e.Dir = c.Name, c.DataDir
	e.ListenClientUrls, _ = parseURLs(c.ListenClientURLs, c.ClientTLS.enabled())
	e.AdvertiseClientUrls, _ = parseURLs(c.AdvertiseClientURLs, c.ClientTLS.enabled())
	e.ListenPeerUrls, _ = parseURLs(c.ListenPeerURLs, c.PeerTLS.enabled())
	e.AdvertisePeerUrls, _ = parseURLs(c.AdvertisePeerURLs, c.PeerTLS.enabled())
	var members []string
	for _, name := range slices.Sorted(maps.Keys(c.InitialCluster)) {
		members = append(members, name+"="+c.InitialCluster[name])
	}
	e.InitialCluster = strings.Join(members, ",")
	e.InitialClusterToken = c.ClusterToken
	e.ClusterState = embed.ClusterStateFlagNew
	if c.Join {
		e.ClusterState = embed.ClusterStateFlagExisting
	}

	e.TlsMinVersion = "TLS1.2"
	if t := c.ClientTLS; t.enabled() {
		e.ClientTLSInfo.CertFile, e.ClientTLSInfo.KeyFile, e.ClientTLSInfo.TrustedCAFile = t.CertFile, t.KeyFile, t.CAFile
		e.ClientTLSInfo.ClientCertAuth = true
	}
	if t := c.PeerTLS; t.enabled() {
		e.PeerTLSInfo.CertFile, e.PeerTLSInfo.KeyFile, e.PeerTLSInfo.TrustedCAFile = t.CertFile, t.KeyFile, t.CAFile
		e.PeerTLSInfo.ClientCertAuth = true
		// Otherwise etcd compares the address a peer comes from with its certificate, which fails
		// with several network cards or NAT. The authority is the cluster's own.
		e.PeerTLSInfo.SkipClientSANVerify = true
	}

	e.TickMs = uint(c.HeartbeatInterval.Milliseconds())
	e.ElectionMs = uint(c.ElectionTimeout.Milliseconds())
	e.QuotaBackendBytes = c.QuotaBytes
	// The care loop compacts; etcd's own compactor looks only every five minutes.
	e.AutoCompactionRetention = "0"
	// The raft log in memory holds up to the sum of these two. Renewals of the lock come several
	// times a second, and the whole database is small: a member that missed more gets a snapshot.
	e.SnapshotCount = 5000
	e.SnapshotCatchUpEntries = 1000
	e.MaxWalFiles, e.MaxSnapFiles = keptFiles, keptFiles
	// An entry is safe once it is in raft's log, which each write syncs. The database behind it only
	// has to keep up: by default it too would be synced after every single renewal of the lock. What it
	// lacks after a crash is played again from the log.
	e.BackendBatchInterval = c.BatchInterval
	// Streams of clients that are gone are found and freed.
	e.GRPCKeepAliveInterval = 10 * time.Second
	e.GRPCKeepAliveTimeout = 5 * time.Second
	// Messages are small and connections many.
	e.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ReadBufferSize(4 << 10), grpc.WriteBufferSize(4 << 10)}
	e.EnableGRPCGateway = c.Gateway
	if path := filepath.Join(c.DataDir, httpSocket); !c.Gateway && len(path) <= maxSocketPath {
		// With a listener of its own for HTTP/1 the client port is served by gRPC itself, not through
		// net/http, which costs twice as much for each request.
		e.ListenClientHttpUrls = []url.URL{{Scheme: "unix", Path: path}}
	}
	e.Logger = "zap"
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return e
}
