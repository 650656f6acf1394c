package nft

import (
	"errors"
	"slices"

	"github.com/google/nftables"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// shieldName is the table that blocks while a new table takes the place of the old one.
const shieldName = "sikkerguard-shield"

// shield blocks the interval sets of block, but not allow, in a table of its own until end is called. It closes a
// gap of replace: when a transaction deletes the table and makes a new one, the elements of interval
// sets become visible later than the rules, by 20 ms at 50,000 networks. Its chain comes after ours,
// so that ours counts and logs.
//
// The kernel deletes the shield if the agent is killed. A kernel without table owners would not:
// there the gap stays. It also stays if the kernel refuses the shield, as for lack of memory.
func (t *Table) shield(block, allow []setPlan) (end func()) {
	block = slices.DeleteFunc(slices.Clone(block), func(s setPlan) bool { return !s.interval })
	if len(block) == 0 || t.flags&nftables.TableFlagOwner == 0 {
		return func() {}
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(sockOptions))
	if err != nil {
		return func() {}
	}
	table := &nftables.Table{Name: shieldName, Family: nftables.TableFamilyINet, Flags: nftables.TableFlagOwner}
	cs := chains(table)
	cs[0].Priority = new(*cs[0].Priority + 1)
	b := newBatch(conn, table, nil)
	b.begin(block)
	b.rulesIn(cs, slices.DeleteFunc(spelled(block, allow, ruleset.Ruleset{}), rule.logs))
	b.fill(block)
	up := b.commit()
	return func() {
		if up == nil || errors.Is(up, errUnsure) {
			conn.DelTable(table)
			_ = conn.Flush() // if it fails, the table goes with the socket
		}
		_ = conn.CloseLasting()
	}
}
