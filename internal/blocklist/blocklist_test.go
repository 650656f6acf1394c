package blocklist_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func texts(b blocklist.Blocklist) []string {
	var ss []string
	for p := range b.All() {
		ss = append(ss, p.String())
	}
	return ss
}

func TestNew(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		in, want []string
	}{
		{name: "OK empty"},
		{
			name: "OK sorted by number, not text", in: []string{"45.0.0.0/32", "203.0.113.9/32", "5.0.0.0/32"},
			want: []string{"5.0.0.0/32", "45.0.0.0/32", "203.0.113.9/32"},
		},
		{name: "OK duplicates", in: []string{"5.0.0.1/32", "5.0.0.1/32"}, want: []string{"5.0.0.1/32"}},
		{
			name: "OK covered by a wider one, in any order",
			in:   []string{"5.0.0.9/32", "5.0.0.0/24", "5.0.0.0/25", "5.0.1.0/32"},
			want: []string{"5.0.0.0/24", "5.0.1.0/32"},
		},
		{
			name: "OK adjacent prefixes are not joined", in: []string{"5.0.0.128/25", "5.0.0.0/25"},
			want: []string{"5.0.0.0/25", "5.0.0.128/25"},
		},
		{name: "OK host bits", in: []string{"5.0.0.77/24"}, want: []string{"5.0.0.0/24"}},
		{
			name: "OK both families", in: []string{"2001:db8::1/128", "5.0.0.1/32", "2001:db8::/64"},
			want: []string{"5.0.0.1/32", "2001:db8::/64"},
		},
		{
			name: "OK mapped", in: []string{"::ffff:5.0.0.1/128", "::ffff:6.0.0.0/120"},
			want: []string{"5.0.0.1/32", "6.0.0.0/24"},
		},
		{
			name: "OK everything", in: []string{"0.0.0.0/0", "255.255.255.255/32", "::/0"},
			want: []string{"0.0.0.0/0", "::/0"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := blocklist.New(append(prefixes(tt.in...), netip.Prefix{}))
			if diff := cmp.Diff(tt.want, texts(b)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			if got := b.Len4() + b.Len6(); got != len(tt.want) || b.Len() != got {
				t.Errorf("Len: got %d (%d by family), want %d", b.Len(), got, len(tt.want))
			}
		})
	}
}

func TestCovering(t *testing.T) {
	t.Parallel()
	b := blocklist.New(prefixes("5.0.0.0/24", "5.0.1.1/32", "255.255.255.255/32", "2001:db8::/64"))
	tests := []struct {
		addr, want string
	}{
		{"4.255.255.255", ""},
		{"5.0.0.0", "5.0.0.0/24"},
		{"5.0.0.255", "5.0.0.0/24"},
		{"5.0.1.0", ""},
		{"5.0.1.1", "5.0.1.1/32"},
		{"::ffff:5.0.1.1", "5.0.1.1/32"},
		{"255.255.255.255", "255.255.255.255/32"},
		{"2001:db8::ffff", "2001:db8::/64"},
		{"2001:db8::ffff%eth0", "2001:db8::/64"},
		{"2001:db8:0:1::", ""},
	}
	for _, tt := range tests {
		p, ok := b.Covering(netip.MustParseAddr(tt.addr))
		got := ""
		if ok {
			got = p.String()
		}
		if got != tt.want || b.Contains(netip.MustParseAddr(tt.addr)) != ok {
			t.Errorf("Covering(%s): got %q, want %q", tt.addr, got, tt.want)
		}
	}
}

// TestCoveringAllocatesNothing: each dropped packet of a new source is looked up.
func TestCoveringAllocatesNothing(t *testing.T) { // not parallel: it measures allocations
	b := blocklist.New(prefixes("5.0.0.0/24", "5.0.1.1/32", "2001:db8::/64", "2001:db8:1::/64"))
	for _, a := range []netip.Addr{netip.MustParseAddr("5.0.0.9"), netip.MustParseAddr("2001:db8::9")} {
		covered := false
		if n := testing.AllocsPerRun(100, func() { _, covered = b.Covering(a) }); n != 0 || !covered {
			t.Errorf("%v: %v allocations, covered is %t", a, n, covered)
		}
	}
}

