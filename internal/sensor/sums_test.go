package sensor

import (
	"net/netip"
	"testing"
	"time"
)

// packets returns the packets of w, those without room too.
func packets(w Window) uint64 {
	n := w.Overflow
	for _, h := range w.Hits {
		n += h.Packets
	}
	return n
}

// TestSourceOfManyPortsLeavesRoom checks that a source that probes every port does not keep others
// out of the sums, and that each packet is counted.
func TestSourceOfManyPortsLeavesRoom(t *testing.T) {
	t.Parallel()
	noisy, quiet := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	var s Sums
	var sent uint64
	add := func(k Key, n uint64) {
		s.Add(Window{Hits: []Hit{{Key: k, Packets: n}}})
		sent += n
	}
	for i := range 4 * maxKeys {
		add(Key{Source: noisy, Port: uint16(i), Protocol: []Protocol{TCP, UDP, SCTP, DCCP}[i>>16%4], Kind: Attempt}, 1)
	}
	add(Key{Source: quiet, Port: 22, Protocol: TCP, Kind: Attempt}, 3)
	if n := s.Len(); n >= maxKeys {
		t.Errorf("%d keys", n)
	}
	w := s.Take()
	var found uint64
	for _, h := range w.Hits {
		if h.Source == quiet && h.Port == 22 && h.Kind == Attempt {
			found = h.Packets
		}
	}
	if found != 3 || w.Overflow != 0 || packets(w) != sent || !w.Exact() {
		t.Errorf("the quiet source has %d packets, %d of %d are counted, %d without room",
			found, packets(w), sent, w.Overflow)
	}
	if s.Len() != 0 || len(s.Take().Hits) != 0 {
		t.Error("the sums are not empty after Take")
	}
}

// TestSumsAreBounded checks that keys beyond the bound are not kept, and that their packets are
// counted.
func TestSumsAreBounded(t *testing.T) {
	t.Parallel()
	var s Sums
	const sources = maxKeys + 1000
	for range 2 {
		for i := range sources {
			src := netip.AddrFrom4([4]byte{45, byte(i >> 16), byte(i >> 8), byte(i)})
			s.Add(Window{Hits: []Hit{{Key: Key{Source: src, Port: 22, Protocol: TCP}, Packets: 2}}})
		}
	}
	if n := s.Overflow(); n != 4*1000 {
		t.Errorf("%d packets without room, want %d", n, 4*1000)
	}
	w := s.Take()
	if len(w.Hits) != maxKeys || packets(w) != 4*sources || w.Exact() {
		t.Errorf("%d keys, %d packets of %d, exact %v", len(w.Hits), packets(w), 4*sources, w.Exact())
	}
}

// TestBoundsOfSums checks that the bounds of the times of hits hold for their sum, in any order.
func TestBoundsOfSums(t *testing.T) {
	t.Parallel()
	at := func(n int) time.Time { return time.Unix(1_800_000_000+int64(n), 0) }
	counted := func(from, to int) Hit { // packets that came at some time in between
		within := time.Duration(to-from) * time.Second
		return Hit{Packets: 1, First: at(from), Last: at(to), FirstWithin: within, LastWithin: within}
	}
	exact := Hit{Packets: 1, First: at(10), Last: at(10)}
	for name, tt := range map[string]struct {
		hits            []Hit
		first, by, from int
		last            int
	}{
		"an event and later packets": {[]Hit{exact, counted(10, 12)}, 10, 10, 10, 12},
		"packets of two readings":    {[]Hit{counted(1, 3), counted(3, 7)}, 1, 3, 3, 7},
		"a long reading and a short": {[]Hit{counted(1, 9), counted(4, 5)}, 1, 5, 4, 9},
		"packets before an event":    {[]Hit{counted(1, 9), exact}, 1, 9, 10, 10},
	} {
		reversed := []Hit{tt.hits[1], tt.hits[0]}
		for _, hits := range [][]Hit{tt.hits, reversed} {
			var s Sums
			for _, h := range hits {
				s.Add(Window{Hits: []Hit{h}})
			}
			h := s.Take().Hits[0]
			if !h.First.Equal(at(tt.first)) || !h.FirstBy().Equal(at(tt.by)) || !h.LastFrom().Equal(at(tt.from)) ||
				!h.Last.Equal(at(tt.last)) || h.Packets != 2 {
				t.Errorf("%s: first from %d by %d, last from %d by %d", name, h.First.Unix()-at(0).Unix(),
					h.FirstBy().Unix()-at(0).Unix(), h.LastFrom().Unix()-at(0).Unix(), h.Last.Unix()-at(0).Unix())
			}
		}
	}
}
