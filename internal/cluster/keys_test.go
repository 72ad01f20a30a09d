package cluster_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// roundTrip reads text as a T, wants it equal to value, and wants value written as text again.
func roundTrip[T any](t *testing.T, text string, value T) {
	t.Helper()
	var got T
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Errorf("read %s: %v", text, err)
	} else if !reflect.DeepEqual(got, value) {
		t.Errorf("read %s: got %+v, want %+v", text, got, value)
	}
	b, err := json.Marshal(value)
	if err != nil || string(b) != text {
		t.Errorf("write %+v: got %s, %v; want %s", value, b, err, text)
	}
}

func TestSyncState_PatroniForms(t *testing.T) {
	roundTrip(t, `{"leader":"postgres-1","sync_standby":null,"quorum":0}`, cluster.SyncState{Leader: "postgres-1"})
	roundTrip(t, `{"leader":"postgres-0","sync_standby":"postgres-1,postgres-2","quorum":1}`,
		cluster.SyncState{Leader: "postgres-0", Standbys: []string{"postgres-1", "postgres-2"}, Quorum: 1})
	roundTrip(t, `{"leader":null,"sync_standby":null,"quorum":0}`, cluster.SyncState{})

	b, err := json.Marshal(cluster.SyncState{Leader: "a", Standbys: []string{"c", "b", "c"}})
	if want := `{"leader":"a","sync_standby":"b,c","quorum":0}`; err != nil || string(b) != want {
		t.Errorf("got %s, %v; want %s, sorted without repetitions", b, err, want)
	}
	var s cluster.SyncState
	if err := json.Unmarshal([]byte(`{"leader":"a","sync_standby":" c, b ,,c"}`), &s); err != nil || !reflect.DeepEqual(s.Standbys, []string{"b", "c"}) {
		t.Errorf("got %+v, %v; want b and c", s, err)
	}
	for _, bad := range []string{`{"quorum":-1}`, `{"leader":7}`, `[]`, `{`, ``} {
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s: got no error", bad)
		}
	}
	x, y := cluster.SyncState{Leader: "a", Standbys: []string{"c", "b"}}, cluster.SyncState{Leader: "a", Standbys: []string{"b", "c"}}
	if !x.Equal(y) || x.Equal(cluster.SyncState{Leader: "a"}) || !x.Has("b") || x.Has("a") || x.Empty() || !(cluster.SyncState{}).Empty() {
		t.Error("Equal, Has or Empty is wrong")
	}
}

func TestMember_PatroniForm(t *testing.T) {
	roundTrip(t, `{"api_url":"https://127.0.0.1:8008/patroni","conn_url":"postgres://127.0.0.1:5361/postgres","replication_state":"streaming",`+
		`"role":"replica","state":"running","tags":{"failover_priority":"1","nofailover":true},"timeline":1,"version":"4.1.0","xlog_location":67108864,`+
		`"receive_lsn":67108864,"replay_lsn":67108000}`,
		cluster.Member{APIURL: "https://127.0.0.1:8008/patroni", ConnURL: "postgres://127.0.0.1:5361/postgres", ReplicationState: "streaming",
			Role: cluster.RoleReplica, State: cluster.StateRunning, Tags: cluster.Tags{"nofailover": true, "failover_priority": "1"}, Timeline: 1,
			Version: "4.1.0", XLogLocation: 67108864, ReceiveLSN: 67108864, ReplayLSN: 67108000})
	roundTrip(t, `{"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"101"}},"role":"primary","state":"running"}`,
		cluster.Member{PendingRestart: true, PendingReason: map[string]cluster.PendingReason{"max_connections": {OldValue: "100", NewValue: "101"}},
			Role: cluster.RolePrimary, State: cluster.StateRunning})
	m, err := cluster.ParseMember("pg1", []byte(`{"state":"running","of_tomorrow":[1]}`))
	if err != nil || m.Name != "pg1" || m.State != cluster.StateRunning {
		t.Errorf("got %+v, %v; want unknown fields passed over", m, err)
	}
	if m, err := cluster.ParseMember("pg1", []byte(`junk`)); err == nil || m.Name != "pg1" {
		t.Errorf("junk: got %+v, %v; want an error and the name", m, err)
	}
}

