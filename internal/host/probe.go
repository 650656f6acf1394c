package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// probeTimeout is the time in which each probe must be answered.
const probeTimeout = time.Second

// Check is the result of a probe of one dependency of this host.
type Check struct {
	Name string // kind and address, such as "gateway 192.0.2.254"
	Err  error  // nil if it was reached

	// Relayed reports that the probe asked a resolver on or near this host, which asks others. If
	// such a check fails, those others are not reached.
	Relayed bool

	// Tunnelled reports that the probe failed, and that its packets leave through a tunnel. Its
	// answers then come inside other packets, of another source, protocol and port.
	Tunnelled bool
}

// Checks are the results of the probes of one time.
type Checks []Check

// Broken returns the checks of after that fail and did not fail in before. A check that failed
// before is not attributed to the change in between.
func Broken(before, after Checks) Checks {
	worked := map[string]bool{}
	for _, c := range before {
		worked[c.Name] = c.Err == nil
	}
	var broken Checks
	for _, c := range after {
		if c.Err != nil && worked[c.Name] {
			broken = append(broken, c)
		}
	}
	return broken
}

// String returns the names of the checks, with the errors of those that failed.
func (cs Checks) String() string {
	parts := make([]string, len(cs))
	for i, c := range cs {
		parts[i] = c.Name
		if c.Err != nil {
			parts[i] += fmt.Sprintf(" (%v)", c.Err)
		}
	}
	return strings.Join(parts, ", ")
}

// Probe checks whether the newest finds can be reached: each gateway by its neighbour
// entry and by ICMP; each resolver by a query for a name below the API's that no cache has; the
// API, or the proxy before it, by a connection. If names are given, only the checks of these names
// run. It takes about a second at most. Probe opens sockets on goroutines of its own, hence in the
// process's network namespace.
func (h *Host) Probe(ctx context.Context, names ...string) Checks {
	h.mu.Lock()
	probes := h.probes()
	h.mu.Unlock()
	if len(names) > 0 {
		probes = slices.DeleteFunc(probes, func(p probe) bool { return !slices.Contains(names, p.name) })
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	checks := make(Checks, len(probes))
	var wg sync.WaitGroup
	for i, p := range probes {
		wg.Go(func() {
			err := panics.Contain(func() error { return p.run(ctx) }) // decodes answers from the network
			tunnelled := err != nil && slices.ContainsFunc(p.targets, isTunnelled)
			checks[i] = Check{Name: p.name, Err: err, Relayed: p.relayed, Tunnelled: tunnelled}
		})
	}
	wg.Wait()
	return checks
}

// CheckNames returns the names of the checks that Probe makes of the newest finds.
func (h *Host) CheckNames() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for _, p := range h.probes() {
		names = append(names, p.name)
	}
	return names
}

type probe struct {
	name    string
	relayed bool
	targets []netip.Addr // known addresses of the dependency
	run     func(context.Context) error
}

// probes returns the probes of the last finds. The caller holds mu.
func (h *Host) probes() []probe {
	var ps []probe
	for _, a := range h.finds.last[kindGateway] {
		if a.Is6() && a.IsLinkLocalUnicast() {
			continue // its link is not stored, and no list can contain it
		}
		ps = append(ps, probe{
			name: "gateway " + a.String(), targets: []netip.Addr{a},
			run: func(ctx context.Context) error { return reachGateway(ctx, a) },
		})
	}
	name := ""
	if h.o.APIURL != nil {
		name = h.o.APIURL.Hostname()
	}
	for _, a := range h.finds.last[kindResolver] {
		relays := h.relays(a)
		ps = append(ps, probe{
			name: "resolver " + a.String(), relayed: relays, targets: []netip.Addr{a},
			run: func(ctx context.Context) error { return query(ctx, a, uncached(name), relays) },
		})
	}
	if host, port := h.target(); host != "" {
		ps = append(ps, probe{
			name:    "API " + net.JoinHostPort(host, port),
			targets: slices.Concat(h.finds.last[kindAPI], h.finds.last[kindProxy]),
			run:     func(ctx context.Context) error { return h.connect(ctx, host, port) },
		})
	}
	return ps
}

// relays reports whether the resolver at a is on or near this host and asks others, whose answers
// pass this host: on the host itself, in a container or guest of it, or in its private network.
func (h *Host) relays(a netip.Addr) bool {
	return slices.Contains(h.finds.last[kindHost], a) || blocklist.Special().Contains(a)
}

// target returns the host and port to which a connection to the API is opened: the API itself, or
// the proxy before it.
func (h *Host) target() (host, port string) {
	u := h.o.APIURL
	if u == nil || u.Hostname() == "" {
		return "", ""
	}
	if p, err := h.proxyFor(u); err == nil && p != nil {
		u = p
	}
	port = u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return u.Hostname(), port
}

