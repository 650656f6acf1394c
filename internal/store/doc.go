// Package store keeps the history of blocked packets and the report queue in a SQLite database in
// the state directory.
//
// There are two main tables. hits has the packets by hour, source, protocol and port, for 30 days.
// queue has one row per source and service to report; at most one batch of these rows is in flight.
// A batch is marked before it is sent. It is deleted in the transaction that records the answer of
// the API, so a process killed between the two sends that batch again and no other.
//
// Every call can fail (a full disk, a damaged file). Enforcement does not depend on this package;
// the caller logs its errors. A damaged database is set aside and replaced by an empty one. Only
// this package uses SQLite.
package store