func TestMember_HostPort(t *testing.T) {
	for url, want := range map[string][2]string{"postgres://10.0.0.1:5433/postgres": {"10.0.0.1", "5433"}, "postgres://db1/postgres": {"db1", "5432"},
		"postgres://[fd00::1]:5432/postgres": {"fd00::1", "5432"}} {
		host, port, err := cluster.Member{ConnURL: url}.HostPort()
		if err != nil || host != want[0] || port != want[1] {
			t.Errorf("%s: got %s, %s, %v; want %v", url, host, port, err, want)
		}
	}
	for _, bad := range []string{"", "junk", "postgres://%zz", "postgres:///x"} {
		if _, _, err := (cluster.Member{Name: "a", ConnURL: bad}).HostPort(); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestStatus_PatroniForm(t *testing.T) {
	roundTrip(t, `{"optime":67108864,"slots":{"postgres_0":67108864,"test_logical":67108000},"retain_slots":["postgres_1"]}`,
		cluster.Status{Optime: 67108864, Slots: map[string]cluster.LSN{"postgres_0": 67108864, "test_logical": 67108000}, RetainSlots: []string{"postgres_1"}})
	if s, err := cluster.ParseStatus([]byte(`67108864`)); err != nil || s.Optime != 67108864 {
		t.Errorf("bare number: got %+v, %v", s, err)
	}
	for _, bad := range []string{`junk`, `{"optime":-1}`, `[]`, ``} {
		if s, err := cluster.ParseStatus([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v, want an error", bad, s)
		}
	}
}

func TestFailoverRequest_PatroniForms(t *testing.T) {
	roundTrip(t, `{"leader":"a","member":"b","scheduled_at":"2026-01-02T03:04:05.678901+00:00"}`,
		cluster.FailoverRequest{Leader: "a", Candidate: "b", ScheduledAt: "2026-01-02T03:04:05.678901+00:00"})
	roundTrip(t, `{"member":"b"}`, cluster.FailoverRequest{Candidate: "b"})
	if (cluster.FailoverRequest{Candidate: "b"}).Switchover() || !(cluster.FailoverRequest{Leader: "a"}).Switchover() {
		t.Error("a request is a switchover when it names the leader")
	}
}

func TestHistory_PatroniForms(t *testing.T) {
	roundTrip(t, `[[1,67108864,"no recovery target specified","2026-01-02T03:04:05+00:00","pg2"],[2,83886080,"no recovery target specified"]]`, cluster.History{
		{Timeline: 1, LSN: 67108864, Reason: "no recovery target specified", Timestamp: "2026-01-02T03:04:05+00:00", NewLeader: "pg2"},
		{Timeline: 2, LSN: 83886080, Reason: "no recovery target specified"}})
	roundTrip(t, `[[1,5,"r","","pg2",7]]`, cluster.History{{Timeline: 1, LSN: 5, Reason: "r", NewLeader: "pg2", Epoch: 7}})
	var h cluster.History
	for _, bad := range []string{`[[1]]`, `[["a",1,"r"]]`, `[{}]`, `[[1,-1,"r"]]`, `{}`} {
		if err := json.Unmarshal([]byte(bad), &h); err == nil {
			t.Errorf("%s: got no error", bad)
		}
	}
	if err := json.Unmarshal([]byte(`[[1,5,"r","t","l",7,"of tomorrow"]]`), &h); err != nil {
		t.Errorf("a longer line: got %v, want the rest passed over", err)
	}
}

func TestLock_JSONAndRefusals(t *testing.T) {
	roundTrip(t, `{"node":"pg1","instance":"i","epoch":3,"seq":9,"timeline":2,"ttl_ms":6000}`,
		cluster.Lock{Node: "pg1", Instance: "i", Epoch: 3, Seq: 9, Timeline: 2, TTL: 6000})
	for _, bad := range []string{``, `junk`, `[]`, `{}`, `{"epoch":0}`, `{"epoch":-1}`, `{"epoch":9223372036854775808}`, `{"epoch":1,"ttl_ms":-1}`,
		`{"epoch":1,"ttl_ms":3600001}`, `{"epoch":"1"}`, `{"epoch":1,"seq":-5}`} {
		if l, err := cluster.ParseLock([]byte(bad)); err == nil || l != (cluster.Lock{}) {
			t.Errorf("%s: got %+v, %v; want an error and nothing", bad, l, err)
		}
	}
	l, err := cluster.ParseLock([]byte(`{"node":"","epoch":4,"seq":1,"ttl_ms":3000,"successor":"pg2"}`))
	if err != nil || l.Held() || !l.Clean() || l.Successor != "pg2" {
		t.Errorf("released lock: got %+v, %v", l, err)
	}
	if (cluster.Lock{}).Clean() || !(cluster.Lock{Node: "a", Epoch: 1}).Held() {
		t.Error("Held or Clean is wrong")
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte(`{"node":"pg1","epoch":3,"seq":9,"ttl_ms":6000}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := cluster.ParseLock(b)
		if err != nil {
			return
		}
		if l.Epoch == 0 || l.TTL < 0 {
			t.Fatalf("accepted %+v", l)
		}
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := cluster.ParseLock(text); err != nil || again != l {
			t.Fatalf("got %+v, %v; want %+v", again, err, l)
		}
	})
}

func FuzzSyncState(f *testing.F) {
	f.Add([]byte(`{"leader":"a","sync_standby":"b,c","quorum":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again cluster.SyncState
		if json.Unmarshal(b, &s) != nil {
			return
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &again); err != nil || !again.Equal(s) || s.Quorum < 0 {
			t.Fatalf("got %+v, %v; want %+v", again, err, s)
		}
	})
}
