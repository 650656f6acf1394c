package nft

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// release returns the running kernel's release, as uname -r prints it, or nothing.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// steadyIntervals reports whether an interval set of a kernel of this release answers rightly while
// a transaction fills it. Before Linux 6.17 (commit "netfilter: nft_set_rbtree: continue traversal
// if element is inactive") a lookup that meets an element of the transaction under way ends there,
// and misses the element that is in force: of 13,248 packets that a list of 16,000 entries blocks,
// 15 passed Linux 6.1 during a refresh. A race has no probe, so that this alone goes by the
// version. A kernel to which the change was ported back, or one without a version, gets the
// slower way.
func steadyIntervals(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 6 || major == 6 && minor >= 17
}
