package ipset

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// wanted is what a ruleset comes to here.
type wanted struct {
	block, allow []fill             // one for each family that is enforced
	rules        map[uint8][]string // by family, as iptables-save prints them
	entries      [2]int             // of the list, by family
}

func (s *Shim) want(rs ruleset.Ruleset) *wanted {
	w := &wanted{rules: map[uint8][]string{}}
	for i, t := range s.families {
		block := of(t.family, rs.Block)
		w.block = append(w.block, newFill(t.blocklist(), t.family, block))
		w.allow = append(w.allow, newFill(t.whitelist(), t.family, of(t.family, rs.Allow)))
		w.rules[t.proto] = rules(t.family, rs)
		w.entries[i] = len(block)
	}
	return w
}

// of are the prefixes of a family.
func of(f family, l blocklist.Blocklist) []netip.Prefix {
	if f.width == ipv4().width {
		return slices.AppendSeq(make([]netip.Prefix, 0, l.Len4()), l.V4())
	}
	return slices.AppendSeq(make([]netip.Prefix, 0, l.Len6()), l.V6())
}

// Apply makes the host enforce rs, and asks the kernel whether it does. On an error what was enforced before still is, but
// for ruleset.ErrMismatch: then the kernel holds something else than it was told, or could not be asked what. Once the
// sets are filled it is finished even when ctx ends.
func (s *Shim) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
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
	e, err := s.verify(context.WithoutCancel(ctx))
	if err != nil && !errors.Is(err, ruleset.ErrMismatch) {
		err = fmt.Errorf("%w, or could not be asked: %w", ruleset.ErrMismatch, err)
	}
	e.Took = time.Since(start)
	return e, err
}

