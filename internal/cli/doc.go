// Package cli is the command line: one file and one struct per command, each of which parses,
// validates and runs. Results go to standard output, everything else to standard error.
//
// Exit codes: 0 done, 1 failed or refused, 2 used wrongly.
package cli
