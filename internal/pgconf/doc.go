// Package pgconf turns settings into the files that PostgreSQL reads: postgresql.conf, pg_hba.conf,
// pg_ident.conf, and the settings that belong on the command line.
//
// It is pure: it reads and writes no file and knows no clock. The same input gives the same bytes,
// so a caller can tell by comparing whether anything is to be done.
//
// What it guarantees: values are quoted so that none of them can add a line or another setting; what
// hathi controls (cluster.ControlledParameter) cannot be overridden by a user's value; a parameter
// that the server's version does not know is left out with a warning instead of keeping the server
// from starting; a standby never gets less than what its primary's WAL asks for. What it does not:
// that PostgreSQL likes every value; it refuses a bad one at reload and keeps the old, but at start
// it does not start.
//
// The text of synchronous_standby_names is made and read by package quorum (Rule).
//
// Precedence, lowest first: what initdb chose (Input.Base), hathi's defaults, the dynamic
// configuration, the node's own parameters, what hathi controls.
package pgconf
