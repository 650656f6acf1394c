package host

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// neighbourhood returns a server with one neighbour, 192.0.2.2, which is its gateway, its resolver
// and the API.
func neighbourhood(t *testing.T) *nettest.NS {
	t.Helper()
	server, other := nettest.New(t), nettest.New(t)
	nettest.Link(server, other, "eth0",
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	var (
		dns net.PacketConn
		api net.Listener
		err error
	)
	other.Do(func() {
		if dns, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "192.0.2.2:53"); err == nil {
			api, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "192.0.2.2:443")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dns.Close(); _ = api.Close() })
	go func() { // ignores the first query of each sender, as if it was lost, and refuses the others
		buf, asked := make([]byte, 512), map[string]bool{}
		for {
			n, from, err := dns.ReadFrom(buf)
			if err != nil {
				return
			}
			if !asked[from.String()] || n < 12 {
				asked[from.String()] = true
				continue
			}
			buf[2], buf[3] = 0x80, 5 // a response: refused (RFC 1035, 4.1.1)
			_, _ = dns.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := api.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return server
}

// TestProbe checks that Probe reaches existing dependencies, and returns an error for the others.
func TestProbe(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		neighbourhood(t).Rerun(t)
		return
	}
	h := New(Options{
		APIURL: &url.URL{Scheme: "https", Host: "192.0.2.2"},
		Proxy:  func(*url.URL) (*url.URL, error) { return nil, nil },
	})
	h.finds.last[kindGateway] = []netip.Addr{
		netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2"),
		netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("fe80::1"),
	}
	h.finds.last[kindResolver] = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}
	before := h.Probe(t.Context())
	for range 5 { // neighbour entries take a while on a link that has just come up
		if !strings.Contains(before.String(), "2001:db8::2 (") {
			break
		}
		before = h.Probe(t.Context())
	}
	var got []string
	for _, c := range before {
		got = append(got, c.Name+map[bool]string{true: " ok", false: " fails"}[c.Err == nil])
	}
	want := []string{
		"gateway 192.0.2.2 ok", "gateway 2001:db8::2 ok", "gateway 192.0.2.3 fails",
		"resolver 192.0.2.2 ok", "resolver 192.0.2.3 fails", "API 192.0.2.2:443 ok",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s\n%v", diff, before)
	}
	only := h.Probe(t.Context(), "resolver 192.0.2.2", "gateway 192.0.2.77")
	if len(only) != 1 || only[0].Name != "resolver 192.0.2.2" {
		t.Errorf("one known and one unknown name: %v", only)
	}
	if b := Broken(before, h.Probe(t.Context())); len(b) != 0 {
		t.Errorf("broken: %v", b)
	}

	// The link goes down: checks that worked are broken, and a check that failed before is not.
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	broken := Broken(before, h.Probe(t.Context()))
	for _, name := range []string{
		"gateway 192.0.2.2", "gateway 2001:db8::2", "resolver 192.0.2.2", "API 192.0.2.2:443",
	} {
		if !strings.Contains(broken.String(), name) {
			t.Errorf("%s is not broken: %v", name, broken)
		}
	}
	if strings.Contains(broken.String(), "192.0.2.3") {
		t.Errorf("a check that never worked is broken: %v", broken)
	}
}

// TestReachGateway checks that a gateway which answers no pings, or only some, is reached while the
// kernel has its neighbour entry, and that a gateway without one is reached while it answers.
func TestReachGateway(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		server, other := nettest.New(t), nettest.New(t)
		nettest.Link(server, other, "eth0",
			[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
			[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("198.51.100.9/32")})
		other.Do(func() {
			if err := os.WriteFile("/proc/sys/net/ipv4/icmp_echo_ignore_all", []byte("1"), 0o600); err != nil {
				t.Error(err)
			}
		})
		server.DefaultRoute("eth0")
		server.Rerun(t)
		return
	}
	reach := func(addr string) error {
		h := New(Options{})
		h.finds.last[kindGateway] = []netip.Addr{netip.MustParseAddr(addr)}
		return h.Probe(t.Context())[0].Err
	}
	silent := "192.0.2.2"
	for range 3 {
		if err := reach(silent); err != nil {
			t.Errorf("a gateway that answers no pings: %v", err)
		}
	}
	// The loopback device has no neighbour entries, and 127.0.0.1 answers pings.
	if link, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(link) != nil {
		t.Fatal("no loopback", err)
	}
	if err := reach("127.0.0.1"); err != nil {
		t.Errorf("a gateway without a neighbour entry: %v", err)
	}
	if err := reach("192.0.2.77"); err == nil {
		t.Error("an address that no host has is reached")
	}
}

