package blocklist

import "net/netip"

// Changes returns the entries that b has and next lacks, and those that next has and b lacks. Both
// are in the order of All. An entry that became wider or narrower is in both.
func (b Blocklist) Changes(next Blocklist) (gone, added []netip.Prefix) {
	gone4, added4 := changes(b.v4, next.v4)
	gone6, added6 := changes(b.v6, next.v6)
	return append(gone4, gone6...), append(added4, added6...)
}

// changes is Changes for one family. Both lists are sorted.
func changes(old, next []netip.Prefix) (gone, added []netip.Prefix) {
	for len(old) > 0 && len(next) > 0 {
		switch o, n := old[0], next[0]; {
		case o == n:
			old, next = old[1:], next[1:]
		case compare(o, n) < 0:
			gone, old = append(gone, o), old[1:]
		default:
			added, next = append(added, n), next[1:]
		}
	}
	return append(gone, old...), append(added, next...)
}
