package dcs

import "strings"

// The keys of a scope, relative to it. All but KeyLock are Patroni's.
const (
	KeyLock       = "lock"       // cluster.Lock: who may acknowledge writes
	KeyLeader     = "leader"     // plain node name, on a lease of ttl: for people's tools, never for decisions
	KeyInitialize = "initialize" // system identifier; empty while a node bootstraps
	KeyConfig     = "config"     // dynamic configuration
	KeySync       = "sync"       // cluster.SyncState
	KeyStatus     = "status"     // cluster.Status
	KeyHistory    = "history"    // cluster.History
	KeyFailover   = "failover"   // cluster.FailoverRequest
	KeyFailsafe   = "failsafe"   // map of member name to REST URL
	KeyOutcome    = "outcome"    // cluster.Outcome: how the last fail-over request ended
	MembersPrefix = "members/"   // cluster.Member by name, on a lease of ttl
)

// MemberKey is the key of a member.
func MemberKey(name string) string { return MembersPrefix + name }

// MemberName is the name in a member key, and whether key is one.
func MemberName(key string) (string, bool) {
	name, ok := strings.CutPrefix(key, MembersPrefix)
	return name, ok && name != "" && !strings.Contains(name, "/")
}
