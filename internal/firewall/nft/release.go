package nft

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// release returns the running kernel's release, as uname -r prints it, or "" if uname fails.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// steadyIntervals reports whether a kernel of this release finds the active elements of an interval
// set while a transaction fills it. Before Linux 6.17 (commit "netfilter: nft_set_rbtree: continue
// traversal if element is inactive") a lookup ends at an element of the pending transaction and
// misses the active element behind it: of 13,248 packets that a list of 16,000 entries blocks, 15
// passed Linux 6.1 during a refresh. A race cannot be probed, so this is the only check by version.
// A kernel with a backport of the commit, or a release that cannot be parsed, gets the slower way.
func steadyIntervals(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 6 || major == 6 && minor >= 17
}

// countsOnLookup reports whether a kernel of this release runs the counter of an element when a rule
// looks it up, as it does since Linux 5.7. An earlier kernel accepts the rules and counts nothing.
func countsOnLookup(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 5 || major == 5 && minor >= 7
}
