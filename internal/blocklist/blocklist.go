package blocklist

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Blocklist is an immutable set of IPv4 and IPv6 prefixes. Its entries are
//
//   - canonical: no host bits, no zone, IPv4-mapped IPv6 turned into IPv4;
//   - disjoint: entries that a wider entry covers are removed, and so are duplicates;
//   - sorted: ascending by address.
//
// Adjacent entries are not joined: two adjacent /25 stay two entries, so that Len is the number
// that the source of the list would count. For the same reason the parts that Without leaves of an
// entry count as one. The zero value is the empty list.
type Blocklist struct {
	v4, v6 []netip.Prefix
	split  split
}

// New returns a Blocklist of ps, which may be in any order. New takes ownership of the slice: the
// caller must not use it afterwards. Invalid prefixes are left out.
func New(ps []netip.Prefix) Blocklist {
	n4 := 0
	kept := ps[:0]
	for _, p := range ps {
		p, ok := Canonical(p)
		if !ok {
			continue
		}
		if p.Addr().Is4() {
			n4++
		}
		kept = append(kept, p)
	}
	// IPv4 sorts before IPv6, so one sort separates the families.
	slices.SortFunc(kept, compare)
	return Blocklist{v4: disjoint(kept[:n4:n4]), v6: disjoint(kept[n4:])}
}

