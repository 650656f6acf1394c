package sensor

import (
	"maps"
	"net/netip"
	"slices"
)

const (
	// maxKeys bounds the keys of a Sums, to about 25 MB. A Sums grows to that size only under attack
	// from as many sources.
	maxKeys = 1 << 17
	// crowdedAt is the number of keys from which on a source gets no key of its own for a further
	// port, if it has portsPerSource. A source that probes every port thus leaves room for others.
	crowdedAt, portsPerSource = maxKeys / 2, 256
)

// Sums adds windows by key. Its zero value is empty. It is for one goroutine at a time.
type Sums struct {
	hits   map[Key]Hit
	ports  map[netip.Addr]int // keys by source; nil until there are crowdedAt keys
	counts Window             // of all windows; without hits
}

// Add adds w. If a source has too many ports, the packets to its further ports become one hit of
// the kind Other without a port. The packets of keys without room are in Overflow.
func (s *Sums) Add(w Window) {
	c := &s.counts
	c.Events += w.Events
	c.Lost += w.Lost
	c.Unparsed += w.Unparsed
	c.Overflow += w.Overflow
	c.unsure = c.unsure || w.unsure
	if s.hits == nil && len(w.Hits) > 0 {
		s.hits = make(map[Key]Hit, len(w.Hits))
	}
	for _, h := range w.Hits {
		h.CountedBy, h.Alone = 0, false
		if !s.count(h) {
			c.Overflow += h.Packets
		}
	}
}

// count adds h to its key. It returns false if there is no room for it.
func (s *Sums) count(h Hit) bool {
	if sum, known := s.hits[h.Key]; known {
		s.hits[h.Key] = sum.with(h)
		return true
	}
	if len(s.hits) >= crowdedAt {
		if s.ports == nil {
			s.ports = map[netip.Addr]int{}
			for k := range s.hits {
				s.ports[k.Source]++
			}
		}
		if s.ports[h.Source] >= portsPerSource {
			h.Port, h.Kind = 0, Other
			if sum, known := s.hits[h.Key]; known {
				s.hits[h.Key] = sum.with(h)
				return true
			}
		}
		if len(s.hits) >= maxKeys {
			return false
		}
		s.ports[h.Source]++
	}
	s.hits[h.Key] = h
	return true
}

// Len returns the number of keys.
func (s *Sums) Len() int { return len(s.hits) }

// Overflow returns the packets of keys without room.
func (s *Sums) Overflow() uint64 { return s.counts.Overflow }

// Take returns the sum and empties s.
func (s *Sums) Take() Window {
	w := s.counts
	if len(s.hits) > 0 {
		w.Hits = slices.AppendSeq(make([]Hit, 0, len(s.hits)), maps.Values(s.hits))
		slices.SortFunc(w.Hits, compareHits)
	}
	*s = Sums{}
	return w
}
