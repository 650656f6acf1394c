package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// wanted is what a ruleset comes to here.
type plan struct {
	block, allow []setSpec          // one for each family that is enforced
	rules        map[uint8][]string // by family, as iptables-save prints them
	entries      [2]int             // of the list, by family
}

func (f *Firewall) translate(rs ruleset.Ruleset) *plan {
	w := &plan{rules: map[uint8][]string{}}
	for i, t := range f.families {
		block := prefixesOf(t.family, rs.Block)
		w.block = append(w.block, newSetSpec(t.blocklist(), t.family, block))
		w.allow = append(w.allow, newSetSpec(t.whitelist(), t.family, prefixesOf(t.family, rs.Allow)))
		w.rules[t.proto] = rules(t.family, rs)
		w.entries[i] = entries(t.family, rs.Block)
	}
	return w
}

// of are the prefixes of a family.
func prefixesOf(fam family, l blocklist.Blocklist) []netip.Prefix {
	seq := l.V6()
	if fam.width == ipv4().width {
		seq = l.V4()
	}
	return slices.AppendSeq(make([]netip.Prefix, 0, entries(fam, l)), seq)
}

// entries returns the number of entries of a family.
func entries(fam family, l blocklist.Blocklist) int {
	if fam.width == ipv4().width {
		return l.Len4()
	}
	return l.Len6()
}

// Apply makes the host enforce rs, and asks the kernel whether it does. On an error what was enforced before still is, but
// for ruleset.ErrMismatch: then the kernel holds something else than it was told, or could not be asked what. Once the
// sets are filled it is finished even when ctx ends.
func (f *Firewall) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return ruleset.Evidence{}, err
	}
	start := time.Now()
	f.changes++
	w := f.translate(rs)
	if err := f.write(ctx, w); err != nil {
		return ruleset.Evidence{}, fmt.Errorf("put the list into ipset and iptables: %w", err)
	}
	f.applied = w
	f.contents.reset()
	e, err := f.verify(context.WithoutCancel(ctx))
	if err != nil && !errors.Is(err, ruleset.ErrMismatch) {
		err = fmt.Errorf("%w, or could not be asked: %w", ruleset.ErrMismatch, err)
	}
	e.Took = time.Since(start)
	if err == nil {
		f.removeOtherKinds(context.WithoutCancel(ctx))
	}
	return e, err
}

// write brings the host to what is wanted, in this order:
//
//   - everything is filled into sets that no rule looks up: whatever is refused, nothing has changed;
//   - sets that are absent are made, empty, and rules that are not right are put right: over the old sets they enforce what
//     was enforced before;
//   - the sets are swapped.
func (f *Firewall) write(ctx context.Context, w *plan) (err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	var temporary []string
	for _, t := range f.families {
		if err := checkForeign(have, t.family, t.whitelist(), t.blocklist()); err != nil {
			return err
		}
		temporary = append(temporary, t.temporarySets()...)
	}
	derr := f.destroy(ctx, spares(temporary...)...) // what was left by an agent that was killed here
	if have, err = f.listSets(ctx); err != nil {
		return err
	}
	names, err := freeNames(have, temporary)
	if err != nil {
		return errors.Join(err, derr)
	}
	defer func() {
		// Had this failed, the next Apply or Remove would do it; what is enforced is not touched by it.
		derr := f.destroy(context.WithoutCancel(ctx), slices.Sorted(maps.Values(names))...)
		if err != nil {
			err = errors.Join(err, derr)
		}
	}()
	steps, err := f.fillSets(ctx, w, names)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	undo, err := f.ensureRules(ctx, w)
	if err == nil {
		err = f.swapAll(ctx, steps)
	}
	if err != nil {
		return errors.Join(err, undo())
	}
	return nil
}

