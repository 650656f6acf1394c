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

// samples is how many elements of a set are looked up, spread evenly, the first and the last among them.
const samples = 16

// verify asks the kernel for the element count of each set, some of the elements, and the chains and their rules. It
// changes nothing.
func (t *Table) verify() (ruleset.Evidence, error) {
	e := ruleset.Evidence{Entries4: t.entries[0], Entries6: t.entries[1], Counted: true}
	have, err := kernelSets()
	if err != nil {
		return e, err
	}
	if err := t.verifyRules(); err != nil {
		return e, err
	}
	for _, s := range slices.Concat(t.block, t.allow) {
		k, ok := have[s.name]
		if !ok {
			return e, fmt.Errorf("%w: set %s is missing", ruleset.ErrMismatch, s.name)
		}
		if k.counted && !s.plausible(int(k.count)) {
			return e, fmt.Errorf("%w: set %s has %d elements, not %d", ruleset.ErrMismatch, s.name, k.count, s.count)
		}
		e.Counted = e.Counted && k.counted
		n, err := t.sample(s)
		if err != nil {
			return e, err
		}
		e.Sampled += n
	}
	for _, s := range t.block {
		e.Elements += s.count
	}
	return e, nil
}

// plausible says whether the kernel may count so many elements in the set. In a hash set it counts the elements. In an
// interval set it counts both ends of each interval, and kernels differ in whether they tell that number or half of it;
// an interval that reaches the top of the address space has one end.
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
	c, err := nftables.New()
	if err != nil {
		return 0, err
	}
	step := max(1, (s.count-1)/(samples-1))
	var probes []nftables.SetElement
	i := 0
	for p := range s.elements {
		if i%step == 0 || i == s.count-1 {
			probes = append(probes, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
		i++
	}
	found, err := c.FindSetElements(s.set(t.table()), probes)
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

// verifyRules checks that the base chain hangs on its hook and that each chain has as many rules as it was given. The first
// time after a batch it remembers them; later they must be the same.
func (t *Table) verifyRules() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	have, err := kernelRules()
	if err != nil {
		return err
	}
	table, err := findTable()
	if err != nil {
		return err
	}
	if table != nil && table.Flags&nftables.TableFlagDormant != 0 {
		return fmt.Errorf("%w: the table is dormant", ruleset.ErrMismatch)
	}
	foreign, err := foreignChains(c)
	if err != nil {
		return err
	}
	if len(foreign) > 0 {
		return fmt.Errorf("%w: there is a chain %s", ruleset.ErrMismatch, foreign[0].Name)
	}
	want := map[string]int{}
	for _, r := range rules(t.block, t.allow, ruleset.Ruleset{}) {
		want[r.chain]++
	}
	for _, chain := range chains(t.table()) {
		got, err := c.ListChain(chain.Table, chain.Name)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w: chain %s is missing", ruleset.ErrMismatch, chain.Name)
		}
		if err != nil {
			return fmt.Errorf("look for chain %s: %w", chain.Name, err)
		}
		if chain.Hooknum != nil && (got.Hooknum == nil || *got.Hooknum != *chain.Hooknum || *got.Priority != *chain.Priority) {
			return fmt.Errorf("%w: chain %s is not on its hook", ruleset.ErrMismatch, chain.Name)
		}
		if chain.Policy != nil && (got.Policy == nil || *got.Policy != *chain.Policy) {
			return fmt.Errorf("%w: the policy of chain %s is not accept", ruleset.ErrMismatch, chain.Name)
		}
		if n := len(have[chain.Name]); n != want[chain.Name] {
			return fmt.Errorf("%w: chain %s has %d rules, not %d", ruleset.ErrMismatch, chain.Name, n, want[chain.Name])
		}
		if t.rules != nil && !slices.Equal(have[chain.Name], t.rules[chain.Name]) {
			return fmt.Errorf("%w: a rule of chain %s was exchanged", ruleset.ErrMismatch, chain.Name)
		}
	}
	t.rules = have
	return nil
}

// foreignChains are chains of the table that somebody else made.
func foreignChains(c *nftables.Conn) ([]*nftables.Chain, error) {
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	own := chains(&nftables.Table{})
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool {
		return c.Table.Name != tableName || slices.ContainsFunc(own, func(o *nftables.Chain) bool { return o.Name == c.Name })
	}), nil
}
