package iptables

import (
	"fmt"
	"strings"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// Parts of rules. syn matches a TCP segment that opens a connection. The match tcp drops a segment
// without a whole header, uncounted.
const (
	syn    = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"
	notSYN = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"
	notTCP = "! -p tcp"
)

// lookUp returns the match of a set. It counts the packet.
func lookUp(set, fields string) string { return "-m set --match-set " + set + " " + fields }

// peek returns the match of a set that does not count the packet.
func peek(set, fields string) string { return lookUp(set, fields) + " ! --update-counters" }

// addTo returns the target that adds a key to a set, with one packet. It does nothing if the key is
// there, if the set is full, and if the packet has no such key: a fragment has no ports.
func addTo(set, fields string) string { return "-j SET --add-set " + set + " " + fields }

// countingRules returns the rules that count the dropped packets by key. The packets of known keys,
// which are nearly all, meet one of the first three. A packet of a new key is added to a set and
// logged, within the limit. The packets that the limit refuses, and those that find a set full, are
// counted by source.
func (f family) countingRules(rs ruleset.Ruleset) []string {
	hits, replies, others := f.hits().name, f.replies().name, f.others().name
	const from, to, reply = "src", "src,dst", "src,src"
	const drop, log = " -g " + dropChain, " -g " + logChain
	return []string{
		"-A " + chain + " " + syn + " " + lookUp(hits, to) + drop,
		"-A " + chain + " " + notTCP + " " + lookUp(hits, to) + drop,
		"-A " + chain + " " + notSYN + " " + lookUp(replies, reply) + drop,
		"-A " + chain + " -m " + f.limit(rs) + " -g " + newChain,
		"-A " + chain + " " + lookUp(others, from) + drop,
		"-A " + chain + " " + addTo(others, from),
		"-A " + chain + drop,
		"-A " + newChain + " " + syn + " " + addTo(hits, to),
		"-A " + newChain + " " + notTCP + " " + addTo(hits, to),
		"-A " + newChain + " " + notSYN + " " + addTo(replies, reply),
		"-A " + newChain + " " + syn + " " + peek(hits, to) + log,
		"-A " + newChain + " " + notTCP + " " + peek(hits, to) + log,
		"-A " + newChain + " " + notSYN + " " + peek(replies, reply) + log,
		"-A " + newChain + " " + lookUp(others, from) + drop,
		"-A " + newChain + " " + addTo(others, from),
		"-A " + newChain + " " + peek(others, from) + log,
		"-A " + newChain + " " + nflogAlone(rs),
		"-A " + newChain + drop,
		"-A " + logChain + " " + nflog(rs),
		"-A " + logChain + drop,
		"-A " + dropChain + " " + dropTarget,
	}
}

// plainRules returns the rules for a kernel that cannot count by key. They log each packet, within
// the limit.
func (f family) plainRules(rs ruleset.Ruleset) []string {
	return []string{
		"-A " + chain + " -m " + f.limit(rs) + " " + nflog(rs),
		"-A " + chain + " -g " + dropChain,
		"-A " + dropChain + " " + dropTarget,
	}
}

// nflog returns the target that copies the packet to the sensor.
func nflog(rs ruleset.Ruleset) string {
	return fmt.Sprintf("-j NFLOG --nflog-group %d --nflog-size %d", rs.LogGroup, snapLen)
}

// nflogAlone is nflog for a packet that no set counts. The sensor knows it by its prefix.
func nflogAlone(rs ruleset.Ruleset) string {
	return strings.Replace(nflog(rs), "NFLOG", "NFLOG --nflog-prefix "+ruleset.UncountedPrefix, 1)
}

// probeRules returns the rules in the chain of the probe, with the sets of the probe.
func (f family) probeRules(rules []string) []string {
	var probed []string
	for _, r := range rules {
		for _, s := range f.hitSets() {
			r = strings.ReplaceAll(r, " "+s.name+" ", " "+s.probe().name+" ")
		}
		r = strings.ReplaceAll(r, " "+f.blocklist()+" ", " "+f.probeSet()+" ")
		_, r, _ = strings.Cut(r, "-A ")
		_, r, _ = strings.Cut(r, " ")
		if match, _, ok := strings.Cut(r, "-g "); ok {
			r = match + "-j RETURN"
		}
		probed = append(probed, "-A "+probeChain+" "+r)
	}
	return probed
}
