package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// newPrefix is followed by the family's digit: name of the chain for packets whose key is new.
const newPrefix = "new"

// tcpFlags are the flags that distinguish a connection request from other TCP segments: FIN, SYN, RST
// and ACK (RFC 9293, 3.1).
const (
	tcpFlags = 0x17
	tcpSYN   = 0x02
)

// countingRules returns the rules of a family that count dropped packets by key and drop them. The
// packets of known keys, which are nearly all, meet a lookup and two counters in one of the first
// rules. A packet of a new key also passes the limits, is added to a set and logged. Every packet
// runs the named counter once.
func countingRules(f family, rs ruleset.Ruleset) []rule {
	s := f.hitSets()
	drop, added := dropPrefix+f.name, newPrefix+f.name
	var rr []rule
	add := func(chain string, parts ...part) { rr = append(rr, newRule(chain, parts...)) }

	// Nearly every packet ends here, so this rule tests nothing else, which costs a tenth of its time.
	// Packets without ports make no key of their payload: the lookup finds only keys that the other
	// chain has added. A TCP segment that is no connection request counts as one if its source has
	// requested a connection to the same port.
	add(drop, f.key(s.hits), in(s.hits, "th"), counted(f))
	// Requests and replies of ICMP differ in type and code, which have the place of a source port.
	add(drop, f.syn(false), f.key(s.replies), in(s.replies, "tcp"), counted(f))
	add(drop, f.ported(f.icmp()), f.key(s.replies), in(s.replies, "th"), counted(f))
	// A source with many new keys a second takes no part in the limit below. It is counted without
	// ports, so that it neither fills the sets nor hides other sources from the log.
	add(drop, f.key(s.noisy), addNoisy(s.noisy, rs), f.key(s.others), addTo(s.others, ""), counted(f))
	add(drop, limited(rs), jump(added))
	// The limit refused the packet, or the sets are full.
	add(drop, f.key(s.others), addTo(s.others, ""), counted(f))
	// There is no key for the packet: its event counts it, up to the log rate.
	add(drop, limited(rs), loggedAlone(rs), counted(f))
	add(drop, counted(f))

	// The kernel takes the first bytes of a later fragment for ports.
	add(added, f.laterFragment(), part{text: "return", exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
	add(added, f.syn(true), f.key(s.hits), addTo(s.hits, "tcp"), logged(rs), counted(f))
	add(added, f.syn(false), f.key(s.replies), addTo(s.replies, "tcp"), logged(rs), counted(f))
	add(added, f.ported(f.icmp()), f.key(s.replies), addTo(s.replies, "th"), logged(rs), counted(f))
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP} {
		add(added, f.ported(p), f.key(s.hits), addTo(s.hits, protocolName(p)), logged(rs), counted(f))
	}
	add(added, f.key(s.others), in(s.others, ""), counted(f))
	add(added, f.key(s.others), addTo(s.others, ""), logged(rs), counted(f))
	return rr
}

// part is a part of a rule: the text that nft prints for it, and its expressions.
type part struct {
	text  string
	exprs []expr.Any
}

// newRule joins the parts of a rule.
func newRule(chain string, parts ...part) rule {
	r := rule{chain: chain}
	family := false // the family has been matched
	for _, p := range parts {
		if r.text != "" && p.text != "" {
			r.text += " "
		}
		r.text += p.text
		for _, e := range p.exprs {
			// In an inet table nft shows fields of the IP header by name only after a match of the
			// family.
			if m, ok := e.(familyMatch); ok {
				if !family {
					r.exprs = append(r.exprs, m.exprs()...)
				}
				family = true
				continue
			}
			r.exprs = append(r.exprs, e)
		}
	}
	return r
}

// familyMatch stands for the expressions that match the family. newRule puts them into a rule once.
type familyMatch struct {
	expr.Any
	family family
}

func (m familyMatch) exprs() []expr.Any { return m.family.loadSource()[:2] }

// protocol returns the part that matches a transport protocol.
func (f family) protocol(number byte) part {
	return part{
		text:  f.protocolText() + " " + protocolName(number),
		exprs: append(f.loadProtocol(1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}}),
	}
}

// ported returns the part that matches a protocol before a match of its ports. For IPv6 nft prints
// the ports alone, which imply it.
func (f family) ported(number byte) part {
	p := f.protocol(number)
	if f.width == 128 {
		p.text = ""
	}
	return p
}

// protocolText returns the nft expression for the transport protocol. For IPv4 it is a field of the
// header, which is quicker to load. For IPv6 the kernel has skipped the extension headers.
func (f family) protocolText() string {
	if f.width == 32 {
		return "ip protocol"
	}
	return "meta l4proto"
}

// loadProtocol returns the expressions that load the transport protocol into a register.
func (f family) loadProtocol(register uint32) []expr.Any {
	match := familyMatch{family: f}
	if f.width == 32 {
		const offset = 9 // RFC 791, 3.1
		return []expr.Any{match, &expr.Payload{
			DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1,
		}}
	}
	return []expr.Any{match, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}}
}

// icmp returns the number of the family's ICMP.
func (f family) icmp() byte {
	if f.width == 32 {
		return unix.IPPROTO_ICMP
	}
	return unix.IPPROTO_ICMPV6
}

// protocolName returns the name that nft prints for a protocol.
func protocolName(number byte) string {
	return map[byte]string{
		unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_UDPLITE: "udplite", unix.IPPROTO_SCTP: "sctp",
		unix.IPPROTO_DCCP: "dccp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "ipv6-icmp",
	}[number]
}