// write brings the host to what is wanted, in this order:
//
//   - everything is filled into sets that no rule looks up: whatever is refused, nothing has changed;
//   - sets that are absent are made, empty, and rules that are not right are put right: over the old sets they enforce what
//     was enforced before;
//   - the sets are swapped.
func (s *Shim) write(ctx context.Context, w *wanted) (err error) {
	have, err := s.sets(ctx)
	if err != nil {
		return err
	}
	var temporary []string
	for _, t := range s.families {
		if err := foreign(have, t.family); err != nil {
			return err
		}
		temporary = append(temporary, t.temporary()...)
	}
	if err := s.destroy(ctx, temporary...); err != nil { // what was left by an agent that was killed here
		return fmt.Errorf("remove old temporary sets: %w", err)
	}
	defer func() {
		// Had this failed, the next Apply or Remove would do it; what is enforced is not touched by it.
		derr := s.destroy(context.WithoutCancel(ctx), temporary...)
		if err != nil {
			err = errors.Join(err, derr)
		}
	}()
	steps, err := s.fill(ctx, w)
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

// fill fills the temporary sets, and returns the pairs to swap, in that order. Nothing that is whitelisted before and
// afterwards is blocked in between: a whitelist that loses entries first becomes what both hold.
func (s *Shim) fill(ctx context.Context, w *wanted) (steps [][2]string, err error) {
	have, err := s.sets(ctx)
	if err != nil {
		return nil, err
	}
	var fills []fill
	var first, then, last [][2]string
	for i := range s.families {
		block, allow := w.block[i], w.allow[i]
		fills = append(fills, block.named(next(block.set)), allow.named(next(allow.set)))
		then = append(then, [2]string{block.set, next(block.set)})
		swap := [2]string{allow.set, next(allow.set)}
		lost, err := s.losing(ctx, have, allow)
		if err != nil {
			return nil, err
		}
		if len(lost) == 0 {
			first = append(first, swap)
			continue
		}
		union := fill{set: both(allow.set), family: allow.family, elements: slices.Concat(allow.elements, lost)}
		fills = append(fills, union)
		first, last = append(first, [2]string{allow.set, union.set}), append(last, swap)
	}
	if err := s.restore(ctx, fillTime, script(fills...)); err != nil {
		return nil, fmt.Errorf("fill sets: %w", err)
	}
	return slices.Concat(first, then, last), nil
}

// losing are the elements that a set has in the kernel and is not to have any more. There are few: it is a whitelist.
func (s *Shim) losing(ctx context.Context, have map[string]setInfo, allow fill) ([]netip.Prefix, error) {
	if _, ok := have[allow.set]; !ok {
		return nil, nil
	}
	old, err := s.members(ctx, allow.set)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(old, func(p netip.Prefix) bool { return slices.Contains(allow.elements, p) }), nil
}

// putAll makes sets that are absent and puts rules right, where they are not. undo takes both away again, in the families
// that had no chain before.
func (s *Shim) putAll(ctx context.Context, w *wanted) (undo func() error, err error) {
	var fresh []tables
	undo = func() error {
		var errs []error
		for _, t := range fresh {
			errs = append(errs, s.forget(ctx, t))
		}
		return errors.Join(errs...)
	}
	have, err := s.sets(ctx)
	if err != nil {
		return undo, err
	}
	for i, t := range s.families {
		st, err := s.state(ctx, t)
		if err != nil {
			return undo, err
		}
		if !st.chain {
			fresh = append(fresh, t)
		}
		if err := s.make(ctx, t, have, w.block[i], w.allow[i]); err != nil {
			return undo, err
		}
		if st.right(s.printed(t, w)) {
			continue // rules that are not touched lose no count
		}
		if err := s.put(ctx, t, st, w.rules[t.proto]); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

// make makes the sets that are absent, and marks a table raw that is about to be made.
func (s *Shim) make(ctx context.Context, t tables, have map[string]setInfo, fills ...fill) error {
	var text []byte
	if loaded, err := t.loaded(); err != nil {
		return err
	} else if _, marked := have[t.made()]; !loaded && !t.legacy && !marked {
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
func (s *Shim) swapAll(ctx context.Context, steps [][2]string) error {
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

// Counters reads what the rules dropped since they were first put in place. Rules that are put right count on.
func (s *Shim) Counters() (ruleset.Counters, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n ruleset.Counters
	for _, t := range s.families {
		st, err := s.state(context.Background(), t)
		if err != nil {
			return n, err
		}
		c := s.count(t, st)
		if t.width == ipv4().width {
			n.Packets4, n.Bytes4 = c.packets, c.bytes
		} else {
			n.Packets6, n.Bytes6 = c.packets, c.bytes
		}
	}
	return n, nil
}

// Disarm takes the jumps to our chain out: nothing is dropped any more, and the counters stand still.
func (s *Shim) Disarm() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = nil // what the watch sees from now on is no loss
	s.changes++
	var errs []error
	for _, t := range s.families {
		errs = append(errs, s.disarm(context.Background(), t))
	}
	return errors.Join(errs...)
}

func (s *Shim) disarm(ctx context.Context, t tables) error {
	st, err := s.state(ctx, t)
	if err != nil || st.jumps == 0 {
		return err
	}
	var lines []string
	for range st.jumps {
		lines = append(lines, "-D PREROUTING -j "+chain)
	}
	if err := s.change(ctx, t, lines...); err != nil {
		return fmt.Errorf("end %s rules: %w", t.name, err)
	}
	return nil
}

// Remove takes the rules and then the sets off the host, if they are there. Nothing else was ever changed.
func (s *Shim) Remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = nil
	s.changes++
	_, err := s.remove(context.Background())
	return err
}

// remove removes what is ours, whichever kind of iptables it was put there with, and says what that was.
func (s *Shim) remove(ctx context.Context) (removed []string, err error) {
	var errs []error
	sets := 0
	for _, f := range []family{ipv4(), ipv6()} {
		chains, n, err := s.removeFamily(ctx, f)
		for range chains {
			removed = append(removed, fmt.Sprintf("%s chain %s", f.name, chain))
		}
		sets += n
		errs = append(errs, err)
	}
	clear(s.counted)
	clear(s.before)
	if sets > 0 {
		removed = append(removed, fmt.Sprintf("%d sets sikkerguard-*", sets))
	}
	return removed, errors.Join(errs...)
}

// removeFamily removes the rules and then the sets of one family, and says how many chains and sets. Where a step fails
// the sets stay that come after it, the mark of a table among them: it is by them that the rest is found again.
func (s *Shim) removeFamily(ctx context.Context, f family) (chains, sets int, err error) {
	all, err := s.found(f)
	if err != nil {
		return 0, 0, err
	}
	var errs []error
	for _, t := range all {
		found, err := s.take(ctx, t)
		if errs = append(errs, err); found && err == nil {
			chains++
		}
	}
	if err := errors.Join(errs...); err != nil {
		return chains, 0, err
	}
	have, err := s.sets(ctx)
	if err != nil {
		return chains, 0, err
	}
	names := slices.DeleteFunc(f.own(), func(n string) bool { return !have[n].own(n) })
	made := have[f.made()].own(f.made())
	if made {
		names = names[:len(names)-1] // it is the last
	}
	if err := s.destroy(ctx, names...); err != nil {
		if len(all) == 0 { // rules that look them up may be there
			err = fmt.Errorf("%w; %s is not in %s, with which the rules are removed: %w", ErrMissing, f.program(), strings.Join(s.run.dirs, ", "), err)
		}
		return chains, 0, err
	}
	if !made {
		return chains, len(names), nil
	}
	for _, t := range all {
		if !t.legacy {
			errs = append(errs, s.dropTable(ctx, t))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return chains, len(names), err
	}
	return chains, len(names) + 1, s.destroy(ctx, f.made())
}

// forget removes the rules and sets of one family.
func (s *Shim) forget(ctx context.Context, t tables) error {
	if _, err := s.take(ctx, t); err != nil {
		return err
	}
	have, err := s.sets(ctx)
	if err != nil {
		return err
	}
	if have[t.made()].own(t.made()) {
		err = s.dropTable(ctx, t)
	}
	return errors.Join(err, s.destroy(ctx, t.own()...))
}

// dropTable deletes table raw of nf_tables, which the agent was the first to need here, unless somebody else uses it by
// now.
func (s *Shim) dropTable(ctx context.Context, t tables) error {
	st, err := s.state(ctx, t)
	if err != nil || st.foreign || st.chain {
		return err
	}
	loaded, err := t.loaded()
	if err != nil || !loaded {
		return err
	}
	err = dropNFTable(t.proto)
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) { // by then somebody used it, or deleted it
		return fmt.Errorf("delete %s table raw: %w", t.name, err)
	}
	return nil
}
