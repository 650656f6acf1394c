package blocklist

import (
	"math"
	"net/netip"
)

// public6 is about how many /64 networks of IPv6 are in use: those of the 116 networks of /16 that
// IANA had given to the regional registries by 2026 (seven of /12, and parts of four more). The
// whole of 2000::/3 is seventy times that, and a list that covers a hundredth of it can cover every
// host there is.
const public6 = 116 * (1 << 48)

// Coverage returns the shares of the public IPv4 and of the IPv6 address space in use that b
// covers, 1 for all of it. Special-purpose space counts as the rest: ask a Blockable list.
func (b Blocklist) Coverage() (v4, v6 float64) {
	public4 := math.Exp2(32) - size(Special().v4, 32)
	addresses, networks := b.Size()
	return addresses / public4, networks / public6
}

// Size returns how many IPv4 addresses and how many IPv6 networks of /64 b covers. The number of
// IPv4 is the largest of three: of addresses of IPv4 itself, of those that stand for one by NAT64,
// and of those that do by 6to4.
func (b Blocklist) Size() (addresses, networks float64) {
	var nat, six float64
	for _, p := range b.v6 {
		v4, embeds := Embedded(p)
		toFour := sixToFourPrefix().Overlaps(p)
		switch {
		case embeds && toFour:
			six += parts(v4, 32)
		case embeds:
			nat += parts(v4, 32)
		}
		if !embeds || toFour { // 6to4 is a part of the IPv6 in use, NAT64 is not
			networks += parts(p, 64)
		}
	}
	return max(size(b.v4, 32), nat, six), networks
}

// size returns how many networks of that length the prefixes hold.
func size(ps []netip.Prefix, length int) float64 {
	var n float64
	for _, p := range ps {
		n += parts(p, length)
	}
	return n
}

// parts returns how many networks of that length p holds. A longer one counts as a part of one.
func parts(p netip.Prefix, length int) float64 { return math.Exp2(float64(length - p.Bits())) }
