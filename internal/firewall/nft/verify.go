package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// samples is how many elements of a set are looked up, spread evenly, the first and the last among
// them.
const samples = 16

// verify asks the kernel for the element count of each set, some of the elements, and the chains
// and their rules. It changes nothing. The first time after a batch it remembers the counts, of
// which more than one may be plausible; later they must be the same.
func (t *Table) verify() (ruleset.Evidence, error) {
	e := ruleset.Evidence{Entries4: t.entries[0], Entries6: t.entries[1], Counted: true}
	l, err := t.layout()
	if err != nil {
		return e, err
	}
	if l == nil {
		return e, fmt.Errorf("%w: table inet %s is missing", ruleset.ErrMismatch, tableName)
	}
	if err := l.verifyChains(); err != nil {
		return e, err
	}
	if err := t.verifyRules(); err != nil {
		return e, err
	}
	for _, s := range slices.Concat(t.block, t.allow) {
		k, ok := l.sets[s.name]
		switch {
		case !ok:
			return e, fmt.Errorf("%w: set %s is missing", ruleset.ErrMismatch, s.name)
		case !k.like(s):
			return e, fmt.Errorf("%w: set %s is of another kind", ruleset.ErrMismatch, s.name)
		}
		if was, seen := t.counts[s.name]; k.counted && (!s.plausible(int(k.count)) || seen && was != k.count) {
			return e, fmt.Errorf("%w: set %s has %d elements, not %d", ruleset.ErrMismatch, s.name, k.count, s.count)
		}
		e.Counted = e.Counted && k.counted
		if !k.counted {
			t.uncounted.Store(true)
		}
		n, err := t.sample(s)
		if err != nil {
			return e, err
		}
		e.Sampled += n
	}
	for _, s := range t.block {
		e.Elements += s.count
	}
	t.counts = map[string]uint32{}
	for name, k := range l.sets {
		if k.counted {
			t.counts[name] = k.count
		}
	}
	return e, nil
}

// plausible says whether the kernel may count so many elements in the set. In a hash set it counts
// the elements. In an interval set it counts both ends of each interval, and kernels differ in
// whether they tell that number or half of it; an interval that reaches the top of the address
// space has one end.
func (s setPlan) plausible(count int) bool {
	if !s.interval {
		return count == s.count
	}
	ends := 2 * s.count
	for p := range s.elements {
		if !netipx.PrefixLastIP(p).Next().IsValid() {
			ends--
		}
	}
	return count == ends || count == ends/2 || count == (ends+1)/2
}

// sample looks up some elements of a set, in one request.
func (t *Table) sample(s setPlan) (int, error) {
	step := max(1, (s.count-1)/(samples-1))
	var probes []nftables.SetElement
	i := 0
	for p := range s.elements {
		if i%step == 0 || i == s.count-1 {
			probes = append(probes, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
		i++
	}
	found, err := t.asks.FindSetElements(s.set(t.table()), probes)
	if errors.Is(err, unix.ENOENT) {
		return 0, fmt.Errorf("%w: set %s lacks one of %d sampled elements", ruleset.ErrMismatch, s.name, len(probes))
	}
	if err != nil {
		return 0, fmt.Errorf("look up elements of set %s: %w", s.name, err)
	}
	if len(found) != len(probes) {
		return 0, fmt.Errorf("%w: set %s has %d of %d sampled elements", ruleset.ErrMismatch, s.name, len(found), len(probes))
	}
	return len(probes), nil
}

// verifyChains checks that packets come to our rules: the table is awake, the base chain hangs on
// its hook, and there are no chains but ours.
func (l *layout) verifyChains() error {
	if l.flags&nftables.TableFlagDormant != 0 {
		return fmt.Errorf("%w: the table is dormant", ruleset.ErrMismatch)
	}
	if foreign := l.foreign(); len(foreign) > 0 {
		return fmt.Errorf("%w: there is a chain %s", ruleset.ErrMismatch, foreign[0])
	}
	for _, c := range chains(nil) {
		k, ok := l.chains[c.Name]
		switch {
		case !ok:
			return fmt.Errorf("%w: chain %s is missing", ruleset.ErrMismatch, c.Name)
		case !k.like(c):
			return fmt.Errorf("%w: chain %s is not on its hook", ruleset.ErrMismatch, c.Name)
		case c.Policy != nil && k.policy != uint32(*c.Policy):
			return fmt.Errorf("%w: the policy of chain %s is not accept", ruleset.ErrMismatch, c.Name)
		}
	}
	return nil
}

// verifyRules checks that each chain has as many rules as it was given. The first time after a
// batch it remembers them; later they must be the same.
func (t *Table) verifyRules() error {
	have, err := kernelRules()
	if err != nil {
		return err
	}
	want := map[string]int{}
	for _, r := range rules(t.block, t.allow, ruleset.Ruleset{}) {
		want[r.chain]++
	}
	for _, c := range chains(nil) {
		if n := len(have[c.Name]); n != want[c.Name] {
			return fmt.Errorf("%w: chain %s has %d rules, not %d", ruleset.ErrMismatch, c.Name, n, want[c.Name])
		}
		if t.rules != nil && !slices.Equal(have[c.Name], t.rules[c.Name]) {
			return fmt.Errorf("%w: a rule of chain %s was exchanged", ruleset.ErrMismatch, c.Name)
		}
	}
	t.rules = have
	return nil
}
