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

// plan is a ruleset as sets and rules of iptables.
type plan struct {
	block, allow []setSpec          // one for each enforced family
	rules        map[uint8][]string // by family, as iptables-save prints them
	entries      [2]int             // of the blocklist, by family
}

// translate returns rs as the sets and rules of the enforced families.
func (f *Firewall) translate(rs ruleset.Ruleset) *plan {
	p := &plan{rules: map[uint8][]string{}}
	for i, t := range f.families {
		p.block = append(p.block, newSetSpec(t.blocklist(), t.family, prefixesOf(t.family, rs.Block)))
		p.allow = append(p.allow, newSetSpec(t.whitelist(), t.family, prefixesOf(t.family, rs.Allow)))
		p.rules[t.proto] = rules(t.family, rs)
		p.entries[i] = entries(t.family, rs.Block)
	}
	return p
}

// prefixesOf returns the prefixes of a family.
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

// Apply makes the host enforce rs and asks the kernel whether it does. After an error, the ruleset
// that was active before still is. The exception is ruleset.ErrMismatch: the kernel then enforces
// other rules, or did not answer. Once the sets are filled, Apply finishes even if ctx ends.
func (f *Firewall) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return ruleset.Evidence{}, err
	}
	start := time.Now()
	f.changes++
	p := f.translate(rs)
	if err := f.write(ctx, p); err != nil {
		return ruleset.Evidence{}, fmt.Errorf("apply the list with ipset and iptables: %w", err)
	}
	f.applied = p
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

// write applies the plan in this order:
//
//   - It fills sets that no rule looks up. If the kernel refuses one, nothing has changed.
//   - It makes missing sets, empty, and writes rules that are not right. With the old sets, they
//     enforce the old ruleset.
//   - It swaps the sets.
func (f *Firewall) write(ctx context.Context, p *plan) (err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	var temporary []string
	for _, t := range f.families {
		if err := f.moveAside(ctx, have, t.family, t.whitelist(), t.blocklist()); err != nil {
			return err
		}
		temporary = append(temporary, t.temporarySets()...)
	}
	derr := f.destroy(ctx, spares(temporary...)...) // left by an agent that was killed here
	if have, err = f.listSets(ctx); err != nil {
		return err
	}
	names, err := freeNames(have, temporary)
	if err != nil {
		return errors.Join(err, derr)
	}
	defer func() {
		// If this fails, the next Apply or Remove repeats it. The active sets do not change.
		derr := f.destroy(context.WithoutCancel(ctx), slices.Sorted(maps.Values(names))...)
		if err != nil {
			err = errors.Join(err, derr)
		}
	}()
	steps, err := f.fillSets(ctx, p, names)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	undo, err := f.ensureRules(ctx, p)
	if err == nil {
		err = f.swapAll(ctx, steps)
	}
	if err != nil {
		return errors.Join(err, undo())
	}
	return nil
}

// fillSets fills the temporary sets with these names and returns the pairs to swap, in order. No
// source that is on the old and the new whitelist is blocked in between: if a whitelist loses
// entries, it first holds the union of both.
func (f *Firewall) fillSets(ctx context.Context, p *plan, names map[string]string) (steps [][2]string, err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return nil, err
	}
	var specs []setSpec
	var first, then, last [][2]string
	for i := range f.families {
		block, allow := p.block[i], p.allow[i]
		nextBlock, nextAllow := names[nextName(block.name)], names[nextName(allow.name)]
		specs = append(specs, block.named(nextBlock), allow.named(nextAllow))
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
		union := allow.named(names[unionName(allow.name)])
		union.elements = slices.Concat(allow.elements, lost)
		specs = append(specs, union)
		first, last = append(first, [2]string{allow.name, union.name}), append(last, swap)
	}
	if err := f.restore(ctx, fillTime, script(specs...)); err != nil {
		return nil, fmt.Errorf("fill sets: %w", err)
	}
	return slices.Concat(first, then, last), nil
}

// leaving returns the elements that the kernel's set has and allow has not. A whitelist is small.
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

// ensureRules makes missing sets and writes rules that are not right. undo removes both again in
// the families that had no chain.
func (f *Firewall) ensureRules(ctx context.Context, p *plan) (undo func() error, err error) {
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
		if err != nil && !errors.Is(err, ErrUnprintable) { // the cause may be another program's rule in our chain
			return undo, err
		}
		if !st.chain {
			fresh = append(fresh, t)
		}
		if err := f.createMissing(ctx, t, have, p.block[i], p.allow[i]); err != nil {
			return undo, err
		}
		printed := f.asPrinted(t, p)
		if st.matches(printed) {
			continue
		}
		if err := f.writeRules(ctx, t, p.rules[t.proto], printed); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

// createMissing makes the missing sets, and the mark if the next change makes table raw.
func (f *Firewall) createMissing(ctx context.Context, t tables, have map[string]setInfo, specs ...setSpec) error {
	var text []byte
	loaded, err := t.loaded()
	if err != nil {
		return err
	}
	mark, taken := have[t.markSet()] // taken: by another program, if it is not ours
	if !t.legacy {
		f.madeTable[t.proto] = f.madeTable[t.proto] || mark.isOurs(t.markSet()) || !loaded
	}
	if f.madeTable[t.proto] && !taken {
		text = append(text, newSetSpec(t.markSet(), t.family, nil).create()...)
	}
	for _, spec := range specs {
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

// swapAll swaps the pairs in order. If one cannot be swapped, it swaps the earlier ones back.
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
