package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcd opens a client of etcd's own for one member.
func (c *rig) etcd(node string) (*clientv3.Client, error) {
	pair, err := tls.LoadX509KeyPair(c.l.Path("pki", "ctl", "ctl.crt"), c.l.Path("pki", "ctl", "ctl.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.l.CAFile())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return clientv3.New(clientv3.Config{Endpoints: []string{fmt.Sprintf("https://127.0.0.1:%d", c.node(node).EtcdClient)}, DialTimeout: 3 * time.Second,
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}, Logger: zap.NewNop()})
}

// etcdLeads asks a member whether it is etcd's leader.
func (c *rig) etcdLeads(node string) (bool, error) {
	cl, err := c.etcd(node)
	if err != nil {
		return false, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s, err := cl.Status(ctx, cl.Endpoints()[0])
	if err != nil {
		return false, fmt.Errorf("ask etcd of %s: %w", node, err)
	}
	return s.Leader == s.Header.MemberId, nil
}

// secretsNowhere looks for the cluster's passwords in the store, in the command lines and environments
// of all processes, in logs and in journals.
func (c *rig) secretsNowhere() {
	c.t.Helper()
	secrets := c.secrets()
	if len(secrets) < 4 {
		c.t.Fatalf("got %d secrets of the cluster, want at least 4", len(secrets))
	}
	look := func(where string, b []byte) {
		for _, s := range secrets {
			if bytes.Contains(b, []byte(s)) {
				c.t.Errorf("got a password in %s", where)
			}
		}
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			b, _ := os.ReadFile(f)
			look(f, b)
		}
	}
	for _, f := range c.logs() {
		b, _ := os.ReadFile(f)
		look(f, b)
	}
	cl, err := c.etcd(c.names()[0])
	if err != nil {
		c.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	all, err := cl.Get(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		c.t.Fatal(err)
	}
	if len(all.Kvs) < 5 {
		c.t.Errorf("got %d keys in etcd, want the whole cluster's", len(all.Kvs))
	}
	for _, kv := range all.Kvs {
		look("the store's key "+string(kv.Key), kv.Value)
	}
	// Files that others can read.
	_ = filepath.WalkDir(c.l.Dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/data") || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().Perm()&0o044 != 0 && info.Size() < 1<<20 {
			b, _ := os.ReadFile(path)
			look(path+", which others can read", b)
		}
		return nil
	})
}
