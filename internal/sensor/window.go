package sensor

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Key is the properties by which packets are summed.
type Key struct {
	Source netip.Addr // always valid; its family is that of the packet
	// port of this host, or for an Answer of the source; 0 if the protocol has none or it could not
	// be read
	Port     uint16
	Protocol Protocol
	Kind     Kind
}

// Kind says which side began, as far as the packet shows it.
type Kind uint8

// The kinds.
const (
	// Attempt begins something: a TCP SYN, an echo request, a datagram.
	Attempt Kind = iota
	// Answer looks like an answer to this host: a TCP SYN with ACK, an echo reply, a packet from
	// the port of a service to the port of a client.
	Answer
	// Other belongs to a connection under way or is a later fragment or an error message. It does
	// not show which side began.
	Other
)

// String returns the kind in one word.
func (k Kind) String() string {
	switch k {
	case Attempt:
		return "attempt"
	case Answer:
		return "answer"
	default:
		return "other"
	}
}

// Hit is the packets of one key. Packets of an event have exact times; those of a reading of the
// kernel's counters came at some time between the reading and the one before.
type Hit struct {
	Key
	// CountedBy is the part of the packet by which rules that count by port distinguish it: the
	// destination port; for TCP without a SYN that begins a connection, the source port; for ICMP
	// and ICMPv6 the type and the code in one number. It is 0 if the part is missing. The hits of
	// Sensor.Take can differ in it and in Alone only. In sums of windows neither has a meaning.
	CountedBy uint16
	// Alone means that the rule which logged the packets has a prefix: no element of a set has
	// counted them; their number is that of the events.
	Alone   bool
	Packets uint64
	// First and Last are the times of the first and the last packet. Those of an event are its
	// arrival, up to 100 ms after the packet.
	First, Last time.Time
	// The first packet may have come up to FirstWithin after First, and the last one up to
	// LastWithin before Last.
	FirstWithin, LastWithin time.Duration
}

// FirstBy returns the time by which the first packet had come for certain.
func (h Hit) FirstBy() time.Time { return h.First.Add(h.FirstWithin) }

// LastFrom returns the time before which the last packet did not come for certain.
func (h Hit) LastFrom() time.Time { return h.Last.Add(-h.LastWithin) }

// with returns h with the packets of o, which has the same key.
func (h Hit) with(o Hit) Hit {
	by, from := h.FirstBy(), h.LastFrom()
	if o.FirstBy().Before(by) {
		by = o.FirstBy()
	}
	if o.LastFrom().After(from) {
		from = o.LastFrom()
	}
	h.Packets += o.Packets
	if o.First.Before(h.First) {
		h.First = o.First
	}
	if o.Last.After(h.Last) {
		h.Last = o.Last
	}
	h.FirstWithin, h.LastWithin = by.Sub(h.First), h.Last.Sub(from)
	return h
}

// Window is the hits and counts between two calls of Take, in packets.
type Window struct {
	Hits     []Hit  // most packets first, then by address, port, protocol, kind and CountedBy
	Events   uint64 // received through NFLOG: those in Hits, Unparsed and Overflow
	Lost     uint64 // numbered by the kernel and never delivered, as far as the gap showed within the window
	Unparsed uint64 // received, but the IP header could not be read
	Overflow uint64 // of packets in no hit, because the window had no room for another key

	unsure bool // an unknown number of events was missed
}

// Exact reports whether every logged packet is in Hits. If not, each count is a lower bound.
func (w Window) Exact() bool {
	return w.Lost == 0 && w.Unparsed == 0 && w.Overflow == 0 && !w.unsure
}

// With returns the sum of both windows, as a Sums adds them.
func (w Window) With(o Window) Window {
	var s Sums
	s.Add(w)
	s.Add(o)
	return s.Take()
}

// Totals are the counts since the Sensor was made, in packets. They continue when it is opened
// again.
type Totals struct {
	Events   uint64 // received through NFLOG, including Unparsed and Overflow
	Lost     uint64 // numbered by the kernel and never delivered
	Unparsed uint64 // received, but the IP header could not be read
	Overflow uint64 // received, but the window had no room for another key
	Overruns uint64 // number of times that the receive buffer was full, not packets
}

// compareHits orders the hits of a Window. No two are equal in all of these, so the order is unique.
func compareHits(a, b Hit) int {
	return cmp.Or(
		cmp.Compare(b.Packets, a.Packets),
		a.Source.Compare(b.Source),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.CountedBy, b.CountedBy),
		compareBools(a.Alone, b.Alone),
	)
}

// compareBools orders false before true.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// sum is the number of packets of a key, and the times of the first and the last since the tally
// was made.
type sum struct {
	packets     uint64
	first, last time.Duration
}

// hits converts a table. now is the current time and since the age of the tally. The times are
// computed from now because the wall clock may have been set since the tally was made.
func hits(table map[key]sum, now time.Time, since time.Duration) []Hit {
	if len(table) == 0 {
		return nil
	}
	hs := make([]Hit, 0, len(table))
	for k, n := range table {
		hs = append(hs, Hit{
			Key: k.Key(), CountedBy: k.countedBy, Alone: k.alone, Packets: n.packets,
			First: now.Add(n.first - since), Last: now.Add(n.last - since),
		})
	}
	slices.SortFunc(hs, compareHits)
	return hs
}
