// Package rest is a node's HTTP interface in Patroni's words: health checks for load balancers, the
// status, the cluster, metrics, and the actions; the small probe server that peers ask; and the
// client for both.
//
// What it guarantees:
//
//   - GET answers come from one immutable Snapshot, without a lock and without I/O: they never wait
//     for the HA loop, the store or PostgreSQL.
//   - An answer that the node is primary is true only within its lease: it is computed against the
//     clock at the moment of the request, not when the snapshot was made.
//   - Everything that comes from outside is bounded: connections, headers, bodies, depth of JSON,
//     time.
//   - Without a password and without client certificates, unsafe requests are answered only to
//     this machine itself.
//
// What it does not: decide anything. Actions are typed, checked for form, and handed to the node.
//
// Paths, codes and texts are Patroni's (patroni/api.py, release 4.1; docs/rest_api.rst). Where we
// are stricter: an unknown path is 404 (Patroni: 503 with the status), and /primary also needs a
// PostgreSQL that runs and is out of recovery.
package rest
