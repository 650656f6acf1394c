// Package blocklist is the value that travels between the stages: a set of addresses and networks of both families.
//
// A Blocklist is canonical, disjoint and sorted however it was made, and never changes afterwards, so that stages may
// share it without a lock. Reading bytes into one is the vetting's work, putting one into the kernel the firewall's.
// Nothing here can fail.
package blocklist
