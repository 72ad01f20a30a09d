package etcdserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// ErrDamaged: the files of a member cannot be what it wrote. It is not started, because a member that
// forgot what it had acknowledged, or whom it voted for, can help to elect a leader without it: worse
// than a member that is away.
var ErrDamaged = errors.New("the files of this etcd member are damaged")

// examine looks, without changing anything, for damage that etcd would start with. etcd cuts a log off
// where it ends in the middle of a record, as after a crash; what the database had applied must be in
// front of that. It also finds a database that was cut short, which etcd maps and dies of later.
//
// It does not find everything: what was acknowledged in the last tenth of a second before the end is
// not in the database yet, and pages of it are only checked for being what they say they are.
func (s *Server) examine() error {
	member := filepath.Join(s.config.DataDir, "member")
	first, last, err := logged(filepath.Join(member, "wal"))
	if err != nil {
		return fmt.Errorf("%w: the log in %s: %w", ErrDamaged, filepath.Join(member, "wal"), err)
	}
	db := filepath.Join(member, "snap", "db")
	applied, err := lastApplied(db)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if first == 0 {
			return nil // etcd makes it anew from the log, which still begins at the beginning
		}
		return fmt.Errorf("%w: the database %s is gone, and the log begins only after entry %d", ErrDamaged, db, first)
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("another process has %s open: is this member running already?", db)
	case err != nil:
		return fmt.Errorf("%w: the database %s: %w", ErrDamaged, db, err)
	}
	if applied > last {
		return fmt.Errorf("%w: the log in %s ends at entry %d, and the database had applied entry %d: the log was cut short",
			ErrDamaged, filepath.Join(member, "wal"), last, applied)
	}
	return nil
}

// logged are the index of the snapshot of the database after which the log goes on (0: none, it begins
// at the beginning), and that of its last whole entry.
func logged(dir string) (first, last uint64, err error) {
	snaps, err := wal.ValidSnapshotEntries(zap.NewNop(), dir)
	if err != nil {
		return 0, 0, err
	}
	from := &walpb.Snapshot{}
	if len(snaps) > 0 {
		from = snaps[len(snaps)-1]
	}
	w, err := wal.OpenForRead(zap.NewNop(), dir, from)
	if err != nil {
		return 0, 0, err
	}
	defer w.Close()
	_, _, entries, err := w.ReadAll()
	if err != nil {
		return 0, 0, err
	}
	first = from.GetIndex()
	if len(entries) == 0 {
		return first, first, nil
	}
	return first, entries[len(entries)-1].GetIndex(), nil
}

// lastApplied is the index of the last entry that the database holds; it walks the database once.
func lastApplied(path string) (index uint64, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, err
	}
	// The library panics on what it does not understand, and reading behind the end of the file is a
	// fault of the processor.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			index, err = 0, fmt.Errorf("%v", r)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		if st, err := os.Stat(path); err != nil {
			return err
		} else if st.Size() < tx.Size() {
			return fmt.Errorf("it was cut short: %d of %d bytes are there", st.Size(), tx.Size())
		}
		if b := tx.Bucket([]byte("meta")); b != nil {
			if v := b.Get([]byte("consistent_index")); len(v) == 8 {
				index = binary.BigEndian.Uint64(v)
			}
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func([]byte, []byte) error { return nil })
		})
	})
	return index, err
}
