package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/hathi-ha/hathi/internal/demo"
)

// guest starts an agent of the layout g in the cluster c: with its own ports and directories, and the
// other's store, certificates and passwords.
func (c *rig) guest(g *rig, name string) {
	c.t.Helper()
	read := func(file string) map[string]any {
		b, err := os.ReadFile(file)
		if err != nil {
			c.t.Fatal(err)
		}
		var doc map[string]any
		if err := yaml.Unmarshal(b, &doc); err != nil {
			c.t.Fatal(err)
		}
		return doc
	}
	host, own := read(c.l.NodeFile("pg1")), read(g.l.NodeFile("pg1"))
	own["name"] = name
	for _, key := range []string{"etcd3", "ctl"} {
		own[key] = host[key]
	}
	delete(own, "etcd")
	for _, key := range []string{"certfile", "keyfile", "cafile"} {
		own["restapi"].(map[string]any)[key] = host["restapi"].(map[string]any)[key]
	}
	own["postgresql"].(map[string]any)["authentication"] = host["postgresql"].(map[string]any)["authentication"]
	b, err := yaml.Marshal(own)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(g.l.NodeFile("pg1"), b, 0o600); err != nil {
		c.t.Fatal(err)
	}
	g.start("agent-pg1")
}

// says waits until an agent's log has one of the words.
func (c *rig) says(node string, words ...string) {
	c.t.Helper()
	c.await(30*time.Second, fmt.Sprintf("the log of %s says one of %q", node, words), func() error {
		log := c.agentLog(node)
		for _, w := range words {
			if strings.Contains(log, w) {
				return nil
			}
		}
		return errors.New("it does not")
	})
}

// TestMisfits: nodes that do not belong here are refused, and what they bring is left alone.
func TestMisfits(t *testing.T) {
	need(t, false)
	c := up(t, demo.Options{})
	unhurt := func(f func()) {
		t.Helper()
		c.quiet(func(w *writers) {
			f()
			w.more(100)
		})
	}
	c.sub(t, "data of another cluster", func() {
		g := newCluster(t, demo.Options{Nodes: 1})
		cmd := exec.Command(world.bin+"/initdb", "-D", g.l.DataDir("pg1"), "-U", "postgres", "-N")
		cmd.Dir = "/"
		cmd.SysProcAttr = attributes()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		control, err := os.ReadFile(filepath.Join(g.l.DataDir("pg1"), "global", "pg_control"))
		if err != nil {
			t.Fatal(err)
		}
		unhurt(func() {
			c.guest(g, "stranger")
			g.says("pg1", "belongs to another cluster")
			g.stays(time.Second, "it is left alone", func() error {
				now, err := os.ReadFile(filepath.Join(g.l.DataDir("pg1"), "global", "pg_control"))
				if err == nil && !bytes.Equal(now, control) {
					err = errors.New("pg_control changed")
				}
				return err
			})
			_ = g.procs["agent-pg1"].stop()
		})
	})
	c.sub(t, "a directory that is no data directory", func() {
		g := newCluster(t, demo.Options{Nodes: 1})
		file := filepath.Join(g.l.DataDir("pg1"), "precious")
		if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("data"), 0o644)); err != nil {
			t.Fatal(err)
		}
		unhurt(func() {
			c.guest(g, "stranger")
			g.says("pg1", "not a PostgreSQL cluster", "cannot be read", "permission")
			if b, err := os.ReadFile(file); err != nil || string(b) != "data" {
				t.Errorf("got %q, %v, want the file untouched", b, err)
			}
			_ = g.procs["agent-pg1"].stop()
		})
	})
	c.sub(t, "the name of a member that runs", func() {
		g := newCluster(t, demo.Options{Nodes: 1})
		lead := c.leader()
		unhurt(func() {
			c.guest(g, lead)
			// Whatever it says, it must not resume the lock or take the other's place.
			c.stays(c.l.TTL, "the lock stays", c.sameLock())
			g.procs["agent-pg1"].kill()
			t.Logf("the second %s said: %s", lead, tail(g.agentLog("pg1"), 1500))
		})
	})
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
