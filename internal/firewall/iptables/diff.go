package iptables

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// A set changes by its elements if that is known to lead from the old elements to the new ones. The
// input of one `ipset restore` is not a transaction: while it runs, and if it stops in the middle,
// the set holds the elements that stay and any part of the others. So all additions come before all
// deletions. A source on the old and the new list is then always in the set.

const (
	// alwaysFew is a number of changes that is few for a set of any size. They take some
	// milliseconds. Filling and swapping a set takes tens of milliseconds.
	alwaysFew = 1000
	// tooRoomy is the ratio of the number of elements that a set was made for to its elements, from
	// which on the set is filled again to free its memory.
	tooRoomy = 8
)

// errHalfway means that ipset stopped, and that a part of the changes may have been made.
var errHalfway = errors.New("change the elements of the sets")

// setChange is the elements to add to a set and to delete from it.
type setChange struct {
	spec        setSpec // after the change
	added, gone []netip.Prefix
}

// differences are the changes of the sets that need not be filled, by name. It is nil if all sets
// must be filled, or if the rules change.
type differences map[string]setChange

// only reports whether no set of the plan must be filled.
func (d differences) only(p *plan) bool { return len(d) == len(p.sets()) }

// nothing reports whether the plan is active.
func (d differences) nothing(p *plan) bool { return d.only(p) && d.empty() }

// empty reports whether no element changes.
func (d differences) empty() bool {
	for _, c := range d {
		if len(c.added)+len(c.gone) > 0 {
			return false
		}
	}
	return true
}

// compare returns the changes from the active ruleset to the plan. It is nil if another program
// changed the rules or the sets, if they are not known, and if the rules are to change.
func (f *Firewall) compare(ctx context.Context, p *plan) differences {
	old := f.applied
	if old == nil || f.unsure || !maps.EqualFunc(old.rules, p.rules, slices.Equal) {
		return nil
	}
	if counted, err := f.check(ctx); err != nil || !counted {
		return nil
	}
	d := old.differences(p)
	for _, t := range f.families {
		if t.looksUpWhitelist(p.rules[t.proto]) && !d.only(p) {
			return nil // the order of swaps and changes matters: see fillSets
		}
	}
	return d
}

// differences returns the changes from the plan to the next one. It gives the sets of next that
// are not filled the room of their predecessors.
func (p *plan) differences(next *plan) differences {
	d := differences{}
	for _, lists := range []struct {
		old, next []setSpec
		allow     bool
	}{{p.block, next.block, false}, {p.allow, next.allow, true}} {
		most := 0
		for _, s := range lists.next {
			most += s.few()
		}
		gone, added, ok := lists.old[0].list.Changes(lists.next[0].list, most)
		if !ok {
			continue
		}
		for i, old := range lists.old {
			next := &lists.next[i]
			c := setChange{added: old.family.only(added), gone: old.family.only(gone)}
			lookedUp := !lists.allow || old.family.looksUpWhitelist(p.rules[old.family.proto])
			if !old.fits(*next, c) || lookedUp && next.lacksWidth(c.gone) {
				continue
			}
			next.room = old.room
			c.spec = *next
			d[next.name] = c
		}
	}
	return d
}

// only returns the prefixes of the family.
func (f family) only(ps []netip.Prefix) []netip.Prefix {
	var own []netip.Prefix
	for _, p := range ps {
		if p.Addr().BitLen() == f.width {
			own = append(own, p)
		}
	}
	return own
}

// fits reports whether the set can take the change, and whether that is quicker than to fill it.
func (s setSpec) fits(next setSpec, c setChange) bool {
	whole := func(p netip.Prefix) bool { return p.Bits() == 0 } // it is two elements
	return len(c.added)+len(c.gone) <= next.few() &&
		s.count+len(c.added) <= s.most() &&
		(s.room <= minElements || next.count >= s.room/tooRoomy) &&
		!slices.ContainsFunc(c.added, whole) && !slices.ContainsFunc(c.gone, whole)
}

// few returns the largest number of changes that are quicker than filling the set.
func (s setSpec) few() int { return max(alwaysFew, s.count/2) }

// lacksWidth reports whether the set has no more elements of the width of one of gone. When the
// last one is deleted, the kernel moves up the later widths in its list, and a lookup at that
// moment can miss one of them.
func (s setSpec) lacksWidth(gone []netip.Prefix) bool {
	var lost [129]bool
	for _, p := range gone {
		lost[p.Bits()] = true
	}
	for p := range s.elements() {
		lost[p.Bits()] = false
	}
	return slices.Contains(lost[:], true)
}

// changeScript returns the script that makes the changes. The whitelists change around the
// blocklists: a source on the old and the new whitelist is never blocked.
func (d differences) changeScript() writerTo {
	var allow, block []setChange
	for _, name := range slices.Sorted(maps.Keys(d)) {
		if c := d[name]; name == c.spec.family.whitelist() {
			allow = append(allow, c)
		} else {
			block = append(block, c)
		}
	}
	return func(w *bufio.Writer) {
		write := func(verb string, changes []setChange, elements func(setChange) []netip.Prefix) {
			for _, c := range changes {
				if ps := elements(c); len(ps) > 0 {
					writeLines(w, verb, c.spec.name, slices.Values(ps))
				}
			}
		}
		added := func(c setChange) []netip.Prefix { return c.added }
		gone := func(c setChange) []netip.Prefix { return c.gone }
		for _, c := range slices.Concat(allow, block) {
			if len(c.added)+len(c.gone) > 0 {
				// The set exists. After this line ipset sends many elements in one message, and
				// otherwise each alone. It also accepts an added element that is there, and a
				// deleted one that is not.
				_, _ = w.WriteString(c.spec.create() + " -exist\n")
			}
		}
		write("add", allow, added)
		write("add", block, added)
		write("del", block, gone)
		write("del", allow, gone)
	}
}

// changeElements makes the changes. If it cannot make all of them, the error is errHalfway.
func (f *Firewall) changeElements(ctx context.Context, d differences) error {
	if d.empty() {
		return nil
	}
	if err := f.restore(ctx, fillTime, d.changeScript()); err != nil {
		return fmt.Errorf("%w: %w", errHalfway, err)
	}
	return nil
}

// undo reverts the changes, whatever part of them was made, and asks the kernel whether it enforces
// the ruleset from before.
func (f *Firewall) undo(ctx context.Context, d differences) error {
	back := differences{}
	for name, c := range d {
		back[name] = setChange{spec: c.spec, added: c.gone, gone: c.added}
	}
	f.unsure = true
	if _, _, err := f.run.run(ctx, fillTime, back.changeScript(), f.ipset, "restore", "-exist"); err != nil {
		return fmt.Errorf("%w: undo the change of elements: %w", ruleset.ErrMismatch, err)
	}
	_, err := f.verify(ctx, back)
	f.unsure = err != nil
	return err
}
