package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// kind is where an entry comes from. The order is that of the summary.
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

	kinds // how many there are
)

// String is how the summary names the kind.
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

// Whitelist is what must never be blocked. It is a value; the zero value is empty.
type Whitelist struct {
	// Problems are the sources that could not be read, or not whole. Each says what to do about it.
	Problems []error

	Number uint64 // of two whitelists of one Host, the newer one has the higher number

	uplinks  []string       // the default routes that can be used
	prefixes []netip.Prefix // sorted, each once
	own      []netip.Prefix // likewise: gateways, resolvers and the host's addresses, without those of a link alone
	counts   [kinds]int
	found    [kinds][]netip.Prefix // sorted, each once
}

// Prefixes are all entries, canonical and sorted, each once. A single address is the prefix that holds it alone. One may
// lie inside another.
func (w Whitelist) Prefixes() []netip.Prefix { return slices.Clone(w.prefixes) }

// Gained reports whether the host has something to reach the API by that it did not have before: an address of its own other
// than a link's, a default route that can be used, a gateway or a resolver, or a name that resolves. The addresses of a name
// do not count by themselves: a large service answers with others each time.
func (w Whitelist) Gained(before Whitelist) bool {
	for _, k := range []kind{kindAPI, kindProxy} {
		if w.counts[k] > 0 && before.counts[k] == 0 {
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

// Changed says what is not as it was before, a sentence each; empty if nothing is.
func (w Whitelist) Changed(before Whitelist) string {
	var said []string
	for _, part := range []struct {
		text  string
		kinds []kind
	}{
		{"Addresses or routes of the host changed", []kind{kindGateway, kindHost, kindLAN, kindLoopback}},
		{"Resolvers of the host changed", []kind{kindResolver}},
		{"Addresses of the API or of a proxy changed", []kind{kindAPI, kindProxy}},
	} {
		if slices.ContainsFunc(part.kinds, func(k kind) bool { return !slices.Equal(w.found[k], before.found[k]) }) {
			said = append(said, part.text)
		}
	}
	return strings.Join(said, "; ")
}

// IPs is how many of the entries are single addresses, those inside a listed range included: it counts what was found,
// not what the union covers.
func (w Whitelist) IPs() int { return len(w.prefixes) - w.Ranges() }

// Ranges is how many of the entries are networks of more than one address, those inside another included.
func (w Whitelist) Ranges() int {
	n := 0
	for _, p := range w.prefixes {
		if !p.IsSingleIP() {
			n++
		}
	}
	return n
}

// String is the log line: "Safety whitelist: 8 IPs + 8 CIDR ranges".
func (w Whitelist) String() string {
	return fmt.Sprintf("Safety whitelist: %d IPs + %d CIDR ranges", w.IPs(), w.Ranges())
}

// Kinds is the log line after it, which says where the entries come from: "Whitelisted: gateways 1, resolvers 2, …". Each
// kind counts its own entries once, and kinds without any are left out. An entry of two kinds, such as a gateway that also
// resolves, counts in both: the sum can be more than IPs and Ranges.
func (w Whitelist) Kinds() string {
	var parts []string
	for k, n := range w.counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", kind(k), n))
		}
	}
	if len(parts) == 0 {
		return "Whitelisted: nothing"
	}
	return "Whitelisted: " + strings.Join(parts, ", ")
}

// survey gathers a whitelist.
type survey struct {
	found    [kinds][]netip.Prefix
	problems []error
}

// addAddrs adds single addresses. Those that are no host's on a network are passed over, loopback among them: it is a kind
// of its own.
func (s *survey) addAddrs(k kind, addrs []netip.Addr) {
	for _, a := range addrs {
		if a, ok := peer(a); ok {
			s.found[k] = append(s.found[k], blocklist.Single(a))
		}
	}
}

// addPrefixes adds networks as they are, made canonical. Invalid ones are passed over.
func (s *survey) addPrefixes(k kind, ps []netip.Prefix) {
	for _, p := range ps {
		if p, ok := blocklist.Canonical(p); ok {
			s.found[k] = append(s.found[k], p)
		}
	}
}

func (s *survey) whitelist() Whitelist {
	w := Whitelist{Problems: s.problems}
	for k, ps := range s.found {
		ps = distinct(slices.Clone(ps))
		w.counts[k], w.found[k] = len(ps), ps
		if slices.Contains([]kind{kindGateway, kindResolver, kindHost}, kind(k)) { // a container that starts brings a link-local address
			w.own = append(w.own, slices.DeleteFunc(slices.Clone(ps), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })...)
		}
		w.prefixes = append(w.prefixes, ps...)
	}
	w.prefixes, w.own = distinct(w.prefixes), distinct(w.own)
	return w
}

// distinct sorts ps in place and takes repetitions out.
func distinct(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// peer is a in canonical form, and whether a packet of some host on a network can have it as its source.
func peer(a netip.Addr) (netip.Addr, bool) {
	a = blocklist.CanonicalAddr(a)
	return a, a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}
