package blocklist

import "net/netip"

// List is a named list, of a feed.
type List struct {
	Name    string
	Entries Blocklist
}

// Lists are the lists of all feeds, in their order.
type Lists []List

// Merge returns the union of the lists.
func (ls Lists) Merge() Blocklist {
	if len(ls) == 0 {
		return Blocklist{}
	}
	all := ls[0].Entries
	for _, l := range ls[1:] {
		all = all.Union(l.Entries)
	}
	return all
}

// Len returns the number of entries of all lists. An entry of several lists counts in each.
func (ls Lists) Len() int {
	n := 0
	for _, l := range ls {
		n += l.Entries.Len()
	}
	return n
}

// Sources returns the names of the lists that contain an address, in their order.
func (ls Lists) Sources(addr netip.Addr) []string {
	var names []string
	for _, l := range ls {
		if l.Entries.Contains(addr) {
			names = append(names, l.Name)
		}
	}
	return names
}
