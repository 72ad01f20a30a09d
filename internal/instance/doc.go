// Package instance is one PostgreSQL as a node manages it: what package postgres can do, with the
// configuration files of package pgconf, behind the interface that package node declares.
//
// It performs and observes; it decides nothing. Observe and Detail may be called at any time and by
// several goroutines; the other calls belong to the node's tick and its one job.
package instance
