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

// write changes the table to the wanted sets and rules. If another program changed the table in a
// way that change does not handle, write replaces it by a new table, in one transaction.
func (t *Table) write(block, allow []setPlan, rs ruleset.Ruleset) error {
	err := t.change(block, allow, rs)
	if err == nil || !tableAtFault(err) {
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
// Flushing and filling a set in one transaction has no gap. Three changes would have one and get
// transactions of their own first:
//
//   - A set that the rules will look up for the first time is filled before a rule does, because a
//     rule and the elements of a new set do not become visible in the same instant.
//   - Elements that move to a set that is looked up earlier are added there first, and the rules
//     look up both old and new sets, because a packet on its way through the rules may see one set
//     before the change and another one after it.
//   - A set that has become too small, or that the kernel cannot fill without a gap, is replaced in
//     the same way by one with another name, and then by one with its regular name.
func (t *Table) change(block, allow []setPlan, rs ruleset.Ruleset) error {
	filled := map[string]bool{} // sets that this change has filled, by their names in the kernel
	for range passes {
		l, err := t.layout()
		if err != nil {
			return err
		}
		exists := l != nil
		if exists && l.incompatible(t.flags) != "" {
			return t.replace(l, block, allow, rs)
		}
		if !exists {
			l = &layout{}
		}
		t.active.boundCounts(l)
		have := l.sets
		moved := make(map[string][]netip.Prefix, len(block))
		for _, s := range block {
			moved[s.name] = movers(t.active.list, t.active.sets, s)
		}
		renamed := false
		name := func(sets []setPlan) []setPlan {
			named := slices.Clone(sets)
			for i, s := range named {
				named[i].kernel = t.freeName(s, have, filled, len(moved[s.name]))
				renamed = renamed || named[i].kernel != s.name
			}
			return named
		}
		nextBlock, nextAllow := name(block), name(allow)
		if t.active.enforced && exists {
			if err := t.bridge(have, filled, nextBlock, nextAllow, moved, rs); err != nil {
				return err
			}
		}
		if err := t.swap(l, nextBlock, nextAllow, filled, rs); err != nil {
			return err
		}
		if !renamed {
			return nil
		}
	}
	return fmt.Errorf("sets of the table still have temporary names after %d passes", passes)
}

// freeName returns the name of s in the next batch: its regular name, unless the set of that name
// cannot be used. It cannot if it is too small for the elements of s, or for its own elements plus
// the moved ones, or if it must not be filled while rules look it up. A set that this change has
// filled keeps its name.
func (t *Table) freeName(s setPlan, have map[string]kernelSet, filled map[string]bool, moved int) string {
	for name := s.name; ; name += grownSuffix {
		k, ok := have[name]
		switch {
		case !ok:
			return name
		case s.interval && (t.steady || !t.active.enforced || filled[name]):
			return name
		case !s.interval && int(k.size) >= max(s.count, int(k.count)+moved):
			return name
		}
	}
}

// bridge prepares the live rules for the next batch: it fills new sets, adds moved elements, and
// makes the rules look up both old and new sets. A source that is dropped before stays dropped.
// Most changes need no bridge. The names of the sets that bridge fills are added to filled.
func (t *Table) bridge(have map[string]kernelSet, filled map[string]bool, block, allow []setPlan,
	moved map[string][]netip.Prefix, rs ruleset.Ruleset,
) error {
	var fresh, added []setPlan
	for _, s := range slices.Concat(allow, block) {
		switch extra := moved[s.name]; {
		case !t.active.looksUp(s):
			fresh = append(fresh, s)
		case len(extra) > 0:
			s.elements, s.count = slices.Values(extra), len(extra)
			added = append(added, s)
		}
	}
	if len(fresh) > 0 {
		b := newBatch(t.conn, t.table(), have)
		b.begin(fresh)
		b.fill(fresh)
		if err := t.send(b); err != nil {
			return err
		}
		for _, s := range fresh {
			filled[s.kernel] = true
		}
	}
	if len(fresh)+len(added) == 0 {
		return nil
	}
	next := slices.Concat(allow, block)
	for _, l := range t.active.sets {
		if slices.ContainsFunc(next, func(s setPlan) bool { return s.kernel == l.kernel }) {
			continue
		}
		if l.accepts == nil {
			allow = append(allow, l)
		} else {
			block = append(block, l)
		}
	}
	b := newBatch(t.conn, t.table(), have)
	b.begin(slices.Concat(allow, block))
	b.rules(rules(block, allow, rs))
	for _, s := range added {
		b.add(s)
	}
	err := t.send(b)
	t.active.changed = t.active.changed || err == nil
	return err
}

// swap sends the one idempotent batch. It creates everything that is absent, flushes chains and
// sets, and adds rules and elements. It deletes the sets that no rule looks up any more and every
// foreign part of l. The sets named in filled already hold their elements.
func (t *Table) swap(l *layout, block, allow []setPlan, filled map[string]bool, rs ruleset.Ruleset) error {
	all := slices.Concat(allow, block)
	b := newBatch(t.conn, t.table(), l.sets)
	b.begin(all)
	b.flushForeign(l)
	b.rules(rules(block, allow, rs))
	b.fill(slices.DeleteFunc(slices.Clone(all), func(s setPlan) bool { return filled[s.kernel] }))
	b.deleteOthers(all)
	b.deleteForeign(l)
	if err := t.send(b); err != nil {
		return err
	}
	t.active.record(all, rs.Block)
	return nil
}

// replace deletes the table and makes a new one in the same transaction. Until the kernel has taken
// it, the old table is active. The elements of hash sets become visible with the rules, those of
// interval sets some milliseconds later. Until then a shield blocks, and the rules contain the
// allowlist element by element; a second transaction puts the regular rules in their place. The
// counters keep their values.
func (t *Table) replace(l *layout, block, allow []setPlan, rs ruleset.Ruleset) error {
	counted, err := t.Counters()
	if err != nil {
		return err
	}
	defer t.shield(block, allow)()
	all := slices.Concat(allow, block)
	b := newBatch(t.conn, t.table(), nil)
	b.counted = counted
	b.conn.DelTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	for name := range l.sets {
		b.holds[name] = deleted
	}
	b.begin(all)
	b.rules(expandedRules(block, allow, rs))
	b.fill(all)
	if err := t.send(b); err != nil {
		return err
	}
	t.active.record(all, rs.Block)
	b = newBatch(t.conn, t.table(), nil)
	b.rules(rules(block, allow, rs))
	return t.send(b)
}

// send commits a batch and records the new element counts of its sets.
func (t *Table) send(b *batch) error {
	err := b.commit()
	if err != nil && !errors.Is(err, errUnsure) {
		return err
	}
	t.drift.sent++
	t.active.hold(b.holds, err == nil)
	return err
}
