package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"go4.org/netipx"
)

// chunk is how many elements are handed to the library at a time. It copies them into messages at once, so a small
// buffer that is used again keeps the peak of memory at the size of the messages.
const chunk = 1024

// batch gathers one transaction. Its methods keep the first error, which commit returns.
type batch struct {
	conn  *nftables.Conn
	table *nftables.Table
	have  map[string]kernelSet // sets that are there already: their sizes cannot be changed
	errs  []error
	sets  map[string]*nftables.Set
}

func (b *batch) err(err error) {
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

// begin creates what is absent: the table, its counters and these sets. Creating what is there changes nothing, the
// counters' values included.
func (b *batch) begin(sets []setPlan) {
	b.conn.AddTable(b.table)
	for _, f := range families() {
		b.conn.AddObj(&nftables.CounterObj{Table: b.table, Name: dropPrefix + f.name})
	}
	b.sets = make(map[string]*nftables.Set, len(sets))
	for _, s := range sets {
		set := s.set(b.table)
		if k, ok := b.have[set.Name]; ok {
			set.Size = k.size
		}
		b.err(b.conn.AddSet(set, nil))
		b.sets[s.kernel] = set
	}
}

// set is the set as the library wants it.
func (s setPlan) set(t *nftables.Table) *nftables.Set {
	key := nftables.TypeIPAddr
	if s.family.width == 128 {
		key = nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: t, Name: s.kernel, KeyType: key, Interval: s.interval, Size: s.size()}
}

// rules puts these rules, and no others, into the chains.
func (b *batch) rules(rr []rule) {
	byName := map[string]*nftables.Chain{}
	for _, c := range chains(b.table) {
		b.conn.AddChain(c)
		byName[c.Name] = c
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		b.conn.FlushChain(byName[name])
	}
	for _, r := range rr {
		b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: byName[r.chain], Exprs: r.exprs})
	}
}

// fill replaces the elements of these sets.
func (b *batch) fill(sets []setPlan) {
	for _, s := range sets {
		set := b.sets[s.kernel]
		b.conn.FlushSet(set)
		b.elements(set, s)
	}
}

// elements adds what s holds, in ascending order: an interval set takes them more than twice as fast so.
func (b *batch) elements(set *nftables.Set, s setPlan) {
	elems := make([]nftables.SetElement, 0, chunk)
	keys := make([]byte, 0, chunk*s.family.width/8)
	flush := func() {
		b.err(b.conn.SetAddElements(set, elems))
		elems, keys = elems[:0], keys[:0]
	}
	key := func(a netip.Addr) []byte {
		n := len(keys)
		if s.family.width == 32 {
			raw := a.As4()
			keys = append(keys, raw[:]...)
		} else {
			raw := a.As16()
			keys = append(keys, raw[:]...)
		}
		return keys[n:]
	}
	for p := range s.elements {
		if len(elems) > chunk-2 { // an interval's two ends stay together
			flush()
		}
		elems = append(elems, nftables.SetElement{Key: key(p.Addr())})
		// The end of an interval is the first address behind it. One that reaches the top of the address space has none.
		if end := netipx.PrefixLastIP(p).Next(); s.interval && end.IsValid() {
			elems = append(elems, nftables.SetElement{Key: key(end), IntervalEnd: true})
		}
	}
	flush()
}

// deleteOthers deletes the table's sets that are not among these, once no rule looks them up.
func (b *batch) deleteOthers(sets []setPlan) {
	keep := map[string]bool{}
	for _, s := range sets {
		keep[s.kernel] = true
	}
	for _, name := range slices.Sorted(maps.Keys(b.have)) {
		if !keep[name] {
			b.conn.DelSet(&nftables.Set{Table: b.table, Name: name})
		}
	}
}

// deleteForeign deletes chains that somebody else put into the table.
func (b *batch) deleteForeign() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	foreign, err := foreignChains(c)
	if err != nil {
		return err
	}
	for _, f := range foreign {
		b.conn.FlushChain(f)
	}
	for _, f := range foreign {
		b.conn.DelChain(f)
	}
	return nil
}

// commit sends the transaction. The kernel takes all of it or nothing. After an error nothing is left queued.
func (b *batch) commit() error {
	err := b.conn.Flush()
	if len(b.errs) > 0 { // the library drops these when it flushes
		return fmt.Errorf("build transaction: %w", errors.Join(b.errs...))
	}
	return err
}
