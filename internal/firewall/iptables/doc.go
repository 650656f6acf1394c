// Package iptables enforces the list on hosts without nf_tables, by the programs ipset and iptables. It owns the sets
// sikkerguard-blocklist and sikkerguard-whitelist of each family (with a 6 for IPv6), the chain SIKKERGUARD of table raw,
// and the jump to it from PREROUTING. Nothing else of the host's firewall is changed.
//
// A list is filled into sets that no rule looks up, and those are swapped with the ones in force: the kernel swaps two sets
// between two packets. The rules stay as they are, unless somebody changed them. What may be blocked is not decided here.
//
// Programs are looked for in fixed directories and run with fixed arguments, a deadline and an environment of their own.
// What they read is made of numbers that were parsed before, and of the names above.
//
// It can fail because a program is missing (ErrMissing), because the process may not change the firewall (ErrPermission),
// because another agent runs (ErrRunning), because a set of somebody else's has a name of ours (ErrForeign), because a
// program said so (ProgramError), because iptables cannot print our rules (ErrUnprintable), or because the kernel enforces
// something else than it was told (ruleset.ErrMismatch). After an error of Apply what was enforced before still is.
package iptables
