package route_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/cluster"
	"github.com/hathi-ha/hathi/internal/route"
)

// healthy is a cluster of three: pg1 leads epoch 7, pg2 and pg3 stream; the lock (L = 6 s) was seen
// to change one second ago.
func healthy() route.Input {
	member := func(name string, role cluster.Role, port string) cluster.Member {
		m := cluster.Member{Name: name, Role: role, State: cluster.StateRunning, Timeline: 3,
			ConnURL: "postgres://10.0.0.1:" + port + "/postgres", XLogLocation: 1000, Instance: "i-" + name}
		if role == cluster.RoleReplica {
			m.ReplicationState = "streaming"
		}
		return m
	}
	return route.Input{
		Now:          100 * time.Second,
		Lock:         cluster.Lock{Node: "pg1", Instance: "i-pg1", Epoch: 7, Seq: 40, TTL: 6000, Timeline: 3, Ready: true},
		LockSeen:     99 * time.Second,
		HighestEpoch: 7,
		Members: map[string]cluster.Member{
			"pg1": member("pg1", cluster.RolePrimary, "1"),
			"pg2": member("pg2", cluster.RoleReplica, "2"),
			"pg3": member("pg3", cluster.RoleReplica, "3"),
		},
		Status:  cluster.Status{Optime: 1000, Timeline: 3},
		TTL:     6 * time.Second,
		MaxLag:  100,
		HoldMax: 10 * time.Second,
	}
}

func edit(in *route.Input, name string, f func(*cluster.Member)) {
	m := in.Members[name]
	f(&m)
	in.Members[name] = m
}

