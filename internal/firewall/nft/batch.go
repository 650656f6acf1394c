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

// chunk is the number of elements passed to the library in one call. The library copies them into
// messages at once, so a small reused buffer keeps peak memory at the size of the messages.
const chunk = 1024

var (
	// errBuild means that a transaction could not be built and was not sent.
	errBuild = errors.New("build transaction")
	// errUnsure means that a transaction was sent to the kernel and the answer could not be read.
	errUnsure = errors.New("the kernel's answer was lost")
)

// deleted marks in batch.holds a set that the batch deletes.
const deleted = -1

// batch builds one transaction. Its methods collect their errors, which commit returns.
type batch struct {
	conn    *nftables.Conn
	table   *nftables.Table
	have    map[string]kernelSet // existing sets, whose sizes the kernel cannot change
	counted ruleset.Counters     // initial values of counters that the batch creates
	errs    []error
	sets    map[string]*nftables.Set
	holds   map[string]int // upper bound of each set's elements after the batch, or deleted
}

func newBatch(conn *nftables.Conn, table *nftables.Table, have map[string]kernelSet) *batch {
	return &batch{conn: conn, table: table, have: have, holds: map[string]int{}}
}

func (b *batch) err(err error) {
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

// begin creates the table, its counters and these sets if they are absent. It leaves existing ones
// unchanged, with the counters' values.
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

// set returns s as the library represents it.
func (s setPlan) set(t *nftables.Table) *nftables.Set {
	key := nftables.TypeIPAddr
	if s.family.width == 128 {
		key = nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: t, Name: s.kernel, KeyType: key, Interval: s.interval, Size: s.size()}
}

// rules replaces the rules of the table's chains by rr.
func (b *batch) rules(rr []rule) { b.rulesIn(chains(b.table), rr) }

// rulesIn replaces the rules of the chains cs by rr.
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

// add adds the elements of s to the existing elements of its set.
func (b *batch) add(s setPlan) {
	b.elements(b.sets[s.kernel], s)
	b.holds[s.kernel] = int(b.have[s.kernel].count) + s.count
}

// elements adds the elements of s in ascending order: the kernel fills an interval set more than
// twice as fast in that order.
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
		if len(elems) > chunk-2 { // both ends of an interval go into one call
			flush()
		}
		elems = append(elems, nftables.SetElement{Key: key(p.Addr())})
		// The end of an interval is the first address after it. An interval that reaches the top of
		// the address space has no end.
		if end := netipx.PrefixLastIP(p).Next(); s.interval && end.IsValid() {
			elems = append(elems, nftables.SetElement{Key: key(end), IntervalEnd: true})
		}
	}
	flush()
}

// deleteOthers deletes the table's sets and maps that are not among sets. No rule may refer to them
// any more.
func (b *batch) deleteOthers(sets []setPlan) {
	wanted := map[string]bool{}
	for _, s := range sets {
		wanted[s.kernel] = true
	}
	for _, name := range slices.Sorted(maps.Keys(b.have)) {
		// The kernel deletes an anonymous set with the rule that contains it.
		if !wanted[name] && b.have[name].flags&unix.NFT_SET_ANONYMOUS == 0 {
			b.conn.DelSet(&nftables.Set{Table: b.table, Name: name})
			b.holds[name] = deleted
		}
	}
}

// flushForeign deletes the rules of the foreign chains, so that no foreign rule refers to a set or
// an object any more.
func (b *batch) flushForeign(l *layout) {
	for _, name := range l.deletableChains() {
		b.conn.FlushChain(&nftables.Chain{Table: b.table, Name: name})
	}
}

// deleteForeign deletes the foreign chains, objects and flowtables. Sets and maps must be deleted
// before, because maps may refer to these chains and objects.
func (b *batch) deleteForeign(l *layout) {
	for _, name := range l.deletableChains() {
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
// or nothing. The library's queue is empty afterwards in every case. The error is errUnsure if the
// kernel may have taken the transaction.
func (b *batch) commit() error {
	if len(b.errs) > 0 {
		// The library cannot drop its queue, but it sends nothing after an error. An anonymous set
		// that is not constant is an error.
		b.err(b.conn.AddSet(&nftables.Set{Table: b.table, Anonymous: true}, nil))
		_ = b.conn.Flush() // it returns the first of the errors above
		return fmt.Errorf("%w: %w", errBuild, errors.Join(b.errs[:len(b.errs)-1]...))
	}
	return outcome(b.conn.Flush())
}

// outcome classifies an error of the library's Flush: the kernel refused the transaction, the
// transaction was not built (errBuild), or the kernel may have taken it (errUnsure). A refusal
// carries the sequence number of the message that it answers.
func outcome(err error) error {
	var op *netlink.OpError
	switch isOp := errors.As(err, &op); {
	case err == nil:
		return nil
	case isOp && (op.Sequence != 0 || op.Op == "send-messages"): // refused by the kernel, or not sent
		return err
	case isOp, errors.As(err, new(syscall.Errno)):
		return fmt.Errorf("%w: %w", errUnsure, err)
	default: // the library could not encode a message, and sent none
		return fmt.Errorf("%w: %w", errBuild, err)
	}
}
