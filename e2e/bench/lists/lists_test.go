package lists

import (
	"net/netip"
	"slices"
	"testing"
)

// TestListsDoNotOverlap checks that each list has its number of entries, ascending and disjoint, so
// that every contestant can load it and the counts are comparable.
func TestListsDoNotOverlap(t *testing.T) {
	t.Parallel()
	for _, shape := range []Shape{Mixed, Addresses, Odd} {
		for _, v6 := range []bool{false, true} {
			for _, n := range []int{1, 5_000, 20_000} {
				l := New(shape, v6, n, 1)
				if len(l.Entries) != n {
					t.Fatalf("%s v6=%v: %d entries, want %d", shape, v6, len(l.Entries), n)
				}
				for i, p := range l.Entries {
					if p != p.Masked() || p.Addr().Is6() != v6 {
						t.Fatalf("%s v6=%v: entry %v", shape, v6, p)
					}
					if i > 0 && (l.Entries[i-1].Overlaps(p) || !l.Entries[i-1].Addr().Less(p.Addr())) {
						t.Fatalf("%s v6=%v: %v and %v overlap", shape, v6, l.Entries[i-1], p)
					}
				}
			}
		}
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	for _, shape := range []Shape{Mixed, Addresses, Odd} {
		for _, v6 := range []bool{false, true} {
			l := New(shape, v6, 3_000, 1)
			for _, a := range l.Listed(300) {
				if !listed(l, a) || !l.Contains(a) {
					t.Fatalf("%s: %v is not listed", shape, a)
				}
			}
			for _, a := range l.Unlisted(300) {
				if listed(l, a) || l.Contains(a) {
					t.Fatalf("%s: %v is listed", shape, a)
				}
			}
		}
	}
}

// listed looks an address up in every entry.
func listed(l *List, a netip.Addr) bool {
	return slices.ContainsFunc(l.Entries, func(p netip.Prefix) bool { return p.Contains(a) })
}

// TestChange checks that Change replaces exactly as many entries as asked.
func TestChange(t *testing.T) {
	t.Parallel()
	for _, shape := range []Shape{Mixed, Addresses, Odd} {
		before := New(shape, false, 20_000, 1)
		after := before.Change(200, 2)
		kept := 0
		for _, p := range after.Entries {
			if _, ok := slices.BinarySearchFunc(before.Entries, p, func(a, b netip.Prefix) int {
				return a.Addr().Compare(b.Addr())
			}); ok {
				kept++
			}
		}
		// A drawn entry can be one of those that were taken out.
		if len(after.Entries) != 20_000 || kept < 19_800 || kept > 19_810 {
			t.Errorf("%s: %d entries, %d of them as before", shape, len(after.Entries), kept)
		}
	}
}
