package nft

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// foreignParts returns the parts of the table that no agent of this version makes: parts of another
// program that uses the same table, or of another version of the agent.
func (l *layout) foreignParts() []string {
	var all []string
	for _, name := range l.deletableChains() {
		all = append(all, "chain "+name)
	}
	own := map[string]bool{}
	for _, s := range allSets() {
		own[s.name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(l.sets)) {
		if !own[plainName(name)] && !isHitSet(name) && l.sets[name].flags&unix.NFT_SET_ANONYMOUS == 0 {
			all = append(all, "set "+name)
		}
	}
	for _, o := range l.objs {
		all = append(all, "object "+o.name)
	}
	for _, name := range l.flows {
		all = append(all, "flowtable "+name)
	}
	return all
}

// madeByAgent reports whether an agent made the table: it has every chain of one.
func (l *layout) madeByAgent() bool {
	for _, c := range chains(nil) {
		if k, ok := l.chains[c.Name]; !ok || !k.like(c) {
			return false
		}
	}
	return true
}

// inspectForeign records which parts of the table that exists at the start belong to another
// program.
func (t *Table) inspectForeign() error {
	l, err := t.layout()
	if err != nil || l == nil {
		return err
	}
	t.foreignTable = !l.madeByAgent()
	if names := l.foreignParts(); len(names) > 0 {
		gap := fmt.Sprintf("table inet %s exists and contains parts of another program (%s): "+
			"the first list deletes them; to keep them, stop the agent before that and "+
			"move them to a table of another name", tableName, strings.Join(names, ", "))
		t.foreignGap.Store(&gap)
	}
	return nil
}

// untouched reports whether the table belongs to another program and this agent has not changed it.
func (t *Table) untouched() bool { return t.foreignTable && t.drift.sent == 0 }
