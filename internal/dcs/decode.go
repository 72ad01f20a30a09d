package dcs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// Decode reads a snapshot into a cluster view. It never fails: whatever cannot be read is named in
// View.Problems, so that one damaged key cannot stop a node from seeing the others.
func Decode(s Snapshot) cluster.View { return new(Decoder).Decode(s) }

// Decoder decodes one snapshot after another and takes over what has not changed: most changes are
// renewals of the lock. The zero value is ready. It is for one goroutine at a time; the views may
// share what they point to, which nobody changes.
type Decoder struct {
	entries map[string]Entry
	view    cluster.View
}

// Decode is like the function Decode.
func (d *Decoder) Decode(s Snapshot) cluster.View {
	old := d.view
	if len(old.Problems) > 0 {
		d.entries = nil // their texts belong to keys
	}
	same := func(key string) bool {
		a, before := d.entries[key]
		b, now := s.Entries[key]
		return before && now && a.ModRev == b.ModRev && bytes.Equal(a.Value, b.Value)
	}
	v := cluster.View{Revision: s.Revision}
	defer func() { d.entries, d.view = maps.Clone(s.Entries), v }()
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
	if e, ok := s.Entries[KeyConfig]; same(KeyConfig) {
		v.ConfigRev, v.Config = old.ConfigRev, old.Config
	} else if ok {
		v.ConfigRev = e.ModRev
		d, errs := cluster.ParseDynamic(e.Value)
		for _, err := range errs {
			bad(KeyConfig, err)
		}
		v.Config = d
	} else {
		v.Config = cluster.Dynamic{Doc: map[string]any{}, Settings: cluster.DefaultSettings()}
		if v.Initialize != "" {
			v.Config.ModeBad = true
			bad(KeyConfig, errors.New("the configuration of the cluster is gone"))
		}
	}
	v.ConfigBad = v.Config.ModeBad
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
	if same(KeySync) {
		v.SyncRev, v.Sync = old.SyncRev, old.Sync
	} else {
		v.SyncRev, _, v.SyncBad = decode(KeySync, &v.Sync)
	}
	if same(KeyStatus) {
		v.Status = old.Status
	} else {
		_, _, v.StatusBad = decode(KeyStatus, &v.Status)
	}
	if same(KeyHistory) {
		v.History = old.History
	} else {
		decode(KeyHistory, &v.History)
	}
	if same(KeyFailsafe) {
		v.Failsafe = old.Failsafe
	} else {
		decode(KeyFailsafe, &v.Failsafe)
	}
	var f cluster.FailoverRequest
	rev, present, broken := decode(KeyFailover, &f)
	v.FailoverRev = rev
	if present && !broken {
		v.Failover = &f
	}
	decodeMembers := func() {
		for key, e := range s.Entries {
			name, ok := MemberName(key)
			if !ok {
				continue
			}
			if same(key) {
				v.Members[name] = old.Members[name]
				continue
			}
			m, err := cluster.ParseMember(name, e.Value)
			if err != nil {
				bad(key, err)
				continue
			}
			v.Members[name] = m
		}
	}
	if v.Members = old.Members; d.entries == nil || !sameMembers(d.entries, s.Entries) {
		v.Members = map[string]cluster.Member{}
		decodeMembers()
	}
	slices.Sort(v.Problems)
	return v
}

// sameMembers says whether the keys of members are the same, byte for byte.
func sameMembers(a, b map[string]Entry) bool {
	n := 0
	for key, e := range b {
		if _, ok := MemberName(key); !ok {
			continue
		}
		if o, ok := a[key]; !ok || o.ModRev != e.ModRev || !bytes.Equal(o.Value, e.Value) {
			return false
		}
		n++
	}
	for key := range a {
		if _, ok := MemberName(key); ok {
			n--
		}
	}
	return n == 0
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
