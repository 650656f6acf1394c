package nft

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"go4.org/netipx"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// members and absences are the most added and deleted elements that are looked up in each set
	// after a difference.
	members, absences = 256, 32
)

// verify asks the kernel for the element count of each set, for some of the elements, and for the
// chains and their rules. It changes nothing. The first call after a transaction accepts any
// plausible count and remembers it; later counts must be equal.
func (t *Table) verify() (e ruleset.Evidence, err error) {
	defer func() { t.active.exact = t.active.exact && !errors.Is(err, ruleset.ErrMismatch) }()
	list := t.applied.ruleset.Block
	e = ruleset.Evidence{Entries4: list.Len4(), Entries6: list.Len6(), Counted: true}
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
	sets := slices.Concat(t.applied.block, t.applied.allow)
	if t.applied.samples == nil {
		t.applied.samples = samplesOf(sets, list)
	}
	for _, s := range sets {
		k, ok := l.sets[s.name]
		probes := t.applied.samples[s.name]
		switch {
		case !ok:
			return e, fmt.Errorf("%w: set %s is missing", ruleset.ErrMismatch, s.name)
		case !k.like(s):
			return e, fmt.Errorf("%w: set %s has another type", ruleset.ErrMismatch, s.name)
		}
		before, known := t.applied.counts[s.name]
		if k.counted && (!s.plausible(int(k.count), probes[len(probes)-1]) || known && before != k.count) {
			return e, fmt.Errorf("%w: set %s has %d elements, not %d", ruleset.ErrMismatch,
				s.name, k.count, s.count)
		}
		e.Counted = e.Counted && k.counted
		if !k.counted {
			t.uncounted.Store(true)
		}
		if err := t.find(s, slices.Values(probes)); err != nil {
			return e, err
		}
		e.Sampled += len(probes)
	}
	if t.counting {
		if err := l.verifyHitSets(); err != nil {
			return e, err
		}
	}
	for _, s := range t.applied.block {
		if s.gate { // it repeats elements of the interval set
			continue
		}
		e.Elements += s.count
	}
	t.applied.counts = map[string]uint32{}
	for name, k := range l.sets {
		if k.counted && !isHitSet(name) {
			t.applied.counts[name] = k.count
		}
	}
	return e, nil
}

// plausible reports whether the kernel may return count for a set with the elements of s, of which
// last is the last. For a hash set the count is the number of elements. For an interval set it is
// the number of interval ends, or half of it, depending on the kernel. An interval that reaches the
// top of the address space has one end.
func (s setPlan) plausible(count int, last netip.Prefix) bool {
	if !s.interval {
		return count == s.count
	}
	ends := 2 * s.count
	if !netipx.PrefixLastIP(last).Next().IsValid() {
		ends--
	}
	return count == ends || count == ends/2 || count == (ends+1)/2
}

// find looks up elements of a set, which must have all of them.
func (t *Table) find(s setPlan, elements iter.Seq[netip.Prefix]) error {
	for p := range elements {
		switch ok, err := t.reads.has(s, p.Addr()); {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("%w: set %s lacks a sampled element", ruleset.ErrMismatch, s.name)
		}
	}
	return nil
}

// verifyAltered looks up elements that the current Apply has added to live sets and deleted from
// them, and adds the added ones to e.
func (t *Table) verifyAltered(e *ruleset.Evidence) error {
	for _, s := range slices.Concat(t.applied.block, t.applied.allow) {
		d := t.active.altered[s.name]
		if err := t.find(s, spread(d.added, members)); err != nil {
			return err
		}
		e.Sampled += min(members, len(d.added))
		for p := range spread(d.gone, absences) {
			if err := t.verifyAbsent(s, p.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// spread yields at most n elements of ps, evenly spread.
func spread(ps []netip.Prefix, n int) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for i := range min(n, len(ps)) {
			if !yield(ps[i*len(ps)/min(n, len(ps))]) {
				return
			}
		}
	}
}

// verifyAbsent checks that a set has no element for the address of a deleted one. An address that
// is still on the list may be in another interval.
func (t *Table) verifyAbsent(s setPlan, a netip.Addr) error {
	list := t.applied.ruleset.Block
	if s.accepts == nil {
		list = t.applied.ruleset.Allow
	}
	if s.interval && list.Contains(a) {
		return nil
	}
	switch ok, err := t.reads.has(s, a); {
	case err != nil:
		return err
	case ok:
		return fmt.Errorf("%w: set %s has a deleted element", ruleset.ErrMismatch, s.name)
	}
	return nil
}

// verifyChains checks that packets reach the rules: the table is not dormant, the base chain is on
// its hook, and the table has no other chains.
func (l *layout) verifyChains() error {
	if l.flags&nftables.TableFlagDormant != 0 {
		return fmt.Errorf("%w: the table is dormant", ruleset.ErrMismatch)
	}
	if foreign := l.foreignChains(); len(foreign) > 0 {
		return fmt.Errorf("%w: the table has a foreign chain %s", ruleset.ErrMismatch, foreign[0])
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

// verifyHitSets checks the types of the hit sets. Their keys change with the packets.
func (l *layout) verifyHitSets() error {
	for _, s := range allHitSets() {
		switch k, ok := l.sets[s.name]; {
		case !ok:
			return fmt.Errorf("%w: set %s is missing", ruleset.ErrMismatch, s.name)
		case !s.like(k):
			return fmt.Errorf("%w: set %s has another type", ruleset.ErrMismatch, s.name)
		}
	}
	return nil
}

// verifyRules checks the number of rules in each chain. The first call after a transaction
// remembers the rules; later they must be equal.
func (t *Table) verifyRules() error {
	have, err := t.reads.kernelRules()
	if err != nil {
		return err
	}
	want := map[string]int{}
	for _, r := range rules(t.applied.block, t.applied.allow, ruleset.Ruleset{}, t.counting) {
		want[r.chain]++
	}
	for _, c := range append(chains(nil), newChains(nil)...) {
		if n := len(have[c.Name]); n != want[c.Name] {
			return fmt.Errorf("%w: chain %s has %d rules, not %d", ruleset.ErrMismatch,
				c.Name, n, want[c.Name])
		}
		if t.applied.rules != nil && !slices.Equal(have[c.Name], t.applied.rules[c.Name]) {
			return fmt.Errorf("%w: a rule of chain %s was changed", ruleset.ErrMismatch, c.Name)
		}
	}
	t.applied.rules = have
	return nil
}
