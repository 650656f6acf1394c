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
type wanted struct {
	block, allow []fill             // one for each family that is enforced
	rules        map[uint8][]string // by family, as iptables-save prints them
	entries      [2]int             // of the list, by family
}

func (s *Firewall) want(rs ruleset.Ruleset) *wanted {
	w := &wanted{rules: map[uint8][]string{}}
	for i, t := range s.families {
		block := of(t.family, rs.Block)
		w.block = append(w.block, newFill(t.blocklist(), t.family, block))
		w.allow = append(w.allow, newFill(t.whitelist(), t.family, of(t.family, rs.Allow)))
		w.rules[t.proto] = rules(t.family, rs)
		w.entries[i] = entries(t.family, rs.Block)
	}
	return w
}

// of are the prefixes of a family.
func of(f family, l blocklist.Blocklist) []netip.Prefix {
	seq := l.V6()
	if f.width == ipv4().width {
		seq = l.V4()
	}
	return slices.AppendSeq(make([]netip.Prefix, 0, entries(f, l)), seq)
}

// entries returns the number of entries of a family.
func entries(f family, l blocklist.Blocklist) int {
	if f.width == ipv4().width {
		return l.Len4()
	}
	return l.Len6()
}

// Apply makes the host enforce rs, and asks the kernel whether it does. On an error what was enforced before still is, but
// for ruleset.ErrMismatch: then the kernel holds something else than it was told, or could not be asked what. Once the
// sets are filled it is finished even when ctx ends.
func (s *Firewall) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return ruleset.Evidence{}, err
	}
	start := time.Now()
	s.changes++
	w := s.want(rs)
	if err := s.write(ctx, w); err != nil {
		return ruleset.Evidence{}, fmt.Errorf("put the list into ipset and iptables: %w", err)
	}
	s.applied = w
	s.inside.changed()
	e, err := s.verify(context.WithoutCancel(ctx))
	if err != nil && !errors.Is(err, ruleset.ErrMismatch) {
		err = fmt.Errorf("%w, or could not be asked: %w", ruleset.ErrMismatch, err)
	}
	e.Took = time.Since(start)
	if err == nil {
		s.endOthers(context.WithoutCancel(ctx))
	}
	return e, err
}

// write brings the host to what is wanted, in this order:
//
//   - everything is filled into sets that no rule looks up: whatever is refused, nothing has changed;
//   - sets that are absent are made, empty, and rules that are not right are put right: over the old sets they enforce what
//     was enforced before;
//   - the sets are swapped.
func (s *Firewall) write(ctx context.Context, w *wanted) (err error) {
	have, err := s.sets(ctx)
	if err != nil {
		return err
	}
	var temporary []string
	for _, t := range s.families {
		if err := foreign(have, t.family, t.whitelist(), t.blocklist()); err != nil {
			return err
		}
		temporary = append(temporary, t.temporary()...)
	}
	derr := s.destroy(ctx, spares(temporary...)...) // what was left by an agent that was killed here
	if have, err = s.sets(ctx); err != nil {
		return err
	}
	names, err := free(have, temporary)
	if err != nil {
		return errors.Join(err, derr)
	}
	defer func() {
		// Had this failed, the next Apply or Remove would do it; what is enforced is not touched by it.
		derr := s.destroy(context.WithoutCancel(ctx), slices.Sorted(maps.Values(names))...)
		if err != nil {
			err = errors.Join(err, derr)
		}
	}()
	steps, err := s.fill(ctx, w, names)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	undo, err := s.putAll(ctx, w)
	if err == nil {
		err = s.swapAll(ctx, steps)
	}
	if err != nil {
		return errors.Join(err, undo())
	}
	return nil
}

