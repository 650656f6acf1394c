package nft

import (
	"errors"
	"slices"

	"github.com/google/nftables"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// shieldName is the name of the table that blocks while replace exchanges the table.
const shieldName = "sikkerguard-shield"

// shield adds a table of its own that blocks the interval sets of block, except sources in allow,
// until end is called. It closes a gap of replace: when one transaction deletes the table and makes
// a new one, the elements of interval sets become visible later than the rules, by 20 ms at 50,000
// networks. The shield's chain comes after the base chain of the table, so packets that the table
// drops are counted and logged there.
//
// If the agent is killed, the kernel deletes the shield with its owner. A kernel without table
// owners would keep it, so there the gap stays. The gap also stays if the kernel refuses the
// shield, for example for lack of memory.
func (t *Table) shield(block, allow []setPlan) (end func()) {
	block = slices.DeleteFunc(slices.Clone(block), func(s setPlan) bool { return !s.interval })
	if len(block) == 0 || t.flags&nftables.TableFlagOwner == 0 {
		return func() {}
	}
	conn, err := dial()
	if err != nil {
		return func() {}
	}
	table := &nftables.Table{Name: shieldName, Family: nftables.TableFamilyINet, Flags: nftables.TableFlagOwner}
	cs := chains(table)
	cs[0].Priority = new(*cs[0].Priority + 1)
	b := newBatch(conn, table, nil)
	b.begin(block)
	b.rulesIn(cs, slices.DeleteFunc(expandedRules(block, allow, ruleset.Ruleset{}, false), rule.logs))
	b.fill(block)
	up := b.commit()
	return func() {
		if up == nil || errors.Is(up, errUnsure) {
			b := newBatch(conn, table, nil)
			b.conn.DelTable(table)
			_ = b.commit() // if this fails, the kernel deletes the table with the socket
		}
		_ = conn.close()
	}
}
