package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// plan is a ruleset as sets and rules of iptables.
type plan struct {
	ruleset      ruleset.Ruleset
	block, allow []setSpec          // one for each enforced family
	rules        map[uint8][]string // by family, as iptables-save prints them
	entries      [2]int             // of the blocklist, by family
}

// translate returns rs as the sets and rules of the enforced families.
func (f *Firewall) translate(rs ruleset.Ruleset) *plan {
	p := &plan{ruleset: rs, rules: map[uint8][]string{}}
	for i, t := range f.families {
		p.block = append(p.block, newSetSpec(t.blocklist(), t.family, rs.Block))
		p.allow = append(p.allow, newSetSpec(t.whitelist(), t.family, rs.Allow))
		p.rules[t.proto] = rules(t.family, rs, f.counting)
		p.entries[i] = t.entries(rs.Block)
	}
	return p
}

// sets returns all sets of the plan.
func (p *plan) sets() []setSpec { return slices.Concat(p.block, p.allow) }

// looksUpWhitelist reports whether rules look up the whitelist.
func (f family) looksUpWhitelist(rules []string) bool {
	return slices.ContainsFunc(rules, func(r string) bool { return strings.Contains(r, " "+f.whitelist()+" ") })
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
	d := f.compare(ctx, p)
	if err := f.replace(ctx, p, d); err != nil {
		f.unsure = f.unsure || errors.Is(err, ruleset.ErrMismatch)
		return ruleset.Evidence{}, fmt.Errorf("apply the list with ipset and iptables: %w", err)
	}
	f.applied, f.unsure = p, false
	if !d.only(p) {
		f.contents.reset()
	}
	ctx = context.WithoutCancel(ctx)
	e, err := f.verify(ctx, d)
	if errors.Is(err, ruleset.ErrMismatch) && !d.empty() {
		// Another program changed elements that were to change. ipset reports no error then.
		if werr := f.write(ctx, p, nil); werr != nil {
			err = errors.Join(err, werr)
		} else {
			e, err = f.verify(ctx, nil)
		}
	}
	if err != nil && !errors.Is(err, ruleset.ErrMismatch) {
		err = fmt.Errorf("%w, or could not be asked: %w", ruleset.ErrMismatch, err)
	}
	e.Took = time.Since(start)
	f.unsure = err != nil
	if err == nil {
		f.removeOtherKinds(ctx)
	}
	return e, err
}