// compare orders prefixes by address, and wider prefixes first at the same address.
func compare(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// disjoint removes, in place, each prefix that an earlier one covers. Of two sorted prefixes that
// overlap, the earlier is the wider, so comparing with the last prefix that stays is enough.
func disjoint(sorted []netip.Prefix) []netip.Prefix {
	kept := sorted[:0]
	for _, p := range sorted {
		if n := len(kept); n > 0 && kept[n-1].Overlaps(p) {
			continue
		}
		kept = append(kept, p)
	}
	return slices.Clip(kept)
}

// Len returns the number of entries of both families. An entry of which Without left several parts
// counts once.
func (b Blocklist) Len() int { return b.Len4() + b.Len6() }

// Len4 returns the number of IPv4 entries, as Len counts them.
func (b Blocklist) Len4() int { return len(b.v4) - b.split.surplus4 }

// Len6 returns the number of IPv6 entries, as Len counts them.
func (b Blocklist) Len6() int { return len(b.v6) - b.split.surplus6 }

// V4 yields the IPv4 entries in ascending order, or the parts that are left of them.
func (b Blocklist) V4() iter.Seq[netip.Prefix] { return slices.Values(b.v4) }

// V6 yields the IPv6 entries in ascending order, or the parts that are left of them.
func (b Blocklist) V6() iter.Seq[netip.Prefix] { return slices.Values(b.v6) }

// All yields every entry, or the parts that are left of it, IPv4 first, each family in ascending
// order.
func (b Blocklist) All() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, ps := range [][]netip.Prefix{b.v4, b.v6} {
			for _, p := range ps {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// Prefixes returns every entry in a new slice, in the order of All.
func (b Blocklist) Prefixes() []netip.Prefix { return slices.Concat(b.v4, b.v6) }

// Contains reports whether an entry covers addr. An IPv4-mapped address is looked up as IPv4.
func (b Blocklist) Contains(addr netip.Addr) bool {
	_, ok := b.Covering(addr)
	return ok
}

// Covering returns the entry that covers addr.
func (b Blocklist) Covering(addr netip.Addr) (netip.Prefix, bool) {
	addr = CanonicalAddr(addr)
	ps := b.v6
	if addr.Is4() {
		ps = b.v4
	}
	i, found := slices.BinarySearchFunc(ps, addr, compareStart)
	if !found {
		i-- // of the entries that start before addr, only the last can contain it
	}
	if i < 0 || !ps[i].Contains(addr) {
		return netip.Prefix{}, false
	}
	return ps[i], true
}

// Within yields the entries that overlap p, in ascending order: the one that covers it, or those
// inside it.
func (b Blocklist) Within(p netip.Prefix) iter.Seq[netip.Prefix] {
	ps := b.v6
	if p.Addr().Is4() {
		ps = b.v4
	}
	i, found := slices.BinarySearchFunc(ps, p.Addr(), compareStart)
	if !found && i > 0 && ps[i-1].Overlaps(p) {
		i-- // starts before p and overlaps it
	}
	return func(yield func(netip.Prefix) bool) {
		for ; i < len(ps) && ps[i].Overlaps(p) && yield(ps[i]); i++ {
		}
	}
}

// compareStart compares the first address of p with a.
func compareStart(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) }

// Equal reports whether both lists have the same entries.
func (b Blocklist) Equal(o Blocklist) bool {
	return slices.Equal(b.v4, o.v4) && slices.Equal(b.v6, o.v6)
}

// Union returns the list of the addresses that b or o contains.
func (b Blocklist) Union(o Blocklist) Blocklist {
	switch {
	case b.Len() == 0:
		return o
	case o.Len() == 0:
		return b
	}
	u := Blocklist{v4: union(b.v4, o.v4), v6: union(b.v6, o.v6)}
	u.split = u.splitOf(b.split.entries, o.split.entries)
	return u
}

func union(a, b []netip.Prefix) []netip.Prefix {
	all := slices.Concat(a, b)
	slices.SortFunc(all, compare)
	return disjoint(all)
}

// Without returns the list of the addresses that b contains and o does not. An entry that o
// overlaps in part loses only that part: a /24 around one address of o becomes the eight prefixes
// around that address.
func (b Blocklist) Without(o Blocklist) Blocklist {
	if b.Len() == 0 || o.Len() == 0 {
		return b
	}
	v4, touched4 := without(b.v4, o.v4)
	v6, touched6 := without(b.v6, o.v6)
	rest := Blocklist{v4: v4, v6: v6}
	rest.split = rest.splitOf(b.split.entries, touched4, touched6)
	return rest
}

// without returns the parts of ps outside the holes, and the entries of ps that a hole overlaps.
func without(ps, holes []netip.Prefix) (kept, touched []netip.Prefix) {
	end := 0 // ps[:end] has been copied to kept
	overlapping(ps, holes, func(i int, holes []netip.Prefix) bool {
		if kept == nil {
			kept = make([]netip.Prefix, 0, len(ps))
		}
		kept = append(append(kept, ps[end:i]...), cut(ps[i], holes)...)
		touched, end = append(touched, ps[i]), i+1
		return true
	})
	if kept == nil { // no entry overlaps a hole
		return ps, nil
	}
	return slices.Clip(append(kept, ps[end:]...)), touched
}

// Overlapping yields the entries of b that o covers fully or in part, IPv4 first, each family in
// ascending order.
func (b Blocklist) Overlapping(o Blocklist) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		more := overlapping(b.v4, o.v4, func(i int, _ []netip.Prefix) bool { return yield(b.v4[i]) })
		if more {
			overlapping(b.v6, o.v6, func(i int, _ []netip.Prefix) bool { return yield(b.v6[i]) })
		}
	}
}

// overlapping calls visit for each entry of ps that holes overlap, with those holes. Both lists are
// sorted. It stops and returns false once visit returns false.
func overlapping(ps, holes []netip.Prefix, visit func(i int, holes []netip.Prefix) bool) bool {
	for i, p := range ps {
		// Holes that end before p also end before all later entries.
		for len(holes) > 0 && !holes[0].Overlaps(p) && holes[0].Addr().Less(p.Addr()) {
			holes = holes[1:]
		}
		n := 0
		for n < len(holes) && holes[n].Overlaps(p) {
			n++
		}
		if n > 0 && !visit(i, holes[:n]) {
			return false
		}
	}
	return true
}

// cut returns the parts of p outside the holes, in ascending order.
func cut(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	var b netipx.IPSetBuilder
	b.AddPrefix(p)
	for _, h := range holes {
		b.RemovePrefix(h)
	}
	set, err := b.IPSet()
	if err != nil { // only an invalid prefix causes an error; dropping the entry would then be the safe side
		return nil
	}
	return set.Prefixes()
}
