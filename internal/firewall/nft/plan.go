package nft

import (
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// maxLonger is how many bits longer the elements may be that an entry is expanded into: 8 bits are 256 elements.
	maxLonger = 8
	// maxExpanded is how many elements all entries of one prefix length may become together. Beyond it they stay whole in
	// the interval set: a slower lookup is better than a list of a hundred thousand /25 turned into 13 million addresses.
	maxExpanded = 1 << 16
	// minSize is the smallest hash set, in elements.
	minSize = 1 << 12
)

// family is what differs between IPv4 and IPv6.
type family struct {
	name  string // the digit in the names of sets, chains and counters
	width int    // bits of an address
	hash  []int  // prefix lengths that have a hash set, longest first
}

func families() []family {
	return []family{
		{name: "4", width: 32, hash: []int{32, 24, 16}},
		{name: "6", width: 128, hash: []int{128, 64, 48, 32}},
	}
}

// setPlan is one set and what it holds.
type setPlan struct {
	name     string // its own
	kernel   string // what it is called in the kernel: its own name, but while a larger one takes its place
	family   family
	bits     int // prefix length of every element, 0 in an interval set
	interval bool
	count    int
	elements iter.Seq[netip.Prefix] // ascending
	takes    func(length int) bool  // says whether entries of a prefix length are in this set
}

// size is the fixed size of a hash set, in elements: a power of two, at least twice what it holds, so that most
// refreshes fit. An interval set has none.
func (s setPlan) size() uint32 {
	if s.interval {
		return 0
	}
	return max(minSize, uint32(1)<<bits.Len(uint(2*max(1, s.count)-1)))
}

// planBlock parts a list into sets, the empty ones left out. Whatever the list, the sets together hold exactly its
// addresses.
func planBlock(list blocklist.Blocklist) []setPlan {
	fams := families()
	return append(planFamily(fams[0], list.V4()), planFamily(fams[1], list.V6())...)
}

// planAllow puts a list into one interval set a family: it is short, and looked at for blocked packets alone.
func planAllow(list blocklist.Blocklist) []setPlan {
	fams := families()
	var plans []setPlan
	for i, n := range []int{list.Len4(), list.Len6()} {
		if n > 0 {
			entries := []iter.Seq[netip.Prefix]{list.V4(), list.V6()}[i]
			name := "whitelist" + fams[i].name
			plans = append(plans, setPlan{
				name: name, kernel: name, family: fams[i], interval: true, count: n, elements: entries,
			})
		}
	}
	return plans
}

// shapes are all the sets that there can be, with nothing in them: for reading what another agent made.
func shapes() []setPlan {
	var all []setPlan
	for _, f := range families() {
		all = append(all, setPlan{name: "whitelist" + f.name, kernel: "whitelist" + f.name, family: f, interval: true})
		for _, w := range append(slices.Clone(f.hash), anyLength) {
			all = append(all, blockSet(f, w))
		}
	}
	return all
}

// anyLength stands for the interval set, which takes any prefix length.
const anyLength = -1

// blockSet is the set of a family for elements of prefix length w, empty.
func blockSet(f family, w int) setPlan {
	s := setPlan{name: fmt.Sprintf("blocklist%s_%d", f.name, w), family: f, bits: w, takes: func(int) bool { return false }}
	if w == anyLength {
		s.name, s.bits, s.interval = "blocklist"+f.name+"_any", 0, true
	}
	s.kernel = s.name
	return s
}

// planFamily sends each prefix length of a family's entries to one set.
func planFamily(f family, entries iter.Seq[netip.Prefix]) []setPlan {
	counts := make([]int, f.width+1) // entries by prefix length
	for p := range entries {
		counts[p.Bits()]++
	}
	target := make([]int, f.width+1) // prefix length of the elements that entries of a length become
	sums := map[int]int{}            // elements by target
	for length, n := range counts {
		target[length] = f.target(length, n)
		if n > 0 {
			sums[target[length]] += n * factor(length, target[length])
		}
	}
	var plans []setPlan
	for _, w := range append(slices.Clone(f.hash), anyLength) {
		if sums[w] == 0 {
			continue
		}
		s := blockSet(f, w)
		s.count = sums[w]
		s.takes = func(length int) bool { return target[length] == w }
		s.elements = func(yield func(netip.Prefix) bool) {
			for p := range entries {
				if target[p.Bits()] == w && !expand(p, w, yield) {
					return
				}
			}
		}
		plans = append(plans, s)
	}
	return plans
}

// target is the prefix length that n entries of the given length become elements of, anyLength for the interval set.
func (f family) target(length, n int) int {
	best := anyLength
	for _, w := range f.hash { // longest first: the last that fits is the nearest
		fits := w >= length && w-length <= maxLonger
		if fits && (w == length || n*factor(length, w) <= maxExpanded) {
			best = w
		}
	}
	return best
}

// factor is how many prefixes of length w one of the given length holds, 1 for the interval set.
func factor(length, w int) int {
	if w < 0 {
		return 1
	}
	return 1 << (w - length)
}

// expand yields p as prefixes of length w, or as it is for anyLength, and says whether to go on. Every w is whole bytes and at
// most maxLonger bits longer than p, so the elements differ in one byte.
func expand(p netip.Prefix, w int, yield func(netip.Prefix) bool) bool {
	if w < 0 || w == p.Bits() {
		return yield(p)
	}
	raw := p.Addr().AsSlice()
	last := w/8 - 1
	first := raw[last]
	for i := range factor(p.Bits(), w) {
		raw[last] = first | byte(i)
		a, _ := netip.AddrFromSlice(raw)
		if !yield(netip.PrefixFrom(a, w)) {
			return false
		}
	}
	return true
}

// movers are the elements of a set whose addresses are now in a set that is looked up later: live are the sets in the order
// in which they are looked up, and now is what they hold. While both change in one transaction, a packet on its way through
// the rules could look into the one before the change and into the other after it, and find itself in neither. A set that
// is not live has none: it is filled before it is looked up.
func movers(now blocklist.Blocklist, live []setPlan, next setPlan) []netip.Prefix {
	at := slices.IndexFunc(live, func(s setPlan) bool { return s.kernel == next.name })
	if at < 0 || next.interval { // of a family the interval set is the last
		return nil
	}
	later := slices.DeleteFunc(slices.Clone(live[at+1:]), func(s setPlan) bool {
		return s.family.name != next.family.name || s.takes == nil
	})
	if len(later) == 0 {
		return nil
	}
	var moved []netip.Prefix
	for e := range next.elements {
		for p := range now.Within(e) {
			if slices.ContainsFunc(later, func(s setPlan) bool { return s.takes(p.Bits()) }) {
				moved = append(moved, e)
				break
			}
		}
	}
	return moved
}
