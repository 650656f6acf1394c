package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// write changes the table to the wanted sets and rules. If the kernel's answer to the last change was
// lost, write makes that change again first: otherwise it would be unknown which sets hold a source
// that is on that list, and the source could get through while they change. If the answer is lost again,
// write returns that error. If the kernel refuses the change, write goes on with sets of other names,
// so that a refused list does not keep back others.
func (t *Table) write(block, allow []setPlan, rs ruleset.Ruleset) error {
	if last := t.active.unsure; last != nil && !sameLists(*last, rs) {
		err := t.writeOne(planBlock(last.Block), planAllow(effective(last.Block, last.Allow)), *last)
		if errors.Is(err, errUnsure) {
			return err // the next write tries again
		}
		t.active.mixed = err != nil
	}
	return t.writeOne(block, allow, rs)
}

// sameLists reports whether both rulesets have the same lists.
func sameLists(a, b ruleset.Ruleset) bool {
	_, _, block := a.Block.Changes(b.Block, 0)
	_, _, allow := a.Allow.Changes(b.Allow, 0)
	return block && allow
}

// writeOne makes one change. If another program changed the table in a way that change does not
// handle, writeOne replaces it by a new table, in one transaction.
func (t *Table) writeOne(block, allow []setPlan, rs ruleset.Ruleset) (err error) {
	defer func() {
		if errors.Is(err, errUnsure) {
			t.active.unsure = &rs
		}
	}()
	exact := t.active.exact
	err = t.change(block, allow, rs)
	if err != nil && exact && tableAtFault(err) {
		exact = false // the elements are not the expected ones, so that sets are filled
		err = t.change(block, allow, rs)
	}
	switch {
	case err == nil:
		return nil
	case !tableAtFault(err):
		// A refusal, as for lack of memory, leaves the elements as they were.
		t.active.exact = exact && !t.active.changed && !errors.Is(err, errUnsure)
		return err
	}
	l, lerr := t.layout()
	if lerr != nil || l == nil {
		return err
	}
	if rerr := t.replace(l, block, allow, rs); rerr != nil {
		return fmt.Errorf("%w; replace the table: %w", err, rerr)
	}
	return nil
}