func TestBuild(t *testing.T) {
	tests := []struct {
		name     string
		change   func(*route.Input)
		write    string // name, "" for none
		hold     bool
		why      string // part of Why
		read     string // names
		fallback bool
		readWhy  string
	}{
		{"healthy", func(*route.Input) {}, "pg1", false, "pg1 is the primary in epoch 7", "pg2 pg3", false, "2 of 2"},
		{"no lock yet", func(in *route.Input) { in.Lock = cluster.Lock{} }, "", true, "no lock yet", "pg2 pg3", false, ""},
		{"junk lock", func(in *route.Input) { in.LockErr = errors.New("parse lock: junk") }, "", true, "parse lock: junk", "pg2 pg3", false, ""},
		{"older epoch than seen", func(in *route.Input) { in.HighestEpoch = 8 }, "", true, "back in time", "pg2 pg3", false, ""},
		{"released", func(in *route.Input) { in.Lock.Node = "" }, "", true, "given back after epoch 7", "pg2 pg3", false, ""},
		{"released to a successor", func(in *route.Input) { in.Lock.Node, in.Lock.Successor = "", "pg2" }, "", true, "pg2 is expected", "pg2 pg3", false, ""},
		{"never seen to change", func(in *route.Input) { in.LockSeen = 0 }, "", true, "waiting to see it renewed", "pg2 pg3", false, ""},
		{"last nanosecond of the lease", func(in *route.Input) { in.Now = 105*time.Second - 1 }, "pg1", false, "", "pg2 pg3", false, ""},
		{"lease over", func(in *route.Input) { in.Now = 105 * time.Second }, "", true, "not been seen to renew epoch 7 for 6s", "pg2 pg3", false, ""},
		{"the lock's ttl counts, not the cluster's", func(in *route.Input) { in.TTL = 60 * time.Second; in.Now = 105 * time.Second }, "", true, "", "pg2 pg3", false, ""},
		{"a lock without ttl", func(in *route.Input) { in.Lock.TTL = 0; in.TTL = 3 * time.Second; in.Now = 102 * time.Second }, "", true, "", "pg2 pg3", false, ""},
		{"confirmed by the holder itself", func(in *route.Input) { in.Now = 110 * time.Second; in.ConfirmedUntil = in.Now + 1 }, "pg1", false, "", "pg2 pg3", false, ""},
		{"not ready", func(in *route.Input) { in.Lock.Ready = false }, "", true, "does not accept writes yet", "pg2 pg3", false, ""},
		{"no member key", func(in *route.Input) { delete(in.Members, "pg1") }, "", true, "member key is missing", "pg2 pg3", false, ""},
		{"other instance", func(in *route.Input) { in.Lock.Instance = "other" }, "", true, "two nodes may bear one name", "pg2 pg3", false, ""},
		{"a member run by Patroni has no instance", func(in *route.Input) { edit(in, "pg1", func(m *cluster.Member) { m.Instance = "" }) }, "pg1", false, "", "pg2 pg3", false, ""},
		{"stale key of a new primary", func(in *route.Input) {
			edit(in, "pg1", func(m *cluster.Member) { m.Role = cluster.RoleReplica; m.ReplicationState = "streaming" })
		}, "pg1", false, "", "pg2 pg3", false, ""},
		{"wildcard address", func(in *route.Input) {
			edit(in, "pg1", func(m *cluster.Member) { m.ConnURL = "postgres://0.0.0.0:5432/x" })
		}, "", true, "no address of a machine", "pg2 pg3", false, ""},
		{"bad port", func(in *route.Input) {
			edit(in, "pg1", func(m *cluster.Member) { m.ConnURL = "postgres://h:70000/x" })
		}, "", true, "1 to 65535", "pg2 pg3", false, ""},

		{"switchover", func(in *route.Input) {
			in.Failover = &cluster.FailoverRequest{Leader: "pg1", Candidate: "pg2"}
			in.FailoverSeen = in.Now
		}, "pg1", true, "switchover from pg1 to pg2", "pg2 pg3", false, ""},
		{"switchover to anyone", func(in *route.Input) {
			in.Failover = &cluster.FailoverRequest{Leader: "pg1"}
			in.FailoverSeen = in.Now
		}, "pg1", true, "to the best replica", "pg2 pg3", false, ""},
		{"manual failover", func(in *route.Input) {
			in.Failover = &cluster.FailoverRequest{Candidate: "pg2"}
			in.FailoverSeen = in.Now
		}, "pg1", true, "", "pg2 pg3", false, ""},
		{"switchover for later", func(in *route.Input) {
			in.Failover = &cluster.FailoverRequest{Leader: "pg1", Candidate: "pg2", ScheduledAt: "2030-01-01T00:00:00+00:00"}
			in.FailoverSeen = in.Now
		}, "pg1", false, "", "pg2 pg3", false, ""},
		{"switchover from another", func(in *route.Input) {
			in.Failover = &cluster.FailoverRequest{Leader: "pg9", Candidate: "pg2"}
			in.FailoverSeen = in.Now
		}, "pg1", false, "", "pg2 pg3", false, ""},
		{"switchover done, key still there", func(in *route.Input) {
			in.Failover = &cluster.FailoverRequest{Candidate: "pg1"}
			in.FailoverSeen = in.Now
		}, "pg1", false, "", "pg2 pg3", false, ""},
		{"forgotten request", func(in *route.Input) {
			in.Failover = &cluster.FailoverRequest{Leader: "pg1", Candidate: "pg2"}
			in.FailoverSeen = in.Now - 10*time.Second
		}, "pg1", false, "", "pg2 pg3", false, ""},

		{"noloadbalance", func(in *route.Input) {
			edit(in, "pg2", func(m *cluster.Member) { m.Tags = cluster.Tags{"noloadbalance": true} })
		}, "pg1", false, "", "pg3", false, "1 noloadbalance"},
		{"lag at the bound", func(in *route.Input) { in.Status.Optime = 1100 }, "pg1", false, "", "pg2 pg3", false, ""},
		{"lag past the bound", func(in *route.Input) {
			in.Status.Optime = 1101
			edit(in, "pg3", func(m *cluster.Member) { m.XLogLocation = 1101 })
		}, "pg1", false, "", "pg3", false, "1 too far behind"},
		{"lag without a bound", func(in *route.Input) { in.Status.Optime, in.MaxLag = 1<<40, -1 }, "pg1", false, "", "pg2 pg3", false, ""},
		{"replay paused", func(in *route.Input) {
			in.Status.Optime = 5000
			for _, n := range []string{"pg2", "pg3"} {
				edit(in, n, func(m *cluster.Member) { m.XLogLocation, m.ReceiveLSN, m.ReplayLSN = 5000, 5000, 5000 })
			}
			edit(in, "pg2", func(m *cluster.Member) { m.ReplayLSN = 1000 })
		}, "pg1", false, "", "pg3", false, ""},
		{"unknown position", func(in *route.Input) {
			edit(in, "pg2", func(m *cluster.Member) { m.XLogLocation = 0 })
		}, "pg1", false, "", "pg3", false, ""},
		{"not running", func(in *route.Input) {
			edit(in, "pg2", func(m *cluster.Member) { m.State = cluster.StateStarting })
		}, "pg1", false, "", "pg3", false, "1 not running"},
		{"not streaming", func(in *route.Input) {
			edit(in, "pg2", func(m *cluster.Member) { m.ReplicationState = "in archive recovery" })
		}, "pg1", false, "", "pg3", false, "1 not streaming"},
		{"other timeline", func(in *route.Input) {
			edit(in, "pg2", func(m *cluster.Member) { m.Timeline = 2 })
		}, "pg1", false, "", "pg3", false, "1 on another timeline"},
		{"new timeline in the lock first", func(in *route.Input) {
			in.Lock.Timeline = 4
			edit(in, "pg2", func(m *cluster.Member) { m.Timeline = 4 })
		}, "pg1", false, "", "pg2", false, ""},
		{"member key gone", func(in *route.Input) { delete(in.Members, "pg2") }, "pg1", false, "", "pg3", false, "1 of 1"},
		{"replica without address", func(in *route.Input) {
			edit(in, "pg2", func(m *cluster.Member) { m.ConnURL = "" })
		}, "pg1", false, "", "pg3", false, "1 no address"},
		{"second primary key is no replica", func(in *route.Input) {
			edit(in, "pg2", func(m *cluster.Member) { m.Role = cluster.RolePrimary })
		}, "pg1", false, "", "pg3", false, ""},
		{"none qualifies", func(in *route.Input) { delete(in.Members, "pg2"); delete(in.Members, "pg3") }, "pg1", false, "", "", true, "reads go to the primary pg1"},
		{"no primary: replicas that cannot stream still serve", func(in *route.Input) {
			in.Now = 200 * time.Second
			for _, n := range []string{"pg2", "pg3"} {
				edit(in, n, func(m *cluster.Member) { m.ReplicationState = "" })
			}
			edit(in, "pg3", func(m *cluster.Member) { m.XLogLocation = 1 })
		}, "", true, "", "pg2", false, "1 too far behind"},
		{"no primary, dead branch", func(in *route.Input) {
			in.Now = 200 * time.Second
			edit(in, "pg3", func(m *cluster.Member) { m.Timeline = 2 })
		}, "", true, "", "pg2", false, ""},
		{"nothing at all", func(in *route.Input) { in.Members, in.Lock = nil, cluster.Lock{} }, "", true, "", "", false, "there is no primary"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := healthy()
			tt.change(&in)
			got := route.Build(in)
			write := ""
			if got.Write != nil {
				write = got.Write.Name
				if got.Write.Epoch != in.Lock.Epoch || got.Write.Role != cluster.RolePrimary {
					t.Errorf("got write backend %+v, want epoch %d and role primary", *got.Write, in.Lock.Epoch)
				}
				if !got.Confirmed || got.Until <= in.Now {
					t.Errorf("got a write backend with confirmed=%v until %v at %v", got.Confirmed, got.Until, in.Now)
				}
			}
			if write != tt.write || got.Hold != tt.hold {
				t.Errorf("got write %q hold %v (%s), want %q %v", write, got.Hold, got.Why, tt.write, tt.hold)
			}
			if !strings.Contains(got.Why, tt.why) {
				t.Errorf("got why %q, want it to contain %q", got.Why, tt.why)
			}
			var names []string
			for _, b := range got.Read {
				names = append(names, b.Name)
			}
			if r := strings.Join(names, " "); r != tt.read || got.ReadFallback != tt.fallback {
				t.Errorf("got read %q fallback %v (%s), want %q %v", r, got.ReadFallback, got.ReadWhy, tt.read, tt.fallback)
			}
			if !strings.Contains(got.ReadWhy, tt.readWhy) {
				t.Errorf("got read why %q, want it to contain %q", got.ReadWhy, tt.readWhy)
			}
		})
	}
}

