package etcdserver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cli"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// asHathi makes the test binary behave as the program, so that members can be real processes that
// can be killed, and may end themselves.
const asHathi = "ETCDSERVER_TEST_AS_HATHI" // not HATHI_..., which would be a setting

func TestMain(m *testing.M) {
	if os.Getenv(asHathi) == "" {
		os.Exit(m.Run())
	}
	app, err := cli.NewApp("test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(app.Main(context.Background(), os.Args[1:]))
}

// process is one `hathi etcd CONFIG`.
type process struct {
	t                         testing.TB
	name, client, dir, config string
	log                       string
	cmd                       *exec.Cmd
	done                      chan struct{} // closed when it has ended
	err                       error         // how, once done
}

// processes are those of a cluster with the given quota ("" for the default); none is started. place
// gives each member's directory, nil for temporary ones.
func processes(t testing.TB, n int, quota string, place func(name string) string) []*process {
	t.Helper()
	base := t.TempDir()
	var initial []string
	peers := make([]string, n)
	out := make([]*process, n)
	for i := range out {
		name := fmt.Sprintf("pg%d", i+1)
		peers[i] = freeAddr(t)
		initial = append(initial, fmt.Sprintf("%s: http://%s", name, peers[i]))
		dir := filepath.Join(base, name)
		if place != nil {
			dir = place(name)
		}
		out[i] = &process{t: t, name: name, client: freeAddr(t), dir: filepath.Join(dir, "etcd"),
			config: filepath.Join(base, name+".yml"), log: filepath.Join(base, name+".log")}
	}
	for i, p := range out {
		text := fmt.Sprintf("scope: demo\nname: %s\netcd:\n  embedded:\n    data_dir: %s\n    listen_client: %s\n    listen_peer: %s\n    initial_cluster: {%s}\n",
			p.name, p.dir, p.client, peers[i], strings.Join(initial, ", "))
		if quota != "" {
			text += "    quota: " + quota + "\n"
		}
		if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(exe, "etcd", p.config)
	p.cmd.Env = append(os.Environ(), asHathi+"=1")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd, done := p.cmd, make(chan struct{})
	p.done = done
	go func() { p.err = cmd.Wait(); close(done) }()
	p.t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
}

// kill ends it as a power cut would, as far as a process can tell.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// ended waits for its end by itself.
func (p *process) ended() error {
	p.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		p.t.Fatalf("%s did not end by itself in %v; its log:\n%s", p.name, patience, p.said())
		return nil
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// said is what it wrote, over all its lives.
func (p *process) said() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// status asks this very member.
func (p *process) status(c *clientv3.Client) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.Status(ctx, "http://"+p.client)
}

// connect makes one client over the members.
func connect(t testing.TB, ps ...*process) *clientv3.Client {
	t.Helper()
	var endpoints []string
	for _, p := range ps {
		endpoints = append(endpoints, "http://"+p.client)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// settled waits until all of them agree on a leader among them, and returns it and the others.
func settled(t testing.TB, ps ...*process) (lead *process, others []*process) {
	t.Helper()
	cs := make([]*clientv3.Client, len(ps))
	for i, p := range ps {
		cs[i] = connect(t, p)
	}
	awaitTB(t, func() string {
		lead, others = nil, nil
		var agreed uint64
		for i, p := range ps {
			st, err := p.status(cs[i])
			if err != nil {
				return fmt.Sprintf("%s: %v", p.name, err)
			}
			if st.Leader == 0 || agreed != 0 && st.Leader != agreed {
				return fmt.Sprintf("%s follows %x, another one %x", p.name, st.Leader, agreed)
			}
			agreed = st.Leader
			if st.Header.MemberId == st.Leader {
				lead = p
			} else {
				others = append(others, p)
			}
		}
		if lead == nil {
			return fmt.Sprintf("the leader %x is none of them", agreed)
		}
		return ""
	})
	for _, c := range cs {
		c.Close()
	}
	return lead, others
}

// awaitTB is until, for benchmarks too.
func awaitTB(t testing.TB, check func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		last := check()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not reached in %v: %s", patience, last)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// lockKey is what the processes' tests write as a lock would be.
const lockKey = "/service/demo/lock"

// write puts a value within a second, and says whether that was acknowledged.
func write(c *clientv3.Client, key, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := c.Put(ctx, key, value)
	return err
}

// The leader's end is followed by the election of another, which takes writes, and the old one comes
// back as a follower with what was written meanwhile.
func TestProcess_AnotherLeadsAfterTheLeaderWasKilled(t *testing.T) {
	ps := processes(t, 3, "", nil)
	for _, p := range ps {
		p.start()
	}
	lead, others := settled(t, ps...)
	c := connect(t, others...)
	awaitTB(t, func() string { return text(write(c, lockKey, "1")) })
	lead.kill()
	next, _ := settled(t, others...)
	if next == lead {
		t.Errorf("got %s as the leader, which was killed", next.name)
	}
	awaitTB(t, func() string { return text(write(c, lockKey, "2")) })
	lead.start()
	if now, _ := settled(t, ps...); now == lead {
		t.Errorf("got %s back as the leader, want it to follow", now.name)
	}
	own := connect(t, lead)
	awaitTB(t, func() string {
		resp, err := own.Get(boundTB(t), lockKey)
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "2" {
			return fmt.Sprintf("%v, %v", resp, err)
		}
		return ""
	})
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

func boundTB(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// exitCode is how a process ended: -1 by a signal.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
