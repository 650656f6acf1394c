package blocklist

import "net/netip"

// use is the purpose of an address space.
type use int

const (
	useOther     use = iota
	useLAN           // private and link-local: its hosts are neighbours
	useLoopback      //
	useReachable     // globally reachable part of a space that is not
)

// space is a row of the table of special-purpose space.
type space struct {
	prefix string
	use    use
}

// spaces returns the table of the special-purpose space, as of 2026: the rows of the IANA IPv4 and
// IPv6 Special-Purpose Address Registries (RFC 6890) whose addresses are not globally reachable,
// plus multicast and 240.0.0.0/4.
//
// The documentation ranges (RFC 5737, RFC 3849, RFC 9637) are left out, because no host on the
// Internet has them and tests use them. Teredo (2001::/32) and 6to4 (2002::/16) are left out,
// because hosts on the Internet have their addresses. The 6to4 relays (192.88.99.0/24) are left out
// for the same reason.
func spaces() []space {
	return []space{
		{"0.0.0.0/8", useOther},           // this network (RFC 791)
		{"10.0.0.0/8", useLAN},            // private (RFC 1918)
		{"100.64.0.0/10", useOther},       // shared by carrier-grade NAT (RFC 6598)
		{"127.0.0.0/8", useLoopback},      // loopback (RFC 1122)
		{"169.254.0.0/16", useLAN},        // link-local (RFC 3927); also the metadata service of cloud providers
		{"172.16.0.0/12", useLAN},         // private (RFC 1918)
		{"192.0.0.0/24", useOther},        // IETF protocol assignments (RFC 6890), with DS-Lite and NAT64 discovery
		{"192.0.0.9/32", useReachable},    // PCP anycast (RFC 7723)
		{"192.0.0.10/32", useReachable},   // TURN anycast (RFC 8155)
		{"192.88.99.2/32", useOther},      // 6a44 relay anycast (RFC 6751)
		{"192.168.0.0/16", useLAN},        // private (RFC 1918)
		{"198.18.0.0/15", useOther},       // benchmarking (RFC 2544)
		{"224.0.0.0/4", useOther},         // multicast (RFC 5771)
		{"240.0.0.0/4", useOther},         // reserved, with the limited broadcast (RFC 1112)
		{"::/128", useOther},              // unspecified (RFC 4291)
		{"::1/128", useLoopback},          // loopback (RFC 4291)
		{"::ffff:0:0/96", useOther},       // IPv4-mapped (RFC 4291): no packet has such an address
		{"64:ff9b:1::/48", useOther},      // NAT64 for local use (RFC 8215), except publicNAT64
		{"100::/64", useOther},            // discard only (RFC 6666)
		{"100:0:0:1::/64", useOther},      // dummy prefix (RFC 9780)
		{"2001::/23", useOther},           // IETF protocol assignments (RFC 2928), with benchmarking and ORCHID
		{"2001::/32", useReachable},       // Teredo (RFC 4380)
		{"2001:1::1/128", useReachable},   // PCP anycast (RFC 7723)
		{"2001:1::2/128", useReachable},   // TURN anycast (RFC 8155)
		{"2001:1::3/128", useReachable},   // DNS-SD SRP anycast (RFC 9665)
		{"2001:3::/32", useReachable},     // AMT (RFC 7450)
		{"2001:4:112::/48", useReachable}, // AS112 (RFC 7535)
		{"2001:20::/28", useReachable},    // ORCHIDv2 (RFC 7343)
		{"2001:30::/28", useReachable},    // drone remote identification (RFC 9374)
		{"5f00::/16", useOther},           // segment routing SIDs (RFC 9602)
		{"fc00::/7", useLAN},              // unique local (RFC 4193)
		{"fe80::/10", useLAN},             // link-local (RFC 4291); usually also the IPv6 gateways
		{"ff00::/8", useOther},            // multicast (RFC 4291)
	}
}

// Special returns the space that is never blocked, even if a list contains it: none of it is a host
// on the Internet, and this host needs much of it. It includes the IPv6 forms (6to4, NAT64) of its
// IPv4 addresses.
func Special() Blocklist {
	var special, reachable []netip.Prefix
	for _, s := range spaces() {
		p := netip.MustParsePrefix(s.prefix)
		if s.use == useReachable {
			reachable = append(reachable, p)
		} else {
			special = append(special, p)
		}
	}
	list := newExact(special).Without(New(reachable))
	var embedded []netip.Prefix
	for p := range list.V4() {
		embedded = append(embedded, nat64(p), sixToFour(p))
	}
	return list.Union(New(embedded))
}

// newExact is like New for prefixes that are canonical, except that it keeps ::ffff:0:0/96 as IPv6.
func newExact(ps []netip.Prefix) Blocklist {
	var b Builder
	for _, p := range ps {
		b.addCanonical(p)
	}
	return b.List()
}

// Private returns the private and link-local networks of both families.
func Private() []netip.Prefix { return spacesFor(useLAN) }

// Loopback returns the loopback networks of both families.
func Loopback() []netip.Prefix { return spacesFor(useLoopback) }

func spacesFor(u use) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range spaces() {
		if s.use == u {
			ps = append(ps, netip.MustParsePrefix(s.prefix))
		}
	}
	return ps
}
