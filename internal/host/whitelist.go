package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// kind is the source of an entry. The order is the order of Kinds.
type kind int

const (
	kindGateway kind = iota
	kindResolver
	kindHost
	kindLAN
	kindLoopback
	kindAPI
	kindProxy
	kindOperator

	kinds // number of kinds
)

// String returns the name of the kind in the result of Kinds.
func (k kind) String() string {
	switch k {
	case kindGateway:
		return "gateways"
	case kindResolver:
		return "resolvers"
	case kindHost:
		return "host addresses"
	case kindLAN:
		return "LAN ranges"
	case kindLoopback:
		return "loopback"
	case kindAPI:
		return "API"
	case kindProxy:
		return "proxy"
	case kindOperator:
		return "SIKKER_WHITELIST"
	default:
		return fmt.Sprintf("kind(%d)", int(k))
	}
}

// Whitelist is the safety allowlist: the addresses that must never be blocked. It is a value; the
// zero value is empty.
type Whitelist struct {
	// Problems are the errors of sources that could not be read completely. Each text ends with the
	// remedy.
	Problems []error

	Number uint64 // of two allowlists of one Host, the newer has the higher number

	uplinks  []string       // default routes that can be used
	prefixes []netip.Prefix // sorted, without duplicates
	own      []netip.Prefix // gateways, resolvers and host addresses but link-local ones; like prefixes
	counts   [kinds]int
	recalled [kinds]bool           // found only by an earlier run
	found    [kinds][]netip.Prefix // sorted, without duplicates
}

// Prefixes returns all entries, canonical, sorted and without duplicates. A single address is a
// prefix of full length. An entry may lie inside another.
func (w Whitelist) Prefixes() []netip.Prefix { return slices.Clone(w.prefixes) }

// Gained reports whether the host has a new way to reach the API: an address of its own that is not
// link-local, a default route that can be used, a gateway, a resolver, or addresses for a name that
// had none. Other addresses of a name do not count: a large service answers with different ones
// each time.
func (w Whitelist) Gained(before Whitelist) bool {
	for _, k := range []kind{kindAPI, kindProxy} {
		if w.resolves(k) && !before.resolves(k) {
			return true
		}
	}
	for _, u := range w.uplinks {
		if !slices.Contains(before.uplinks, u) {
			return true
		}
	}
	for _, p := range w.own {
		if _, had := slices.BinarySearchFunc(before.own, p, netip.Prefix.Compare); !had {
			return true
		}
	}
	return false
}

// resolves reports whether a name of the kind resolved in this run.
func (w Whitelist) resolves(k kind) bool { return w.counts[k] > 0 && !w.recalled[k] }

// Changed returns the changes since before, as sentences joined by "; ", or "" if there are none.
func (w Whitelist) Changed(before Whitelist) string {
	var changes []string
	for _, part := range []struct {
		text  string
		kinds []kind
	}{
		{"Addresses or routes of the host changed", []kind{kindGateway, kindHost, kindLAN, kindLoopback}},
		{"Resolvers of the host changed", []kind{kindResolver}},
		{"Addresses of the API or of a proxy changed", []kind{kindAPI, kindProxy}},
	} {
		differs := func(k kind) bool { return !slices.Equal(w.found[k], before.found[k]) }
		if slices.ContainsFunc(part.kinds, differs) {
			changes = append(changes, part.text)
		}
	}
	return strings.Join(changes, "; ")
}

// IPs returns the number of entries that are single addresses, including those inside a listed
// range: it counts finds, not the addresses of the union.
func (w Whitelist) IPs() int { return len(w.prefixes) - w.Ranges() }

// Ranges returns the number of entries that are networks of more than one address, including those
// inside another.
func (w Whitelist) Ranges() int {
	n := 0
	for _, p := range w.prefixes {
		if !p.IsSingleIP() {
			n++
		}
	}
	return n
}

// String returns the log line "Safety whitelist: 8 IPs + 8 CIDR ranges".
func (w Whitelist) String() string {
	return fmt.Sprintf("Safety whitelist: %d IPs + %d CIDR ranges", w.IPs(), w.Ranges())
}

// Kinds returns the number of entries of each source: "gateways 1, resolvers 2, …", or "nothing".
// Each kind counts its own entries once, and kinds without entries are left out. An entry of two
// kinds, such as a gateway that is also a resolver, counts in both, so the sum can exceed IPs plus
// Ranges.
func (w Whitelist) Kinds() string {
	var parts []string
	for k, n := range w.counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", kind(k), n))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// builder composes a Whitelist.
type builder struct {
	found    [kinds][]netip.Prefix
	problems []error
}

// addAddrs adds single addresses. It skips addresses that cannot be a packet's source on a network.
// Loopback addresses are among those: loopback is a kind of its own.
func (b *builder) addAddrs(k kind, addrs []netip.Addr) {
	for _, a := range addrs {
		if a, ok := sourceAddr(a); ok {
			b.found[k] = append(b.found[k], blocklist.Single(a))
		}
	}
}

// addPrefixes adds networks in canonical form. It skips invalid ones.
func (b *builder) addPrefixes(k kind, ps []netip.Prefix) {
	for _, p := range ps {
		if p, ok := blocklist.Canonical(p); ok {
			b.found[k] = append(b.found[k], p)
		}
	}
}

func (b *builder) whitelist() Whitelist {
	w := Whitelist{Problems: b.problems}
	// A container that starts adds a link-local address to the host, which Gained must not count.
	linkLocal := func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() }
	for k, ps := range b.found {
		ps = distinct(slices.Clone(ps))
		w.counts[k], w.found[k] = len(ps), ps
		if slices.Contains([]kind{kindGateway, kindResolver, kindHost}, kind(k)) {
			w.own = append(w.own, slices.DeleteFunc(slices.Clone(ps), linkLocal)...)
		}
		w.prefixes = append(w.prefixes, ps...)
	}
	w.prefixes, w.own = distinct(w.prefixes), distinct(w.own)
	return w
}

// distinct sorts ps in place and removes duplicates.
func distinct(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// sourceAddr returns a in canonical form, and reports whether it can be the source of a packet from
// a host on a network.
func sourceAddr(a netip.Addr) (netip.Addr, bool) {
	a = blocklist.CanonicalAddr(a)
	return a, a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}