// AnsweredFrom reports whether this host depends on answers that come from this port: the ports of
// DNS, and the port of the API or the proxy.
func (h *Host) AnsweredFrom(port uint16) bool {
	if port == 53 || port == 853 {
		return true
	}
	_, p := h.target()
	return p != "" && p == strconv.Itoa(int(port))
}

// connect tries the addresses of a name in turn, as a client does.
func (h *Host) connect(ctx context.Context, host, port string) error {
	addrs, err := h.lookup(ctx, host)
	for _, a := range addrs {
		var c net.Conn
		if c, err = (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port)); err == nil {
			return c.Close()
		}
	}
	return err
}

// uncached returns a random name below name, which no cache contains.
func uncached(name string) string {
	if _, err := netip.ParseAddr(name); err == nil || name == "" {
		name = "sikkerapi.com" // an address has no names below it
	}
	return strings.ToLower(rand.Text()[:16]) + "." + strings.TrimPrefix(name, ".")
}

// query asks a resolver for a name. Any answer is accepted, because only the resolver's
// reachability matters. A resolver that relays must answer that the name exists or does not, which
// it knows from others only.
func query(ctx context.Context, server netip.Addr, name string, relays bool) error {
	qname, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return fmt.Errorf("build a query for %q: %w", name, err)
	}
	msg := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(time.Now().UnixNano()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: qname, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	raw, err := msg.Pack()
	if err != nil {
		return fmt.Errorf("build a query for %q: %w", name, err)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // only the answer matters
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	// UDP loses packets, and a lost one must not cost a list, so the query is repeated until there
	// is an answer.
	stop := resend(ctx, func() { _, _ = c.Write(raw) })
	defer stop()
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		var p dnsmessage.Parser
		hdr, err := p.Start(buf[:n])
		switch {
		case err != nil || hdr.ID != msg.ID || !hdr.Response:
			continue
		case relays && hdr.RCode != dnsmessage.RCodeSuccess && hdr.RCode != dnsmessage.RCodeNameError:
			return fmt.Errorf("the resolver answers %v", hdr.RCode)
		}
		return nil
	}
}

// resend calls send now and every quarter of probeTimeout, until stop is called or ctx ends.
func resend(ctx context.Context, send func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(probeTimeout / 4)
		defer t.Stop()
		for {
			send()
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// reachGateway returns nil if the kernel has a valid neighbour entry for the gateway, or if the
// gateway answers a ping. Neither alone is a sure sign: many gateways limit the pings they answer,
// and a tunnel has no neighbours. It pings only a gateway without a neighbour entry, which also
// makes the kernel resolve the entry.
func reachGateway(ctx context.Context, a netip.Addr) error {
	if findNeighbour(a) == nil {
		return nil
	}
	pingErr := ping(ctx, a)
	if pingErr == nil {
		return nil
	}
	if err := findNeighbour(a); err != nil {
		return errors.Join(pingErr, err)
	}
	return nil
}

// ping sends echo requests until one is answered. It needs CAP_NET_RAW.
func ping(ctx context.Context, a netip.Addr) error {
	network, listen, proto := "ip4:icmp", "0.0.0.0", 1
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if a.Is6() {
		network, listen, proto = "ip6:ipv6-icmp", "::", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	c, err := icmp.ListenPacket(network, listen)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	defer func() { _ = c.Close() }() // only the answer matters
	deadline, _ := ctx.Deadline()
	if err := c.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	id := int(time.Now().UnixNano() & 0xffff)
	echo := &icmp.Echo{ID: id, Seq: 1, Data: []byte("sikkerguard")}
	raw, err := (&icmp.Message{Type: request, Body: echo}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	stop := resend(ctx, func() { _, _ = c.WriteTo(raw, &net.IPAddr{IP: a.AsSlice()}) })
	defer stop()
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return errors.New("no answer to a ping")
		}
		addr, ok := from.(*net.IPAddr)
		if !ok || !addr.IP.Equal(a.AsSlice()) {
			continue // a raw socket receives the packets of every sender
		}
		if isReply(proto, buf[:n], reply, id) {
			return nil
		}
	}
}

// isReply reports whether packet, which any host may have sent, answers the echo request of this
// ID.
func isReply(proto int, packet []byte, reply icmp.Type, id int) bool {
	m, err := icmp.ParseMessage(proto, packet)
	if err != nil {
		return false
	}
	echo, ok := m.Body.(*icmp.Echo)
	return ok && m.Type == reply && echo.ID == id
}

// findNeighbour returns nil if the kernel has a valid neighbour entry for the address.
func findNeighbour(a netip.Addr) error {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := netlink.NeighList(0, family)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	const alive = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
	for _, n := range list {
		if n.IP.Equal(a.AsSlice()) && n.State&alive != 0 {
			return nil
		}
	}
	return errors.New("no neighbour entry on the link")
}
