// Package iptables enforces the blocklist on hosts without nf_tables, with the programs ipset and
// iptables. It owns the sets of each family whose names begin with sikkerguard- (blocklist and
// whitelist, and hits, replies and others for the counts by source; with a 6 for IPv6), the chains
// SIKKERGUARD and SIKKERGUARD-* of table raw, and the jump from PREROUTING to the first. It changes
// nothing else of the host's firewall.
//
// Apply adds and deletes the elements that changed, the additions first. It fills a set that no rule
// looks up and swaps it with the active one for the first list, a repair, and a change that is large
// or would not be safe. The kernel swaps two sets between two packets. The rules stay in place
// unless another program changed them.
//
// The package looks for the programs in fixed directories. It runs them with fixed arguments, a
// deadline and an environment of its own. Their input consists of parsed numbers and of the names
// above.
//
// The errors are ErrMissing (a program is not installed), ErrPermission (the process may not change
// the firewall), ErrRunning (another agent runs), ErrForeign (another program's set has a name of
// ours), ErrUnprintable (iptables cannot print our rules), ErrIncomplete (the kernel lacks a part),
// ProgramError (a program failed) and ruleset.ErrMismatch (the kernel enforces other rules). After
// an error of Apply other than ErrMismatch, the ruleset that was active before still is.
package iptables
