package nft

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"go4.org/netipx"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// Admit lets the sources of rs.Allow through the rules that a killed agent left, in addition to the
// sources that those rules already let through. It does nothing if there are no such rules, or once
// a list has been applied.
func (t *Table) Admit(_ context.Context, rs ruleset.Ruleset) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.applied.rules != nil {
		return nil
	}
	fresh, err := admit(t.conn, t.reads, rs.Allow)
	if t.active.enforced {
		t.active.sets = append(t.active.sets, fresh...)
	}
	return err
}

// Admit is Table.Admit for a host whose agent uses another backend.
func Admit(rs ruleset.Ruleset) error {
	reads, err := openReader()
	if err == nil {
		defer func() { _ = reads.Close() }() // nothing was written
		err = admitAlone(reads, rs.Allow)
	}
	if errors.Is(diagnose(err), ErrUnsupported) {
		return nil // without nf_tables there is no table
	}
	return err
}

// admitAlone is admit with a socket of its own.
func admitAlone(reads *reader, allow blocklist.Blocklist) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }() // nothing is lost: the kernel has answered
	_, err = admit(c, reads, allow)
	return err
}

// admit adds allow to the allowlist sets of the table in one transaction, in each family that the
// table has a drop chain for. It returns the sets that it created.
func admit(conn *socket, reads *reader, allow blocklist.Blocklist) (fresh []setPlan, err error) {
	found, err := reads.findTable()
	if err != nil || found == nil {
		return nil, err
	}
	have, err := reads.kernelSets(nftaSetCount)
	if err != nil {
		return nil, err
	}
	existing, err := reads.kernelChains()
	if err != nil {
		return nil, err
	}
	var old blocklist.Blocklist
	for _, s := range planAllow(allow) {
		if k, ok := have[s.name]; ok && k.like(s) {
			ps, err := intervals(found, s)
			if err != nil {
				return nil, err
			}
			old = old.Union(blocklist.New(ps))
		}
	}
	b := newBatch(conn, found, have)
	b.sets = map[string]*nftables.Set{}
	missing := slices.DeleteFunc(planAllow(allow.Without(old)), func(s setPlan) bool {
		_, ok := existing[returnRule(s).chain]
		return !ok // as in a table of another program
	})
	for _, s := range missing {
		b.sets[s.kernel] = s.set(found)
		if _, ok := have[s.name]; !ok {
			b.err(b.conn.AddSet(b.sets[s.kernel], nil))
			r := returnRule(s)
			chain := &nftables.Chain{Name: r.chain, Table: found}
			b.conn.InsertRule(&nftables.Rule{Table: found, Chain: chain, Exprs: r.exprs})
			fresh = append(fresh, s)
		}
		b.add(s)
	}
	if len(missing) == 0 {
		return nil, nil
	}
	if err := b.commit(); err != nil {
		return nil, fmt.Errorf("add to the allowlist of table inet %s: %w", tableName, classify(err))
	}
	return fresh, nil
}

// intervals reads the elements of an interval set from the kernel. Reading a large set takes
// minutes, so it is for allowlists, which are short.
func intervals(table *nftables.Table, s setPlan) ([]netip.Prefix, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	elements, err := c.GetSetElements(s.set(table))
	if err != nil {
		return nil, fmt.Errorf("read set %s: %w", s.name, err)
	}
	slices.SortStableFunc(elements, func(x, y nftables.SetElement) int {
		rank := func(e nftables.SetElement) int {
			if e.IntervalEnd {
				return 0
			}
			return 1
		}
		return cmp.Or(bytes.Compare(x.Key, y.Key), cmp.Compare(rank(x), rank(y)))
	})
	var ps []netip.Prefix
	var from netip.Addr // start of the open interval, invalid if none is open
	end := func(to netip.Addr) {
		if from.IsValid() {
			ps = append(ps, netipx.IPRangeFrom(from, to).Prefixes()...)
		}
		from = netip.Addr{}
	}
	for _, e := range elements {
		a, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok:
			return nil, fmt.Errorf("read set %s: element of %d bytes is no address", s.name, len(e.Key))
		case e.IntervalEnd:
			end(a.Prev())
		default:
			from = a
		}
	}
	if from.IsValid() { // the interval reaches the top of the address space
		end(netipx.PrefixLastIP(netip.PrefixFrom(from, 0)))
	}
	return ps, nil
}
