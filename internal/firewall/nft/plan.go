package nft

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

const (
	// maxLonger is the most bits by which the elements of an expanded entry may be longer than the
	// entry: 8 bits are 256 elements.
	maxLonger = 8
	// maxExpanded is the most elements that all entries of one prefix length may expand into
	// together. Beyond it they stay whole in the interval set: a slower lookup is better than a
	// hundred thousand /25 expanded into 13 million addresses.
	maxExpanded = 1 << 16
	// minSize is the smallest hash set, in elements.
	minSize = 1 << 12
)

// family holds the parameters that differ between IPv4 and IPv6.
type family struct {
	name  string // digit in the names of sets, chains and counters
	width int    // bits of an address
	hash  []int  // prefix lengths that have a hash set, longest first
}

func families() []family {
	return []family{
		{name: "4", width: 32, hash: []int{32, 24, 16}},
		{name: "6", width: 128, hash: []int{128, 64, 48, 32}},
	}
}

// setPlan is one set and its elements.
type setPlan struct {
	name     string // regular name
	kernel   string // name in the kernel: name, or with grownSuffix while it replaces another set
	family   family
	bits     int // prefix length of every element, 0 in an interval set
	interval bool
	count    int
	elements iter.Seq[netip.Prefix] // ascending
	accepts  func(length int) bool  // whether entries of a prefix length go here; nil in an allow set and a gate
	gate     bool                   // a gate, see planGate
	gated    bool                   // an interval set that has a gate
}

// size returns the fixed size of a hash set, in elements: a power of two, at least twice the count,
// so that most refreshes fit. It returns 0 for an interval set, which has no size.
func (s setPlan) size() uint32 {
	if s.interval {
		return 0
	}
	return max(minSize, uint32(1)<<bits.Len(uint(2*max(1, s.count)-1)))
}

// planBlock distributes a list over sets, without the empty ones. For every list, the sets together
// hold exactly its addresses.
func planBlock(list blocklist.Blocklist) []setPlan {
	fams := families()
	return append(planFamily(fams[0], list.V4()), planFamily(fams[1], list.V6())...)
}

// effective returns the entries of allow that overlap a listed entry. The caller normally cuts the
// allowlist out of the blocklist, and there are none: blocked packets then skip the lookup of the
// allowlist, which is an interval lookup and takes a third of the time of a blocked packet.
func effective(block, allow blocklist.Blocklist) blocklist.Blocklist {
	var ps []netip.Prefix
	for p := range allow.All() {
		_, overlaps := block.Covering(p.Addr())
		for range block.Within(p) {
			overlaps = true
			break
		}
		if overlaps {
			ps = append(ps, p)
		}
	}
	return blocklist.New(ps)
}

// planAllow puts a list into one interval set per family. The list is short and is looked up only
// for blocked packets.
func planAllow(list blocklist.Blocklist) []setPlan {
	fams := families()
	var plans []setPlan
	for i, entries := range []iter.Seq[netip.Prefix]{list.V4(), list.V6()} {
		n := 0
		for range entries {
			n++
		}
		if n > 0 {
			name := "whitelist" + fams[i].name
			plans = append(plans, setPlan{
				name: name, kernel: name, family: fams[i], interval: true, count: n, elements: entries,
			})
		}
	}
	return plans
}

// allSets returns every set that this version of the agent can make, without elements, for reading
// a table that another agent made.
func allSets() []setPlan {
	var all []setPlan
	for _, f := range families() {
		name := "whitelist" + f.name
		all = append(all, setPlan{name: name, kernel: name, family: f, interval: true})
		for _, w := range append(slices.Clone(f.hash), anyLength) {
			all = append(all, blockSet(f, w))
		}
		all = append(all, gateSet(f))
	}
	return all
}

// anyLength stands for the interval set, which holds entries of any prefix length.
const anyLength = -1

