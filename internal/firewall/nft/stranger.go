package nft

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// strangers names the parts of the table that no agent of this version makes: those of another
// program that uses the same table, or of another version.
func (l *layout) strangers() []string {
	var all []string
	for _, name := range l.separate() {
		all = append(all, "chain "+name)
	}
	own := map[string]bool{}
	for _, s := range shapes() {
		own[s.name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(l.sets)) {
		if !own[plainName(name)] && l.sets[name].flags&unix.NFT_SET_ANONYMOUS == 0 {
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

// ours reports whether an agent made the table: it has the chains of one.
func (l *layout) ours() bool {
	for _, c := range chains(nil) {
		if k, ok := l.chains[c.Name]; !ok || !k.like(c) {
			return false
		}
	}
	return true
}

// meet notes which parts of the table as it is at the start are another program's.
func (t *Table) meet() error {
	l, err := t.layout()
	if err != nil || l == nil {
		return err
	}
	t.met = !l.ours()
	if names := l.strangers(); len(names) > 0 {
		gap := fmt.Sprintf("table inet %s is there and holds parts of another program (%s): the first list deletes them; "+
			"to keep them, stop the agent before and move them to a table of another name",
			tableName, strings.Join(names, ", "))
		t.stranger.Store(&gap)
	}
	return nil
}

// untouched reports whether the table is another program's and was never changed.
func (t *Table) untouched() bool { return t.met && t.drift.sent == 0 }
