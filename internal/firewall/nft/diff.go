package nft

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// delta is the difference between the elements of a live set and those of its next plan.
type delta struct {
	gone, added []netip.Prefix // ascending
}

func (d delta) empty() bool { return len(d.gone)+len(d.added) == 0 }

// deltas returns the difference of each set of next that the rules look up, by its name. list is the
// blocklist of next. If so much differs that filling the sets takes the kernel less time, ok is
// false: deleting and adding all 500,000 elements takes it 700 ms, flushing a set and filling it
// 490 ms.
func (a *active) deltas(next []setPlan, list blocklist.Blocklist) (ds map[string]delta, ok bool) {
	gone, added, ok := a.list.Changes(list, max(minSize, (a.list.Len()+list.Len())/2))
	if !ok {
		return nil, false
	}
	ds = map[string]delta{}
	for _, s := range next {
		i := slices.IndexFunc(a.sets, func(l setPlan) bool { return l.kernel == s.name })
		switch {
		case i < 0:
		case a.sets[i].distributesLike(s):
			ds[s.name] = difference(a.sets[i].elementsOf(slices.Values(gone)), s.elementsOf(slices.Values(added)))
		default:
			ds[s.name] = difference(a.sets[i].elements, s.elements)
		}
	}
	return ds, true
}

// distributesLike reports whether the elements of both sets come from the entries of a blocklist,
// and from entries of the same prefix lengths.
func (s setPlan) distributesLike(o setPlan) bool {
	if s.accepts == nil || o.accepts == nil { // as those of a gate do not
		return false
	}
	for length := range s.family.width + 1 {
		if s.accepts(length) != o.accepts(length) {
			return false
		}
	}
	return true
}

// elementLength returns the prefix length of the elements, or anyLength for an interval set.
func (s setPlan) elementLength() int {
	if s.interval {
		return anyLength
	}
	return s.bits
}

// elementsOf yields the elements that the set has for those of the entries that it accepts.
func (s setPlan) elementsOf(entries iter.Seq[netip.Prefix]) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for p := range entries {
			if p.Addr().BitLen() == s.family.width && s.accepts(p.Bits()) && !expand(p, s.elementLength(), yield) {
				return
			}
		}
	}
}

// difference returns the difference between two ascending sequences.
func difference(old, next iter.Seq[netip.Prefix]) (d delta) {
	pull, stop := iter.Pull(old)
	defer stop()
	o, ok := pull()
	for n := range next {
		for ok && (o.Addr().Less(n.Addr()) || o.Addr() == n.Addr() && o.Bits() != n.Bits()) {
			d.gone = append(d.gone, o)
			o, ok = pull()
		}
		if ok && o == n {
			o, ok = pull()
			continue
		}
		d.added = append(d.added, n)
	}
	for ; ok; o, ok = pull() {
		d.gone = append(d.gone, o)
	}
	return d
}

// movers returns the elements of s among added whose addresses are in another live set of the same
// family. live holds the live sets, and active is their list. If one transaction changed both sets,
// a packet on its way through the rules could look into one set before the change and into the
// other after it, and match neither. The kernel also publishes the changes of an interval set later
// than those of a hash set. If s is not live, there are no movers: it is filled before rules look
// it up.
func movers(active blocklist.Blocklist, live []setPlan, s setPlan, added iter.Seq[netip.Prefix]) []netip.Prefix {
	if !slices.ContainsFunc(live, func(l setPlan) bool { return l.kernel == s.name }) {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(live), func(l setPlan) bool {
		return l.kernel == s.name || l.family.name != s.family.name || l.accepts == nil
	})
	if s.accepts == nil || len(others) == 0 {
		return nil
	}
	var moved []netip.Prefix
	for e := range added {
		for p := range active.Within(e) {
			if slices.ContainsFunc(others, func(l setPlan) bool { return l.accepts(p.Bits()) }) {
				moved = append(moved, e)
				break
			}
		}
	}
	return moved
}

// split returns the part of d that adds the moved elements, and the rest. An interval set holds no
// intervals that overlap, so the first part also has the intervals that a moved one covers.
func (d delta) split(moved []netip.Prefix) (first, rest delta) {
	if len(moved) == 0 {
		return delta{}, d
	}
	first.added = moved
	for _, p := range d.added { // moved is a part of them, in the same order
		if len(moved) > 0 && p == moved[0] {
			moved = moved[1:]
			continue
		}
		rest.added = append(rest.added, p)
	}
	covering := blocklist.New(slices.Clone(first.added))
	for _, p := range d.gone {
		if covering.Contains(p.Addr()) {
			first.gone = append(first.gone, p)
		} else {
			rest.gone = append(rest.gone, p)
		}
	}
	return first, rest
}
