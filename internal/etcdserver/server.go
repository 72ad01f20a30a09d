// Package etcdserver runs one etcd member inside this process and looks after it.
//
// It compacts (the etcd leader only), defragments (each member itself, one at a time), and gets out
// of a full database by itself as far as the data allows. It refuses to start on data of another
// member or cluster, on damaged files, and without data under an identity that had some (see begin and
// examine). etcd's warnings go to log/slog.
//
// What it does not do: it neither adds nor removes members, and it does not use etcd's password
// authentication (with that switched on, compaction and defragmentation are refused by etcd, and
// the log says so). A member whose files are damaged ends the process, as etcd does; run it in a
// process of its own.
package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// ErrStopped is reported when the member stopped by itself: it was removed from the cluster, or
// its data cannot be used.
var ErrStopped = errors.New("the etcd member stopped by itself: it was removed from the cluster, or its data cannot be used; " +
	"if it shall come back, add it again and start it with an empty data directory")

// etcd has no other way to say it, and reads it whenever a member runs: so it is said once, before any
// does.
func init() { wal.SegmentSizeBytes = segmentBytes }

// Server is one member. Make one with New. Open and Close may be called from different goroutines.
type Server struct {
	config Config
	pace   pace
	ready  chan struct{}
	errs   chan error

	mu     sync.Mutex
	opened bool
	closed bool
	etcd   *embed.Etcd
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
}

// New fills in defaults and touches nothing.
func New(config Config) *Server {
	return &Server{
		config: config.withDefaults(),
		pace:   defaultPace,
		ready:  make(chan struct{}),
		errs:   make(chan error, 1),
	}
}

// Open starts the member and returns when it listens for its peers. With data it does not wait for a
// quorum: Ready tells when the member has joined and serves clients. Without data it waits until every
// other member of the initial cluster was heard (see begin), and returns ErrLostData or ErrNotAdded when
// one says that this member is not new; with damaged files ErrDamaged. ctx bounds only Open. A Server
// can be opened once.
func (s *Server) Open(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return fmt.Errorf("start etcd member %q in %s: %w", s.config.Name, s.config.DataDir, err)
	}
	return nil
}

func (s *Server) open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened || s.closed {
		return errors.New("it was opened or closed already")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.config.validate(); err != nil {
		return err
	}
	hasData, err := s.claim()
	if err != nil {
		return err
	}
	config := s.config
	switch {
	case hasData:
		if err := s.examine(); err != nil {
			return fmt.Errorf("%w\n%s", err, s.wayBack())
		}
	case !config.Join:
		join, initial, err := s.begin(ctx)
		if err != nil {
			return err
		}
		config.Join, config.InitialCluster = join, initial
	}
	type started struct {
		etcd *embed.Etcd
		err  error
	}
	done := make(chan started, 1)
	go func() {
		e, err := embed.StartEtcd(config.embedded(zapLogger(s.config.Logger)))
		done <- started{e, err}
	}()
	var st started
	select {
	case st = <-done:
	case <-ctx.Done():
		// etcd cannot be interrupted while it reads its log or asks its peers; it takes seconds at most.
		if st = <-done; st.err == nil {
			stop(st.etcd)
			return ctx.Err()
		}
	}
	if st.err != nil {
		return st.err
	}
	life, cancel := context.WithCancel(context.Background())
	s.opened, s.etcd, s.cancel = true, st.etcd, cancel
	s.wg.Go(func() { s.watchOver(life) })
	s.wg.Go(func() { s.care(life) })
	return nil
}

// Ready is closed when the member has joined the cluster and serves clients.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Errors delivers what ends the member's service: at most one error. The caller closes the Server then.
func (s *Server) Errors() <-chan error { return s.errs }

// Close hands leadership over if this member leads, stops it and waits. With open watches of
// clients this can take some seconds. It may be called twice.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	opened := s.opened
	s.mu.Unlock()
	if !opened {
		return nil
	}
	s.once.Do(func() {
		s.cancel()
		stop(s.etcd)
		s.wg.Wait()
	})
	return nil
}

// stop ends a started member.
func stop(e *embed.Etcd) {
	select {
	case <-e.Server.ReadyNotify():
		// First of all: so the others need not wait for an election while connections are drained.
		_ = e.Server.TryTransferLeadershipOnShutdown()
	default:
		// A member that never got ready has no clients to drain, and Close would wait for them.
		e.Server.HardStop()
	}
	e.Close()
}

// watchOver tells when the member is ready and when it ends by itself.
func (s *Server) watchOver(ctx context.Context) {
	ready := s.etcd.Server.ReadyNotify()
	report := func(err error) {
		if ctx.Err() != nil {
			return // Close ends it
		}
		select {
		case s.errs <- fmt.Errorf("etcd member %q: %w", s.config.Name, err):
		default:
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ready:
			close(s.ready)
			ready = nil
		case err, ok := <-s.etcd.Err():
			if ok && err != nil {
				report(err)
			}
			return
		case <-s.etcd.Server.StopNotify():
			report(ErrStopped)
			return
		}
	}
}

// wayBack is what an operator does with a member whose data is of no use any more.
func (s *Server) wayBack() string {
	return fmt.Sprintf("hint: it was not started. While more than half of the other members run, nothing is lost: find its ID (etcdctl member list), then\n"+
		"  etcdctl member remove ID; mv %s %s.damaged; etcdctl member add %s --peer-urls=%s\n"+
		"and start it again: it copies everything from the others", s.config.DataDir, s.config.DataDir, s.config.Name, strings.Join(s.config.AdvertisePeerURLs, ","))
}

// hasMember says whether the directory holds the log of a member.
func hasMember(dataDir string) (bool, error) {
	entries, err := os.ReadDir(filepath.Join(dataDir, "member", "wal"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".wal" {
			return true, nil
		}
	}
	return false, err
}

// Status is a look at the member, for health and for people.
type Status struct {
	Ready        bool
	ID, Leader   uint64 // Leader is 0 while there is none
	Term         uint64
	Revision     int64
	Bytes, InUse int64 // of the database file
	QuotaBytes   int64
	NoSpace      bool
}

// Status looks at the member without asking others. It is the zero value before Open and after Close.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened || s.closed {
		return Status{}
	}
	e := s.etcd.Server
	st := Status{
		ID: uint64(e.MemberID()), Leader: e.Lead(), Term: e.Term(), QuotaBytes: s.config.QuotaBytes,
		Revision: e.KV().Rev(), Bytes: e.Backend().Size(), InUse: e.Backend().SizeInUse(),
		NoSpace: len(noSpace(e)) > 0,
	}
	select {
	case <-s.ready:
		st.Ready = true
	default:
	}
	return st
}
