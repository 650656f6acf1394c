package blocklist

import (
	"iter"
	"net/netip"
	"slices"
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
	v4    []entry4
	v6    []entry6
	split split
}

// New returns a Blocklist of ps, which may be in any order. Invalid prefixes are left out.
func New(ps []netip.Prefix) Blocklist {
	var b Builder
	for _, p := range ps {
		b.Add(p)
	}
	return b.List()
}

// Len returns the number of entries of both families. An entry of which Without left several parts
// counts once.
func (b Blocklist) Len() int { return b.Len4() + b.Len6() }

// Len4 returns the number of IPv4 entries, as Len counts them.
func (b Blocklist) Len4() int { return len(b.v4) - b.split.surplus4 }

// Len6 returns the number of IPv6 entries, as Len counts them.
func (b Blocklist) Len6() int { return len(b.v6) - b.split.surplus6 }

// V4 yields the IPv4 entries in ascending order, or the parts that are left of them.
func (b Blocklist) V4() iter.Seq[netip.Prefix] { return prefixes(b.v4) }

// V6 yields the IPv6 entries in ascending order, or the parts that are left of them.
func (b Blocklist) V6() iter.Seq[netip.Prefix] { return prefixes(b.v6) }

// All yields every entry, or the parts that are left of it, IPv4 first, each family in ascending
// order.
func (b Blocklist) All() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for p := range b.V4() {
			if !yield(p) {
				return
			}
		}
		b.V6()(yield)
	}
}

// prefixes yields es as prefixes.
func prefixes[E entry[E]](es []E) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, e := range es {
			if !yield(e.prefix()) {
				return
			}
		}
	}
}

// Prefixes returns every entry in a new slice, in the order of All. The slice takes several times
// the memory of the list.
func (b Blocklist) Prefixes() []netip.Prefix {
	return slices.AppendSeq(make([]netip.Prefix, 0, len(b.v4)+len(b.v6)), b.All())
}

// Contains reports whether an entry covers addr. An IPv4-mapped address is looked up as IPv4.
func (b Blocklist) Contains(addr netip.Addr) bool {
	_, ok := b.Covering(addr)
	return ok
}

// Covering returns the entry that covers addr.
func (b Blocklist) Covering(addr netip.Addr) (netip.Prefix, bool) {
	switch p := Single(addr); {
	case !p.IsValid():
		return netip.Prefix{}, false
	case p.Addr().Is4():
		return covering(b.v4, newEntry4(p))
	default:
		return covering(b.v6, newEntry6(p))
	}
}

func covering[E entry[E]](es []E, e E) (netip.Prefix, bool) {
	i, found := slices.BinarySearchFunc(es, e, E.compare)
	if !found {
		i-- // of the entries that start before e, only the last can cover it
	}
	if i < 0 || !es[i].overlaps(e) {
		return netip.Prefix{}, false
	}
	return es[i].prefix(), true
}

// Within yields the entries that overlap p, in ascending order: the one that covers it, or those
// inside it.
func (b Blocklist) Within(p netip.Prefix) iter.Seq[netip.Prefix] {
	switch {
	case !p.IsValid():
		return prefixes[entry4](nil)
	case p.Addr().Is4():
		return within(b.v4, newEntry4(p))
	default:
		return within(b.v6, newEntry6(p))
	}
}

func within[E entry[E]](es []E, e E) iter.Seq[netip.Prefix] {
	es = es[meets(es, e):]
	return func(yield func(netip.Prefix) bool) {
		for _, o := range es {
			if !o.overlaps(e) || !yield(o.prefix()) {
				return
			}
		}
	}
}

// Equal reports whether both lists have the same entries.
func (b Blocklist) Equal(o Blocklist) bool {
	return slices.Equal(b.v4, o.v4) && slices.Equal(b.v6, o.v6)
}

// Union returns the list of the addresses that b or o contains.
func (b Blocklist) Union(o Blocklist) Blocklist {
	switch {
	case b.isEmpty():
		return o
	case o.isEmpty():
		return b
	}
	u := Blocklist{v4: union(b.v4, o.v4), v6: union(b.v6, o.v6)}
	u.split = u.splitOf(b.split.entries, o.split.entries)
	return u
}

// Without returns the list of the addresses that b contains and o does not. An entry that o
// overlaps in part loses only that part: a /24 around one address of o becomes the eight prefixes
// around that address.
func (b Blocklist) Without(o Blocklist) Blocklist {
	v4, split4 := without(b.v4, o.v4)
	v6, split6 := without(b.v6, o.v6)
	rest := Blocklist{v4: v4, v6: v6}
	rest.split = rest.splitOf(b.split.entries, slices.Collect(prefixes(split4)), slices.Collect(prefixes(split6)))
	return rest
}

// Except returns the list of the entries of b that are not entries of o. Other than Without, it
// compares entries and not addresses.
func (b Blocklist) Except(o Blocklist) Blocklist {
	rest := Blocklist{v4: except(b.v4, o.v4), v6: except(b.v6, o.v6)}
	rest.split = rest.splitOf(b.split.entries)
	return rest
}

// Overlapping yields the entries of b that o covers fully or in part, IPv4 first, each family in
// ascending order.
func (b Blocklist) Overlapping(o Blocklist) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		if overlapping(b.v4, o.v4, func(i int, _ []entry4) bool { return yield(b.v4[i].prefix()) }) {
			overlapping(b.v6, o.v6, func(i int, _ []entry6) bool { return yield(b.v6[i].prefix()) })
		}
	}
}

func (b Blocklist) isEmpty() bool { return len(b.v4)+len(b.v6) == 0 }
