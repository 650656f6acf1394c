// Package store keeps what was blocked, and what of it is to be reported, in a SQLite database in the state directory.
//
// Two tables: hits by hour, source, protocol and port, for 30 days; and the report queue, one row a source and service, of
// which one batch may be in flight. A batch is marked before it is sent and deleted in the transaction that records the
// answer, so that a process killed in between sends that batch again and no other.
//
// Everything can fail here (a full disk, a damaged file), and enforcement depends on nothing here: errors are the
// caller's to tell. A database that is damaged is set aside and begun anew. SQLite appears here alone.
package store
