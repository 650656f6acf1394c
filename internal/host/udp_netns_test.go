package host

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestUDPSockets checks that the sockets of the namespace are listed, connected ones with their
// peer.
func TestUDPSockets(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	ns.Do(func() {
		open, err := net.ListenUDP("udp", &net.UDPAddr{Port: 5060})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = open.Close() }()
		for _, peer := range []string{"127.0.0.9:7000", "[::1]:7000"} {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(peer)))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
		}
		got, err := UDPSockets()
		if err != nil {
			t.Error(err)
			return
		}
		if !slices.Contains(got, UDPSocket{Port: 5060}) {
			t.Errorf("the open socket is missing: %+v", got)
		}
		for _, peer := range []string{"127.0.0.9", "::1"} {
			connected := func(s UDPSocket) bool { return s.Peer == netip.MustParseAddr(peer) && s.Port != 0 }
			if !slices.ContainsFunc(got, connected) {
				t.Errorf("the socket connected to %s is missing: %+v", peer, got)
			}
		}
		if len(got) != 3 {
			t.Errorf("%d sockets: %+v; want 3", len(got), got)
		}
	})
}

// TestLocalPorts reads the range that is set in the namespace.
func TestLocalPorts(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	ns.Do(func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("20000 30000"), 0o600); err != nil {
			nettest.Skip(t, "the namespace's settings cannot be written: "+err.Error())
		}
		if first, last, err := LocalPorts(); err != nil || first != 20000 || last != 30000 {
			t.Errorf("got %d to %d, %v; want 20000 to 30000", first, last, err)
		}
	})
}

// TestUDPPeers checks that nothing is known and no module is loaded without rules that track
// connections, and that with them the peers to which this host started to send are returned.
func TestUDPPeers(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t)
	ns.Do(func() {
		if Tracks() {
			t.Error("connections are tracked in a new namespace")
		}
		nft := exec.CommandContext(t.Context(), "nft", "add table inet t; "+
			"add chain inet t sent { type filter hook output priority 0; }; "+
			"add rule inet t sent ct state new counter")
		if out, err := nft.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
			return
		}
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 5060})
		if err == nil {
			_, err = conn.WriteToUDPAddrPort([]byte("hello"), netip.MustParseAddrPort("127.0.0.9:7000"))
			defer func() { _ = conn.Close() }()
		}
		if err != nil {
			t.Error(err)
			return
		}
		peers, err := UDPPeers()
		if err != nil || !Tracks() || len(peers) != 1 || !peers[netip.MustParseAddr("127.0.0.9")] {
			t.Errorf("tracks %t, peers %v, %v; want 127.0.0.9", Tracks(), peers, err)
		}
	})
}

// TestUDPPeersOfABusyHost checks that UDPPeers does not read the connections of a host that has
// more than maxFlows of them.
func TestUDPPeersOfABusyHost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it sends 30,000 datagrams")
	}
	ns := nettest.New(t)
	ns.Run("nft", "add table inet t; add chain inet t sent { type filter hook output priority 0; }; "+
		"add rule inet t sent ct state new counter")
	ns.Do(func() {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 5060})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		for i := range maxFlows + 1 {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 7000)
			if _, err := conn.WriteToUDPAddrPort(nil, to); err != nil {
				t.Error(err)
				return
			}
			if i == maxFlows-1 {
				if peers, err := UDPPeers(); len(peers) != maxFlows || err != nil {
					t.Errorf("%d peers, %v; want %d", len(peers), err, maxFlows)
				}
			}
		}
		if peers, err := UDPPeers(); !errors.Is(err, ErrFlows) {
			t.Errorf("%d peers, %v; want %v", len(peers), err, ErrFlows)
		}
	})
}
