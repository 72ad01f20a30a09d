// Package postgres performs what hathi wants of one PostgreSQL data directory, versions 13 to 18:
// make it, clone it, rewind it, start it, watch it, stop it, promote it, ask it. It decides nothing;
// its caller is package node.
//
// What it guarantees:
//   - A data directory appears under its name only when it is whole: initdb and pg_basebackup work
//     in a directory beside it, which is renamed when they are done. A rewind that was interrupted
//     leaves a mark (DataHalfRewound).
//   - It deletes no data directory, except copies beside it that it marked as its own unfinished
//     work, and set-aside copies when PruneAside is called.
//   - PostgreSQL runs in a session of its own, with no descriptor, signal or secret of the agent, and
//     lives on when the agent dies. Its end is told within a millisecond or so by a pidfd.
//   - A process is signalled only after its identity was checked (package process).
//   - Every call is bounded, by its context or by a limit of its own.
//   - Passwords reach PostgreSQL's programs through files (mode 0600) and the server as SCRAM
//     verifiers; they are in no argument list, environment, log or error.
//
// What it does not: it neither knows the lock nor arms the guardian; it does not see PostgreSQL
// processes of another pid namespace that use the same directory.
//
// A Server is safe for concurrent use, except that the caller must not run two of Start, Stop,
// Initdb, BaseBackup, Rewind and SetAside at the same time.
package postgres
