package blocklist

import "net/netip"

// Changes returns the entries that b has and next lacks, and those that next has and b lacks. Both
// are in the order of All. An entry that became wider or narrower is in both.
func (b Blocklist) Changes(next Blocklist) (gone, added []netip.Prefix) {
	gone, added = changes(b.v4, next.v4, gone, added)
	return changes(b.v6, next.v6, gone, added)
}

// changes appends the changes of one family to gone and added. Both lists are sorted.
func changes[E entry[E]](old, next []E, gone, added []netip.Prefix) (_, _ []netip.Prefix) {
	for len(old) > 0 || len(next) > 0 {
		switch {
		case len(next) == 0 || len(old) > 0 && old[0].compare(next[0]) < 0:
			gone, old = append(gone, old[0].prefix()), old[1:]
		case len(old) == 0 || old[0] != next[0]:
			added, next = append(added, next[0].prefix()), next[1:]
		default:
			old, next = old[1:], next[1:]
		}
	}
	return gone, added
}
