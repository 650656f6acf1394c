package blocklist

import (
	"cmp"
	"encoding/binary"
	"net/netip"
)

// entry is one canonical prefix in a compact form. A netip.Prefix has 32 bytes; with 500,000 of
// them a list would take 16 MB instead of 4.
type entry[E any] interface {
	comparable
	compare(other E) int      // orders by first address, and wider entries first at the same address
	overlaps(other E) bool    // reports whether one of the two contains the other
	bits() int                // length of the prefix
	halves() (lower, upper E) // the two entries that are one bit longer; the entry is no single address
	prefix() netip.Prefix
}

// entry4 is an IPv4 prefix: the address, and in the lowest byte the length. Its numeric order is
// the order of compare.
type entry4 uint64

// newEntry4 returns p, an IPv4 prefix, without host bits.
func newEntry4(p netip.Prefix) entry4 {
	a := p.Addr().As4()
	n := uint64(p.Bits())
	return entry4(uint64(binary.BigEndian.Uint32(a[:]))>>(32-n)<<(40-n) | n)
}

func (e entry4) address() uint32 { return uint32(e >> 8) }

func (e entry4) bits() int { return int(e & 0xff) }

func (e entry4) compare(o entry4) int { return cmp.Compare(e, o) }

func (e entry4) overlaps(o entry4) bool {
	return (e.address()^o.address())>>(32-min(e.bits(), o.bits())) == 0
}

func (e entry4) halves() (lower, upper entry4) {
	return e + 1, (e + 1) | 1<<(39-e.bits())
}

func (e entry4) prefix() netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], e.address())
	return netip.PrefixFrom(netip.AddrFrom4(a), e.bits())
}

// entry6 is an IPv6 prefix.
type entry6 struct {
	high, low uint64
	length    uint8
}

// newEntry6 returns p, an IPv6 prefix, without host bits.
func newEntry6(p netip.Prefix) entry6 {
	a := p.Addr().As16()
	n := p.Bits()
	high, low := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	if n <= 64 {
		return entry6{high: high >> (64 - n) << (64 - n), length: uint8(n)}
	}
	return entry6{high: high, low: low >> (128 - n) << (128 - n), length: uint8(n)}
}

func (e entry6) bits() int { return int(e.length) }

func (e entry6) compare(o entry6) int {
	if e.high != o.high {
		return cmp.Compare(e.high, o.high)
	}
	if e.low != o.low {
		return cmp.Compare(e.low, o.low)
	}
	return cmp.Compare(e.length, o.length)
}

func (e entry6) overlaps(o entry6) bool {
	n := min(e.bits(), o.bits())
	if n <= 64 {
		return (e.high^o.high)>>(64-n) == 0
	}
	return e.high == o.high && (e.low^o.low)>>(128-n) == 0
}

func (e entry6) halves() (lower, upper entry6) {
	e.length++
	lower, upper = e, e
	if n := e.bits(); n <= 64 {
		upper.high |= 1 << (64 - n)
	} else {
		upper.low |= 1 << (128 - n)
	}
	return lower, upper
}

func (e entry6) prefix() netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], e.high)
	binary.BigEndian.PutUint64(a[8:], e.low)
	return netip.PrefixFrom(netip.AddrFrom16(a), e.bits())
}
