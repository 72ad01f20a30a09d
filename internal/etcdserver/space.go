package etcdserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"golang.org/x/sys/unix"
)

const (
	// segmentBytes is the size of a file of etcd's log. Each is made whole beforehand, and one more
	// waits for its turn. etcd's own 64 MB are for stores that write as much in a minute; hathi's
	// renewals fill 4 MB in about an hour.
	segmentBytes = 4 << 20
	// keptFiles is how many files of the log, and snapshots, are kept besides those in use.
	keptFiles = 3
	// diskLow is the free space below which the operator is told. A member that cannot write its log
	// ends: it needs a few segments, and room for a copy of the database when it defragments.
	diskLow = 64 << 20
	// fullestKeys bounds one page of the look for who fills the store.
	fullestKeys = 20
)

// fullest says which folders of keys take the most: "/a/b/ 12 MiB in 40 keys". Values are not shown.
func (c *carer) fullest(ctx context.Context) string {
	type folder struct {
		name  string
		bytes int64
		keys  int
	}
	sizes := map[string]*folder{}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	note := ""
	for from := []byte{0}; ; {
		res, err := c.etcd.KV().Range(ctx, from, []byte{}, mvcc.RangeOptions{Limit: fullestKeys})
		if err != nil || ctx.Err() != nil {
			note = " (as far as could be read in time)"
			break
		}
		for _, kv := range res.KVs {
			name := folderOf(string(kv.Key))
			f := sizes[name]
			if f == nil && len(sizes) >= 10_000 {
				name = "other keys"
				f = sizes[name]
			}
			if f == nil {
				f = &folder{name: name}
				sizes[name] = f
			}
			f.keys++
			f.bytes += int64(len(kv.Key) + len(kv.Value))
		}
		if len(res.KVs) < fullestKeys {
			break
		}
		from = append(slices.Clone(res.KVs[len(res.KVs)-1].Key), 0)
	}
	list := make([]*folder, 0, len(sizes))
	for _, f := range sizes {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *folder) int { return cmp.Or(cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.name, b.name)) })
	var parts []string
	for _, f := range list[:min(3, len(list))] {
		parts = append(parts, fmt.Sprintf("%q %.1f MiB in %d keys", f.name, float64(f.bytes)/(1<<20), f.keys))
	}
	return strings.Join(parts, ", ") + note
}

// folderOf is the first two steps of a key's path, which tell whose it is.
func folderOf(key string) string {
	at := 0
	for range 3 {
		i := strings.IndexByte(key[at:], '/')
		if i < 0 {
			break
		}
		at += i + 1
	}
	if at == 0 || at > 80 {
		at = min(len(key), 40)
	}
	return strings.ToValidUTF8(key[:at], "?")
}

// diskFree are the bytes that this process may still write below a folder.
func diskFree(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// warnDisk tells once when the disk under the member is nearly full.
func (c *carer) warnDisk() {
	free, err := diskFree(c.config.DataDir)
	if err != nil {
		return // a disk that is gone is told of by etcd
	}
	if low := free < diskLow; low != c.diskTold {
		c.diskTold = low
		if low {
			c.config.Logger.Warn("the disk under etcd is nearly full; when it is, this member ends", "data_dir", c.config.DataDir, "bytes_free", free,
				"hint", "make room, best by giving etcd.embedded.data_dir a disk of its own")
		}
	}
}