// tableAtFault reports whether a transaction may have failed because of an object in the table. A
// new table does not help against a missing capability, too little memory or too small a buffer.
// Neither does it help if the transaction was not built or may have been taken.
func tableAtFault(err error) bool {
	for _, other := range []error{
		errBuild, errUnsure, unix.EPERM, unix.EACCES, unix.ENOMEM, unix.ENOBUFS, unix.EMSGSIZE,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return errors.As(err, new(syscall.Errno))
}

// passes is the most rounds that change takes: one, and a second if a set had a temporary name
// after the first.
const passes = 2

// change changes the table so that a source on both the old and the new list is dropped throughout.
// If the kernel's state is exactly known, change sends the differences of the sets, and the rules
// only if they differ. Otherwise it flushes and fills every set, and replaces the rules.
//
// Changing a set in one transaction has no gap. Three changes would have one and get transactions
// of their own first:
//
//   - A set that the rules will look up for the first time is filled before a rule does, because a
//     rule and the elements of a new set do not become visible in the same instant.
//   - Elements that move to another set are added there first, and the rules look up both old and
//     new sets, because a packet on its way through the rules may see one set before the change and
//     another one after it.
//   - A set that has become too small, or that the kernel cannot change without a gap, is replaced
//     in the same way by one with another name, and then by one with its regular name.
func (t *Table) change(block, allow []setPlan, rs ruleset.Ruleset) error {
	filled := map[string]bool{}
	for pass := range passes {
		l, err := t.layout()
		if err != nil {
			return err
		}
		exists := l != nil
		if exists && l.incompatible(t.flags) != "" {
			return t.replace(l, block, allow, rs)
		}
		if !exists {
			l, t.spare = &layout{}, false
		}
		if t.active.unsure != nil {
			rules, err := t.reads.kernelRules()
			if err != nil {
				return err
			}
			t.active.relook(l, rules, slices.Concat(allow, block))
		}
		t.active.exact = t.active.exact && (pass > 0 || t.confirms(l))
		s := t.step(l, block, allow, rs)
		s.filled = filled
		t.active.exact = false
		if t.active.enforced && exists {
			if err := t.bridge(s); err != nil {
				return err
			}
		}
		if err := t.swap(s); err != nil {
			return err
		}
		if !s.renamed {
			return nil
		}
	}
	return fmt.Errorf("sets of the table still have temporary names after %d passes", passes)
}

// step is one round of a change.
type step struct {
	layout       *layout
	ruleset      ruleset.Ruleset
	block, allow []setPlan        // with their names in this round
	renamed      bool             // one of those names is temporary
	exact        bool             // the elements of the live sets are known
	first, rest  map[string]delta // differences of live sets, by name; first: moved elements
	filled       map[string]bool  // sets that this change has filled, by their names in the kernel
}

// step plans the next round of a change from the kernel's state l.
func (t *Table) step(l *layout, block, allow []setPlan, rs ruleset.Ruleset) *step {
	t.active.boundCounts(l)
	s := &step{layout: l, ruleset: rs, first: map[string]delta{}, rest: map[string]delta{}}
	next := slices.Concat(allow, block)
	var ds map[string]delta
	if t.active.exact {
		ds, s.exact = t.active.deltas(next, rs.Block)
	}
	var overlapping []netip.Prefix // entries that the active list may have in other sets
	if !s.exact {
		overlapping = slices.Collect(rs.Block.Overlapping(t.active.list))
	}
	for _, p := range next {
		d := ds[p.name]
		added := slices.Values(d.added)
		if !s.exact && p.accepts != nil {
			added = p.elementsOf(slices.Values(overlapping))
		}
		s.first[p.name], s.rest[p.name] = d.split(movers(t.active.list, t.active.sets, p, added))
	}
	name := func(sets []setPlan) []setPlan {
		named := slices.Clone(sets)
		for i, p := range named {
			named[i].kernel = t.freeName(p, s)
			s.renamed = s.renamed || named[i].kernel != p.name
		}
		return named
	}
	s.block, s.allow = name(block), name(allow)
	return s
}

// confirms reports whether l has the chains of the agent, and the live sets with the counts of the
// last verification.
func (t *Table) confirms(l *layout) bool {
	if t.applied.counts == nil || l.verifyChains() != nil || t.counting && l.verifyHitSets() != nil {
		return false
	}
	return !slices.ContainsFunc(t.active.sets, func(s setPlan) bool {
		k, ok := l.sets[s.kernel]
		n, counted := t.applied.counts[s.kernel]
		return !ok || !k.like(s) || counted && k.count != n
	})
}

// freeName returns the name of p in the next batch: its regular name, unless the set of that name
// cannot be used. It cannot if it is too small for the elements of p, or for its own elements plus
// the moved ones, or if it must not be changed while rules look it up. A set that this change has
// filled keeps its name. While it is unknown which list the live sets hold, none of them is changed.
func (t *Table) freeName(p setPlan, s *step) string {
	moved := len(s.first[p.name].added)
	for name := p.name; ; name += grownSuffix {
		k, ok := s.layout.sets[name]
		steady := t.steady && (s.exact || moved == 0) || s.exact && moved == 0 && s.rest[p.name].empty()
		switch {
		case !ok:
			return name
		case t.active.mixed && t.active.looksUp(setPlan{kernel: name}):
		case p.interval && (steady || !t.active.enforced || s.filled[name]):
			return name
		case !p.interval && int(k.size) >= max(p.count, int(k.count)+moved):
			return name
		}
	}
}

// bridge prepares the live rules for the next batch: it fills new sets, adds moved elements, and
// makes the rules look up both old and new sets. A source that is dropped before stays dropped.
// Most changes need no bridge. The names of the sets that bridge fills are added to s.filled.
func (t *Table) bridge(s *step) error {
	var fresh, moving []setPlan
	for _, p := range slices.Concat(s.allow, s.block) {
		switch {
		case !t.active.looksUp(p):
			fresh = append(fresh, p)
		case !s.first[p.name].empty():
			moving = append(moving, p)
		}
	}
	if len(fresh) > 0 {
		b := newBatch(t.conn, t.table(), s.layout.sets)
		b.begin(fresh)
		b.fill(fresh)
		if err := t.send(b); err != nil {
			return err
		}
		for _, p := range fresh {
			s.filled[p.kernel] = true
		}
	}
	if len(fresh)+len(moving) == 0 {
		return nil
	}
	b := newBatch(t.conn, t.table(), s.layout.sets)
	if !s.exact || len(fresh) > 0 {
		block, allow := t.active.withOld(s.block, s.allow)
		b.begin(slices.Concat(allow, block))
		b.rules(rules(block, allow, s.ruleset, t.counting))
	}
	for _, p := range moving {
		t.alter(b, p, s.first[p.name], s.exact)
	}
	err := t.send(b)
	t.active.changed = t.active.changed || err == nil
	return err
}

// alter adds the difference d of the live set p to b. If the set's elements are not exactly known,
// d only adds elements, which the set may have.
func (t *Table) alter(b *batch, p setPlan, d delta, exact bool) {
	if !exact {
		p.elements, p.count = slices.Values(d.added), len(d.added)
		b.add(p)
		return
	}
	b.alter(p, d)
	t.active.alter(p.name, d)
}

// swap sends the batch that completes the change. It changes or fills the sets that no earlier
// batch has filled. If the sets or rules differ from those in the kernel, or are not exactly known,
// the batch is idempotent: it creates everything that is absent, flushes chains, and adds rules. It
// then deletes the sets that no rule looks up any more, and every foreign part.
func (t *Table) swap(s *step) error {
	all := slices.Concat(s.allow, s.block)
	rr := rules(s.block, s.allow, s.ruleset, t.counting)
	b := newBatch(t.conn, t.table(), s.layout.sets)
	// A change that the kernel refused half-way leaves sets that no rule looks up.
	rebuild := !s.exact || !t.active.looksAlike(all, rr) || len(b.others(all)) > 0
	if rebuild {
		b.begin(all)
		b.flushForeign(s.layout)
		b.rules(rr)
	}
	var fills []setPlan
	for _, p := range all {
		switch d := s.rest[p.name]; {
		case s.filled[p.kernel]:
		case !s.exact || !t.active.looksUp(p):
			fills = append(fills, p)
		case !d.empty():
			t.alter(b, p, d, s.exact)
			b.holds[p.kernel] = p.count
		}
	}
	if len(fills) > 0 {
		b.fill(fills)
	}
	if rebuild {
		b.deleteOthers(all)
		b.deleteForeign(s.layout)
	}
	if err := t.send(b); err != nil {
		return err
	}
	t.active.changed = true
	t.active.rebuilt = t.active.rebuilt || rebuild
	t.active.record(all, s.ruleset.Block, rr)
	return nil
}

// replace deletes the table and makes a new one in the same transaction. Until the kernel has taken
// it, the old table is active. The elements of hash sets become visible with the rules, those of
// interval sets some milliseconds later. Until then a shield blocks, and the rules contain the
// allowlist element by element; a second transaction puts the regular rules in their place. The
// counters keep their values.
func (t *Table) replace(l *layout, block, allow []setPlan, rs ruleset.Ruleset) error {
	defer t.shield(block, allow)()
	t.spare = false
	if err := t.hits.renew(func() error { return t.exchange(l, block, allow, rs) }); err != nil {
		return err
	}
	rr := rules(block, allow, rs, t.counting)
	t.active.record(slices.Concat(allow, block), rs.Block, rr)
	t.active.changed, t.active.rebuilt = true, true
	b := newBatch(t.conn, t.table(), nil)
	b.rules(rr)
	err := t.send(b)
	t.active.exact = err == nil // otherwise the rules contain the allowlist
	return err
}

// exchange is the first transaction of replace.
func (t *Table) exchange(l *layout, block, allow []setPlan, rs ruleset.Ruleset) error {
	counted, err := t.Counters()
	if err != nil {
		return err
	}
	all := slices.Concat(allow, block)
	b := newBatch(t.conn, t.table(), nil)
	b.counted, b.renews = counted, true
	b.conn.DelTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	for name := range l.sets {
		b.holds[name] = deleted
	}
	b.begin(all)
	b.rules(expandedRules(block, allow, rs, t.counting))
	b.fill(all)
	return t.send(b)
}

// send commits a batch and records the new element counts of its sets. An empty batch is no
// transaction.
func (t *Table) send(b *batch) error {
	if b.empty() {
		return nil
	}
	err := t.hits.around(b, b.commit)
	if err != nil && !errors.Is(err, errUnsure) {
		return err
	}
	t.drift.sent++
	t.active.hold(b.holds, err == nil)
	return err
}