func TestWithout(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name           string
		in, out, wants []string
	}{
		{
			name: "OK no overlap", in: []string{"5.0.0.0/24"}, out: []string{"6.0.0.0/8"},
			wants: []string{"5.0.0.0/24"},
		},
		{
			name: "OK the gateway in its /29", in: []string{"5.0.0.0/29"}, out: []string{"5.0.0.1/32"},
			wants: []string{"5.0.0.0/32", "5.0.0.2/31", "5.0.0.4/30"},
		},
		{
			name: "OK the whole entry", in: []string{"5.0.0.1/32", "9.9.9.9/32"}, out: []string{"5.0.0.0/8"},
			wants: []string{"9.9.9.9/32"},
		},
		{
			name: "OK one hole over many entries", in: []string{"4.0.0.1/32", "5.0.0.1/32", "5.0.0.2/32", "7.0.0.1/32"},
			out: []string{"5.0.0.0/8"}, wants: []string{"4.0.0.1/32", "7.0.0.1/32"},
		},
		{
			name: "OK many holes in one entry", in: []string{"5.0.0.0/30", "6.0.0.0/32"},
			out: []string{"5.0.0.0/32", "5.0.0.3/32"}, wants: []string{"5.0.0.1/32", "5.0.0.2/32", "6.0.0.0/32"},
		},
		{
			name: "OK IPv6", in: []string{"2001:db8::/126"}, out: []string{"2001:db8::/127"},
			wants: []string{"2001:db8::2/127"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := blocklist.New(prefixes(tt.in...)).Without(blocklist.New(prefixes(tt.out...)))
			if diff := cmp.Diff(tt.wants, texts(got)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

// decode decodes fuzz input into prefixes: six bytes each, with a family bit, a length and an
// address.
func decode(data []byte) []netip.Prefix {
	var ps []netip.Prefix
	for len(data) >= 6 {
		var a16 [16]byte
		bits := int(data[1])
		addr := netip.AddrFrom4([4]byte(data[2:6]))
		if data[0]&1 == 1 {
			copy(a16[:], data[2:6])
			binary.BigEndian.PutUint16(a16[14:], uint16(data[1]))
			addr = netip.AddrFrom16(a16)
		}
		ps = append(ps, netip.PrefixFrom(addr, bits%(addr.BitLen()+1)))
		data = data[6:]
	}
	return ps
}

func set(t *testing.T, ps []netip.Prefix) *netipx.IPSet {
	t.Helper()
	var b netipx.IPSetBuilder
	for _, p := range ps {
		b.AddPrefix(p.Masked())
	}
	s, err := b.IPSet()
	if err != nil {
		t.Fatalf("build set: %v", err)
	}
	return s
}

// FuzzSets compares the list's arithmetic with an independent implementation: the addresses covered
// are exactly the same.
func FuzzSets(f *testing.F) {
	f.Add([]byte("\x00\x18\x05\x00\x00\x00\x00\x20\x05\x00\x00\x09"), []byte("\x00\x20\x05\x00\x00\x01"))
	f.Add([]byte("\x01\x40\x20\x01\x0d\xb8\x01\x80\x20\x01\x0d\xb8"), []byte("\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, x, y []byte) {
		px, py := decode(x), decode(y)
		bx, by := blocklist.New(slices.Clone(px)), blocklist.New(slices.Clone(py))
		sx, sy := set(t, px), set(t, py)

		check := func(op string, got blocklist.Blocklist, want *netipx.IPSet) {
			t.Helper()
			all := slices.Collect(got.All())
			if !set(t, all).Equal(want) {
				t.Fatalf("%s covers other addresses: got %v, want %v", op, all, want.Prefixes())
			}
			for i, p := range all {
				if p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 {
					t.Fatalf("%s: %v is not canonical", op, p)
				}
				if i > 0 && (!all[i-1].Addr().Less(p.Addr()) || all[i-1].Overlaps(p)) {
					t.Fatalf("%s: %v after %v: not sorted and disjoint", op, p, all[i-1])
				}
				if c, ok := got.Covering(p.Addr()); !ok || c != p {
					t.Fatalf("%s: Covering(%v) = %v, %v", op, p.Addr(), c, ok)
				}
			}
		}
		check("New", bx, sx)
		var u, d netipx.IPSetBuilder
		u.AddSet(sx)
		u.AddSet(sy)
		us, _ := u.IPSet()
		check("Union", bx.Union(by), us)
		d.AddSet(sx)
		d.RemoveSet(sy)
		ds, _ := d.IPSet()
		check("Without", bx.Without(by), ds)
		if n := bx.Without(by).Len(); n > bx.Len() {
			t.Fatalf("Without: %d entries of %d", n, bx.Len())
		}
		check("Whole", bx.Without(by).Whole().Without(by), ds)

		var overlapping []netip.Prefix
		for p := range bx.All() {
			if sy.OverlapsPrefix(p) {
				overlapping = append(overlapping, p)
			}
		}
		for p := range by.All() {
			var within []netip.Prefix
			for e := range bx.All() {
				if e.Overlaps(p) {
					within = append(within, e)
				}
			}
			for range 2 { // a sequence can be iterated several times
				if got := slices.Collect(bx.Within(p)); !slices.Equal(got, within) {
					t.Fatalf("Within(%v): got %v, want %v", p, got, within)
				}
			}
		}
		if got := slices.Collect(bx.Overlapping(by)); !slices.Equal(got, overlapping) {
			t.Fatalf("Overlapping: got %v, want %v", got, overlapping)
		}
	})
}
