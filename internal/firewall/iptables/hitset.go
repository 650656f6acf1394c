package iptables

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// portKind and sourceKind are the types of sets of addresses with a protocol and port, and of
	// addresses.
	portKind, sourceKind = "hash:ip,port", "hash:ip"
	// hitSetSize is the largest number of keys of a set: 50,000 sources that send to one port each
	// fit. A set cannot grow while packets add keys, so it has a bucket for two of them. An empty
	// set takes 256 KiB.
	hitSetSize, hitSetBuckets = 1 << 16, 1 << 15
)

// hitSet is a set whose keys the rules add. ipset counts the dropped packets of each key.
type hitSet struct {
	name   string
	family family
	kind   string
	class  ruleset.HitClass
}

// hitSets returns the sets of a family: keys with destination ports, keys with source ports, and
// sources.
func (f family) hitSets() []hitSet { return []hitSet{f.hits(), f.replies(), f.others()} }

func (f family) hits() hitSet {
	return hitSet{name: "sikkerguard-hits" + f.mark, family: f, kind: portKind, class: ruleset.Knock}
}

func (f family) replies() hitSet {
	return hitSet{name: "sikkerguard-replies" + f.mark, family: f, kind: portKind, class: ruleset.Reply}
}

func (f family) others() hitSet {
	return hitSet{name: "sikkerguard-others" + f.mark, family: f, kind: sourceKind, class: ruleset.Portless}
}

// last returns the set that is swapped with s when s fills up. It then has the last counts.
func (s hitSet) last() hitSet {
	s.name += "-last"
	return s
}

// probe returns the set for the probe of the kernel.
func (s hitSet) probe() hitSet {
	s.name += "-probe"
	return s
}

// create returns the line that makes the set.
func (s hitSet) create() string {
	return fmt.Sprintf("create %s %s family %s hashsize %d maxelem %d counters\n",
		s.name, s.kind, s.family.ipset, hitSetBuckets, hitSetSize)
}

// keyOf returns the key of an element of the set.
func (s hitSet) keyOf(e element) ruleset.HitKey {
	k := ruleset.HitKey{Source: e.source, Protocol: e.protocol, Port: e.port, Class: s.class}
	switch {
	case e.port == 0:
		k.Class = ruleset.Portless
	case e.protocol == unix.IPPROTO_ICMP, e.protocol == unix.IPPROTO_ICMPV6:
		k.Class = ruleset.Reply // the port is the type and the code
	}
	return k
}
