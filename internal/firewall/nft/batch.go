package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// chunk is how many elements are handed to the library at a time. It copies them into messages at
// once, so a small buffer that is used again keeps the peak of memory at the size of the messages.
const chunk = 1024

var (
	// errBuild means that a transaction could not be put together, and was not sent.
	errBuild = errors.New("build transaction")
	// errUnsure means that the kernel was sent a transaction and its answer could not be read.
	errUnsure = errors.New("the kernel's answer was lost")
)

// gone is how many elements a set has that the batch deletes.
const gone = -1

// batch gathers one transaction. Its methods keep their errors, which commit returns.
type batch struct {
	conn    *nftables.Conn
	table   *nftables.Table
	have    map[string]kernelSet // sets that are there already: their sizes cannot be changed
	counted ruleset.Counters     // start values of counters that are not there
	errs    []error
	sets    map[string]*nftables.Set
	holds   map[string]int // at most so many elements each of these sets has afterwards
}

func newBatch(conn *nftables.Conn, table *nftables.Table, have map[string]kernelSet) *batch {
	return &batch{conn: conn, table: table, have: have, holds: map[string]int{}}
}

func (b *batch) err(err error) {
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

// begin creates the table, its counters and these sets, as far as they are absent. If they are
// there, that changes nothing, nor the counters' values.
func (b *batch) begin(sets []setPlan) {
	b.conn.AddTable(b.table)
	for _, c := range []*nftables.CounterObj{
		{Name: dropPrefix + "4", Packets: b.counted.Packets4, Bytes: b.counted.Bytes4},
		{Name: dropPrefix + "6", Packets: b.counted.Packets6, Bytes: b.counted.Bytes6},
	} {
		c.Table = b.table
		b.conn.AddObj(c)
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
func (b *batch) rules(rr []rule) { b.rulesIn(chains(b.table), rr) }

// rulesIn is rules for these chains.
func (b *batch) rulesIn(cs []*nftables.Chain, rr []rule) {
	byName := map[string]*nftables.Chain{}
	for _, c := range cs {
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
		b.holds[s.kernel] = s.count
	}
}

// add adds the elements of s to those that its set has.
func (b *batch) add(s setPlan) {
	b.elements(b.sets[s.kernel], s)
	b.holds[s.kernel] = int(b.have[s.kernel].count) + s.count
}

// elements adds what s holds, in ascending order: an interval set takes them more than twice as
// fast so.
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
		// The end of an interval is the first address behind it. One that reaches the top of the
		// address space has none.
		if end := netipx.PrefixLastIP(p).Next(); s.interval && end.IsValid() {
			elems = append(elems, nftables.SetElement{Key: key(end), IntervalEnd: true})
		}
	}
	flush()
}

// deleteOthers deletes the table's sets and maps that are not among these, once no rule looks them
// up.
func (b *batch) deleteOthers(sets []setPlan) {
	keep := map[string]bool{}
	for _, s := range sets {
		keep[s.kernel] = true
	}
	for _, name := range slices.Sorted(maps.Keys(b.have)) {
		// An anonymous set goes with the rule that it is part of.
		if !keep[name] && b.have[name].flags&unix.NFT_SET_ANONYMOUS == 0 {
			b.conn.DelSet(&nftables.Set{Table: b.table, Name: name})
			b.holds[name] = gone
		}
	}
}

// flushForeign takes the rules out of the chains that are not ours. After that none of theirs
// refers to anything.
func (b *batch) flushForeign(l *layout) {
	for _, name := range l.separate() {
		b.conn.FlushChain(&nftables.Chain{Table: b.table, Name: name})
	}
}

// deleteForeign deletes the chains, objects and flowtables of other programs. Sets and maps go
// before, because maps may refer to the chains and objects that go here.
func (b *batch) deleteForeign(l *layout) {
	for _, name := range l.separate() {
		b.conn.DelChain(&nftables.Chain{Table: b.table, Name: name})
	}
	for _, o := range l.objs {
		b.conn.DeleteObject(&nftables.NamedObj{Table: b.table, Name: o.name, Type: o.kind})
	}
	for _, name := range l.flows {
		b.conn.DelFlowtable(&nftables.Flowtable{Table: b.table, Name: name})
	}
}

// commit sends the transaction, unless a part of it could not be built. The kernel takes all of it
// or nothing. Afterwards nothing is queued, whatever commit returns. The error is errUnsure if the
// kernel may have taken it.
func (b *batch) commit() error {
	if len(b.errs) > 0 {
		// The library cannot drop its queue, but it sends nothing after an error. This set is one.
		b.err(b.conn.AddSet(&nftables.Set{Table: b.table, Anonymous: true}, nil))
		_ = b.conn.Flush() // it returns the first of the errors above
		return fmt.Errorf("%w: %w", errBuild, errors.Join(b.errs[:len(b.errs)-1]...))
	}
	return outcome(b.conn.Flush())
}

// outcome classifies an error of the library's Flush: the kernel refused the transaction, it was
// not built (errBuild), or the kernel may have taken it (errUnsure). An answer of the kernel names
// the message that it is about.
func outcome(err error) error {
	var op *netlink.OpError
	switch isOp := errors.As(err, &op); {
	case err == nil:
		return nil
	case isOp && (op.Sequence != 0 || op.Op == "send-messages"): // the kernel refused it, or it was not sent
		return err
	case isOp, errors.As(err, new(syscall.Errno)):
		return fmt.Errorf("%w: %w", errUnsure, err)
	default: // the library could not encode a message, and sent none
		return fmt.Errorf("%w: %w", errBuild, err)
	}
}
