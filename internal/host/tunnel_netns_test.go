package host

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestTunnelledChecks checks that a failed check says whether its packets leave through a tunnel.
func TestTunnelledChecks(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		if _, err := os.Stat("/dev/net/tun"); errors.Is(err, fs.ErrNotExist) {
			t.Skip("the module tun is not loaded")
		}
		neighbourhood(t).Rerun(t)
		return
	}
	tunnel := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := netlink.LinkAdd(tunnel); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("tun0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("10.8.0.2/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	h := New(Options{})
	h.finds.last[kindGateway] = []netip.Addr{
		netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.2"),
	}
	want := []string{"gateway 10.8.0.1", "gateway 192.0.2.3", "gateway 192.0.2.2"}
	if got := h.CheckNames(); !slices.Equal(got, want) {
		t.Errorf("the checks are %q, want %q", got, want)
	}
	for _, c := range h.Probe(t.Context()) {
		if tunnelled := c.Name == "gateway 10.8.0.1"; c.Tunnelled != tunnelled {
			t.Errorf("%s (%v): tunnelled %v, want %v", c.Name, c.Err, c.Tunnelled, tunnelled)
		}
	}
}
