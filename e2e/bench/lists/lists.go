// Package lists makes blocklists for measurements. The same parameters always give the same list.
package lists

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// Shape is the distribution of the prefix lengths of a list.
type Shape string

// Shapes of lists.
const (
	Addresses Shape = "addresses" // single addresses
	Mixed     Shape = "mixed"     // 85% addresses, 15% /24 (IPv6: /64)
	Odd       Shape = "odd"       // 98% /25 to /31 and 2% /20 to /23 (IPv6: /52 to /124, /36 to /44)
)

const (
	// Of the public list IPsum, 120,430 addresses are in 17,936 networks /16, and the busiest have
	// 2,000 each. These numbers give about the same.
	blocks4 = 24_000
	blocks6 = 6_000 // networks /32
	skew    = 3

	networkShare = 0.15 // of Mixed
	wideShare    = 0.02 // of Odd
)

// List is a list of networks of one family that do not overlap.
type List struct {
	Shape   Shape
	V6      bool
	Entries []netip.Prefix // ascending
}

// New returns a list of n entries. seed selects one of many.
func New(shape Shape, v6 bool, n int, seed uint64) *List {
	l := &List{Shape: shape, V6: v6}
	l.add(n, rand.New(rand.NewPCG(seed, 1)))
	return l
}

// Change returns a list in which n entries are replaced by others.
func (l *List) Change(n int, seed uint64) *List {
	rng := rand.New(rand.NewPCG(seed, 2))
	entries := slices.Clone(l.Entries)
	rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	next := &List{Shape: l.Shape, V6: l.V6, Entries: entries[n:]}
	next.add(n, rng)
	return next
}

// add adds n entries.
func (l *List) add(n int, rng *rand.Rand) {
	taken := make(map[netip.Prefix]bool, len(l.Entries)+n)
	for _, p := range l.Entries {
		taken[l.cell(p)] = true
	}
	for want := len(l.Entries) + n; len(l.Entries) < want; {
		bits, group := l.length(rng)
		p, err := l.draw(rng, group).Prefix(bits)
		if err == nil && !taken[l.cell(p)] {
			taken[l.cell(p)] = true
			l.Entries = append(l.Entries, p)
		}
	}
	slices.SortFunc(l.Entries, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
}

// length draws the prefix length of an entry. Entries of different groups are in different blocks,
// so they do not overlap.
func (l *List) length(rng *rand.Rand) (bits, group int) {
	pick := func(lengths ...int) int { return lengths[rng.IntN(len(lengths))] }
	switch l.Shape {
	case Mixed:
		if rng.Float64() < networkShare {
			return l.family(24, 64), 1
		}
	case Odd:
		wide := rng.Float64() < wideShare
		switch {
		case wide && l.V6:
			return pick(36, 40, 44), 1
		case wide:
			return pick(20, 21, 22, 23), 1
		case l.V6:
			return pick(52, 56, 60, 72, 80, 96, 112, 120, 124), 0
		default:
			return pick(25, 26, 27, 28, 29, 30, 31), 0
		}
	case Addresses:
	}
	return l.family(32, 128), 0
}

// cell returns the network in which an entry is the only one.
func (l *List) cell(p netip.Prefix) netip.Prefix {
	bits := p.Bits()
	if l.Shape == Odd {
		switch {
		case l.V6 && bits <= 44:
			bits = 36
		case l.V6:
			bits = 48
		case bits <= 23:
			bits = 20
		default:
			bits = 24
		}
	}
	cell, err := p.Addr().Prefix(bits)
	if err != nil {
		return p
	}
	return cell
}

func (l *List) family(v4, v6 int) int {
	if l.V6 {
		return v6
	}
	return v4
}

// draw draws an address from the blocks of a group, more often from some blocks than from others.
func (l *List) draw(rng *rand.Rand, group int) netip.Addr {
	blocks := l.family(blocks4, blocks6) / 2
	block := int(float64(blocks) * math.Pow(rng.Float64(), skew))
	return l.address(rng, 2*block+group)
}

// address draws an address in a block. Blocks with neighbouring numbers are far apart, except for
// the last bit.
func (l *List) address(rng *rand.Rand, block int) netip.Addr {
	const far = 7919 // a prime, so every block has a number of its own
	if l.V6 {
		var a [16]byte
		pair := block / 2 * far % (1 << 15)
		binary.BigEndian.PutUint16(a[:], 0x2400+uint16(pair>>12)<<8) // 2400::/16 to 2b00::/16
		binary.BigEndian.PutUint16(a[2:], uint16(pair<<1)|uint16(block&1))
		binary.BigEndian.PutUint32(a[4:], rng.Uint32())
		binary.BigEndian.PutUint64(a[8:], rng.Uint64())
		return netip.AddrFrom16(a)
	}
	firsts := octets()
	pair := block / 2 * far % (len(firsts) * 128)
	host := rng.Uint32()
	return netip.AddrFrom4([4]byte{firsts[pair/128], byte(pair%128<<1 | block&1), byte(host >> 8), byte(host)})
}

// octets returns the first octets of the addresses: those without special-purpose networks.
func octets() []byte {
	var all []byte
	for o := 1; o < 224; o++ {
		switch o {
		case 10, 100, 127, 169, 172, 192, 198, 203:
		default:
			all = append(all, byte(o))
		}
	}
	return all
}

// Contains reports whether an entry contains a.
func (l *List) Contains(a netip.Addr) bool {
	i := sort.Search(len(l.Entries), func(i int) bool { return a.Less(l.Entries[i].Addr()) })
	return i > 0 && l.Entries[i-1].Contains(a)
}

// Listed returns n addresses that the list contains, spread evenly over its entries.
func (l *List) Listed(n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		p := l.Entries[i*len(l.Entries)/n]
		if all[i] = p.Addr(); !p.IsSingleIP() {
			all[i] = p.Addr().Next()
		}
	}
	return all
}

// Unlisted returns n addresses that the list does not contain, drawn evenly from the public
// addresses, so some are near entries and most are not.
func (l *List) Unlisted(n int) []netip.Addr {
	rng := rand.New(rand.NewPCG(uint64(n), 3))
	blocks := l.family(len(octets())*256, 1<<16)
	var all []netip.Addr
	for len(all) < n {
		if a := l.address(rng, rng.IntN(blocks)); !l.Contains(a) {
			all = append(all, a)
		}
	}
	return all
}

// Text returns the entries, one a line, without the length of a single address.
func (l *List) Text() string {
	var b strings.Builder
	for _, p := range l.Entries {
		if p.IsSingleIP() {
			b.WriteString(p.Addr().String())
		} else {
			b.WriteString(p.String())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Lengths returns the prefix lengths that occur, the longest first.
func (l *List) Lengths() []int {
	var all []int
	for _, p := range l.Entries {
		if !slices.Contains(all, p.Bits()) {
			all = append(all, p.Bits())
		}
	}
	slices.Sort(all)
	slices.Reverse(all)
	return all
}
