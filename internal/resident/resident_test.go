package resident

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

const smaps = `00400000-011bd000 r-xp 00000000 fe:00 99                                 /opt/my hathi
Size:              14068 kB
Rss:               10000 kB
Anonymous:             0 kB
Swap:                  0 kB
Locked:                0 kB
VmFlags: rd ex mr mw me sd
011bd000-021a3000 r--p 00dbd000 fe:00 99                                 /opt/my hathi
Anonymous:             0 kB
Swap:                  0 kB
Locked:                0 kB
VmFlags: rd mr mw me sd
021a3000-0225a000 rw-p 01da3000 fe:00 99                                 /opt/my hathi
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac sd
0225a000-04285000 rw-p 00000000 00:00 0
Anonymous:           200 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000001000 r--p 00000000 fe:00 12                         /usr/share/zoneinfo/UTC
Anonymous:             0 kB
VmFlags: rd mr mw me sd
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
VmFlags: rd ex mr mw me de sd
`

func TestClean_OnlyWhatTheFileBringsBack(t *testing.T) {
	for name, c := range map[string]struct {
		from, to string
		want     []uintptr
	}{
		"code and constants":            {"", "", []uintptr{0x400000, 0x11bd000}},
		"a breakpoint in the code":      {"Rss:               10000 kB\nAnonymous:             0 kB", "Anonymous:             4 kB", []uintptr{0x11bd000}},
		"a page in the swap":            {"Swap:                  0 kB", "Swap:                  4 kB", []uintptr{0x11bd000}},
		"locked code":                   {"Locked:                0 kB", "Locked:               64 kB", []uintptr{0x11bd000}},
		"code that is locked on fault":  {"ex mr mw me sd\n011", "ex mr mw me lo sd\n011", []uintptr{0x11bd000}},
		"shared constants":              {"r--p 00dbd000", "r--s 00dbd000", []uintptr{0x400000}},
		"another program":               {"/opt/my hathi", "/opt/my hathi (deleted)", []uintptr{0x11bd000}},
		"code that may be written to":   {"r-xp 00000000 fe:00 99", "rwxp 00000000 fe:00 99", []uintptr{0x11bd000}},
		"code without its last line":    {"VmFlags: rd ex mr mw me sd\n", "", []uintptr{0x11bd000}},
		"constants that were relocated": {"VmFlags: rd ex mr mw me sd\n011bd000-021a3000 r--p 00dbd000 fe:00 99                                 /opt/my hathi\nAnonymous:             0 kB", "VmFlags: rd ex mr mw me sd\n011bd000-021a3000 r--p 00dbd000 fe:00 99                                 /opt/my hathi\nAnonymous:           512 kB", []uintptr{0x400000}},
	} {
		t.Run(name, func(t *testing.T) {
			text := smaps
			if c.from != "" {
				if text = strings.Replace(smaps, c.from, c.to, 1); text == smaps {
					t.Fatal("the case changes nothing")
				}
			}
			list, err := clean(strings.NewReader(text), "/opt/my hathi")
			var got []uintptr
			for _, m := range list {
				got = append(got, m.from)
			}
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %x, %v, want %x", got, err, c.want)
			}
		})
	}
}

// resident is how many kB of the program's own file are in this process' memory.
func residentKB(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc/self/status here")
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssFile:" {
			n := 0
			for _, c := range f[1] {
				n = 10*n + int(c-'0')
			}
			return n
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}

func TestTrim_GivesBackAndPopulateFetches(t *testing.T) {
	if err := Populate(reflect.ValueOf(os.ReadFile).Pointer(), 1<<30); err != nil {
		t.Fatal(err)
	}
	full := residentKB(t)
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	trimmed := residentKB(t)
	if trimmed >= full {
		t.Errorf("got %d kB before and %d kB after, want less", full, trimmed)
	}
	if err := Populate(reflect.ValueOf(os.ReadFile).Pointer(), 1<<30); err != nil {
		t.Fatal(err)
	}
	if again := residentKB(t); again <= trimmed {
		t.Errorf("got %d kB trimmed and %d kB fetched, want more", trimmed, again)
	}
	if err := Populate(1, 1<<20); err == nil {
		t.Error("got no error for an address that is nobody's")
	}
}

func TestTouch_FetchesToo(t *testing.T) {
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	before := residentKB(t)
	touch(textOf(t))
	if after := residentKB(t); after <= before {
		t.Errorf("got %d kB before and %d kB after, want more", before, after)
	}
}

// textOf is the mapping that holds this test's own code.
func textOf(t *testing.T) (from, size uintptr) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	pc := reflect.ValueOf(textOf).Pointer()
	for line := range strings.Lines(string(b)) {
		if m, ok := parse(strings.TrimSuffix(line, "\n")); ok && pc >= m.from && pc < m.to {
			return m.from, m.to - m.from
		}
	}
	t.Fatal("no mapping holds this test")
	return 0, 0
}
