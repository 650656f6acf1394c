package blocklist

import (
	"math"
	"net/netip"
)

// public6 is the approximate number of IPv6 /64 networks in use: those of the 116 /16 networks that
// IANA had assigned to the regional registries by 2026 (seven /12, and parts of four more).
// 2000::/3 as a whole is seventy times as large, so a list that covers a hundredth of it can cover
// every host.
const public6 = 116 * (1 << 48)

// Coverage returns the shares that b covers of the public IPv4 and of the IPv6 address space in
// use; 1 means all of it. Special-purpose space counts like other space, so call it on a Blockable
// list.
func (b Blocklist) Coverage() (v4, v6 float64) {
	public4 := math.Exp2(32) - size(Special().v4, 32)
	addresses, networks := b.Size()
	return addresses / public4, networks / public6
}

// Size returns the numbers of IPv4 addresses and of IPv6 /64 networks that b covers. The number of
// IPv4 addresses is the largest of three: native IPv4 addresses, those represented by NAT64
// addresses, and those represented by 6to4 addresses.
func (b Blocklist) Size() (addresses, networks float64) {
	var nat, six float64
	for p := range b.V6() {
		v4, embeds := Embedded(p)
		toFour := sixToFourPrefix().Overlaps(p)
		switch {
		case embeds && toFour:
			six += parts(v4, 32)
		case embeds:
			nat += parts(v4, 32)
		}
		if !embeds || toFour { // 6to4 is part of the IPv6 space in use, NAT64 is not
			networks += parts(p, 64)
		}
	}
	return max(size(b.v4, 32), nat, six), networks
}

// size returns the number of networks of the given length that the entries contain.
func size[E entry[E]](es []E, length int) float64 {
	var n float64
	for _, e := range es {
		n += math.Exp2(float64(length - e.bits()))
	}
	return n
}

// parts returns the number of networks of the given length that p contains: a fraction if p is
// longer.
func parts(p netip.Prefix, length int) float64 { return math.Exp2(float64(length - p.Bits())) }
