package blocklist

import (
	"errors"
	"net/netip"
)

// Errors of Parse. Their texts follow the parsed text, as in `"x" is neither …`.
var (
	ErrNoPrefix = errors.New("is neither an address nor a network like 192.0.2.0/24")
	ErrZone     = errors.New("has a zone: remove the % and the text after it")
)

// Parse parses an address, or a network in CIDR notation, into a canonical prefix. An address
// becomes the prefix that contains it alone. The error is ErrZone or ErrNoPrefix.
func Parse(s string) (netip.Prefix, error) { return parse(s) }

// ParseBytes is Parse for bytes. It allocates nothing, and keeps no reference to them.
func ParseBytes(b []byte) (netip.Prefix, error) { return parse(b) }

// CanonicalAddr returns a without its zone, and an IPv4-mapped IPv6 address as IPv4.
func CanonicalAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Single returns the canonical prefix that contains a alone. It is invalid if a is.
func Single(a netip.Addr) netip.Prefix {
	a = CanonicalAddr(a)
	return netip.PrefixFrom(a, a.BitLen())
}

// Canonical returns p without host bits, and an IPv4-mapped IPv6 prefix as IPv4. It returns false
// for an invalid prefix; a prefix of an address with a zone is always invalid (netip.PrefixFrom).
func Canonical(p netip.Prefix) (netip.Prefix, bool) {
	if !p.IsValid() {
		return netip.Prefix{}, false
	}
	// ::ffff:0:0/96 contains the mapped addresses (RFC 4291, 2.5.5.2). A shorter prefix also
	// contains others.
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}
