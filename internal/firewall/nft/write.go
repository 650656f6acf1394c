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

// write brings the kernel to the wanted sets and rules. If the table cannot be changed into that,
// because another program changed it in a way that is not foreseen here, a new one takes its place,
// whole and in one transaction.
func (t *Table) write(block, allow []setPlan, rs ruleset.Ruleset) error {
	err := t.change(block, allow, rs)
	if err == nil || !inTheWay(err) {
		return err
	}
	l, lerr := t.layout()
	if lerr != nil || l == nil {
		return err
	}
	if rerr := t.replace(l, block, allow, rs); rerr != nil {
		return fmt.Errorf("%w; put a new table in its place: %w", err, rerr)
	}
	return nil
}

// inTheWay reports whether a transaction may have failed because of something in the table. A new
// table does not help against a missing right, too little memory or too small a buffer, nor if the
// transaction was not built or may have been taken.
func inTheWay(err error) bool {
	for _, other := range []error{errBuild, errUnsure, unix.EPERM, unix.EACCES, unix.ENOMEM, unix.ENOBUFS, unix.EMSGSIZE} {
		if errors.Is(err, other) {
			return false
		}
	}
	return errors.As(err, new(syscall.Errno))
}

// passes is how often change goes through the table at most: once, and once more if a set had to have
// another name for a while.
const passes = 2

// change changes the table so that a source which is on the list before and after is dropped all
// the while. A flush and fill of one set is seamless; three things are not, and get transactions of
// their own before:
//
//   - a set that the rules are to look up for the first time is filled before a rule does, because
//     a rule and the elements of a new set do not become visible in the same instant;
//   - what moves to a set that is looked up earlier is added there first, and the rules look into
//     old and new sets both, because a packet on its way through the rules may see one set before
//     the change and another one after it;
//   - a set that has become too small, or that the kernel cannot fill seamlessly, is replaced that
//     way by one under another name, and then by one under its own name.
func (t *Table) change(block, allow []setPlan, rs ruleset.Ruleset) error {
	filled := map[string]bool{} // sets, by their names in the kernel, that this change has filled
	for range passes {
		l, err := t.layout()
		if err != nil {
			return err
		}
		there := l != nil
		if there && l.odd(t.flags) != "" {
			return t.replace(l, block, allow, rs)
		}
		if !there {
			l = &layout{}
		}
		t.bound(l)
		have := l.sets
		moved := make(map[string][]netip.Prefix, len(block))
		for _, s := range block {
			moved[s.name] = movers(t.now, t.live, s)
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
		if t.enforce && there {
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
	return errors.New("the sets of the table do not get their own names")
}

// bound gives each set of which the kernel does not tell how many elements it has a count that is
// at least as many: as many as were put into it, or, in a set that a dead agent filled, as many as
// it takes.
func (t *Table) bound(l *layout) {
	for name, k := range l.sets {
		if k.counted {
			continue
		}
		k.count = k.size
		if n, ok := t.held[name]; ok {
			k.count = uint32(n)
		}
		l.sets[name] = k
	}
}

// freeName is what the set is called in the next batch: its own name, unless a set has it that is
// too small for what is to be in it, or for what is in it and what moves to it, or that must not be
// filled while rules look it up. One that was filled already keeps its name.
func (t *Table) freeName(s setPlan, have map[string]kernelSet, filled map[string]bool, moved int) string {
	for name := s.name; ; name += grown {
		k, ok := have[name]
		switch {
		case !ok:
			return name
		case s.interval && (t.steady || !t.enforce || filled[name]):
			return name
		case !s.interval && int(k.size) >= max(s.count, int(k.count)+moved):
			return name
		}
	}
}

// bridge prepares the live rules for the next batch: new sets are filled, what moves is added, and
// the rules look into the sets of before and of afterwards. Nothing that is dropped before is let
// through. Mostly there is nothing to do. It adds the sets that it filled to filled.
func (t *Table) bridge(have map[string]kernelSet, filled map[string]bool, block, allow []setPlan,
	moved map[string][]netip.Prefix, rs ruleset.Ruleset,
) error {
	live := func(s setPlan) bool {
		return slices.ContainsFunc(t.live, func(l setPlan) bool { return l.kernel == s.kernel })
	}
	var fresh, added []setPlan
	for _, s := range slices.Concat(allow, block) {
		switch extra := moved[s.name]; {
		case !live(s):
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
	for _, l := range t.live {
		if slices.ContainsFunc(slices.Concat(allow, block), func(s setPlan) bool { return s.kernel == l.kernel }) {
			continue
		}
		if l.takes == nil {
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
	t.committed = t.committed || err == nil
	return err
}

// swap sends the one idempotent batch: everything created if it is absent, chains and sets flushed,
// rules, elements, and the sets that no rule looks up any more and all of l that is another
// program's deleted. The sets named in filled hold their elements already.
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
	t.took(all, rs)
	return nil
}

// replace deletes the table and makes a new one in the same transaction. Until the kernel has taken
// that, the old one is in force. The elements of hash sets become visible with the rules, those of
// interval sets some milliseconds later. Until then there is a shield, and the rules spell out the
// whitelist; a second transaction puts the usual ones in their place. The counters keep their
// values.
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
		b.holds[name] = gone
	}
	b.begin(all)
	b.rules(spelled(block, allow, rs))
	b.fill(all)
	if err := t.send(b); err != nil {
		return err
	}
	t.took(all, rs)
	b = newBatch(t.conn, t.table(), nil)
	b.rules(rules(block, allow, rs))
	return t.send(b)
}

// took notes that the kernel has the rules for rs, and that they look up these sets.
func (t *Table) took(sets []setPlan, rs ruleset.Ruleset) {
	t.enforce, t.committed = true, true
	t.live, t.now = sets, rs.Block
}

// send commits a batch, and remembers how many elements its sets have now.
func (t *Table) send(b *batch) error {
	err := b.commit()
	if err != nil && !errors.Is(err, errUnsure) {
		return err
	}
	t.drift.sent++
	for name, n := range b.holds {
		if t.held[name] = n; n == gone || err != nil {
			delete(t.held, name)
		}
	}
	return err
}
