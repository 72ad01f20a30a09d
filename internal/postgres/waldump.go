package postgres

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	"github.com/hathi-ha/hathi/internal/cluster"
)

var waldumpRecord = regexp.MustCompile(`len \(rec/tot\):\s*\d+/\s*(\d+),.* lsn: ([0-9A-Fa-f]+/[0-9A-Fa-f]+),.* desc: ([A-Z_]+)`)

// ShutdownEnd is the end of the shutdown checkpoint of a cleanly stopped primary whose control file
// says c: a standby that has received everything up to here has everything. It reads the length of
// the record with pg_waldump.
func (s *Server) ShutdownEnd(ctx context.Context, c ControlData) (cluster.LSN, error) {
	if c.State != ControlShutDown {
		return 0, fmt.Errorf("find the end of the shutdown checkpoint: the server is %q, not %q", string(c.State), string(ControlShutDown))
	}
	out, err := s.output(ctx, "pg_waldump", "-p", s.cfg.DataDir+"/pg_wal", "-t", strconv.FormatUint(uint64(c.Timeline), 10),
		"-s", c.Checkpoint.String(), "-n", "1")
	if err != nil {
		return 0, fmt.Errorf("find the end of the shutdown checkpoint: %w", err)
	}
	at, length, what, err := parseWALDump(out)
	if err == nil && (at != c.Checkpoint || what != "CHECKPOINT_SHUTDOWN") {
		err = fmt.Errorf("got %s at %s, want CHECKPOINT_SHUTDOWN at %s", what, at, c.Checkpoint)
	}
	if err != nil {
		return 0, fmt.Errorf("find the end of the shutdown checkpoint: %w", err)
	}
	page, err := strconv.ParseUint(c.Values["WAL block size"], 10, 32)
	if err != nil || page < 1024 || c.WALSegmentSize < int64(page) {
		return 0, fmt.Errorf("find the end of the shutdown checkpoint: WAL pages of %q in segments of %d bytes", c.Values["WAL block size"], c.WALSegmentSize)
	}
	return recordEnd(c.Checkpoint, length, page, uint64(c.WALSegmentSize)), nil
}

func parseWALDump(line string) (at cluster.LSN, length uint64, what string, err error) {
	m := waldumpRecord.FindStringSubmatch(line)
	if m == nil {
		return 0, 0, "", fmt.Errorf("parse pg_waldump: got %.120q", line)
	}
	if length, err = strconv.ParseUint(m[1], 10, 31); err != nil {
		return 0, 0, "", fmt.Errorf("parse pg_waldump: %w", err)
	}
	if at, err = cluster.ParseLSN(m[2]); err != nil {
		return 0, 0, "", fmt.Errorf("parse pg_waldump: %w", err)
	}
	return at, length, m[3], nil
}

// recordEnd is where a record of length bytes that begins at start ends: it skips the header of
// each page that it runs into (src/include/access/xlog_internal.h: 24 bytes, 40 on the first page
// of a segment) and is rounded up to 8 bytes.
func recordEnd(start cluster.LSN, length, page, segment uint64) cluster.LSN {
	const header, longHeader, align = 24, 40, 8
	pos := uint64(start)
	for left := length; ; {
		room := page - pos%page
		if left <= room {
			return cluster.LSN((pos + left + align - 1) / align * align)
		}
		left -= room
		pos += room
		if pos%segment == 0 {
			pos += longHeader
		} else {
			pos += header
		}
	}
}