// syn returns the part that matches TCP segments that are connection requests, or those that are
// not.
func (f family) syn(is bool) part {
	op, not := expr.CmpOpNeq, "!= "
	if is {
		op, not = expr.CmpOpEq, ""
	}
	const offset = 13 // RFC 9293, 3.1
	p := f.ported(unix.IPPROTO_TCP)
	p.text = strings.TrimSpace(p.text + " tcp flags " + not + "syn / fin,syn,rst,ack")
	p.exprs = append(p.exprs,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 1},
		maskSource([]byte{tcpFlags}),
		&expr.Cmp{Op: op, Register: 1, Data: []byte{tcpSYN}})
	return p
}

// laterFragment returns the part that matches fragments that are not the first of their packet.
func (f family) laterFragment() part {
	if f.width == 32 {
		const offset = 6 // RFC 791, 3.1
		return part{text: "ip frag-off & 8191 != 0", exprs: []expr.Any{
			familyMatch{family: f},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2},
			maskSource([]byte{0x1f, 0xff}),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
		}}
	}
	const offset = 2 // RFC 8200, 4.5
	return part{text: "frag frag-off != 0", exprs: []expr.Any{
		&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Offset: offset, Len: 2, Op: expr.ExthdrOpIpv6},
		maskSource([]byte{0xff, 0xf8}),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	}}
}

// key returns the part that loads a key of s into the registers that in and addTo read. If the
// packet is too short for a field of the key, the rule ends.
func (f family) key(s hitSet) part {
	p := part{exprs: append([]expr.Any{familyMatch{family: f}}, f.loadSource()[2:]...)}
	next := uint32(unix.NFT_REG32_00 + f.width/32) // the register after the address
	if s.counts() {
		p.exprs = append(p.exprs, f.loadProtocol(next)...)
	}
	if s.port {
		offset := uint32(2) // the destination port
		if s.class == ruleset.Reply {
			offset = 0
		}
		p.exprs = append(p.exprs, &expr.Payload{
			DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2,
		})
	}
	return p
}

// keyText returns the nft expression for the key. nft names the ports by the protocol that the rule
// has matched, or th.
func (s hitSet) keyText(protocol string) string {
	text := s.family.saddrText()
	if s.counts() {
		text += " . " + s.family.protocolText()
	}
	switch {
	case s.port && s.class == ruleset.Reply:
		text += " . " + protocol + " sport"
	case s.port:
		text += " . " + protocol + " dport"
	}
	return text
}

// in returns the part that looks up the loaded key, and runs the key's counter.
func in(s hitSet, protocol string) part {
	return part{
		text:  s.keyText(protocol) + " @" + s.name,
		exprs: []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.name}},
	}
}

// addTo returns the part that adds the loaded key with a counter, or runs the counter of the key
// that is there. If the set is full, the rule ends. The rule names the counter, because Linux 5.10
// adds keys without the counter that the set requires.
func addTo(s hitSet, protocol string) part {
	return part{
		text: fmt.Sprintf("add @%s { %s }", s.name, s.keyText(protocol)),
		exprs: []expr.Any{&expr.Dynset{
			SrcRegKey: 1, SetName: s.name, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{&expr.Counter{}},
		}},
	}
}

// noisyShare is the part of the log rate that one source may use for new keys: one percent a
// second, and ten percent in a burst.
const noisyShare = 100

// addNoisy returns the part that matches packets of sources with more new keys than noisyShare
// allows.
func addNoisy(s hitSet, rs ruleset.Ruleset) part {
	rate, burst := max(1, rs.LogRate/noisyShare), max(5, rs.LogRate/noisyShare*10)
	return part{
		text: fmt.Sprintf("add @%s { %s limit rate over %d/second burst %d packets }",
			s.name, s.keyText(""), rate, burst),
		exprs: []expr.Any{&expr.Dynset{
			SrcRegKey: 1, SetName: s.name, Operation: unix.NFT_DYNSET_OP_ADD,
			Exprs: []expr.Any{&expr.Limit{
				Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: burst, Over: true,
			}},
		}},
	}
}

// limited returns the part that matches at most the log rate of packets a second.
func limited(rs ruleset.Ruleset) part {
	return part{
		text: fmt.Sprintf("limit rate %d/second burst %d packets", rs.LogRate, rs.LogRate),
		exprs: []expr.Any{&expr.Limit{
			Type: expr.LimitTypePkts, Rate: uint64(rs.LogRate), Unit: expr.LimitTimeSecond, Burst: rs.LogRate,
		}},
	}
}

// logged returns the part that copies the packet to the sensor.
func logged(rs ruleset.Ruleset) part {
	return part{
		text: fmt.Sprintf("log group %d snaplen %d", rs.LogGroup, snapLen),
		exprs: []expr.Any{&expr.Log{
			Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN, Group: rs.LogGroup, Snaplen: snapLen,
		}},
	}
}

// loggedAlone returns the part that copies a packet without a key to the sensor. The prefix tells the
// sensor that the event counts the packet.
func loggedAlone(rs ruleset.Ruleset) part {
	return part{
		text: fmt.Sprintf("log prefix %q group %d snaplen %d", ruleset.UncountedPrefix, rs.LogGroup, snapLen),
		exprs: []expr.Any{&expr.Log{
			Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_PREFIX,
			Group: rs.LogGroup, Snaplen: snapLen, Data: []byte(ruleset.UncountedPrefix),
		}},
	}
}

// counted returns the part that counts and drops. The counter is a named object, so it keeps its
// value at every refresh.
func counted(f family) part {
	return part{
		text: fmt.Sprintf("counter name %q drop", dropPrefix+f.name),
		exprs: []expr.Any{
			&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: dropPrefix + f.name},
			&expr.Verdict{Kind: expr.VerdictDrop},
		},
	}
}

// jump returns the part that continues in another chain, and returns from it.
func jump(chain string) part {
	return part{text: "jump " + chain, exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}
