package blocklist

import "net/netip"

// The IPv6 networks whose addresses stand for IPv4 addresses. On a host that has IPv6 alone, every
// IPv4 host has an address in one of the two of NAT64.
func nat64Prefix() netip.Prefix      { return netip.MustParsePrefix("64:ff9b::/96") }   // RFC 6052
func localNAT64Prefix() netip.Prefix { return netip.MustParsePrefix("64:ff9b:1::/48") } // RFC 8215
func sixToFourPrefix() netip.Prefix  { return netip.MustParsePrefix("2002::/16") }      // RFC 3056

// nat64 returns the network of NAT64 that stands for the IPv4 network p.
func nat64(p netip.Prefix) netip.Prefix { return embed(nat64Prefix(), p) }

// sixToFour returns the network of 6to4 that stands for the IPv4 network p.
func sixToFour(p netip.Prefix) netip.Prefix { return embed(sixToFourPrefix(), p) }

// embed writes the IPv4 network p behind the bits of the IPv6 network in, which end at a byte.
func embed(in, p netip.Prefix) netip.Prefix {
	a, v4 := in.Addr().As16(), p.Addr().As4()
	copy(a[in.Bits()/8:], v4[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), in.Bits()+p.Bits())
}

// Embedded returns the IPv4 network that the addresses of the IPv6 network p stand for by NAT64
// (64:ff9b::/96 and 64:ff9b:1::/48) or by 6to4 (2002::/16). A network that holds a whole
// translation prefix stands for all of IPv4. It is false for any other.
func Embedded(p netip.Prefix) (netip.Prefix, bool) {
	if !p.Addr().Is6() {
		return netip.Prefix{}, false
	}
	for _, in := range []netip.Prefix{nat64Prefix(), sixToFourPrefix()} {
		if in.Overlaps(p) {
			return extract(p, in.Bits()), true
		}
	}
	if localNAT64Prefix().Overlaps(p) {
		return extract(p, 96), true
	}
	return netip.Prefix{}, false
}

// extract reads the 32 bits of p's address from bit start on, as a network of as many bits as p
// determines of them.
func extract(p netip.Prefix, start int) netip.Prefix {
	a := p.Addr().As16()
	v4 := netip.AddrFrom4([4]byte(a[start/8 : start/8+4]))
	return netip.PrefixFrom(v4, max(0, min(32, p.Bits()-start))).Masked()
}

// Blockable returns b less the special-purpose space, and how many entries lost something to it.
//
// Of the NAT64 prefix for local use, an entry inside a /96 is judged by the IPv4 network that it
// stands for, and whatever is wider is cut away.
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

// publicNAT64 returns the parts of p that stand for public IPv4 addresses, if p lies inside a /96
// of the NAT64 prefix for local use.
//
// A site chooses how long the part of the prefix is that it uses, and so where the IPv4 address
// begins (RFC 6052, 2.2). An entry that can be read as a special-purpose address in one of these
// ways has no public part. An address of 0.0.0.0/8 is none of a host, so an entry that reads as one
// is read in another way.
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
	for part := range (Blocklist{v4: []netip.Prefix{v4}}).Without(special).V4() {
		public = append(public, embed(in, part))
	}
	return public
}

// embeddedAt reads the IPv4 address that a holds behind a prefix of 48, 56 or 64 bits. Bits 64 to
// 71 are skipped, and all bits that follow the address are zero (RFC 6052, 2.2). It is false where
// they are not, and for an address of 0.0.0.0/8.
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
