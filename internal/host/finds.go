package host

import (
	"net/netip"
	"slices"
)

// finds holds the addresses that each source gave.
type finds struct {
	last     map[kind][]netip.Addr // addresses at the last complete reading
	current  map[kind][]netip.Addr // allowlisted addresses
	recalled map[kind]bool         // sources whose last addresses are those of an earlier run
}

func newFinds() finds {
	return finds{
		last: map[kind][]netip.Addr{}, current: map[kind][]netip.Addr{}, recalled: map[kind]bool{},
	}
}

// record sets the allowlisted addresses of a source to those found. If the source could not be read
// completely, the addresses of its last complete reading also stay.
func (f *finds) record(k kind, found []netip.Addr, err error) {
	if err != nil {
		f.current[k] = slices.Concat(found, f.last[k])
		return
	}
	delete(f.recalled, k)
	slices.SortFunc(found, netip.Addr.Compare)
	f.last[k] = slices.Compact(found) // several routes lead through one gateway
	f.current[k] = f.last[k]
}

// recall adds the addresses of a source in an earlier run, unless the source has some already.
func (f *finds) recall(k kind, addrs []netip.Addr) {
	if len(addrs) == 0 || len(f.last[k]) > 0 {
		return
	}
	f.last[k] = slices.Clone(addrs)
	f.current[k] = slices.Concat(f.current[k], addrs)
	f.recalled[k] = true
}
