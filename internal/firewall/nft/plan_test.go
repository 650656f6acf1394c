package nft

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

func list(ss ...string) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, s := range ss {
		if !strings.Contains(s, "/") {
			a := netip.MustParseAddr(s)
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return blocklist.New(ps)
}

// repeat returns n adjacent prefixes of one length, from 11.0.0.0.
func repeat(n, length int) blocklist.Blocklist {
	var ps []netip.Prefix
	for i := range n {
		v := uint32(11)<<24 + uint32(i)<<(32-length)
		raw := [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4(raw), length))
	}
	return blocklist.New(ps)
}

func TestPlanBlock(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		list blocklist.Blocklist
		want string // name:count:size of each set
	}{
		{"OK empty", list(), ""},
		{"OK addresses", list("5.0.0.1", "2001:db8::1"), "blocklist4_32:1:4096 blocklist6_128:1:4096"},
		{
			"OK every length that has a set",
			list("5.0.0.1", "5.0.1.0/24", "5.1.0.0/16",
				"2001:db8::1", "2001:db8:1::/64", "2001:db8:2::/48", "2001:db9::/32"),
			"blocklist4_32:1:4096 blocklist4_24:1:4096 blocklist4_16:1:4096 blocklist6_128:1:4096 " +
				"blocklist6_64:1:4096 blocklist6_48:1:4096 blocklist6_32:1:4096",
		},
		{"OK /20 is sixteen /24", list("5.0.16.0/20"), "blocklist4_24:16:4096"},
		{"OK /26 is 64 addresses", list("5.0.0.64/26"), "blocklist4_32:64:4096"},
		{"OK /8 is 256 /16", list("5.0.0.0/8"), "blocklist4_16:256:4096"},
		{"OK /7 is whole", list("62.0.0.0/7"), "blocklist4_any:1:0"},
		{"OK IPv6 /44 is sixteen /48", list("2001:db8::/44"), "blocklist6_48:16:4096"},
		{"OK IPv6 /120 is 256 addresses", list("2001:db8::/120"), "blocklist6_128:256:4096"},
		{"OK IPv6 /119 and /50 are whole", list("2001:db8::/119", "2001:db9::/50"), "blocklist6_any:2:0"},
		{"OK 512 /25 are addresses", repeat(512, 25), "blocklist4_32:65536:131072"},
		{"OK 513 /25 would be too many addresses", repeat(513, 25), "gate4:2:4096 blocklist4_any:513:0"},
		{"OK no limit on /24", repeat(70_000, 24), "blocklist4_24:70000:262144"},
		{"OK size at least twice the elements", repeat(4096, 32), "blocklist4_32:4096:8192"},
		{"OK size rounded up to a power of two", repeat(4097, 32), "blocklist4_32:4097:16384"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, s := range planBlock(tt.list) {
				got = append(got, fmt.Sprintf("%s:%d:%d", s.name, s.count, s.size()))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("sets (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPlanGate checks that a gate holds every network that has an entry of the interval set, and no
// other.
func TestPlanGate(t *testing.T) {
	t.Parallel()
	some := repeat(600, 25).Prefixes() // 11.0.0.0 to 11.1.43.255
	tests := []struct {
		name string
		list blocklist.Blocklist
		want string // elements; "" for no gate
	}{
		{"OK few entries", list("62.0.0.0/7"), ""},
		{"OK many entries of a network", blocklist.New(some), "11.0.0.0/16 11.1.0.0/16"},
		{
			"OK wide entries",
			blocklist.New(append(list("12.0.0.0/7", "254.0.0.0/7").Prefixes(), some...)),
			"11.0.0.0/16 11.1.0.0/16 12.0.0.0/16 … 255.255.0.0/16",
		},
		{"OK IPv6", repeat6(100, 50), "2001:db8::/32"},
		{"OK IPv6, too wide", blocklist.New(append(list("4000::/3").Prefixes(), repeat6(100, 50).Prefixes()...)), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			count := 0
			for _, s := range planBlock(tt.list) {
				if s.gate {
					count = s.count
					for p := range s.elements {
						got = append(got, p.String())
					}
				}
			}
			if count != len(got) {
				t.Errorf("planned %d elements, got %d", count, len(got))
			}
			if len(got) > 5 {
				got = append(append(got[:3:3], "…"), got[len(got)-1])
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("elements (-want +got):\n%s", diff)
			}
		})
	}
}

// repeat6 returns n prefixes of one length from 2001:db8::.
func repeat6(n, length int) blocklist.Blocklist {
	var ps []netip.Prefix
	for i := range n {
		raw := netip.MustParseAddr("2001:db8::").As16()
		raw[4], raw[5] = byte(i>>8), byte(i)
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom16(raw), length))
	}
	return blocklist.New(ps)
}

func TestPlanAllow(t *testing.T) {
	t.Parallel()
	var got []string
	for _, s := range planAllow(list("10.0.0.0/8", "192.0.2.1", "fe80::/10")) {
		got = append(got, fmt.Sprintf("%s:%d:%d", s.name, s.count, s.size()))
	}
	if diff := cmp.Diff("whitelist4:2:0 whitelist6:1:0", strings.Join(got, " ")); diff != "" {
		t.Errorf("sets (-want +got):\n%s", diff)
	}
}

func TestEffective(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name               string
		block, allow, want blocklist.Blocklist
	}{
		{"OK apart", list("5.0.0.1", "6.0.0.0/24", "2001:db8::/64"), list("10.0.0.0/8", "5.0.0.2", "6.0.1.0/24", "::1"), list()},
		{"OK equal", list("5.0.0.1", "2001:db8::1"), list("5.0.0.1", "2001:db8::1"), list("5.0.0.1", "2001:db8::1")},
		{"OK inside", list("5.0.0.0/24"), list("5.0.0.7", "5.0.1.7"), list("5.0.0.7")},
		{"OK around", list("5.0.0.7", "5.0.0.9"), list("5.0.0.0/24", "6.0.0.0/8"), list("5.0.0.0/24")},
		{"OK last address", list("255.255.255.255"), list("255.255.255.0/24"), list("255.255.255.0/24")},
		{"OK nothing listed", list(), list("10.0.0.0/8"), list()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := effective(tt.block, tt.allow); !got.Equal(tt.want) {
				t.Errorf("got %v, want %v", got.Prefixes(), tt.want.Prefixes())
			}
		})
	}
}

