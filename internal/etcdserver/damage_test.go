package etcdserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/etcdserver"
)

// What cannot be what a member wrote is not started with; the cluster goes on, and the way back that
// the message gives leads back.
func TestProcess_DamagedOrLostDataIsRefusedAndComesBack(t *testing.T) {
	ps := processes(t, 3, "", nil)
	for _, p := range ps {
		p.start()
	}
	_, others := settled(t, ps...)
	victim := others[0]
	c := connect(t, slices.DeleteFunc(slices.Clone(ps), func(p *process) bool { return p == victim })...)
	value := strings.Repeat("record ", 300)
	for i := range 200 {
		awaitTB(t, func() string { return text(write(c, fmt.Sprintf("/service/demo/%d", i%50), value)) })
	}
	// The database of the victim holds all of it: what follows is then missed.
	own := connect(t, victim)
	awaitTB(t, func() string {
		st, err := victim.status(own)
		if err != nil || st.RaftAppliedIndex < 200 {
			return fmt.Sprintf("%v, %v", st, err)
		}
		return ""
	})
	if err := victim.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-victim.done
	good := victim.dir + ".good"
	if err := os.CopyFS(good, os.DirFS(victim.dir)); err != nil {
		t.Fatal(err)
	}
	cut := func(pattern string, to int64) func(t *testing.T) {
		return func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join(victim.dir, "member", pattern))
			if err != nil || len(files) == 0 {
				t.Fatalf("no %s: %v", pattern, err)
			}
			slices.Sort(files)
			last := files[len(files)-1]
			if err := os.Truncate(last, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(pattern string, at int64) func(t *testing.T) {
		return func(t *testing.T) {
			files, _ := filepath.Glob(filepath.Join(victim.dir, "member", pattern))
			f, err := os.OpenFile(files[len(files)-1], os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := make([]byte, 64)
			if _, err := f.ReadAt(b, at); err != nil {
				t.Fatal(err)
			}
			for i := range b {
				b[i] ^= 0x5a
			}
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, damage := range []struct {
		name string
		do   func(t *testing.T)
		want []string
	}{
		{"log cut short", cut("wal/*.wal", 130_000), []string{"damaged", "ends at entry", "was cut short", "etcdctl member remove", "etcdctl member add " + victim.name}},
		{"log overwritten in the middle", flip("wal/*.wal", 60_000), []string{"damaged", "the log in", "etcdctl member add"}},
		{"database cut short", cut("snap/db", 32<<10), []string{"damaged", "snap/db", "etcdctl member add"}},
		{"database emptied", cut("snap/db", 0), []string{"damaged", "snap/db", "etcdctl member add"}},
		{"database overwritten", func(t *testing.T) {
			for page := int64(0); page < 8; page++ {
				flip("snap/db", page*4096)(t)
			}
		}, []string{"damaged", "snap/db", "etcdctl member add"}},
		{"everything gone", func(t *testing.T) {
			if err := os.RemoveAll(victim.dir); err != nil {
				t.Fatal(err)
			}
		}, []string{"has lost its data", "etcdctl member remove", "etcdctl member add " + victim.name}},
	} {
		t.Run(damage.name, func(t *testing.T) {
			if err := os.RemoveAll(victim.dir); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(victim.dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			damage.do(t)
			before := len(victim.said())
			victim.start()
			if err := victim.ended(); exitCode(err) != 1 {
				t.Errorf("got %v, want exit status 1", err)
			}
			said := victim.said()[before:]
			for _, want := range damage.want {
				if !strings.Contains(said, want) {
					t.Errorf("got %q, want it to say %q", said, want)
				}
			}
			if strings.Contains(said, "goroutine ") {
				t.Errorf("got a panic: %s", said)
			}
			if err := write(c, lockKey, "1"); err != nil {
				t.Errorf("the others do not go on: %v", err)
			}
		})
	}

	// As the messages say. The configuration stays as it is.
	list, err := c.MemberList(boundTB(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.Name == victim.name {
			if _, err := c.MemberRemove(boundTB(t), m.ID); err != nil {
				t.Fatal(err)
			}
			before := len(victim.said())
			victim.start()
			if err := victim.ended(); exitCode(err) != 1 || !strings.Contains(victim.said()[before:], "does not have this member") {
				t.Errorf("removed: got %v and %q, want it to ask to be added", err, victim.said()[before:])
			}
			awaitTB(t, func() string {
				_, err := c.MemberAdd(boundTB(t), m.PeerURLs)
				return text(err)
			})
		}
	}
	victim.start()
	settled(t, ps...)
	awaitTB(t, func() string {
		resp, err := own.Get(boundTB(t), "/service/demo/7")
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
			return fmt.Sprintf("%v", err)
		}
		return ""
	})
}

// After a power cut the member whose disk is new is the first to start, and nobody can say yet that it
// was there before: it must wait, not begin anew under its old identity.
func TestServer_AMemberThatLostItsDataWaitsForTheOthers(t *testing.T) {
	cs := configs(t, 3, nil)
	servers := startAll(t, cs)
	for _, s := range servers {
		ready(t, s)
	}
	put(t, client(t, nil, cs[0].ListenClientURLs[0]), "k", "v")
	// Only once it has published itself does a member count as one that ran.
	until(t, func() string {
		list, err := client(t, nil, cs[1].ListenClientURLs[0]).MemberList(bound(t))
		if err != nil {
			return err.Error()
		}
		for _, m := range list.Members {
			if len(m.ClientURLs) == 0 {
				return m.Name + " is not published"
			}
		}
		return ""
	})
	for _, s := range servers {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(cs[0].DataDir); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	first := etcdserver.New(cs[0])
	go func() { opened <- first.Open(t.Context()) }()
	until(t, func() string { return heard(cs[0].ListenPeerURLs[0]) })
	start(t, cs[1]) // has data, and no quorum yet
	select {
	case err := <-opened:
		if !errors.Is(err, etcdserver.ErrLostData) {
			t.Errorf("got %v, want %v", err, etcdserver.ErrLostData)
		}
	case <-time.After(patience):
		t.Fatal("it goes on waiting although one of the others knows it")
	}
	ready(t, start(t, cs[2]))
	resp, err := client(t, nil, cs[2].ListenClientURLs[0]).Get(bound(t), "k")
	if err != nil || len(resp.Kvs) != 1 {
		t.Errorf("got %v, %v, want what was committed before", resp, err)
	}
}

// heard says whether somebody at a peers' address answers that it has no data: "" when so.
func heard(base string) string {
	resp, err := http.Get(base + etcdserver.FoundingPath)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return ""
}

// One member alone founds nothing, and says whom it waits for.
func TestServer_FoundsNothingAlone(t *testing.T) {
	cs := configs(t, 3, nil)
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	s := etcdserver.New(cs[0])
	go func() { opened <- s.Open(ctx) }()
	second := etcdserver.New(cs[1])
	secondOpened := make(chan error, 1)
	go func() { secondOpened <- second.Open(ctx) }()
	until(t, func() string {
		return heard(cs[0].ListenPeerURLs[0]) + heard(cs[1].ListenPeerURLs[0])
	})
	cancel()
	for _, ch := range []chan error{opened, secondOpened} {
		if err := <-ch; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), cs[2].ListenPeerURLs[0]) {
			t.Errorf("got %v, want it to have waited for %s", err, cs[2].ListenPeerURLs[0])
		}
	}
	if _, err := os.Stat(filepath.Join(cs[0].DataDir, "member")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no data made", err)
	}
}