// replace replaces the active ruleset by the plan. If ipset stops in the middle of the changes of
// d, the sets hold a part of them. Whole sets are then filled and swapped in. If that also fails,
// the changes are undone.
func (f *Firewall) replace(ctx context.Context, p *plan, d differences) error {
	if f.destroyTemporary(ctx); d.nothing(p) {
		return nil
	}
	err := f.write(ctx, p, d)
	if !errors.Is(err, errHalfway) {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	f.unsure = true
	ferr := f.write(ctx, p, nil)
	if ferr == nil {
		return nil
	}
	return errors.Join(err, ferr, f.undo(ctx, d))
}

// write applies the plan in this order:
//
//   - It fills sets that no rule looks up, for each set that is not in d. If the kernel refuses
//     one, nothing has changed.
//   - It makes missing sets, empty, and writes rules that are not right. With the old sets, they
//     enforce the old ruleset.
//   - It changes the elements of the sets in d and swaps the others.
func (f *Firewall) write(ctx context.Context, p *plan, d differences) (err error) {
	var steps [][2]string
	if !d.only(p) {
		var names map[string]string
		if names, err = f.prepare(ctx); err != nil {
			return err
		}
		defer func() {
			// If this fails, the next Apply or Remove repeats it. The active sets do not change.
			derr := f.destroy(context.WithoutCancel(ctx), slices.Sorted(maps.Values(names))...)
			if f.leftover = derr != nil; err != nil {
				err = errors.Join(err, derr)
			}
		}()
		if steps, err = f.fillSets(ctx, p, d, names); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	guarded, undo := false, func() error { return nil }
	if d == nil {
		guarded, undo, err = f.ensureRules(ctx, p, true)
	}
	if err == nil {
		err = f.changeElements(ctx, d)
	}
	if err == nil {
		if err = f.swapAll(ctx, steps); err != nil && len(d) > 0 {
			err = errors.Join(err, f.undo(ctx, d))
		}
	}
	if err != nil {
		return errors.Join(err, undo())
	}
	if guarded {
		if _, _, err := f.ensureRules(ctx, p, false); err != nil {
			return fmt.Errorf("%w: remove the whitelist from the rules: %w", ruleset.ErrMismatch, err)
		}
	}
	return nil
}

// prepare destroys temporary sets that are left and returns unused names for new ones. It renames
// sets of other programs that have names of ours.
func (f *Firewall) prepare(ctx context.Context) (names map[string]string, err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range f.families {
		if err := f.moveAside(ctx, have, t.family, t.lookedUpSets()...); err != nil {
			return nil, err
		}
	}
	temporary := f.temporarySets()
	derr := f.destroy(ctx, spares(temporary...)...) // left by an agent that was killed here
	if have, err = f.listSets(ctx); err != nil {
		return nil, err
	}
	if names, err = freeNames(have, temporary); err != nil {
		return nil, errors.Join(err, derr)
	}
	return names, nil
}

// temporarySets returns the names of the temporary sets of the enforced families.
func (f *Firewall) temporarySets() []string {
	var names []string
	for _, t := range f.families {
		names = append(names, t.temporarySets()...)
	}
	return names
}

// destroyTemporary destroys temporary sets if an earlier Apply could not. They do no harm, so a
// failure is no error of the rules that are active.
func (f *Firewall) destroyTemporary(ctx context.Context) {
	if f.leftover {
		f.leftover = f.destroy(ctx, spares(f.temporarySets()...)...) != nil
	}
}

// fillSets fills the temporary sets with these names, for the sets that are not in d, and returns
// the pairs to swap, in order. No source that is on the old and the new whitelist is blocked in
// between: if a whitelist loses entries, it first holds the union of both.
func (f *Firewall) fillSets(
	ctx context.Context, p *plan, d differences, names map[string]string,
) (steps [][2]string, err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return nil, err
	}
	var specs []setSpec
	var first, then, last [][2]string
	for i := range f.families {
		block, allow := p.block[i], p.allow[i]
		if _, ok := d[block.name]; !ok {
			next := names[nextName(block.name)]
			specs, then = append(specs, block.named(next)), append(then, [2]string{block.name, next})
		}
		if _, ok := d[allow.name]; ok {
			continue
		}
		next := names[nextName(allow.name)]
		specs = append(specs, allow.named(next))
		swap := [2]string{allow.name, next}
		lost, err := f.leaving(ctx, have, allow)
		if err != nil {
			return nil, err
		}
		if len(lost) == 0 {
			first = append(first, swap)
			continue
		}
		both := names[unionName(allow.name)]
		specs = append(specs, newSetSpec(both, allow.family, allow.list.Union(blocklist.New(lost))))
		first, last = append(first, [2]string{allow.name, both}), append(last, swap)
	}
	if err := f.restore(ctx, fillTime, fillScript(specs...)); err != nil {
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
	next := slices.Collect(allow.elements())
	return slices.DeleteFunc(old, func(p netip.Prefix) bool {
		// An IPv4-mapped element, which only another program adds to an IPv6 set, reads as IPv4.
		return p.Addr().BitLen() != allow.family.width || slices.Contains(next, p)
	}), nil
}

// ensureRules makes missing sets and writes rules that are not right. With before, the sets are
// those of the old ruleset: rules that look up the whitelist still do, and guarded reports that the
// plan's do not. undo removes both again in the families that had no chain.
func (f *Firewall) ensureRules(ctx context.Context, p *plan, before bool) (guarded bool, undo func() error, err error) {
	have, err := f.listSets(ctx)
	if err != nil {
		return false, func() error { return nil }, err
	}
	if err := f.adoptHits(ctx); err != nil {
		return false, func() error { return nil }, err
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
			return guarded, undo, err
		}
		if !st.chain {
			fresh = append(fresh, t)
		}
		if err := f.createMissing(ctx, t, have, p.block[i], p.allow[i]); err != nil {
			return guarded, undo, err
		}
		want := p.rules[t.proto]
		if before && t.looksUpWhitelist(st.rules) && !t.looksUpWhitelist(want) {
			want, guarded = t.guarded(want), true
		}
		printed := f.asPrinted(t, want)
		if st.matches(printed) {
			continue
		}
		if err := f.writeRules(ctx, t, want, printed); err != nil {
			return guarded, undo, err
		}
	}
	return guarded, undo, nil
}

// createMissing makes the missing sets, and the mark if the next change makes table raw.
func (f *Firewall) createMissing(ctx context.Context, t tables, have map[string]setInfo, specs ...setSpec) error {
	var lines []string
	loaded, err := t.loaded()
	if err != nil {
		return err
	}
	mark, taken := have[t.markSet()] // taken: by another program, if it is not ours
	if !t.legacy {
		f.madeTable[t.proto] = f.madeTable[t.proto] || mark.isOurs(t.markSet()) || !loaded
	}
	if f.madeTable[t.proto] && !taken {
		lines = append(lines, empty(t.markSet(), t.family))
	}
	for _, spec := range specs {
		if _, ok := have[spec.name]; !ok {
			lines = append(lines, empty(spec.name, t.family))
		}
	}
	if f.counting {
		for _, s := range t.hitSets() {
			if _, ok := have[s.name]; !ok {
				lines = append(lines, s.create())
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	if err := f.restore(ctx, askTime, script(strings.Join(lines, ""))); err != nil {
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
