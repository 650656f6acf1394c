package blocklist

import (
	"net/netip"
	"slices"
)

// Builder collects prefixes one by one, in any order, for a Blocklist. The zero value is ready.
type Builder struct {
	v4 chunks[entry4]
	v6 chunks[entry6]
}

// Add adds p. Invalid prefixes are left out. Add allocates once in several thousand calls.
func (b *Builder) Add(p netip.Prefix) {
	if p, ok := Canonical(p); ok {
		b.addCanonical(p)
	}
}

func (b *Builder) addCanonical(p netip.Prefix) {
	if p.Addr().Is4() {
		b.v4.add(newEntry4(p))
	} else {
		b.v6.add(newEntry6(p))
	}
}

// Len returns the number of prefixes that were added.
func (b *Builder) Len() int { return b.v4.n + b.v6.n }

// List returns a Blocklist of the prefixes, and empties the Builder.
func (b *Builder) List() Blocklist {
	v4 := b.v4.take()
	slices.Sort(v4)
	v6 := b.v6.take()
	slices.SortFunc(v6, entry6.compare)
	return Blocklist{v4: disjoint(v4), v6: disjoint(v6)}
}

// chunkLen is the length of a chunk, in entries.
const chunkLen = 1 << 13

// chunks is a growing list. Appending to one slice would copy all entries at each growth, and leave
// several times their memory as garbage.
type chunks[E any] struct {
	full [][]E // each of chunkLen entries
	last []E
	n    int
}

func (c *chunks[E]) add(e E) {
	if len(c.last) == chunkLen {
		c.full, c.last = append(c.full, c.last), make([]E, 0, chunkLen)
	}
	c.last = append(c.last, e)
	c.n++
}

// take returns the entries in one slice, and empties c.
func (c *chunks[E]) take() []E {
	all := make([]E, 0, c.n)
	for _, chunk := range append(c.full, c.last) {
		all = append(all, chunk...)
	}
	*c = chunks[E]{}
	return all
}
