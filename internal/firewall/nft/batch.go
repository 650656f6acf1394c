package nft

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

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
	// conn is the library's connection, which does not reach the kernel: it hands its messages to
	// record. The library has no other way to get them, and cannot encode elements fast enough.
	conn    *nftables.Conn
	socket  *socket
	encoder encoder
	table   *nftables.Table
	have    map[string]kernelSet // existing sets, whose sizes the kernel cannot change
	counted ruleset.Counters     // initial values of counters that the batch creates
	errs    []error
	sets    map[string]*nftables.Set
	holds   map[string]int // upper bound of each set's elements after the batch, or deleted
	hitSets bool           // the batch creates those of the hit sets that are absent
	renews  bool           // the batch replaces the table
}

func newBatch(s *socket, table *nftables.Table, have map[string]kernelSet) *batch {
	s.sequence++
	b := &batch{
		socket: s, encoder: newEncoder(table.Name, s.sequence), table: table, have: have, holds: map[string]int{},
	}
	var err error
	b.conn, err = nftables.New(nftables.AsLasting(), nftables.WithTestDial(b.record))
	b.err(err)
	return b
}

// record takes the messages of a Flush of the library, without those that begin and end it.
func (b *batch) record(messages []netlink.Message) ([]netlink.Message, error) {
	for _, m := range messages[min(1, len(messages)):max(0, len(messages)-1)] {
		b.encoder.message(m)
	}
	return nil, io.EOF // there is no answer
}

// flush encodes the messages that the library has queued.
func (b *batch) flush() { b.err(b.conn.Flush()) }

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
	if sets := hitSetsIn(rr); len(sets) > 0 {
		cs = append(cs, newChains(b.table)...)
		b.addHitSets(sets)
	}
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

// addHitSets creates these sets if they are absent. It leaves existing ones and their keys unchanged.
func (b *batch) addHitSets(sets []hitSet) {
	b.hitSets = true
	for _, s := range sets {
		set := s.set(b.table)
		if k, ok := b.have[set.Name]; ok {
			set.Size = k.size
		}
		b.err(b.conn.AddSet(set, nil))
	}
}

// fill replaces the elements of these sets.
func (b *batch) fill(sets []setPlan) {
	b.flush()
	b.encoder.grow(sets)
	for _, s := range sets {
		if _, ok := b.have[s.kernel]; ok {
			b.encoder.flushSet(s)
		}
		b.encoder.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, s, s.elements)
		b.holds[s.kernel] = s.count
	}
}

// add adds the elements of s to the existing elements of its set.
func (b *batch) add(s setPlan) {
	b.flush()
	b.encoder.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, s, s.elements)
	b.holds[s.kernel] = int(b.have[s.kernel].count) + s.count
}

// alter deletes and adds elements of the set s. The deleted ones make room for the others. The
// kernel refuses the transaction if an element to delete is missing or an element to add exists.
func (b *batch) alter(s setPlan, d delta) {
	b.flush()
	b.encoder.elements(unix.NFT_MSG_DELSETELEM, 0, s, slices.Values(d.gone))
	b.encoder.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create|netlink.Excl, s, slices.Values(d.added))
	b.holds[s.kernel] = int(b.have[s.kernel].count) + len(d.added)
}

// others returns the table's sets and maps that are neither among sets nor hit sets, in the order of
// their names.
func (b *batch) others(sets []setPlan) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(b.have)), func(name string) bool {
		// The kernel deletes an anonymous set with the rule that contains it.
		return isHitSet(name) || b.have[name].flags&unix.NFT_SET_ANONYMOUS != 0 ||
			slices.ContainsFunc(sets, func(s setPlan) bool { return s.kernel == name })
	})
}

// deleteOthers deletes the sets and maps that others returns. No rule may refer to them any more.
func (b *batch) deleteOthers(sets []setPlan) {
	for _, name := range b.others(sets) {
		b.conn.DelSet(&nftables.Set{Table: b.table, Name: name})
		b.holds[name] = deleted
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

// empty reports whether the batch has neither messages nor errors.
func (b *batch) empty() bool {
	b.flush()
	return b.encoder.messages+len(b.errs) == 0
}

// commit sends the transaction, unless a part of it could not be built. The kernel takes all of it
// or nothing. The error is errUnsure if the kernel may have taken it.
func (b *batch) commit() error {
	if b.empty() {
		return nil
	}
	if len(b.errs) > 0 {
		return fmt.Errorf("%w: %w", errBuild, errors.Join(b.errs...))
	}
	return b.socket.transact(b.encoder.transaction(), b.encoder.sequence)
}