// blockSet returns the empty set of a family for elements of prefix length w.
func blockSet(f family, w int) setPlan {
	s := setPlan{
		name: fmt.Sprintf("blocklist%s_%d", f.name, w), family: f, bits: w,
		accepts: func(int) bool { return false },
	}
	if w == anyLength {
		s.name, s.bits, s.interval = "blocklist"+f.name+"_any", 0, true
	}
	s.kernel = s.name
	return s
}

// planFamily assigns each prefix length of a family's entries to one set, and returns the sets that
// are not empty.
func planFamily(f family, entries iter.Seq[netip.Prefix]) []setPlan {
	counts := make([]int, f.width+1) // entries by prefix length
	for p := range entries {
		counts[p.Bits()]++
	}
	target := make([]int, f.width+1) // element length by entry length
	sums := map[int]int{}            // elements by element length
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
		s.accepts = func(length int) bool { return target[length] == w }
		s.elements = func(yield func(netip.Prefix) bool) {
			for p := range entries {
				if target[p.Bits()] == w && !expand(p, w, yield) {
					return
				}
			}
		}
		if s.interval {
			if g, ok := planGate(s); ok {
				s.gated = true
				plans = append(plans, g)
			}
		}
		plans = append(plans, s)
	}
	return plans
}

const (
	// minGated is the smallest interval set that has a gate. A lookup in a smaller one costs as much
	// as the lookup in the gate.
	minGated = 64
	// maxGate is the most elements of a gate. All /16 of IPv4 fit.
	maxGate = 1 << 16
)

// gateBits returns the prefix length of the elements of the family's gate.
func (f family) gateBits() int {
	if f.width == 32 {
		return 16
	}
	return 32
}

// gateSet returns the empty gate of a family.
func gateSet(f family) setPlan {
	name := "gate" + f.name
	return setPlan{name: name, kernel: name, family: f, bits: f.gateBits(), gate: true}
}

// planGate returns the gate of an interval set: a hash set with the wide networks that hold its
// entries. The lookup in an interval set takes some 800 ns at 50,000 entries, and the gate saves it
// for packets from other networks, which are nearly all that pass. There is no gate if the set is
// small, or if its entries are so wide that the gate would be large.
func planGate(s setPlan) (g setPlan, ok bool) {
	g = gateSet(s.family)
	g.elements = func(yield func(netip.Prefix) bool) {
		next := uint64(0) // the first network after the last one
		for p := range s.elements {
			raw := p.Addr().AsSlice()
			network := uint64(binary.BigEndian.Uint32(raw)) >> (32 - g.bits)
			for end := network + 1<<max(0, g.bits-p.Bits()); network < end; network++ {
				if network < next {
					continue
				}
				next = network + 1
				clear(raw)
				binary.BigEndian.PutUint32(raw, uint32(network<<(32-g.bits)))
				a, _ := netip.AddrFromSlice(raw)
				if !yield(netip.PrefixFrom(a, g.bits)) {
					return
				}
			}
		}
	}
	if s.count < minGated {
		return g, false
	}
	for range g.elements {
		if g.count++; g.count > maxGate {
			return g, false
		}
	}
	return g, true
}

// target returns the prefix length of the elements that n entries of the given length expand into,
// or anyLength for the interval set.
func (f family) target(length, n int) int {
	best := anyLength
	for _, w := range f.hash { // longest first: the last that fits is the closest to length
		fits := w >= length && w-length <= maxLonger
		if fits && (w == length || n*factor(length, w) <= maxExpanded) {
			best = w
		}
	}
	return best
}

// factor returns the number of prefixes of length w in one prefix of the given length, or 1 for the
// interval set.
func factor(length, w int) int {
	if w < 0 {
		return 1
	}
	return 1 << (w - length)
}

// expand yields p as prefixes of length w, or p itself for anyLength, and returns false once yield
// does. Every w is a whole number of bytes and at most maxLonger bits longer than p, so the
// elements differ in one byte.
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