// fill fills the temporary sets, which have these names, and returns the pairs to swap, in that
// order. Nothing that is whitelisted before and afterwards is blocked in between: a whitelist that
// loses entries first becomes what both hold.
func (f *Firewall) fillSets(ctx context.Context, w *plan, names map[string]string) (steps [][2]string, err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return nil, err
	}
	var fills []setSpec
	var first, then, last [][2]string
	for i := range f.families {
		block, allow := w.block[i], w.allow[i]
		nextBlock, nextAllow := names[nextName(block.name)], names[nextName(allow.name)]
		fills = append(fills, block.named(nextBlock), allow.named(nextAllow))
		then = append(then, [2]string{block.name, nextBlock})
		swap := [2]string{allow.name, nextAllow}
		lost, err := f.leaving(ctx, have, allow)
		if err != nil {
			return nil, err
		}
		if len(lost) == 0 {
			first = append(first, swap)
			continue
		}
		union := setSpec{name: names[unionName(allow.name)], family: allow.family, elements: slices.Concat(allow.elements, lost)}
		fills = append(fills, union)
		first, last = append(first, [2]string{allow.name, union.name}), append(last, swap)
	}
	if err := f.restore(ctx, fillTime, script(fills...)); err != nil {
		return nil, fmt.Errorf("fill sets: %w", err)
	}
	return slices.Concat(first, then, last), nil
}

// losing are the elements that a set has in the kernel and is not to have any more. There are few: it is a whitelist.
func (f *Firewall) leaving(ctx context.Context, have map[string]setInfo, allow setSpec) ([]netip.Prefix, error) {
	if _, ok := have[allow.name]; !ok {
		return nil, nil
	}
	old, err := f.elementsOf(ctx, allow.name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(old, func(p netip.Prefix) bool {
		// An IPv4-mapped element, which only another program adds to an IPv6 set, reads as IPv4.
		return p.Addr().BitLen() != allow.family.width || slices.Contains(allow.elements, p)
	}), nil
}

// putAll makes sets that are absent and puts rules right, where they are not. undo takes both away again, in the families
// that had no chain before.
func (f *Firewall) ensureRules(ctx context.Context, w *plan) (undo func() error, err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return func() error { return nil }, err
	}
	var fresh []tables
	undo = func() error {
		var errs []error
		for _, t := range fresh {
			errs = append(errs, f.undoFamily(ctx, t, have))
		}
		return errors.Join(errs...)
	}
	for i, t := range f.families {
		st, err := f.readState(ctx, t)
		if err != nil && !errors.Is(err, ErrUnprintable) { // somebody's rule in our chain may be all that is in the way
			return undo, err
		}
		if !st.chain {
			fresh = append(fresh, t)
		}
		if err := f.createMissing(ctx, t, have, w.block[i], w.allow[i]); err != nil {
			return undo, err
		}
		printed := f.asPrinted(t, w)
		if st.matches(printed) {
			continue
		}
		if err := f.writeRules(ctx, t, w.rules[t.proto], printed); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

// make makes the sets that are absent, and marks a table raw that is about to be made.
func (f *Firewall) createMissing(ctx context.Context, t tables, have map[string]setInfo, fills ...setSpec) error {
	var text []byte
	loaded, err := t.loaded()
	if err != nil {
		return err
	}
	mark, taken := have[t.markSet()] // by another program, if it is not ours
	if !t.legacy {
		f.madeTable[t.proto] = f.madeTable[t.proto] || mark.isOurs(t.markSet()) || !loaded
	}
	if f.madeTable[t.proto] && !taken {
		text = append(text, newSetSpec(t.markSet(), t.family, nil).create()...)
	}
	for _, spec := range fills {
		if _, ok := have[spec.name]; !ok {
			text = append(text, newSetSpec(spec.name, t.family, nil).create()...)
		}
	}
	if len(text) == 0 {
		return nil
	}
	if err := f.restore(ctx, askTime, text); err != nil {
		return fmt.Errorf("make sets: %w", err)
	}
	return nil
}

// swapAll swaps the pairs in their order, and when one cannot be swapped, those before it back.
func (f *Firewall) swapAll(ctx context.Context, steps [][2]string) error {
	for i, step := range steps {
		err := f.swap(ctx, step[0], step[1])
		if err == nil {
			continue
		}
		err = fmt.Errorf("swap sets: %w", err)
		for _, done := range slices.Backward(steps[:i]) {
			if berr := f.swap(ctx, done[0], done[1]); berr != nil {
				return fmt.Errorf("%w: %w; swap back: %w", ruleset.ErrMismatch, err, berr)
			}
		}
		return err
	}
	return nil
}
