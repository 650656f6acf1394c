// Package counters keeps the sums of dropped packets and bytes that survive tables, kills and
// restarts. The kernel's counters begin at 0 with each new table. A Ledger makes sums of them that
// never decrease, and reports whether they are exact.
//
// The kernel and the database are read through Options. A kernel that does not answer leaves the
// sums as they were; a database that does not answer leaves the total unknown.
package counters
