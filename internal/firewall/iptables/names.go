package iptables

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// Our chains of table raw.
const (
	chain      = "SIKKERGUARD"       // decides which packets are dropped
	newChain   = "SIKKERGUARD-NEW"   // makes the key of a packet that has none
	logChain   = "SIKKERGUARD-LOG"   // logs and drops
	dropChain  = "SIKKERGUARD-DROP"  // counts and drops
	probeChain = "SIKKERGUARD-PROBE" // for the probe of the kernel; no rule jumps to it
	jump       = "-A PREROUTING -j " + chain
)

// ownChains returns the names of the chains that block, in the order of rules.
func ownChains() []string { return []string{chain, newChain, logChain, dropChain} }

// family is one of the two address families. Each has its own sets, rules and programs.
type family struct {
	name       string // for the operator
	mark       string // suffix in the names of sets
	ipset      string // name in ipset
	proto      uint8  // number in nf_tables
	width      int    // bits of an address
	tablesFile string // file that lists the tables of ip_tables in this network namespace
}

func ipv4() family {
	return family{
		name: "IPv4", ipset: "inet", proto: unix.NFPROTO_IPV4, width: 32,
		tablesFile: "/proc/thread-self/net/ip_tables_names",
	}
}

func ipv6() family {
	return family{
		name: "IPv6", mark: "6", ipset: "inet6", proto: unix.NFPROTO_IPV6, width: 128,
		tablesFile: "/proc/thread-self/net/ip6_tables_names",
	}
}

// prefixes yields the prefixes of the family in a list, in ascending order.
func (f family) prefixes(l blocklist.Blocklist) iter.Seq[netip.Prefix] {
	if f.width == ipv4().width {
		return l.V4()
	}
	return l.V6()
}

// entries returns the number of entries of the family in a list.
func (f family) entries(l blocklist.Blocklist) int {
	if f.width == ipv4().width {
		return l.Len4()
	}
	return l.Len6()
}

func (f family) blocklist() string { return "sikkerguard-blocklist" + f.mark }
func (f family) whitelist() string { return "sikkerguard-whitelist" + f.mark }
func (f family) probeSet() string  { return "sikkerguard-probe" + f.mark }

// probeSets returns the names of the sets that the rules of the probe look up.
func (f family) probeSets() []string {
	names := []string{f.probeSet()}
	for _, s := range f.hitSets() {
		names = append(names, s.probe().name)
	}
	return names
}

// lookedUpSets returns the names of the sets that the rules look up.
func (f family) lookedUpSets() []string {
	names := []string{f.whitelist(), f.blocklist()}
	for _, s := range f.hitSets() {
		names = append(names, s.name)
	}
	return names
}

// bothLookedUp returns the names of the sets of both families that the rules look up.
func bothLookedUp() []string { return append(ipv4().lookedUpSets(), ipv6().lookedUpSets()...) }

// markSet returns the name of an empty set. It exists if nf_tables had no table raw before the
// agent came, so that the removal of the rules also removes the table.
func (f family) markSet() string { return "sikkerguard-made-raw" + f.mark }

// nextName returns the name of the set to fill and then swap with set. A name has at most 31
// characters.
func nextName(set string) string { return set + "-next" }

// unionName returns the name of the set that holds the old and the new whitelist while the
// blocklist is swapped.
func unionName(set string) string { return set + "-both" }

// spareNames is the number of names for each set that exists only during Apply. Another program may
// have taken some of them.
const spareNames = 8

// spares returns names and, for each, its alternatives.
func spares(names ...string) []string {
	var all []string
	for _, name := range names {
		all = append(all, name)
		for i := 2; i <= spareNames; i++ {
			all = append(all, fmt.Sprintf("%s%d", name, i))
		}
	}
	return all
}

// temporarySets returns the names of the sets that exist only during Apply, or longer if an agent
// was killed there. No rule of ours looks them up.
func (f family) temporarySets() []string {
	return []string{nextName(f.blocklist()), nextName(f.whitelist()), unionName(f.whitelist())}
}

// allSets returns the names of all sets that may be ours, in the order of removal: first the sets
// that no rule looks up, last the mark of a table.
func (f family) allSets() []string {
	names := append(spares(f.temporarySets()...), f.probeSets()...)
	for _, s := range f.hitSets() {
		names = append(names, s.last().name)
	}
	names = append(names, f.lookedUpSets()...)
	return append(names, f.markSet())
}

// kindOf returns the type of our set of this name.
func (f family) kindOf(name string) string {
	for _, s := range f.hitSets() {
		if name == s.name || name == s.last().name || name == s.probe().name {
			return s.kind
		}
	}
	return setKind
}

// familyOf returns the family of a set by its name. It is false for a name that is not ours.
func familyOf(name string) (fam family, ok bool) {
	for _, fam := range []family{ipv4(), ipv6()} {
		if slices.Contains(fam.allSets(), name) {
			return fam, true
		}
	}
	return family{}, false
}
