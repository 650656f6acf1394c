package ruleset

import "net/netip"

// HitClass is the kind of packets that a HitKey stands for.
type HitClass uint8

// Classes of hits. Port is the destination port of a Knock and the source port of a Reply. That of an
// ICMP message is its type and code, in one number.
const (
	// Knock is a packet to a port of this host or of a host behind it: a TCP segment that opens a
	// connection (SYN without ACK), UDP, UDP-Lite, SCTP or DCCP.
	Knock HitClass = iota + 1
	// Reply is any other TCP segment: an answer to a connection of this host, or a part of a
	// connection that was open before its source was listed. So is any ICMP message.
	Reply
	// Portless is a packet without ports (fragments, other protocols), or a packet of a
	// source that the kernel no longer counts by port because a set is full.
	Portless
)

// UncountedPrefix is the log prefix of packets that are in no HitKey: their events count them.
const UncountedPrefix = "uncounted"

// HitKey identifies packets that the kernel counts together. The packets of a source, protocol and
// port can be in two keys: those of Portless were counted while a set was full.
type HitKey struct {
	Source   netip.Addr
	Protocol uint8  // IP protocol number; 0 if it is not known, in Portless alone
	Port     uint16 // 0 if Class is Portless
	Class    HitClass
}

// HitCount is a number of dropped packets of one key.
type HitCount struct {
	HitKey
	Packets uint64
}

// Hits holds the packets that the kernel counted by key since the previous reading. Each packet is
// in one reading and in one key. The packets of Counters that are in no reading are not attributed.
type Hits struct {
	// Supported means that the kernel counts by key. Otherwise the other fields are empty.
	Supported bool
	Counts    []HitCount // in no order, without zeros; a key may occur twice
	// Full means that a set of keys was full at a time since the previous reading: new sources or
	// ports were then counted with fewer details, or not attributed.
	Full bool
}
