// Package config reads hathi's configuration file: Patroni's YAML (release 4.1) plus sections of
// our own, and the environment that overrides it.
//
// It is pure: bytes and an environment map in, a typed and validated Config out. It reads no file,
// opens no socket and knows no clock; the caller does.
//
// What it guarantees: every problem of a file is reported at once, each with its path and line; a
// file is never expanded beyond fixed bounds (size, depth, aliases), whatever it holds; a value that
// is a secret prints as "***". What it does not: that paths exist, that addresses are this
// machine's, or that passwords are right. The edges find that out.
//
// Each setting is a field of a struct in this package. The comment of the field is its
// documentation (Reference makes the page from it), its tags hold the key, the default and the
// limits.
package config
