package sensor

import (
	"cmp"
	"maps"
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

// Hit is the packets of one key.
type Hit struct {
	Key
	Packets     uint64
	First, Last time.Time // arrival of the first and the last event, up to 100 ms after the packet
}

// with returns h with the packets of o, which has the same key.
func (h Hit) with(o Hit) Hit {
	h.Packets += o.Packets
	if o.First.Before(h.First) {
		h.First = o.First
	}
	if o.Last.After(h.Last) {
		h.Last = o.Last
	}
	return h
}

// Window is the hits and counts between two calls of Take, in packets.
type Window struct {
	Hits     []Hit  // most packets first, then by address, port, protocol and kind
	Events   uint64 // received through NFLOG: those in Hits, Unparsed and Overflow
	Lost     uint64 // numbered by the kernel and never delivered, as far as the gap showed within the window
	Unparsed uint64 // received, but the IP header could not be read
	Overflow uint64 // received, but the window had no room for another key

	unsure bool // an unknown number of events was missed
}

// Exact reports whether every logged packet is in Hits. If not, each count is a lower bound.
func (w Window) Exact() bool {
	return w.Lost == 0 && w.Unparsed == 0 && w.Overflow == 0 && !w.unsure
}

// With returns the sum of both windows. It has at most as many keys as one window of the default
// size, or as w if that has more; the packets of all other keys are in Overflow.
func (w Window) With(o Window) Window {
	if len(w.Hits) == 0 {
		w.Hits = slices.Clone(o.Hits)
	} else if len(o.Hits) > 0 {
		sums := make(map[Key]Hit, len(w.Hits)+len(o.Hits))
		for _, h := range w.Hits {
			sums[h.Key] = h
		}
		for _, h := range o.Hits {
			sum, known := sums[h.Key]
			switch {
			case known:
				sums[h.Key] = sum.with(h)
			case len(sums) >= defaultMaxHits:
				w.Overflow += h.Packets
			default:
				sums[h.Key] = h
			}
		}
		w.Hits = slices.AppendSeq(make([]Hit, 0, len(sums)), maps.Values(sums))
		slices.SortFunc(w.Hits, compareHits)
	}
	w.Events += o.Events
	w.Lost += o.Lost
	w.Unparsed += o.Unparsed
	w.Overflow += o.Overflow
	w.unsure = w.unsure || o.unsure
	return w
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

// compareHits orders the hits of a Window. No two have the same key, so the order is unique.
func compareHits(a, b Hit) int {
	return cmp.Or(
		cmp.Compare(b.Packets, a.Packets),
		a.Source.Compare(b.Source),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Kind, b.Kind),
	)
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
			Key: k.Key(), Packets: n.packets, First: now.Add(n.first - since), Last: now.Add(n.last - since),
		})
	}
	slices.SortFunc(hs, compareHits)
	return hs
}
