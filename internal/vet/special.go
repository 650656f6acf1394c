package vet

import (
	"net/netip"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// Special is the space that is never blocked, whatever a list says: none of it is a host on the Internet, and much of it
// is what this host lives on. The documentation ranges (RFC 5737, RFC 3849) are not in it: they never occur outside, and
// tests use them.
func Special() blocklist.Blocklist {
	var ps []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8",      // this network (RFC 791)
		"10.0.0.0/8",     // private (RFC 1918)
		"100.64.0.0/10",  // shared by carrier-grade NAT (RFC 6598)
		"127.0.0.0/8",    // loopback (RFC 1122)
		"169.254.0.0/16", // link-local (RFC 3927)
		"172.16.0.0/12",  // private (RFC 1918)
		"192.168.0.0/16", // private (RFC 1918)
		"224.0.0.0/4",    // multicast (RFC 5771)
		"240.0.0.0/4",    // reserved, with the limited broadcast (RFC 1112)
		"::/128",         // unspecified (RFC 4291)
		"::1/128",        // loopback (RFC 4291)
		"fc00::/7",       // unique local (RFC 4193)
		"fe80::/10",      // link-local (RFC 4291)
		"ff00::/8",       // multicast (RFC 4291)
	} {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return blocklist.New(ps)
}
