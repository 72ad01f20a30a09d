package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hathi-ha/hathi/internal/cluster"
)

func TestParseControlData_Version15(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "controldata15.txt"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseControlData(string(b))
	if err != nil {
		t.Fatal(err)
	}
	c.Values = nil
	want := ControlData{SystemID: "7711155872601566339", State: ControlShutDown, Checkpoint: 0x17414D0,
		Redo: 0x17414D0, Timeline: 1, PrevTimeline: 1, ChecksumVersion: 1, WALSegmentSize: 16 << 20,
		WALLevel: "replica", MaxConnections: 100, MaxWorkerProcesses: 8, MaxWALSenders: 10, MaxLocksPerXact: 64}
	if got, want := toText(c), toText(want); got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if !c.CleanlyStopped() || !c.CanRewind() {
		t.Fatalf("got cleanly stopped %v, can rewind %v, want both", c.CleanlyStopped(), c.CanRewind())
	}
}

func TestParseControlData_SaysWhatIsMissing(t *testing.T) {
	_, err := ParseControlData("Database cluster state: on fire\nLatest checkpoint location: 0/zz\n")
	if err == nil {
		t.Fatal("got no error")
	}
	for _, part := range []string{"system identifier", "on fire", "zz", "TimeLineID"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %q, want %q in it", err, part)
		}
	}
}

func FuzzParseControlData(f *testing.F) {
	b, _ := os.ReadFile(filepath.Join("testdata", "controldata15.txt"))
	f.Add(string(b))
	f.Add("")
	f.Add(":\n: :\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseControlData(text)
		if err == nil && (c.SystemID == "" || c.State == "") {
			t.Fatalf("got %+v without identity", c)
		}
	})
}

func FuzzParsePIDFile(f *testing.F) {
	f.Add("8123\n/data\n1700000000\n5432\n/run\nlocalhost\n 1 2\nready\n")
	f.Add("-7\n")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := parsePIDFile(text); err == nil && p.pid == 0 {
			t.Fatalf("got pid 0 from %q", text)
		}
	})
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]Version{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": {15, 18},
		"pg_rewind (PostgreSQL) 13.0":                            {13, 0},
		"postgres (PostgreSQL) 18beta2":                          {18, 0},
	} {
		if got, err := ParseVersion(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", in, got, err, want)
		}
	}
	if _, err := ParseVersion("bash: postgres: not found"); err == nil {
		t.Error("got no error for something else")
	}
}

func FuzzParseProgress(f *testing.F) {
	f.Add("23456/42000 kB (55%), 0/1 tablespace (/data)")
	f.Add("  1234/5678 kB (21%) copied")
	f.Add("99999999999999999999/1 kB (0%)")
	f.Fuzz(func(t *testing.T, line string) {
		for _, parse := range []func(string) (int64, int64, bool){ParseBaseBackupProgress, ParseRewindProgress} {
			if done, total, ok := parse(line); ok && (done < 0 || total < 0) {
				t.Fatalf("got %d of %d from %q", done, total, line)
			}
		}
	})
}

func TestParseProgress(t *testing.T) {
	if done, total, ok := ParseBaseBackupProgress("23456/42000 kB (55%), 0/1 tablespace"); !ok || done != 23456<<10 || total != 42000<<10 {
		t.Errorf("got %d, %d, %v", done, total, ok)
	}
	if done, total, ok := ParseRewindProgress(" 12/34 kB (35%) copied"); !ok || done != 12<<10 || total != 34<<10 {
		t.Errorf("got %d, %d, %v", done, total, ok)
	}
}