// FuzzPlan checks that the sets together hold exactly the list's addresses, and that each set is
// sorted, disjoint and of the prefix length that its rule looks up.
func FuzzPlan(f *testing.F) {
	f.Add([]byte("\x00\x18\x05\x00\x00\x00\x00\x19\x05\x00\x01\x00\x00\x07\x3e\x00\x00\x00"))
	f.Add([]byte("\x01\x77\x20\x01\x0d\xb8\x01\x2c\x20\x01\x0d\xb9\x01\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var ps []netip.Prefix
		for ; len(raw) >= 6; raw = raw[6:] {
			a := netip.AddrFrom4([4]byte(raw[2:6]))
			if raw[0]&1 == 1 {
				a = netip.AddrFrom16([16]byte{raw[2], raw[3], raw[4], raw[5], raw[1], 15: raw[0]})
			}
			ps = append(ps, netip.PrefixFrom(a, int(raw[1])%(a.BitLen()+1)))
		}
		l := blocklist.New(ps)
		var want, got netipx.IPSetBuilder
		for p := range l.All() {
			want.AddPrefix(p)
		}
		for _, s := range planBlock(l) {
			n := 0
			var last netip.Prefix
			for p := range s.elements {
				n++
				if !s.gate {
					got.AddPrefix(p)
				}
				if !s.interval && p.Bits() != s.bits {
					t.Fatalf("%s holds %v", s.name, p)
				}
				if p != p.Masked() || last.IsValid() && (!last.Addr().Less(p.Addr()) || last.Overlaps(p)) {
					t.Fatalf("%s: %v after %v", s.name, p, last)
				}
				last = p
			}
			if n != s.count || n == 0 {
				t.Fatalf("%s: %d elements, planned %d", s.name, n, s.count)
			}
			if !s.interval && uint64(s.size()) < 2*uint64(n) {
				t.Fatalf("%s: size %d for %d elements", s.name, s.size(), n)
			}
			if s.gate {
				continue // TestPlanGate checks it
			}
			if !s.interval && n > l.Len()+maxExpanded*(s.family.width+1) {
				t.Fatalf("%s: %d elements of %d entries", s.name, n, l.Len())
			}
		}
		ws, _ := want.IPSet()
		gs, _ := got.IPSet()
		if !ws.Equal(gs) {
			t.Fatalf("the sets hold %v, the list %v", gs.Prefixes(), ws.Prefixes())
		}
	})
}

func TestMovers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		active, next blocklist.Blocklist
		want         string // set: elements
	}{
		{"OK nothing moves", list("5.0.0.1", "6.0.0.0/24"), list("5.0.0.1", "5.0.0.2", "6.0.0.0/24"), ""},
		{
			"OK moves to a later set", list("5.0.0.1", "6.0.0.0/24"), list("5.0.0.0/24"),
			"blocklist4_24: 5.0.0.0/24;",
		},
		{
			"OK moves to the interval set",
			list("5.0.0.1", "62.0.0.0/7"), list("5.0.0.2", "4.0.0.0/7"), "blocklist4_any: 4.0.0.0/7;",
		},
		{
			"OK network shrinks to one address",
			list("5.0.0.0/24", "9.9.9.9"), list("5.0.0.1", "9.9.9.9"),
			"blocklist4_32: 5.0.0.1/32;",
		},
		{
			"OK /16 shrinks to a /24",
			list("5.0.0.0/16", "6.0.0.0/24"), list("5.0.7.0/24", "6.0.0.0/24"),
			"blocklist4_24: 5.0.7.0/24;",
		},
		{
			"OK interval shrinks to an address",
			list("62.0.0.0/7", "9.9.9.9"), list("63.1.2.3", "9.9.9.9", "64.0.0.1"),
			"blocklist4_32: 63.1.2.3/32;",
		},
		{"OK moves to a new set, which is filled before", list("5.0.0.0/24"), list("5.0.0.1"), ""},
		{
			"OK families apart",
			list("5.0.0.1", "2001:db8::/64", "2001:db9::1"), list("5.0.0.1", "2001:db8::1", "2001:db9::1"),
			"blocklist6_128: 2001:db8::1/128;",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			live := append(planAllow(list("10.0.0.0/8")), planBlock(tt.active)...)
			var got string
			for _, s := range planBlock(tt.next) {
				if moved := movers(tt.active, live, s, s.elements); len(moved) > 0 {
					got += s.name + ":"
					for _, p := range moved {
						got += " " + p.String()
					}
					got += ";"
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("movers (-want +got):\n%s", diff)
			}
		})
	}
}
