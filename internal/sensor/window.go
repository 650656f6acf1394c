package sensor

import (
	"cmp"
	"net/netip"
	"slices"
)

// Key is what packets are summed by.
type Key struct {
	Source   netip.Addr // always valid; its family is the packet's
	Port     uint16     // of the host, or of the source for an Answer; 0 when the protocol has none, or it could not be read
	Protocol Protocol
	Kind     Kind
}

// Kind is what a packet shows of who began.
type Kind uint8

// The kinds.
const (
	// Attempt begins something: a TCP SYN, an echo request, a datagram.
	Attempt Kind = iota
	// Answer looks like one to what the host asked: a TCP SYN with ACK, an echo reply, what comes from the port of a service
	// to one of a client.
	Answer
	// Other is of a connection under way, a later fragment, an error message: it does not show who began.
	Other
)

// String is the kind in one word.
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

// Hit is what one source sent to one port, or from one.
type Hit struct {
	Key
	Packets uint64
}

// Window is what was seen between two calls of Take, in packets.
type Window struct {
	Hits     []Hit  // most packets first, then by address, port, protocol and kind
	Events   uint64 // came through NFLOG: those in Hits, Unparsed and Overflow
	Lost     uint64 // numbered by the kernel and never delivered, as far as the gap was seen within the window
	Unparsed uint64 // came, but their IP header could not be read
	Overflow uint64 // came, but the window had no room for another key

	unsure bool // something was missed, and how much is not known yet
}

// Exact says whether every packet that was logged is in Hits. When it is not, each count is a lower bound.
func (w Window) Exact() bool {
	return w.Lost == 0 && w.Unparsed == 0 && w.Overflow == 0 && !w.unsure
}

// With is what was seen in both windows. Of hits that neither has in common with the other, at most as many keys are kept
// as one window of the default size holds; the packets of the others are in Overflow.
func (w Window) With(o Window) Window {
	if len(w.Hits) == 0 {
		w.Hits = slices.Clone(o.Hits)
	} else if len(o.Hits) > 0 {
		sums := make(map[Key]uint64, len(w.Hits)+len(o.Hits))
		for _, h := range w.Hits {
			sums[h.Key] = h.Packets
		}
		for _, h := range o.Hits {
			if _, known := sums[h.Key]; !known && len(sums) >= defaultMaxHits {
				w.Overflow += h.Packets
				continue
			}
			sums[h.Key] += h.Packets
		}
		w.Hits = make([]Hit, 0, len(sums))
		for k, n := range sums {
			w.Hits = append(w.Hits, Hit{Key: k, Packets: n})
		}
		slices.SortFunc(w.Hits, compareHits)
	}
	w.Events += o.Events
	w.Lost += o.Lost
	w.Unparsed += o.Unparsed
	w.Overflow += o.Overflow
	w.unsure = w.unsure || o.unsure
	return w
}

// Totals is what was seen since the Sensor was made, in packets; opening it again goes on.
type Totals struct {
	Events   uint64 // came through NFLOG, with those Unparsed and in Overflow
	Lost     uint64 // numbered by the kernel and never delivered
	Unparsed uint64 // came, but their IP header could not be read
	Overflow uint64 // came, but their window had no room for another key
	Overruns uint64 // times, not packets: the receive buffer was full
}

// compareHits orders hits as a Window has them. No two have the same key, so that the order is always the same.
func compareHits(a, b Hit) int {
	return cmp.Or(
		cmp.Compare(b.Packets, a.Packets),
		a.Source.Compare(b.Source),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Kind, b.Kind),
	)
}

// hits unpacks a table.
func hits(table map[key]uint64) []Hit {
	if len(table) == 0 {
		return nil
	}
	hs := make([]Hit, 0, len(table))
	for k, n := range table {
		hs = append(hs, Hit{Key: k.Key(), Packets: n})
	}
	slices.SortFunc(hs, compareHits)
	return hs
}
