package blocklist

import "net/netip"

// Changes returns the entries that b has and next lacks, and those that next has and b lacks. Both
// are in the order of All. An entry that became wider or narrower is in both. If there are more than
// most, ok is false and there is no result.
func (b Blocklist) Changes(next Blocklist, most int) (gone, added []netip.Prefix, ok bool) {
	n, m := 0, 0
	merge(b.v4, next.v4, func(entry4) { n++ }, func(entry4) { m++ })
	merge(b.v6, next.v6, func(entry6) { n++ }, func(entry6) { m++ })
	if n+m > most {
		return nil, nil, false
	}
	gone, added = make([]netip.Prefix, 0, n), make([]netip.Prefix, 0, m)
	merge(b.v4, next.v4,
		func(e entry4) { gone = append(gone, e.prefix()) }, func(e entry4) { added = append(added, e.prefix()) })
	merge(b.v6, next.v6,
		func(e entry6) { gone = append(gone, e.prefix()) }, func(e entry6) { added = append(added, e.prefix()) })
	return gone, added, true
}

// merge calls gone for each entry that only old has, and added for each that only next has, in
// order. Both lists are sorted.
func merge[E entry[E]](old, next []E, gone, added func(E)) {
	for len(old) > 0 || len(next) > 0 {
		switch {
		case len(old) > 0 && len(next) > 0 && old[0] == next[0]:
			old, next = old[1:], next[1:]
		case len(next) == 0 || len(old) > 0 && old[0].compare(next[0]) < 0:
			gone(old[0])
			old = old[1:]
		default:
			added(next[0])
			next = next[1:]
		}
	}
}
