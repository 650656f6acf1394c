package blocklist

import (
	"net/netip"
	"slices"
)

// split records the entries of a Blocklist of which more than one part is left.
type split struct {
	entries            []netip.Prefix // disjoint and sorted, IPv4 first
	surplus4, surplus6 int            // parts beyond the first of each entry, by family
}

// splitOf returns the split of b, whose prefixes may be parts of the candidate entries.
func (b Blocklist) splitOf(candidates ...[]netip.Prefix) split {
	var s split
	for entry := range newExact(slices.Concat(candidates...)).All() {
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

// Whole returns b with each split entry restored to its state before Without split it. An entry of
// which only one part is left stays that part.
func (b Blocklist) Whole() Blocklist {
	if len(b.split.entries) == 0 {
		return b
	}
	whole := newExact(b.split.entries)
	return Blocklist{v4: union(b.v4, whole.v4), v6: union(b.v6, whole.v6)}
}