// fill fills the temporary sets, which have these names, and returns the pairs to swap, in that
// order. Nothing that is whitelisted before and afterwards is blocked in between: a whitelist that
// loses entries first becomes what both hold.
func (s *Firewall) fill(ctx context.Context, w *wanted, names map[string]string) (steps [][2]string, err error) {
	have, err := s.sets(ctx)
	if err != nil {
		return nil, err
	}
	var fills []fill
	var first, then, last [][2]string
	for i := range s.families {
		block, allow := w.block[i], w.allow[i]
		nextBlock, nextAllow := names[next(block.set)], names[next(allow.set)]
		fills = append(fills, block.named(nextBlock), allow.named(nextAllow))
		then = append(then, [2]string{block.set, nextBlock})
		swap := [2]string{allow.set, nextAllow}
		lost, err := s.losing(ctx, have, allow)
		if err != nil {
			return nil, err
		}
		if len(lost) == 0 {
			first = append(first, swap)
			continue
		}
		union := fill{set: names[both(allow.set)], family: allow.family, elements: slices.Concat(allow.elements, lost)}
		fills = append(fills, union)
		first, last = append(first, [2]string{allow.set, union.set}), append(last, swap)
	}
	if err := s.restore(ctx, fillTime, script(fills...)); err != nil {
		return nil, fmt.Errorf("fill sets: %w", err)
	}
	return slices.Concat(first, then, last), nil
}

// losing are the elements that a set has in the kernel and is not to have any more. There are few: it is a whitelist.
func (s *Firewall) losing(ctx context.Context, have map[string]setInfo, allow fill) ([]netip.Prefix, error) {
	if _, ok := have[allow.set]; !ok {
		return nil, nil
	}
	old, err := s.members(ctx, allow.set)
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
func (s *Firewall) putAll(ctx context.Context, w *wanted) (undo func() error, err error) {
	have, err := s.sets(ctx)
	if err != nil {
		return func() error { return nil }, err
	}
	var fresh []tables
	undo = func() error {
		var errs []error
		for _, t := range fresh {
			errs = append(errs, s.forget(ctx, t, have))
		}
		return errors.Join(errs...)
	}
	for i, t := range s.families {
		st, err := s.state(ctx, t)
		if err != nil && !errors.Is(err, ErrUnprintable) { // somebody's rule in our chain may be all that is in the way
			return undo, err
		}
		if !st.chain {
			fresh = append(fresh, t)
		}
		if err := s.make(ctx, t, have, w.block[i], w.allow[i]); err != nil {
			return undo, err
		}
		printed := s.printed(t, w)
		if st.right(printed) {
			continue
		}
		if err := s.put(ctx, t, w.rules[t.proto], printed); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

// make makes the sets that are absent, and marks a table raw that is about to be made.
func (s *Firewall) make(ctx context.Context, t tables, have map[string]setInfo, fills ...fill) error {
	var text []byte
	loaded, err := t.loaded()
	if err != nil {
		return err
	}
	mark, taken := have[t.made()] // by another program, if it is not ours
	if !t.legacy {
		s.made[t.proto] = s.made[t.proto] || mark.own(t.made()) || !loaded
	}
	if s.made[t.proto] && !taken {
		text = append(text, newFill(t.made(), t.family, nil).create()...)
	}
	for _, f := range fills {
		if _, ok := have[f.set]; !ok {
			text = append(text, newFill(f.set, t.family, nil).create()...)
		}
	}
	if len(text) == 0 {
		return nil
	}
	if err := s.restore(ctx, askTime, text); err != nil {
		return fmt.Errorf("make sets: %w", err)
	}
	return nil
}

// swapAll swaps the pairs in their order, and when one cannot be swapped, those before it back.
func (s *Firewall) swapAll(ctx context.Context, steps [][2]string) error {
	for i, step := range steps {
		err := s.swap(ctx, step[0], step[1])
		if err == nil {
			continue
		}
		err = fmt.Errorf("swap sets: %w", err)
		for _, done := range slices.Backward(steps[:i]) {
			if berr := s.swap(ctx, done[0], done[1]); berr != nil {
				return fmt.Errorf("%w: %w; swap back: %w", ruleset.ErrMismatch, err, berr)
			}
		}
		return err
	}
	return nil
}
