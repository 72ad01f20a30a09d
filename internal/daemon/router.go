package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hathi-ha/hathi/internal/boottime"
	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
	"github.com/hathi-ha/hathi/internal/rest"
	"github.com/hathi-ha/hathi/internal/router"
)

// Router runs the router of a configuration until ctx ends.
func Router(ctx context.Context, f *config.Config, log *slog.Logger) error {
	var open stack
	defer func() { open.close(log) }()
	a := Agent{File: f, Log: log}
	sc, err := a.storeConfig()
	if err != nil {
		return err
	}
	store, err := etcd.Open(ctx, sc)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	open.push(store.Close)
	tlsc, err := ctlTLS(f.Ctl, log)
	if err != nil {
		return err
	}
	client := rest.NewClient(rest.ClientConfig{TLS: tlsc})
	open.push(client.Close)
	r := f.Router
	listen := func(port int) string {
		if port == 0 {
			return ""
		}
		return net.JoinHostPort(r.Listen, strconv.Itoa(port))
	}
	rt := router.New(router.Config{WriteListen: listen(r.WritePort), ReadListen: listen(r.ReadPort), StatusListen: r.StatusListen,
		Hold: r.Hold, ConnectTimeout: r.ConnectTimeout, MaxLag: int64(r.MaxLag), MaxSessions: r.MaxConnections, Store: store, Now: boottime.Now,
		Confirm: func(ctx context.Context, m cluster.Member) (cluster.PeerStatus, error) {
			return client.Peer(ctx, m.PeerURL)
		},
		Logger: log, Registerer: prometheus.NewRegistry()})
	if err := rt.Listen(); err != nil {
		return err
	}
	open.push(rt.Close)
	log.Info("router started", "scope", f.Scope, "write", listen(r.WritePort), "read", listen(r.ReadPort))
	return rt.Serve(ctx)
}
