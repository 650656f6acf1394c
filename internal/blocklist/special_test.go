package blocklist_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// blockable returns the blockable entries of a list as texts, and the number of entries that lost a
// part.
func blockable(ss ...string) ([]string, int) {
	rest, cut := blocklist.New(prefixes(ss...)).Blockable()
	return texts(rest), cut
}

// TestSpecialMatchesRegistries checks one address of each row of the two IANA registries by its
// "globally reachable" column.
func TestSpecialMatchesRegistries(t *testing.T) {
	t.Parallel()
	never := []string{
		"0.0.0.0", "0.255.255.255", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255",
		"169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.0", "192.0.0.8", "192.0.0.170",
		"192.0.0.171", "192.88.99.2", "192.168.255.255", "198.18.0.1", "198.19.255.255", "224.0.0.1",
		"239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:10.0.0.1", "100::1", "100:0:0:1::1", "2001:2::1", "2001:10::1", "2001:1::4",
		"2001:1ff::1", "5f00::1", "fc00::1", "fdff::1", "fe80::1", "febf::1", "ff02::1",
	}
	blockable := []string{
		"1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
		"192.0.0.9", "192.0.0.10", "192.0.1.0", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1",
		"198.17.255.255", "198.20.0.0", "223.255.255.255",
		"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1", // documentation
		"2001:1::1", "2001:1::2", "2001:1::3", "2001:3::1", "2001:4:112::1", "2001:20::1", "2001:30::1",
		"2001::1", "2001:200::1", "2620:4f:8000::1", "2606:4700::1", "64:ff9b::8.8.8.8",
	}
	special := blocklist.Special()
	for addrs, want := range map[*[]string]bool{&never: true, &blockable: false} {
		for _, s := range *addrs {
			a := netip.MustParseAddr(s)
			if special.Contains(a) != want {
				t.Errorf("Special contains %v: %v, want %v", a, !want, want)
			}
			rest, _ := blocklist.New([]netip.Prefix{blocklist.Single(a)}).Blockable()
			if (rest.Len() == 0) != want {
				t.Errorf("%v is left out: %v, want %v", a, !want, want)
			}
		}
	}
}

// TestBlockableByEmbeddedIPv4 checks addresses of IPv4 hosts as a host with IPv6 only sees them, by
// NAT64 and 6to4.
func TestBlockableByEmbeddedIPv4(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in, want string // an empty want: never blocked
	}{
		{"64:ff9b::10.0.0.1", ""},
		{"64:ff9b::192.168.0.0/112", ""},
		{"64:ff9b::127.0.0.1", ""},
		{"64:ff9b::203.0.113.9", "64:ff9b::cb00:7109/128"},
		{"64:ff9b::203.0.113.0/120", "64:ff9b::cb00:7100/120"},
		{"64:ff9b:1::/48", ""},
		{"64:ff9b:1::/96", ""},
		{"64:ff9b:1:abcd::/96", ""},
		{"64:ff9b:1:abcd::/64", ""},
		{"64:ff9b:1::10.0.0.1", ""},
		{"64:ff9b:1:abcd::10.0.0.0/104", ""},
		{"64:ff9b:1:a00:0:100::", ""},                          // 10.0.0.1 after a /48
		{"64:ff9b:1:ff0a:0:1::", ""},                           // 10.0.0.1 after 64:ff9b:1:ff00::/56
		{"64:ff9b:1:abcd:a:0:100:0", ""},                       // 10.0.0.1 after a /64
		{"64:ff9b:1:808:8:800::", "64:ff9b:1:808:8:800::/128"}, // 8.8.8.8 after a /48
		// Bits 64 to 71 are not zero, so this is 1.0.0.0 after a /96 and no address after a /64.
		{"64:ff9b:1:abcd:10a:0:100:0", "64:ff9b:1:abcd:10a:0:100:0/128"},
		{"64:ff9b:1:abcd:8:808:a00:0", ""}, // 8.8.8.10 after a /64, 10.0.0.0 after a /96
		{"64:ff9b:1::0.0.0.5", ""},         // no host's address at any position
		{"64:ff9b:1::8.8.8.8", "64:ff9b:1::808:808/128"},
		{"64:ff9b:1:abcd::8.8.8.8", "64:ff9b:1:abcd::808:808/128"},
		{"2002:a00:1::/48", ""},
		{"2002:c0a8::/32", ""},
		{"2002:808:808::/48", "2002:808:808::/48"},
		{"2002:808:808::1", "2002:808:808::1/128"},
	}
	for _, tt := range tests {
		p, err := blocklist.Parse(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		if tt.want != "" {
			want = []string{tt.want}
		}
		got, cut := blockable(p.String())
		if !slices.Equal(got, want) || (cut > 0) != (tt.want == "") {
			t.Errorf("%s: got %q and %d cut, want %q", tt.in, got, cut, want)
		}
	}
}

