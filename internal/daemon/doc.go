// Package daemon makes the processes of hathi out of a configuration: the agent, the etcd member,
// the router. Each opens everything in order, serves until its context ends, and closes in reverse.
//
// It is the only place where the edges meet: node, REST, store, guardian, PostgreSQL.
package daemon