func TestConninfo_QuotesEverything(t *testing.T) {
	got := Conninfo{{"host", "/a b"}, {"user", ""}, {"password", `it's a \ "ü"`}}.String()
	if want := `host='/a b' password='it\'s a \\ "ü"'`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func TestFormatPassFile(t *testing.T) {
	b, err := FormatPassFile([]PassEntry{{User: "a:b", Password: `p\w:d`}, {Host: "::1", Port: "5432", User: "c", Password: ""}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b), "*:*:*:a\\:b:p\\\\w\\:d\n\\:\\:1:5432:*:c:\n"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	if _, err := FormatPassFile([]PassEntry{{User: "u", Password: "hush\nhush"}}); err == nil || strings.Contains(err.Error(), "hush") {
		t.Fatalf("got %v, want an error without the password", err)
	}
}

func TestSCRAMVerifier(t *testing.T) {
	// Made by PostgreSQL 15 for the password "secret" and this salt would be the same: the
	// arithmetic is checked against a real server in the integration test.
	v, err := SCRAMVerifier("secret")
	if err != nil {
		t.Fatal(err)
	}
	if !VerifierMatches(v, "secret") || VerifierMatches(v, "Secret") || VerifierMatches("md5abc", "secret") || VerifierMatches("", "") {
		t.Fatalf("verifier %s matches wrongly", v)
	}
	for _, bad := range []string{"", "a\nb", "ﬁx", "a\u00a0b", "e\u0301"} {
		if _, err := SCRAMVerifier(bad); err == nil {
			t.Errorf("got a verifier for %q, want a refusal", bad)
		}
	}
	if _, err := SCRAMVerifier("größe %'\\:"); err != nil {
		t.Error(err)
	}
}

func FuzzVerifierMatches(f *testing.F) {
	f.Add("SCRAM-SHA-256$4096:c2FsdA==$a:b", "x")
	f.Fuzz(func(t *testing.T, v, p string) {
		if i := strings.IndexByte(v, ':'); i > len("SCRAM-SHA-256$")+4 {
			t.Skip("too many rounds for a fuzz test")
		}
		_ = VerifierMatches(v, p)
	})
}

func TestParseStatus_PrimaryJustPromoted(t *testing.T) {
	st, err := parseStatus([]byte(`{"in_recovery": false, "walfile": "0000000B0000000000000003", "checkpoint_tli": 10,
		"flushed": "0/3000060", "written": "0/3000100", "received": null}`))
	if err != nil {
		t.Fatal(err)
	}
	if st.Timeline != 11 || st.LSN() != cluster.LSN(0x3000060) {
		t.Fatalf("got timeline %d at %s, want 11 at 0/3000060", st.Timeline, st.LSN())
	}
}

func TestParseStatus_StandbyAheadByReplay(t *testing.T) {
	st, err := parseStatus([]byte(`{"in_recovery": true, "checkpoint_tli": 1, "recovery_tli": 2,
		"received": "0/3000000", "replayed": "0/3000060",
		"receiver": {"pid": 7, "status": "streaming", "received_tli": 3, "flushed_lsn": "0/3000000", "sender_host": "h", "sender_port": 5, "slot_name": null, "silent": 0.5}}`))
	if err != nil {
		t.Fatal(err)
	}
	if st.Timeline != 3 || st.LSN() != 0x3000060 || !st.Receiver.Streaming() || st.Receiver.SenderPort != 5 {
		t.Fatalf("got %+v", st)
	}
}

func TestSlug(t *testing.T) {
	for in, want := range map[string]string{"Rewind failed: ../x": "rewind-failed-----x", "": "unknown", "..": "unknown"} {
		if got := slug(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func toText(c ControlData) string { return fmt.Sprintf("%+v", c) }

func TestRecordEnd(t *testing.T) {
	for _, c := range []struct{ start, length, want uint64 }{
		{0x1000028, 114, 0x10000a0},
		{0x1001ff8, 114, 0x1002000 + 24 + 112}, // 8 bytes fit, 106 follow the page header, rounded up
		{0x1fffff8, 114, 0x2000000 + 40 + 112},
		{0x1001fa0, 96, 0x1002000},
	} {
		if got := recordEnd(cluster.LSN(c.start), c.length, 8192, 16<<20); got != cluster.LSN(c.want) {
			t.Errorf("%x of %d bytes: got %s, want %s", c.start, c.length, got, cluster.LSN(c.want))
		}
	}
}

func FuzzParseWALDump(f *testing.F) {
	f.Add("rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/017414D0, prev 0/01741498, desc: CHECKPOINT_SHUTDOWN redo 0/17414D0;")
	f.Fuzz(func(t *testing.T, s string) { _, _, _, _ = parseWALDump(s) })
}
