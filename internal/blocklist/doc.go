// Package blocklist defines the value that the stages exchange: a set of addresses and networks of
// both families.
//
// A Blocklist is canonical, disjoint and sorted, and never changes, so stages share it without a
// lock. Package vet parses bytes into a Blocklist, and package firewall puts one into the kernel.
// No function of this package does I/O; only Parse and ParseBytes return errors.
package blocklist
