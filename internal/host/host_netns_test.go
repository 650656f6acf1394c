package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestDiscoverKernel reads a host with two uplinks, a policy-routing table and a VPN's half routes.
func TestDiscoverKernel(t *testing.T) {
	t.Parallel()
	server, peer := nettest.New(t), nettest.New(t)
	nettest.Link(server, peer, "sg0", prefixes("192.0.2.10/24", "2001:db8::10/64"), nil)
	nettest.Link(server, peer, "sg1", prefixes("198.51.100.10/24"), nil)
	h := New(Options{Root: t.TempDir(), Proxy: noProxy})
	var (
		w        Whitelist
		routeErr error
	)
	server.Do(func() {
		if routeErr = addRoutes(); routeErr == nil {
			w = h.discover(t.Context())
		}
	})
	if routeErr != nil {
		t.Fatal(routeErr)
	}
	if len(w.Problems) != 0 {
		t.Fatalf("got problems %v, want none", w.Problems)
	}
	want := prefixes(
		"192.0.2.1/32", "192.0.2.10/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32",
		"198.51.100.2/32", "198.51.100.10/32", "2001:db8::1/128", "2001:db8::2/128", "2001:db8::10/128",
		"10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
		"::1/128", "fc00::/7", "fe80::/10", "fe80::1/128",
	)
	// The kernel adds a link-local address to each veth, after a delay.
	made := netip.MustParsePrefix("fe80::/64")
	got := slices.DeleteFunc(w.Prefixes(), func(p netip.Prefix) bool {
		return p.IsSingleIP() && made.Contains(p.Addr()) && p.Addr() != netip.MustParseAddr("fe80::1")
	})
	if diff := cmp.Diff(distinct(want), got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("prefixes (-want +got):\n%s", diff)
	}
	if got, want := w.counts[kindGateway], 8; got != want {
		t.Errorf("gateways: got %d, want %d", got, want)
	}
}

// TestDiscoverEmptyKernel checks that a host without a network is no error.
func TestDiscoverEmptyKernel(t *testing.T) {
	t.Parallel()
	server := nettest.New(t)
	h := New(Options{Root: t.TempDir(), Proxy: noProxy})
	var w Whitelist
	server.Do(func() { w = h.discover(t.Context()) })
	if len(w.Problems) != 0 {
		t.Fatalf("got problems %v, want none", w.Problems)
	}
	if diff := cmp.Diff("LAN ranges 6, loopback 2", w.Kinds()); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}

// addRoutes adds default routes of every type, and others whose gateways must not be found.
func addRoutes() error {
	sg0, err := netlink.LinkByName("sg0")
	if err != nil {
		return err
	}
	sg1, err := netlink.LinkByName("sg1")
	if err != nil {
		return err
	}
	i0, i1 := sg0.Attrs().Index, sg1.Attrs().Index
	for _, r := range []netlink.Route{
		{Dst: dst("0.0.0.0/0"), Gw: net.ParseIP("192.0.2.1"), LinkIndex: i0},
		{Dst: dst("0.0.0.0/0"), Priority: 50, MultiPath: []*netlink.NexthopInfo{
			{LinkIndex: i0, Gw: net.ParseIP("192.0.2.2")}, {LinkIndex: i1, Gw: net.ParseIP("198.51.100.2")},
		}},
		{Dst: dst("0.0.0.0/0"), Table: 1000, Gw: net.ParseIP("192.0.2.3"), LinkIndex: i0},
		{Dst: dst("128.0.0.0/1"), Gw: net.ParseIP("192.0.2.4"), LinkIndex: i0},
		{Dst: dst("0.0.0.0/0"), Table: 1001, LinkIndex: i0, Via: &netlink.Via{
			AddrFamily: unix.AF_INET6, Addr: net.ParseIP("fe80::1"),
		}},
		{Dst: dst("::/0"), Gw: net.ParseIP("2001:db8::1"), LinkIndex: i0},
		{Dst: dst("::/0"), Table: 1000, Gw: net.ParseIP("2001:db8::2"), LinkIndex: i0},
		{Dst: dst("::/0"), Table: 1001, Gw: net.ParseIP("fe80::1"), LinkIndex: i1},
		{Dst: dst("203.0.113.0/24"), Gw: net.ParseIP("192.0.2.99"), LinkIndex: i0},
		{Dst: dst("2001:db8:1::/48"), Gw: net.ParseIP("2001:db8::99"), LinkIndex: i0},
		{Dst: dst("0.0.0.0/0"), Table: 1002, Type: unix.RTN_UNREACHABLE},
	} {
		if err := netlink.RouteAdd(&r); err != nil {
			return fmt.Errorf("add route %s: %w", r, err)
		}
	}
	return nil
}

func dst(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
