// Package nft owns the table inet sikkerguard. It writes the table, verifies its contents against
// the kernel, and deletes it. If the kernel can, its rules count the dropped packets by source,
// protocol and port, and Hits reads these counts.
//
// The whole ruleset, or its difference to the active one if that is exactly known, goes into one
// transaction. The kernel takes the transaction whole or not at all. No other table is changed; while
// a new table replaces an old one, there may be a second table of this package (see shield). The
// caller decides which sources are blocked.
//
// Errors: the kernel has no nf_tables (ErrUnsupported); the process may not change it
// (ErrPermission); another agent owns the table (ErrOwned); the kernel took the transaction but
// enforces other rules (ruleset.ErrMismatch). After any other error of Apply, the previous ruleset
// is still active.
package nft