// TestProbeOfCachingResolver checks that a resolver on this host which has the API's name in its
// cache is reached only if it gets answers from the resolvers that it asks.
func TestProbeOfCachingResolver(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		server := nettest.New(t)
		server.Run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
		server.Rerun(t)
		return
	}
	var rcode atomic.Int32
	var mu sync.Mutex
	asked := map[string]bool{}
	for _, addr := range []string{"127.0.0.1:53", "192.0.2.1:53"} {
		c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			buf := make([]byte, 512)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				var p dnsmessage.Parser
				_, err = p.Start(buf[:n])
				q, qerr := p.Question()
				if err != nil || qerr != nil {
					continue
				}
				mu.Lock()
				asked[q.Name.String()] = true
				mu.Unlock()
				answer := byte(rcode.Load())
				if q.Name.String() == "api.example.org." { // from the cache
					answer = 0
				}
				buf[2], buf[3] = 0x80, answer
				_, _ = c.WriteTo(buf[:n], from)
			}
		}()
	}
	h := New(Options{APIURL: &url.URL{Scheme: "https", Host: "api.example.org"}, Resolver: names{}, Proxy: noProxy})
	h.finds.last[kindResolver] = addrs("127.0.0.1")
	for _, tt := range []struct {
		rcode   dnsmessage.RCode
		reached bool
	}{
		{dnsmessage.RCodeSuccess, true},
		{dnsmessage.RCodeNameError, true},
		{dnsmessage.RCodeServerFailure, false},
		{dnsmessage.RCodeRefused, false},
	} {
		rcode.Store(int32(tt.rcode))
		c := h.Probe(t.Context())[0]
		if (c.Err == nil) != tt.reached || !c.Relayed {
			t.Errorf("%v: %+v", tt.rcode, c)
		}
	}
	// A resolver at an address of this host also relays.
	h.finds.last[kindResolver], h.finds.last[kindHost] = addrs("192.0.2.1"), addrs("192.0.2.1")
	if c := h.Probe(t.Context())[0]; !c.Relayed || c.Err == nil {
		t.Errorf("resolver at the host's own address: %+v", c)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 5 {
		t.Errorf("asked for %v, want five names", asked)
	}
	for name := range asked {
		if !strings.HasSuffix(name, ".api.example.org.") {
			t.Errorf("asked for %s", name)
		}
	}
}

// TestAnswerToAnotherQuery checks that an answer to another query does not prove that the resolver
// is reached.
func TestAnswerToAnotherQuery(t *testing.T) {
	if !nettest.Inside() {
		t.Parallel()
		nettest.New(t).Rerun(t)
		return
	}
	c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var right atomic.Bool // the query is answered after the wrong answer
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 12 {
				continue
			}
			buf[0], buf[2], buf[3] = ^buf[0], 0x80, 0 // the ID of another query
			_, _ = c.WriteTo(buf[:n], from)
			if buf[0] = ^buf[0]; right.Load() {
				_, _ = c.WriteTo(buf[:n], from)
			}
		}
	}()
	h := New(Options{Proxy: noProxy})
	h.finds.last[kindResolver] = addrs("127.0.0.1")
	if c := h.Probe(t.Context())[0]; c.Err == nil {
		t.Errorf("an answer to another query counts: %+v", c)
	}
	right.Store(true)
	if c := h.Probe(t.Context())[0]; c.Err != nil {
		t.Errorf("the right answer after a wrong one does not count: %+v", c)
	}
}
