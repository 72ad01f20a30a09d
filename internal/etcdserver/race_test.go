//go:build race

package etcdserver_test

// raced says that the race detector is on, which makes a member several times slower.
const raced = true
