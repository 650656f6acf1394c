package blocklist

import "net/netip"

// IPv6 networks whose addresses represent IPv4 addresses. On a host with IPv6 only, every IPv4 host
// has an address in one of the two NAT64 networks.

// nat64Prefix returns 64:ff9b::/96 (RFC 6052).
func nat64Prefix() netip.Prefix { return leading(96, 0, 0x64, 0xff, 0x9b) }

// localNAT64Prefix returns 64:ff9b:1::/48 (RFC 8215).
func localNAT64Prefix() netip.Prefix { return leading(48, 0, 0x64, 0xff, 0x9b, 0, 1) }

// sixToFourPrefix returns 2002::/16 (RFC 3056).
func sixToFourPrefix() netip.Prefix { return leading(16, 0x20, 0x02) }

// leading returns the IPv6 prefix of so many bits that begins with these bytes. Each entry of a
// list is compared with such prefixes, so they are not parsed from text.
func leading(bits int, bytes ...byte) netip.Prefix {
	var a [16]byte
	copy(a[:], bytes)
	return netip.PrefixFrom(netip.AddrFrom16(a), bits)
}

// nat64 returns the NAT64 network that represents the IPv4 network p.
func nat64(p netip.Prefix) netip.Prefix { return embed(nat64Prefix(), p) }

// sixToFour returns the 6to4 network that represents the IPv4 network p.
func sixToFour(p netip.Prefix) netip.Prefix { return embed(sixToFourPrefix(), p) }

// embed returns the IPv6 network with the bits of the IPv4 network p after the prefix in. The
// length of in must be a multiple of 8.
func embed(in, p netip.Prefix) netip.Prefix {
	a, v4 := in.Addr().As16(), p.Addr().As4()
	copy(a[in.Bits()/8:], v4[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), in.Bits()+p.Bits())
}

// Embedded returns the IPv4 network that the IPv6 network p represents by NAT64 (64:ff9b::/96 and
// 64:ff9b:1::/48) or by 6to4 (2002::/16). A network that contains a whole translation prefix
// represents all of IPv4. Embedded returns false for any other network.
func Embedded(p netip.Prefix) (netip.Prefix, bool) {
	if !p.Addr().Is6() {
		return netip.Prefix{}, false
	}
	for _, in := range [...]netip.Prefix{nat64Prefix(), sixToFourPrefix()} {
		if in.Overlaps(p) {
			return extract(p, in.Bits()), true
		}
	}
	if localNAT64Prefix().Overlaps(p) {
		return extract(p, 96), true
	}
	return netip.Prefix{}, false
}

// extract returns the 32 bits of p's address from bit start on as an IPv4 network, whose length is
// the number of these bits that p fixes.
func extract(p netip.Prefix, start int) netip.Prefix {
	a := p.Addr().As16()
	v4 := netip.AddrFrom4([4]byte(a[start/8 : start/8+4]))
	return netip.PrefixFrom(v4, max(0, min(32, p.Bits()-start))).Masked()
}

// Blockable returns b without the special-purpose space, and the number of entries that lost a
// part.
//
// In the NAT64 prefix for local use (64:ff9b:1::/48), an entry inside a /96 is judged by the IPv4
// network that it represents. A wider entry is removed.
func (b Blocklist) Blockable() (rest Blocklist, cut int) {
	special := Special()
	rest = b.Without(special)
	var overlapping, translated []netip.Prefix
	for p := range b.Overlapping(special) {
		overlapping = append(overlapping, p)
		public := publicNAT64(p, special)
		if len(public) != 1 || public[0] != p {
			cut++
		}
		translated = append(translated, public...)
	}
	rest = rest.Union(New(translated))
	rest.split = rest.splitOf(b.split.entries, overlapping)
	return rest, cut
}

// publicNAT64 returns the parts of p that represent public IPv4 addresses, if p lies inside a /96
// of the NAT64 prefix for local use.
//
// A site chooses the length of its NAT64 prefix, and thereby the position of the IPv4 address (RFC
// 6052, 2.2). If any of these positions gives a special-purpose address, p has no public part. No
// host has an address in 0.0.0.0/8, so a position that gives one is not the site's.
func publicNAT64(p netip.Prefix, special Blocklist) []netip.Prefix {
	if p.Bits() <= 96 || !localNAT64Prefix().Overlaps(p) {
		return nil
	}
	otherwise := false
	for _, length := range []int{48, 56, 64} {
		a, ok := embeddedAt(p.Addr(), length)
		if ok && special.Contains(a) {
			return nil
		}
		otherwise = otherwise || ok
	}
	v4 := extract(p, 96)
	if otherwise && v4.Addr().As4()[0] == 0 {
		return []netip.Prefix{p}
	}
	var public []netip.Prefix
	in := netip.PrefixFrom(p.Addr(), 96).Masked()
	for part := range New([]netip.Prefix{v4}).Without(special).V4() {
		public = append(public, embed(in, part))
	}
	return public
}

// embeddedAt returns the IPv4 address that a contains after a prefix of 48, 56 or 64 bits. Bits 64
// to 71 are skipped, and all bits after the address are zero (RFC 6052, 2.2). It returns false if
// they are not, or if the address is in 0.0.0.0/8.
func embeddedAt(a netip.Addr, length int) (netip.Addr, bool) {
	b := a.As16()
	joined := append(append([]byte{}, b[length/8:8]...), b[9:]...)
	v4 := [4]byte(joined[:4])
	for _, rest := range joined[4:] {
		if rest != 0 {
			return netip.Addr{}, false
		}
	}
	return netip.AddrFrom4(v4), b[8] == 0 && v4[0] != 0
}
