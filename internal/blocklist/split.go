package blocklist

import (
	"net/netip"
	"slices"
)

// split is the part of a Blocklist that tells its entries from the parts that are left of them.
type split struct {
	entries            []netip.Prefix // of which more than one part is left: disjoint and sorted, IPv4 first
	surplus4, surplus6 int            // parts of those beyond the first of each, by family
}

// splitOf returns the split of b if the given prefixes are the entries that parts of b may be left of.
func (b Blocklist) splitOf(candidates ...[]netip.Prefix) split {
	var s split
	all := slices.Concat(candidates...)
	slices.SortFunc(all, compare)
	for _, entry := range disjoint(all) {
		surplus := -1
		for range b.Within(entry) {
			surplus++
		}
		if surplus <= 0 {
			continue
		}
		s.entries = append(s.entries, entry)
		if entry.Addr().Is4() {
			s.surplus4 += surplus
		} else {
			s.surplus6 += surplus
		}
	}
	return s
}

// Whole returns b with each entry as it was before Without left several parts of it. Of an entry of
// which one part is left, that part stays.
func (b Blocklist) Whole() Blocklist {
	if len(b.split.entries) == 0 {
		return b
	}
	return New(slices.Concat(b.v4, b.v6, b.split.entries))
}