func TestBlockableCutsOutOfWiderEntries(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		in   string
		want []string
	}{
		{"OK half private", "10.0.0.0/7", []string{"11.0.0.0/8"}},
		{"OK anycast inside protocol assignments", "192.0.0.0/28", []string{"192.0.0.9/32", "192.0.0.10/32"}},
		{"OK NAT64", "64:ff9b::8.0.0.0/102", []string{"64:ff9b::800:0/103", "64:ff9b::b00:0/104"}},
		{
			"OK NAT64 for local use", "64:ff9b:1:7::8.0.0.0/102",
			[]string{"64:ff9b:1:7::800:0/103", "64:ff9b:1:7::b00:0/104"},
		},
		{"OK one part of NAT64 for local use", "64:ff9b:1:7::10.0.0.0/103", []string{"64:ff9b:1:7::b00:0/104"}},
		{"OK 6to4", "2002:800::/22", []string{"2002:800::/23", "2002:b00::/24"}},
	}
	for _, tt := range tests {
		p, err := blocklist.Parse(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		got, cut := blockable(p.String(), "203.0.113.9/32")
		got = slices.DeleteFunc(got, func(s string) bool { return s == "203.0.113.9/32" })
		if diff := cmp.Diff(append([]string{}, tt.want...), got); diff != "" || cut != 1 {
			t.Errorf("%s: %d cut, entries (-want +got):\n%s", tt.name, cut, diff)
		}
	}
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"64:ff9b::8.8.8.8": "8.8.8.8/32", "64:ff9b::10.0.0.0/104": "10.0.0.0/8",
		"64:ff9b::/96": "0.0.0.0/0", "64:ff9b::/64": "0.0.0.0/0",
		"64:ff9b:1:7::8.8.8.8": "8.8.8.8/32", "64:ff9b:1:7::/96": "0.0.0.0/0", "64:ff9b:1::/48": "0.0.0.0/0",
		"2002:808:808::1": "8.8.8.8/32", "2002:a00::/24": "10.0.0.0/8",
		"2002::/16": "0.0.0.0/0", "2000::/3": "0.0.0.0/0",
		"2001::/16": "", "64:ff9b:2::1": "", "8.8.8.8": "", "fc00::/7": "",
	} {
		p, err := blocklist.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		v4, ok := blocklist.Embedded(p)
		if got := v4.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%s: got %s, %v, want %q", in, got, ok, want)
		}
	}
}

