package daemon

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/etcdserver"
)

// Etcd runs the embedded etcd member of a configuration until ctx ends.
func Etcd(ctx context.Context, f *config.Config, log *slog.Logger) error {
	e := f.Etcd.Embedded
	scheme := "http"
	tls := etcdserver.TLS{CertFile: e.TLS.CertFile, KeyFile: e.TLS.KeyFile, CAFile: e.TLS.CAFile}
	if tls.CertFile != "" {
		scheme = "https"
	}
	s := etcdserver.New(etcdserver.Config{Name: e.Name, DataDir: e.DataDir,
		ListenClientURLs: []string{scheme + "://" + e.ListenClient}, AdvertiseClientURLs: []string{e.AdvertiseClient},
		ListenPeerURLs: []string{scheme + "://" + e.ListenPeer}, AdvertisePeerURLs: []string{e.AdvertisePeer},
		InitialCluster: e.InitialCluster, ClusterToken: e.Token, ClientTLS: tls, PeerTLS: tls, QuotaBytes: int64(e.Quota),
		HeartbeatInterval: e.Heartbeat, ElectionTimeout: e.ElectionTimeout, Logger: log})
	if err := s.Open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to end while it waited for the others
		}
		return fmt.Errorf("start the etcd member %s: %w", e.Name, err)
	}
	defer s.Close()
	log.Info("etcd member started", "name", e.Name, "client", e.AdvertiseClient, "peer", e.AdvertisePeer)
	ready := s.Ready()
	for {
		select {
		case <-ready:
			log.Info("etcd member has joined and serves clients", "name", e.Name)
			ready = nil
		case err := <-s.Errors():
			return err
		case <-ctx.Done():
			return nil
		}
	}
}
