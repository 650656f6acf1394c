package nettest_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestPackets shows that what a Sender sends from any source arrives, so that a drop in another test means the firewall.
func TestPackets(t *testing.T) {
	t.Parallel()
	server, attacker := nettest.New(t), nettest.New(t)
	nettest.Link(server, attacker, "sg0",
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	server.DefaultRoute("sg0")
	r := nettest.Listen(t, server, 9)
	s := nettest.NewSender(t, attacker, server, "sg0")
	for _, tt := range []struct{ src, dst string }{
		{"203.0.113.7:4000", "192.0.2.1:9"},
		{"[2001:db8:ffff::7]:4000", "[2001:db8::1]:9"},
	} {
		src, dst := netip.MustParseAddrPort(tt.src), netip.MustParseAddrPort(tt.dst)
		s.UDP(src, dst, "from "+tt.src)
		if !r.Await("from "+tt.src, 5*time.Second) {
			t.Errorf("datagram from %s did not arrive", tt.src)
		}
		if got := r.Seen(src.Addr()); got != 1 {
			t.Errorf("seen from %s: got %d, want 1", tt.src, got)
		}
	}
}