func TestPrivateAndLoopback(t *testing.T) {
	t.Parallel()
	special := blocklist.Special()
	for _, p := range slices.Concat(blocklist.Private(), blocklist.Loopback()) {
		if c, ok := special.Covering(p.Addr()); !ok || c.Bits() > p.Bits() {
			t.Errorf("%v is not special", p)
		}
	}
	private := []string{
		"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10",
	}
	if diff := cmp.Diff(private, texts(blocklist.New(blocklist.Private()))); diff != "" {
		t.Errorf("private (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"127.0.0.0/8", "::1/128"}, texts(blocklist.New(blocklist.Loopback()))); diff != "" {
		t.Errorf("loopback (-want +got):\n%s", diff)
	}
}

func TestCoverage(t *testing.T) {
	t.Parallel()
	public := math.Exp2(32)
	for p := range blocklist.Special().V4() {
		public -= math.Exp2(float64(32 - p.Bits()))
	}
	eight := math.Exp2(24) / public
	many := func(format string, n int) (ss []string) {
		for i := range n {
			ss = append(ss, fmt.Sprintf(format, 32+i))
		}
		return ss
	}
	tests := []struct {
		name   string
		in     []string
		v4, v6 float64
	}{
		{name: "OK nothing"},
		{name: "OK a /8", in: []string{"62.0.0.0/8"}, v4: eight},
		{name: "OK several /8", in: many("%d.0.0.0/8", 20), v4: 20 * eight},
		{
			name: "OK NAT64 counts apart from IPv4",
			in:   append(many("%d.0.0.0/8", 20), many("64:ff9b::%d.0.0.0/104", 30)...), v4: 30 * eight,
		},
		{
			name: "OK 6to4 counts apart from IPv4",
			in:   append(many("%d.0.0.0/8", 20), "2002:2000::/20"), v4: 20 * eight, v6: 1. / 16 / 116,
		},
		{name: "OK all of IPv6 in use", in: many("24%d::/16", 58), v6: 58. / 116},
		{name: "OK small networks", in: []string{"2600::/64", "2600:1::/65", "2600:2::/65"}, v6: 2. / (116 << 48)},
	}
	for _, tt := range tests {
		var ps []netip.Prefix
		for _, s := range tt.in {
			p, err := blocklist.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			ps = append(ps, p)
		}
		v4, v6 := blocklist.New(ps).Coverage()
		if math.Abs(v4-tt.v4) > 1e-9 || math.Abs(v6-tt.v6) > 1e-4 || (v6 == 0) != (tt.v6 == 0) {
			t.Errorf("%s: got %v of IPv4 and %v of IPv6, want %v and %v", tt.name, v4, v6, tt.v4, tt.v6)
		}
	}
	if v4, _ := blocklist.New(prefixes("0.0.0.0/0")).Without(blocklist.Special()).Coverage(); v4 != 1 {
		t.Errorf("all of public IPv4: got %v", v4)
	}
}

// FuzzBlockable checks that the blockable part of any list is a part of the list, contains no
// special-purpose address (also not by the IPv4 address that it represents), and loses nothing when
// Blockable is called again.
func FuzzBlockable(f *testing.F) {
	f.Add([]byte("\x01\x60\x0a\x00\x00\x01\x02\x80\x0a\x00\x00\x01\x03\x18\x0a\x00\x00\x00\x00\x07\x0a\x00\x00\x00"))
	f.Add([]byte("\x04\x80\x08\x08\x08\x08\x02\x68\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var ps []netip.Prefix
		for ; len(data) >= 6; data = data[6:] {
			var a [16]byte
			switch data[0] % 6 {
			case 0:
				ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte(data[2:6])), int(data[1])%33))
				continue
			case 1:
				copy(a[:], []byte{0, 0x64, 0xff, 0x9b})
				copy(a[12:], data[2:6])
			case 2:
				copy(a[:], []byte{0, 0x64, 0xff, 0x9b, 0, 1, data[2]})
				copy(a[12:], data[2:6])
			case 3:
				copy(a[:], []byte{0x20, 0x02})
				copy(a[2:], data[2:6])
			case 4:
				copy(a[:], []byte{0, 0x64, 0xff, 0x9b, 0, 1, data[2], data[3], 0, data[4], data[5]})
			case 5:
				copy(a[:], data[2:6])
			}
			ps = append(ps, netip.PrefixFrom(netip.AddrFrom16(a), int(data[1])%129))
		}
		list, special := blocklist.New(ps), blocklist.Special()
		rest, _ := list.Blockable()
		if out := rest.Without(list); out.Len() > 0 {
			t.Fatalf("%v is not on the list", texts(out))
		}
		if again, cut := rest.Blockable(); cut != 0 || !again.Equal(rest) {
			t.Fatalf("the second call cuts %d entries: %v, then %v", cut, texts(rest), texts(again))
		}
		local := netip.MustParsePrefix("64:ff9b:1::/48")
		for p := range rest.All() {
			if !local.Overlaps(p) {
				if c, ok := special.Covering(p.Addr()); ok {
					t.Fatalf("%v is in %v", p, c)
				}
			}
			if v4, ok := blocklist.Embedded(p); ok && !local.Overlaps(p) && special.Contains(v4.Addr()) {
				t.Fatalf("%v represents %v", p, v4)
			}
		}
	})
}
