package blocklist_test

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"go4.org/netipx"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// reference is a Blocklist as it was before its entries became compact: slow and simple, on slices
// of netip.Prefix and on netipx.
type reference struct {
	ps    []netip.Prefix // canonical, sorted and disjoint
	split []netip.Prefix // entries of which more than one part may be left
}

func newReference(ps []netip.Prefix) reference {
	var kept []netip.Prefix
	for _, p := range ps {
		if p, ok := blocklist.Canonical(p); ok {
			kept = append(kept, p)
		}
	}
	return reference{ps: disjointPrefixes(kept)}
}

func disjointPrefixes(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var kept []netip.Prefix
	for _, p := range ps {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

func (r reference) overlapping(p netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, q := range r.ps {
		if q.Overlaps(p) {
			all = append(all, q)
		}
	}
	return all
}

// lens returns the numbers of entries by family. Several parts of an entry count once.
func (r reference) lens() (n4, n6 int) {
	for _, p := range r.ps {
		if p.Addr().Is4() {
			n4++
		} else {
			n6++
		}
	}
	for _, entry := range disjointPrefixes(slices.Clone(r.split)) {
		if surplus := max(0, len(r.overlapping(entry))-1); entry.Addr().Is4() {
			n4 -= surplus
		} else {
			n6 -= surplus
		}
	}
	return n4, n6
}

func (r reference) union(o reference) reference {
	return reference{
		ps: disjointPrefixes(slices.Concat(r.ps, o.ps)), split: slices.Concat(r.split, o.split),
	}
}

func (r reference) without(o reference) reference {
	rest := reference{split: slices.Clone(r.split)}
	for _, p := range r.ps {
		holes := o.overlapping(p)
		if len(holes) == 0 {
			rest.ps = append(rest.ps, p)
			continue
		}
		var b netipx.IPSetBuilder
		b.AddPrefix(p)
		for _, h := range holes {
			b.RemovePrefix(h)
		}
		set, _ := b.IPSet()
		rest.ps, rest.split = append(rest.ps, set.Prefixes()...), append(rest.split, p)
	}
	return rest
}

func (r reference) except(o reference) reference {
	return reference{
		ps:    slices.DeleteFunc(slices.Clone(r.ps), func(p netip.Prefix) bool { return slices.Contains(o.ps, p) }),
		split: r.split,
	}
}

// whole returns the prefixes with each split entry restored.
func (r reference) whole() []netip.Prefix {
	all := slices.Clone(r.ps)
	for _, entry := range disjointPrefixes(slices.Clone(r.split)) {
		if len(r.overlapping(entry)) > 1 {
			all = append(all, entry)
		}
	}
	return disjointPrefixes(all)
}

// FuzzReference compares a Blocklist with the reference after the same operations on both: every
// entry is the same, and so are the counts.
func FuzzReference(f *testing.F) {
	f.Add([]byte("\x00\x18\x05\x00\x00\x00\x00\x20\x05\x00\x00\x09"), []byte("\x00\x20\x05\x00\x00\x01"), []byte{1, 0, 2})
	f.Add([]byte("\x01\x40\x20\x01\x0d\xb8\x01\x20\x20\x01\x0d\xb8"), []byte("\x01\x80\x20\x01\x0d\xb8"), []byte{1, 1, 3})
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00"), []byte("\x00\x20\x00\x00\x00\x00"), []byte{1, 2, 0})
	f.Fuzz(func(t *testing.T, x, y, operations []byte) {
		px, py := decode(x), decode(y)
		list, other := blocklist.New(px), blocklist.New(py)
		want, wantOther := newReference(px), newReference(py)
		compareWithReference(t, "New", list, want)
		for _, operation := range operations[:min(len(operations), 6)] {
			name := "Union"
			switch operation % 5 {
			case 0:
				list, want = list.Union(other), want.union(wantOther)
			case 1:
				name, list, want = "Without", list.Without(other), want.without(wantOther)
			case 2:
				name, list, want = "Except", list.Except(other), want.except(wantOther)
			case 3:
				name = "the other's Without"
				list, want, other, wantOther = other.Without(list), wantOther.without(want), list, want
			case 4:
				name, list, other, want, wantOther = "swap", other, list, wantOther, want
			}
			compareWithReference(t, name, list, want)
		}
	})
}

func compareWithReference(t *testing.T, name string, list blocklist.Blocklist, want reference) {
	t.Helper()
	if got := list.Prefixes(); !slices.Equal(got, want.ps) {
		t.Fatalf("%s: got %v, want %v", name, got, want.ps)
	}
	if n4, n6 := want.lens(); list.Len4() != n4 || list.Len6() != n6 {
		t.Fatalf("%s: got %d and %d entries, want %d and %d: %v", name, list.Len4(), list.Len6(), n4, n6, want.ps)
	}
	if got, whole := list.Whole().Prefixes(), want.whole(); !slices.Equal(got, whole) {
		t.Fatalf("%s: whole: got %v, want %v", name, got, whole)
	}
}

// TestReferenceLongLists compares lists of very different lengths with the reference.
func TestReferenceLongLists(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(14, 4))
	list := func(n int) []netip.Prefix {
		data := make([]byte, 6*n)
		for i := range data {
			data[i] = byte(random.UintN(256))
		}
		for i := range n {
			data[6*i+1] |= 16 // not so wide that a few cover all others
			data[6*i+2] %= 8
		}
		return decode(data)
	}
	for _, lengths := range [][2]int{{1, 1500}, {1500, 1}, {20, 1500}, {1500, 20}, {1500, 1500}} {
		px, py := list(lengths[0]), list(lengths[1])
		x, y := blocklist.New(px), blocklist.New(py)
		wantX, wantY := newReference(px), newReference(py)
		compareWithReference(t, "Union", x.Union(y), wantX.union(wantY))
		compareWithReference(t, "Without", x.Without(y), wantX.without(wantY))
		compareWithReference(t, "Except", x.Union(y).Except(y), wantX.union(wantY).except(wantY))
	}
}

// TestBuilderIsCompact checks that an entry takes 8 bytes for IPv4 and 24 for IPv6, and that a
// Builder leaves no more garbage than the list has bytes.
func TestBuilderIsCompact(t *testing.T) { // not parallel: it measures allocations
	const n = 200_000
	for _, tt := range []struct {
		name string
		from netip.Addr
		size uint64
	}{
		{"IPv4", netip.MustParseAddr("20.0.0.0"), 8},
		{"IPv6", netip.MustParseAddr("2a00::"), 24},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var b blocklist.Builder
		for a, i := tt.from, 0; i < n; a, i = a.Next().Next(), i+1 {
			b.Add(blocklist.Single(a))
		}
		list := b.List()
		runtime.ReadMemStats(&after)
		got := (after.TotalAlloc - before.TotalAlloc) / n
		if list.Len() != n || got < tt.size || got > 2*tt.size+tt.size/4 {
			t.Errorf("%s: %d bytes were allocated for each of %d entries, want about twice %d",
				tt.name, got, list.Len(), tt.size)
		}
	}
}
