package dcs

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Decode reads a snapshot into a cluster view. It never fails: whatever cannot be read is named in
// View.Problems, so that one damaged key cannot stop a node from seeing the others.
func Decode(s Snapshot) cluster.View {
	v := cluster.View{Revision: s.Revision, Members: map[string]cluster.Member{}}
	bad := func(key string, err error) { v.Problems = append(v.Problems, fmt.Sprintf("key %s: %v", key, err)) }

	if e, ok := s.Entries[KeyLock]; ok {
		v.LockRev = e.ModRev
		lock, err := cluster.ParseLock(e.Value)
		if err != nil {
			v.LockBad = true
			bad(KeyLock, err)
		}
		v.Lock = lock
	}
	if e, ok := s.Entries[KeyLeader]; ok {
		v.Leader = string(e.Value)
	}
	if e, ok := s.Entries[KeyInitialize]; ok {
		v.Initialize, v.InitializeRev = string(e.Value), e.ModRev
	}
	v.Config = cluster.Dynamic{Doc: map[string]any{}, Settings: cluster.DefaultSettings()}
	if e, ok := s.Entries[KeyConfig]; ok {
		v.ConfigRev = e.ModRev
		d, errs := cluster.ParseDynamic(e.Value)
		for _, err := range errs {
			bad(KeyConfig, err)
		}
		v.Config = d
	}
	// decode reads one JSON key; present is false for an absent, empty or null one.
	decode := func(key string, into any) (rev int64, present, broken bool) {
		e, ok := s.Entries[key]
		if !ok || len(e.Value) == 0 || string(e.Value) == "null" {
			return e.ModRev, false, false
		}
		if err := json.Unmarshal(e.Value, into); err != nil {
			bad(key, err)
			return e.ModRev, true, true
		}
		return e.ModRev, true, false
	}
	v.SyncRev, _, v.SyncBad = decode(KeySync, &v.Sync)
	_, _, v.StatusBad = decode(KeyStatus, &v.Status)
	decode(KeyHistory, &v.History)
	decode(KeyFailsafe, &v.Failsafe)
	var f cluster.FailoverRequest
	rev, present, broken := decode(KeyFailover, &f)
	v.FailoverRev = rev
	if present && !broken {
		v.Failover = &f
	}
	for key, e := range s.Entries {
		name, ok := MemberName(key)
		if !ok {
			continue
		}
		m, err := cluster.ParseMember(name, e.Value)
		if err != nil {
			bad(key, err)
			continue
		}
		v.Members[name] = m
	}
	slices.Sort(v.Problems)
	return v
}

// Apply brings a snapshot forward by one update of a watch, in place.
func Apply(s *Snapshot, u Update) {
	if u.Revision > s.Revision {
		s.Revision = u.Revision
	}
	for _, c := range u.Changes {
		if c.Deleted {
			delete(s.Entries, c.Key)
			continue
		}
		s.Entries[c.Key] = c.Entry
	}
}