func TestBuild_UntilAndRecheck(t *testing.T) {
	in := healthy()
	if got, want := route.Build(in).Until, 105*time.Second; got != want {
		t.Errorf("got until %v, want %v", got, want)
	}
	in.Failover = &cluster.FailoverRequest{Leader: "pg1"}
	in.FailoverSeen = 98 * time.Second
	if got, want := route.Build(in).Recheck, 108*time.Second; got != want {
		t.Errorf("got recheck %v, want %v", got, want)
	}
}

func TestBuild_Addresses(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://db.example:6000/x": "db.example:6000",
		"postgres://10.1.2.3/x":        "10.1.2.3:5432",
		"postgres://[fd00::1]:6000/x":  "[fd00::1]:6000",
	} {
		in := healthy()
		edit(&in, "pg1", func(m *cluster.Member) { m.ConnURL = url })
		got := route.Build(in)
		if got.Write == nil || got.Write.Addr != want {
			t.Errorf("%s: got %+v (%s), want address %s", url, got.Write, got.Why, want)
		}
	}
}

func TestTable_Keep(t *testing.T) {
	in := healthy()
	before := route.Build(in)
	pg2 := before.Read[slices.IndexFunc(before.Read, func(b route.Backend) bool { return b.Name == "pg2" })]

	in.Status.Optime = 1 << 30 // both lag: out of the pool, sessions stay
	if got := route.Build(in); !got.KeepReplica(pg2) || len(got.Read) != 0 {
		t.Errorf("lagging: got keep %v, pool %v, want kept and out of the pool", got.KeepReplica(pg2), got.Read)
	}
	promoted := healthy()
	promoted.Lock.Node, promoted.Lock.Epoch, promoted.Lock.Instance = "pg2", 8, "i-pg2"
	if got := route.Build(promoted); got.KeepReplica(pg2) {
		t.Error("promoted: got kept, want cut")
	} else if got.KeepEpoch("pg1", 7) || !got.KeepEpoch("pg2", 8) || got.KeepEpoch("pg2", 7) {
		t.Error("promoted: epoch 8 of pg2 alone must be kept")
	}
	gone := healthy()
	delete(gone.Members, "pg2")
	if route.Build(gone).KeepReplica(pg2) {
		t.Error("vanished: got kept, want cut")
	}
	moved := healthy()
	edit(&moved, "pg2", func(m *cluster.Member) { m.ConnURL = "postgres://10.0.0.9:2/x" })
	if route.Build(moved).KeepReplica(pg2) {
		t.Error("moved to another address: got kept, want cut")
	}
}
