package sensor

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
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
	Packets     uint64
	First, Last time.Time // when the first and the last event of them came: up to 100 ms after the packet
}

// with returns the hit with the packets of another one of the same key.
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

// sum is how many packets of a key came, and when, in the time since the tally was made.
type sum struct {
	packets     uint64
	first, last time.Duration
}

// hits unpacks a table, at the moment now, which is so long after the tally was made. The wall
// clock of this moment counts: it may have been set since the tally was made.
func hits(table map[key]sum, now time.Time, since time.Duration) []Hit {
	if len(table) == 0 {
		return nil
	}
	hs := make([]Hit, 0, len(table))
	for k, n := range table {
		hs = append(hs, Hit{Key: k.Key(), Packets: n.packets, First: now.Add(n.first - since), Last: now.Add(n.last - since)})
	}
	slices.SortFunc(hs, compareHits)
	return hs
}
