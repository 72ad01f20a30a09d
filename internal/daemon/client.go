package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/hathi-ha/hathi/internal/config"
	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
	"github.com/hathi-ha/hathi/internal/rest"
)

// OpenStore begins to connect to the store of a configuration, for commands; requestTimeout bounds
// each request, 0 for the default. It fails on a bad configuration, never because the store is away.
// The caller closes the store.
func OpenStore(ctx context.Context, f *config.Config, requestTimeout time.Duration, log *slog.Logger) (dcs.Store, error) {
	a := Agent{File: f, Log: log}
	c, err := a.storeConfig()
	if err != nil {
		return nil, err
	}
	c.RequestTimeout = requestTimeout
	s, err := etcd.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// NewClient is a client of the members' REST APIs, with the certificates and the password of the
// section ctl.
func NewClient(f *config.Config, log *slog.Logger) (*rest.Client, error) {
	tls, err := ctlTLS(f.Ctl, log)
	if err != nil {
		return nil, err
	}
	return rest.NewClient(rest.ClientConfig{TLS: tls, Username: f.Ctl.Authentication.Username, Password: f.Ctl.Authentication.Password.Reveal()}), nil
}
