package iptables

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	chain      = "SIKKERGUARD"       // of table raw
	probeChain = "SIKKERGUARD-PROBE" // while it is tried what the kernel can do; nothing jumps to it
	jump       = "-A PREROUTING -j " + chain
)

// family is one of the two address families: they have sets, rules and programs of their own.
type family struct {
	name  string // as an operator reads it
	mark  string // in the names of sets
	ipset string // as ipset calls it
	proto uint8  // as nf_tables calls it
	width int    // of an address, in bits
	names string // file that lists the tables which the legacy iptables has in this network namespace
}

func ipv4() family {
	return family{name: "IPv4", ipset: "inet", proto: unix.NFPROTO_IPV4, width: 32, names: "/proc/thread-self/net/ip_tables_names"}
}

func ipv6() family {
	return family{name: "IPv6", mark: "6", ipset: "inet6", proto: unix.NFPROTO_IPV6, width: 128, names: "/proc/thread-self/net/ip6_tables_names"}
}

func (f family) blocklist() string { return "sikkerguard-blocklist" + f.mark }
func (f family) whitelist() string { return "sikkerguard-whitelist" + f.mark }
func (f family) probeSet() string  { return "sikkerguard-probe" + f.mark }

// made is a set that holds nothing: it is there when nf_tables had no table raw before the agent came, so that whoever
// takes the rules away takes the table away too.
func (f family) markSet() string { return "sikkerguard-made-raw" + f.mark }

// next is the set that is filled, to be swapped with the one of this name. Names take 31 characters at most.
func nextName(set string) string { return set + "-next" }

// both is the set that holds the whitelist of before and of afterwards, while the blocklist is swapped.
func unionName(set string) string { return set + "-both" }

// variants is how many names each set has that is there during Apply alone. Another program may have
// taken some.
const spareNames = 8

// spares are these names and the others that can stand for each.
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

// temporary are the sets that are there during Apply alone, unless an agent was killed there. No
// rule of ours looks them up.
func (f family) temporarySets() []string {
	return []string{nextName(f.blocklist()), nextName(f.whitelist()), unionName(f.whitelist())}
}

// own are all sets that may be ours, the ones that rules look up last but one: what marks a table comes after all rules.
func (f family) allSets() []string {
	return append(spares(f.temporarySets()...), f.probeSet(), f.whitelist(), f.blocklist(), f.markSet())
}

// owner is the family whose sets are called so, if it is a name of ours.
func familyOf(name string) (fam family, ok bool) {
	for _, fam := range []family{ipv4(), ipv6()} {
		if slices.Contains(fam.allSets(), name) {
			return fam, true
		}
	}
	return family{}, false
}
