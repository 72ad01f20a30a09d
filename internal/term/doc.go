// Package term writes for people at a terminal: tables, colours, and a screen that is redrawn.
//
// The tables are those of patronictl, character by character in the pretty, topology, tsv and json
// formats; yaml has the same content and order, though a long or odd string may be quoted another
// way. People and their scripts read both.
//
// Nothing here asks for input, and nothing writes a control sequence to something that is not a
// terminal. The environment and the file come in from the caller.
package term
