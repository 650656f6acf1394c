package host

import (
	"net/netip"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// TestRelays checks which resolvers relay answers of others that can pass this host.
func TestRelays(t *testing.T) {
	t.Parallel()
	h := New(Options{})
	h.finds.last[kindHost] = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	for addr, want := range map[string]bool{
		"127.0.0.53":      true,
		"::1":             true,
		"203.0.113.1":     true, // an address of this host
		"172.17.0.2":      true, // a container
		"10.0.3.7":        true, // a guest
		"fd00::53":        true,
		"100.100.100.100": true, // a VPN's resolver, which runs on this host
		"169.254.169.253": true, // a cloud's resolver, which runs on the hypervisor
		"203.0.113.53":    false,
		"2001:db8::53":    false,
	} {
		if got := h.relays(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
	}
}

// FuzzIsReply decodes packets that any host can send: none may end the agent.
func FuzzIsReply(f *testing.F) {
	good, err := (&icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &icmp.Echo{ID: 7, Seq: 1}}).Marshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x81, 0, 0, 0}) // an ICMPv6 echo reply without a body
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if isReply(1, packet, ipv4.ICMPTypeEchoReply, 7) && packet[0] != 0 {
			t.Errorf("%x is accepted as an echo reply", packet)
		}
		if isReply(58, packet, ipv6.ICMPTypeEchoReply, 7) && packet[0] != 129 {
			t.Errorf("%x is accepted as an ICMPv6 echo reply", packet)
		}
	})
	if !isReply(1, good, ipv4.ICMPTypeEchoReply, 7) || isReply(1, good, ipv4.ICMPTypeEchoReply, 8) {
		f.Error("a reply is not distinguished by its ID")
	}
}
