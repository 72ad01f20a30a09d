package etcd_test

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/dcs"
	"github.com/hathi-ha/hathi/internal/dcs/dcstest"
	"github.com/hathi-ha/hathi/internal/dcs/etcd"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// member starts one real etcd member with short election times and returns its client address.
func member(t *testing.T, options ...func(*embed.Config)) (addr string, stop func()) {
	t.Helper()
	for try := 0; ; try++ {
		e, addr, err := start(t.TempDir(), options...)
		if err == nil {
			var once sync.Once
			stop := func() { once.Do(e.Close) }
			t.Cleanup(stop)
			return addr, stop
		}
		if try == 5 {
			t.Fatalf("start etcd: %v", err)
		}
	}
}

func start(dir string, options ...func(*embed.Config)) (*embed.Etcd, string, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "test", dir
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.UnsafeNoFsync = true
	cfg.BcryptCost = 4 // the least: passwords of tests need no protection
	cfg.Logger = "zap"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	local := func() []url.URL { return []url.URL{{Scheme: "http", Host: freeAddr()}} }
	cfg.ListenClientUrls, cfg.ListenPeerUrls = local(), local()
	cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = cfg.ListenClientUrls, cfg.ListenPeerUrls
	cfg.InitialCluster = cfg.InitialClusterFromName("test")
	for _, o := range options {
		o(cfg)
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, "", err
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, cfg.ListenClientUrls[0].Host, nil
	case err := <-e.Err():
		e.Close()
		return nil, "", err
	case <-time.After(30 * time.Second):
		e.Close()
		return nil, "", fmt.Errorf("not ready after 30 s")
	}
}

// freeAddr asks the kernel for a port; another process may take it before we do, so callers retry.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}

func open(t *testing.T, config etcd.Config) *etcd.Store {
	t.Helper()
	st, err := etcd.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func put(key, value string) dcs.Txn {
	return dcs.Txn{Then: []dcs.Op{{Key: key, Value: []byte(value)}}}
}

func TestConformance(t *testing.T) {
	addr, _ := member(t)
	n := 0
	dcstest.Run(t, func(t *testing.T) (dcs.Store, dcs.Store, func(time.Duration)) {
		n++
		config := etcd.Config{
			Endpoints: []string{"http://" + addr}, Prefix: fmt.Sprintf("/service/t%d/", n), RequestTimeout: 10 * time.Second,
		}
		return open(t, config), open(t, config), func(d time.Duration) { <-time.After(d) }
	})
}

// gate is a proxy in front of a member that can fall silent: connections stay open, also to new
// callers, and no byte passes. That is what a stopped process or a pulled cable looks like.
type gate struct {
	addr   string
	silent atomic.Bool
	wake   chan struct{}
}

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{addr: l.Addr().String(), wake: make(chan struct{})}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			keep(in)
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			keep(out)
			wg.Go(func() { g.copy(out, in) })
			wg.Go(func() { g.copy(in, out) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		g.heal()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return g
}

func (g *gate) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if g.silent.Load() {
			<-g.wake
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				return
			}
			return
		}
	}
}

func (g *gate) silence() { g.silent.Store(true) }

func (g *gate) heal() {
	if g.silent.Swap(false) {
		close(g.wake)
	}
}

func quota(bytes int64) func(*embed.Config) {
	return func(c *embed.Config) { c.QuotaBackendBytes = bytes }
}
