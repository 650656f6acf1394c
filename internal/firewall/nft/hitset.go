package nft

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// hitSetSize is the size of the sets of keys and of sources: 50,000 sources that send to one
	// port each fit. The kernel allocates 16 bytes for each when it makes the set. For each that it
	// holds it allocates some 120 bytes, and 16 bytes for each possible CPU.
	hitSetSize = 1 << 16
	// smallHitSetSize is the size of the sets whose overflow loses less: keys of replies are then
	// counted by source, and the limit for noisy sources ends.
	smallHitSetSize = 1 << 14
)

// hitSet is a set whose keys the kernel adds itself. In all but the noisy sets each key has a
// counter of the dropped packets that had it.
type hitSet struct {
	name   string
	family family
	class  ruleset.HitClass // 0 for the noisy set
	port   bool             // the key has a port
	size   uint32
}

// hitSets holds the sets of one family.
type hitSets struct {
	// hits has source, protocol and destination port; replies has source, protocol and source port,
	// or type and code of ICMP; others has source and protocol. noisy has sources with a limit each.
	hits, replies, others, noisy hitSet
}

func (f family) hitSets() hitSets {
	return hitSets{
		hits:    hitSet{name: "hits" + f.name, family: f, class: ruleset.Knock, port: true, size: hitSetSize},
		replies: hitSet{name: "replies" + f.name, family: f, class: ruleset.Reply, port: true, size: smallHitSetSize},
		others:  hitSet{name: "others" + f.name, family: f, class: ruleset.Portless, size: hitSetSize},
		noisy:   hitSet{name: "noisy" + f.name, family: f, size: smallHitSetSize},
	}
}

// allHitSets returns the sets of both families.
func allHitSets() []hitSet {
	var all []hitSet
	for _, f := range families() {
		s := f.hitSets()
		all = append(all, s.hits, s.replies, s.others, s.noisy)
	}
	return all
}

// isHitSet reports whether a set of this name is one of allHitSets, or the spare set.
func isHitSet(name string) bool {
	return name == spareName || slices.ContainsFunc(allHitSets(), func(s hitSet) bool { return s.name == name })
}

// counts reports whether the keys of the set have counters.
func (s hitSet) counts() bool { return s.class != 0 }

// set returns s as the library represents it.
func (s hitSet) set(t *nftables.Table) *nftables.Set {
	key := nftables.TypeIPAddr
	if s.family.width == 128 {
		key = nftables.TypeIP6Addr
	}
	switch {
	case s.port:
		key = nftables.MustConcatSetType(key, nftables.TypeInetProto, nftables.TypeInetService)
	case s.counts():
		key = nftables.MustConcatSetType(key, nftables.TypeInetProto)
	}
	return &nftables.Set{
		Table: t, Name: s.name, KeyType: key, Dynamic: true, Counter: s.counts(), Size: s.size,
	}
}

// like reports whether the kernel's set is of the type of s. The size may differ.
func (s hitSet) like(k kernelSet) bool {
	want := s.set(nil)
	return k.flags == unix.NFT_SET_EVAL && !k.special && k.exprs == s.counts() && k.size > 0 &&
		k.keyType == want.KeyType.GetNFTMagic() && k.keyLen == want.KeyType.Bytes
}

// keyLen returns the length of a key in the kernel: each field is padded to 32 bits.
func (s hitSet) keyLen() int {
	n := s.family.width/8 + 4
	if s.port {
		n += 4
	}
	return n
}

// decode returns the key that the kernel encodes as raw. ok is false if it is not a key of s.
func (s hitSet) decode(raw []byte) (k ruleset.HitKey, ok bool) {
	if len(raw) != s.keyLen() {
		return ruleset.HitKey{}, false
	}
	n := s.family.width / 8
	source, _ := netip.AddrFromSlice(raw[:n]) // of 4 or 16 bytes
	k = ruleset.HitKey{Source: source, Protocol: raw[n], Class: s.class}
	if s.port {
		k.Port = uint16(raw[n+4])<<8 | uint16(raw[n+5])
	}
	return k, true
}

// encode is the reverse of decode. It appends to buf.
func (s hitSet) encode(buf []byte, k ruleset.HitKey) []byte {
	buf = append(append(buf, k.Source.AsSlice()...), k.Protocol, 0, 0, 0)
	if s.port {
		buf = append(buf, byte(k.Port>>8), byte(k.Port), 0, 0)
	}
	return buf
}
