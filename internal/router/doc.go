// Package router moves client connections to the PostgreSQL that is right for them: one port for
// writes, one for reads. It is run by the command "hathi router".
//
//	client ── opening ──► pick a backend ──► carrier ──► PostgreSQL
//	             │              │               │
//	     bounded in bytes   held while there    relay: bytes through, each chunk only
//	     and in time        is no primary       while the epoch is confirmed
//
//	store watch ──► view ──► route.Build ──► table ──► newcomers are woken, sessions are cut
//
// What it guarantees:
//
//   - A byte goes to a write backend only while the router's own view of the lock is within the
//     lease, counted on CLOCK_BOOTTIME from the instant at which the router saw the lock change. The
//     check stands directly before each write system call, in both directions. A router that was
//     frozen reads the store linearizably and sees the lock renewed once before it goes on; what
//     remains is a freeze between the check and the system call behind it, which moves one chunk.
//   - Sessions are cut when the holder or the epoch changes, when the lock is given back, and when
//     the lease of the view has passed. Read sessions are cut when their member is promoted,
//     vanishes, moves, or is no replica any more; not because it lags.
//   - Newcomers wait for a primary for a bounded time and in a bounded number, then get an error with
//     SQLSTATE 57P03. What a client sends before it has logged in is bounded in bytes and in time.
//   - A plaintext cancel request reaches the backend of its session.
//
// What it does not:
//
//   - TLS passes through, so inside it the router sees nothing: no backend key, no
//     replication=true on the read port, no end of the login (PostgreSQL's authentication_timeout
//     bounds it). A plaintext cancel request for a TLS session (what libpq's PQcancel and most
//     drivers send) goes to every backend on which the sending address has TLS sessions; PostgreSQL
//     ignores keys that it does not know. A cancel request inside TLS (libpq 17's PQcancelBlocking) looks like any newcomer:
//     on the write port it reaches the primary; on the read port it reaches the right replica only
//     when there is one replica.
//   - A session does not survive its backend; see carrier for where that will come.
//   - The watch may be served by a store member that is behind by a steady delay; the view is then
//     younger than the truth by that delay. The holder's own fence, which ends before the lease does,
//     covers it. A jump of that delay is noticed (view.trust) and answered by a linearizable read.
//   - TCP_USER_TIMEOUT is not used: Linux also ends connections with it whose peer is alive and
//     merely does not read (a pager in psql, COPY waiting for a lock). Instead unacknowledged data is
//     watched with TCP_INFO, and silence with keepalives.
package router
