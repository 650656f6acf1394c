package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// tally sums the readings of a host's hits.
type tally struct {
	h    *host
	keys map[ruleset.HitKey]uint64
	full bool
}

func (h *host) tally() *tally { return &tally{h: h, keys: map[ruleset.HitKey]uint64{}} }

// read adds a reading, and fails the test if more packets have a key than the counters have.
func (c *tally) read() {
	c.h.tb.Helper()
	var hits ruleset.Hits
	var err error
	c.h.Do(func() { hits, err = c.h.table.Hits() })
	if err != nil || !hits.Supported {
		c.h.tb.Fatalf("hits: supported %v, %v", hits.Supported, err)
	}
	for _, k := range hits.Counts {
		if k.Packets == 0 {
			c.h.tb.Errorf("a reading has a key without packets: %v", k)
		}
		c.keys[k.HitKey] += k.Packets
	}
	c.full = c.full || hits.Full
	n, err := c.h.counters()
	if err != nil || c.sum() > n.Packets() {
		c.h.tb.Errorf("%d packets have a key, and the counters have %d: %v", c.sum(), n.Packets(), err)
	}
}

func (c *tally) sum() uint64 {
	var n uint64
	for _, packets := range c.keys {
		n += packets
	}
	return n
}

// unattributed returns the dropped packets that are in no key.
func (c *tally) unattributed() uint64 {
	c.h.tb.Helper()
	n, err := c.h.counters()
	if err != nil {
		c.h.tb.Fatal(err)
	}
	return n.Packets() - c.sum()
}

// by returns the packets of each source.
func (c *tally) by() map[netip.Addr]uint64 {
	n := map[netip.Addr]uint64{}
	for k, packets := range c.keys {
		n[k.Source] += packets
	}
	return n
}

// lines returns the keys as text, in order.
func (c *tally) lines() []string {
	var lines []string
	for k, n := range c.keys {
		class := [...]string{"", "knock", "reply", "portless"}[k.Class]
		lines = append(lines, fmt.Sprintf("%v %d %s %d x%d", k.Source, k.Protocol, class, k.Port, n))
	}
	slices.Sort(lines)
	return lines
}

func needCounting(h *host) {
	h.tb.Helper()
	if !h.table.counting {
		h.tb.Skip("this kernel does not count by key (Linux 5.7)")
	}
}

// ip4 returns an IPv4 packet, with a fragment field as on the wire.
func ip4(src string, protocol byte, fragment uint16, payload ...byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], []byte{192, 0, 2, 1})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum&0xffff+sum>>16))
	return append(b, payload...)
}

// ip6 returns an IPv6 packet.
func ip6(src string, next byte, payload ...byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], netip.MustParseAddr(src).AsSlice())
	copy(b[24:], netip.MustParseAddr("2001:db8::1").AsSlice())
	return append(b, payload...)
}

// ports returns the first bytes of a header with ports, and n zeroes behind them.
func ports(from, to uint16, n int) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	return append(b, make([]byte, n)...)
}

// segment returns a TCP header.
func segment(from, to uint16, flags byte) []byte {
	b := ports(from, to, 16)
	b[12], b[13] = 5<<4, flags
	return b
}

// TestHitKeys sends packets of every kind, two each, and checks the keys that the kernel makes of
// them: no key has a port that was not one.
func TestHitKeys(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.apply(list("203.0.113.0/24", "2001:db8:f::/64"), list())
	const more, last = 1 << 13, 185 // a first fragment, and one at 1480 bytes
	four := func(packet []byte) { h.Sender.Raw(netip.MustParseAddr("192.0.2.1"), packet) }
	six := func(packet []byte) { h.Sender.Raw(netip.MustParseAddr("2001:db8::1"), packet) }
	eight := make([]byte, 8) // the payload of a fragment: its first bytes are no ports
	copy(eight, ports(7777, 8888, 0))
	for range 2 {
		four(ip4("203.0.113.1", unix.IPPROTO_TCP, 0, segment(4000, 22, 0x02)...))
		four(ip4("203.0.113.1", unix.IPPROTO_TCP, 0, segment(443, 50000, 0x12)...))
		four(ip4("203.0.113.1", unix.IPPROTO_TCP, 0, segment(443, 50001, 0x10)...)) // the same key
		four(ip4("203.0.113.1", unix.IPPROTO_TCP, 0, segment(4000, 23, 0x03)...))
		four(ip4("203.0.113.1", unix.IPPROTO_TCP, 0, segment(4001, 22, 0x10)...)) // after the request
		four(ip4("203.0.113.2", unix.IPPROTO_UDP, 0, ports(4000, 53, 4)...))
		four(ip4("203.0.113.3", unix.IPPROTO_SCTP, 0, ports(4000, 36412, 12)...))
		four(ip4("203.0.113.3", unix.IPPROTO_DCCP, 0, ports(4000, 5001, 12)...))
		four(ip4("203.0.113.3", unix.IPPROTO_UDPLITE, 0, ports(4000, 5004, 4)...))
		four(ip4("203.0.113.4", unix.IPPROTO_ICMP, 0, 8, 0, 0, 0, 0, 1, 0, 1))
		four(ip4("203.0.113.4", unix.IPPROTO_ICMP, 0, 0, 0, 0, 0, 0, 1, 0, 1)) // the reply to a ping of this host
		four(ip4("203.0.113.4", unix.IPPROTO_ICMP, last, 99, 9, 0, 0, 0, 1, 0, 1))
		four(ip4("203.0.113.5", unix.IPPROTO_GRE, 0, ports(7777, 8888, 4)...))
		four(ip4("203.0.113.6", unix.IPPROTO_UDP, more, ports(4000, 53, 4)...)) // the first fragment has ports
		four(ip4("203.0.113.6", unix.IPPROTO_UDP, last, eight...))
		four(ip4("203.0.113.7", unix.IPPROTO_TCP, last, segment(4000, 22, 0x02)...))
		four(ip4("203.0.113.8", unix.IPPROTO_TCP, 0, ports(4000, 22, 0)[:3]...)) // cut off
		four(ip4("203.0.113.8", unix.IPPROTO_UDP, 0))
		four(ip4("203.0.113.9", unix.IPPROTO_TCP, 0, ports(4000, 22, 4)...)) // cut off before the flags

		six(ip6("2001:db8:f::1", unix.IPPROTO_TCP, segment(4000, 22, 0x02)...))
		six(ip6("2001:db8:f::1", unix.IPPROTO_TCP, segment(443, 50000, 0x12)...))
		six(ip6("2001:db8:f::2", 60, append([]byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}, ports(4000, 53, 4)...)...))
		six(ip6("2001:db8:f::3", unix.IPPROTO_ICMPV6, 128, 0, 0, 0, 0, 1, 0, 1))
		six(ip6("2001:db8:f::3", unix.IPPROTO_ICMPV6, 129, 0, 0, 0, 0, 1, 0, 1))
		six(ip6("2001:db8:f::4", 44, append([]byte{unix.IPPROTO_UDP, 0, 0, 80, 0, 0, 0, 1}, eight...)...))
		six(ip6("2001:db8:f::5", 59))
	}
	h.Settle()
	c := h.tally()
	c.read()
	want := []string{
		"2001:db8:f::1 6 knock 22 x2", "2001:db8:f::1 6 reply 443 x2", "2001:db8:f::2 17 knock 53 x2",
		"2001:db8:f::3 58 reply 32768 x2", "2001:db8:f::3 58 reply 33024 x2", "2001:db8:f::4 17 portless 0 x2", "2001:db8:f::5 59 portless 0 x2",
		"203.0.113.1 6 knock 22 x4", "203.0.113.1 6 reply 4000 x2", "203.0.113.1 6 reply 443 x4",
		"203.0.113.2 17 knock 53 x2",
		"203.0.113.3 132 knock 36412 x2", "203.0.113.3 136 knock 5004 x2", "203.0.113.3 33 knock 5001 x2",
		"203.0.113.4 1 portless 0 x2", "203.0.113.4 1 reply 0 x2", "203.0.113.4 1 reply 2048 x2", "203.0.113.5 47 portless 0 x2",
		"203.0.113.6 17 knock 53 x2", "203.0.113.6 17 portless 0 x2", "203.0.113.7 6 portless 0 x2",
		"203.0.113.8 17 portless 0 x2", "203.0.113.8 6 portless 0 x2", "203.0.113.9 6 portless 0 x2",
	}
	if diff := cmp.Diff(want, c.lines()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if n := c.unattributed(); n != 0 {
		t.Errorf("%d packets are in no key", n)
	}
}

// sources returns n addresses from 11.0.0.0.
func sources(n int) []netip.Addr {
	return slices.Collect(addrs(repeat(n, 32)))
}

// addrs yields the addresses of a list's entries.
func addrs(b blocklist.Blocklist) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for p := range b.All() {
			if !yield(p.Addr()) {
				return
			}
		}
	}
}

// TestHitFlood floods the host from 1, 1,000 and 50,000 sources. Each source has exactly the packets
// that it sent, over refreshes and readings meanwhile.
func TestHitFlood(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 1000, 50_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			needCounting(h)
			h.apply(addresses(n), list())
			c, from := h.tally(), sources(n)
			c.read() // makes the spare set
			const packets = 100_000
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for i := range packets {
					h.Send(from[i%n], "flood")
				}
			}()
			for i := 0; ; i++ {
				c.read()
				h.apply(addresses(n, fmt.Sprintf("13.0.0.%d", i%7)), list())
				select {
				case <-sent:
				default:
					continue
				}
				break
			}
			h.Settle()
			c.read()
			if got, _ := h.counters(); got.Packets() != packets || c.unattributed() != 0 {
				t.Errorf("%d packets, %d of them in no key, want %d and 0", got.Packets(), c.unattributed(), packets)
			}
			by := c.by()
			if len(by) != n {
				t.Errorf("%d sources, want %d", len(by), n)
			}
			for a, got := range by {
				if want := uint64(packets / n); got != want {
					t.Fatalf("%v has %d packets, want %d", a, got, want)
				}
			}
		})
	}
}

// TestHitsNoisySource has one source send to 20,000 ports while 100 quiet sources send a packet
// each. The quiet ones have their key with the port, and the noisy one has all its packets.
func TestHitsNoisySource(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.apply(addresses(100, "203.0.113.9"), list())
	c := h.tally()
	c.read() // makes the spare set
	noisy := netip.MustParseAddr("203.0.113.9")
	quiet := sources(100)
	const scanned = 20_000
	for i := range scanned {
		h.Sender.Raw(netip.MustParseAddr("192.0.2.1"),
			ip4("203.0.113.9", unix.IPPROTO_UDP, 0, ports(4000, uint16(10_000+i), 4)...))
		if i%200 == 0 {
			h.Send(quiet[i/200], "quiet")
		}
	}
	h.Settle()
	c.read()
	if c.unattributed() != 0 || c.by()[noisy] != scanned {
		t.Errorf("%d packets in no key, the noisy source has %d", c.unattributed(), c.by()[noisy])
	}
	for _, a := range quiet {
		k := ruleset.HitKey{Source: a, Protocol: unix.IPPROTO_UDP, Port: 9, Class: ruleset.Knock}
		if c.keys[k] != 1 {
			t.Errorf("the quiet source %v has no key with its port", a)
		}
	}
	known := 0
	for k := range c.keys {
		if k.Source == noisy && k.Class == ruleset.Knock {
			known++
		}
	}
	if known < 1000 || known > 5000 {
		t.Errorf("the noisy source has %d keys with ports, want the share of one source", known)
	}
}

// TestHitsFull fills small sets: ports are lost first, then sources. All packets are dropped and
// counted, and the reading says that a set was full.
func TestHitsFull(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.table.flags = 0 // as on a kernel without owner: another program may change the table
	h.apply(addresses(100), list())
	h.Run("nft", "flush chain inet sikkerguard blocked4; flush chain inet sikkerguard new4; "+
		"delete set inet sikkerguard hits4; delete set inet sikkerguard others4; "+
		"add set inet sikkerguard hits4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 20; counter; }; "+
		"add set inet sikkerguard others4 { type ipv4_addr . inet_proto; flags dynamic; size 30; counter; }")
	h.apply(addresses(100), list()) // the sizes stay
	c := h.tally()
	send := func(from []netip.Addr) {
		for _, a := range from {
			h.Send(a, "knock")
			h.Send(a, "knock")
		}
		h.Settle()
		c.read()
	}
	from := sources(100)
	send(from[:20])
	if len(c.keys) != 20 || !c.full || c.unattributed() != 0 {
		t.Errorf("%d keys, full %v, %d packets in no key; want 20, true, 0", len(c.keys), c.full, c.unattributed())
	}
	send(from[20:40])
	if len(c.by()) != 40 || c.unattributed() != 0 {
		t.Errorf("%d sources, %d packets in no key; want 40, 0", len(c.by()), c.unattributed())
	}
	send(from)
	if got, _ := h.counters(); len(c.by()) != 50 || c.unattributed() != 100 || got.Packets() != 280 {
		t.Errorf("%d sources, %d of %d packets in no key; want 50, 100 of 280", len(c.by()), c.unattributed(), got.Packets())
	}
}

// TestHitsUnsupported checks a kernel that does not count by key: the rules are those before, and
// Info says so.
func TestHitsUnsupported(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.table.counting = false
	h.apply(list("203.0.113.9"), list())
	h.Check("without counts", nettest.Addrs("203.0.113.9"), nettest.Addrs("203.0.113.8"))
	h.Do(func() {
		if hits, err := h.table.Hits(); err != nil || hits.Supported || len(hits.Counts) > 0 {
			t.Errorf("hits: %+v, %v", hits, err)
		}
		if _, err := h.table.Verify(); err != nil {
			t.Errorf("verify: %v", err)
		}
	})
	out := plain(h.Run("nft", "list", "table", "inet", tableName))
	for _, r := range rules(planBlock(list("203.0.113.9")), nil, ruleset.Ruleset{LogGroup: 100, LogRate: 10_000}, false) {
		if !strings.Contains(out, r.text) {
			t.Errorf("nft does not print the rule %q", r.text)
		}
	}
	if strings.Contains(out, "hits4") {
		t.Errorf("the table has sets of hits:\n%s", out)
	}
	detours := strings.Join(h.table.Info().Detours, "|")
	if !strings.Contains(detours, "does not count dropped packets by source") {
		t.Errorf("detours: %q", detours)
	}
}

// TestHitsAfterClose checks that a late reading opens no socket that would stay open.
func TestHitsAfterClose(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.apply(list("203.0.113.9"), list())
	h.Do(func() {
		if _, err := h.table.Hits(); err != nil {
			t.Fatal(err)
		}
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := h.table.Hits(); !errors.Is(err, os.ErrClosed) || h.table.hits.socket != nil {
			t.Errorf("got %v, want %v and no socket", err, os.ErrClosed)
		}
	})
}

// TestCountingRefused has the kernel refuse the rules that count by key: only some errors mean that it
// is too old for them, and for the others Info tells the operator to try again.
func TestCountingRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	tap, counting := h.tap(), h.table.counting
	for refusal, tooOld := range map[error]bool{
		unix.EINVAL: true, unix.EOPNOTSUPP: true, unix.ENOENT: true, unix.ENOMEM: false, unix.ENOBUFS: false,
	} {
		tap.refuse = refusal
		h.table.countRefusal, h.table.counting = probeCounting(h.table.conn), false
		detours := strings.Join(h.table.Info().Detours, "|")
		if again := strings.Contains(detours, "restart the agent"); again == tooOld {
			t.Errorf("%v: detours %q", refusal, detours)
		}
	}
	tap.refuse = nil
	if err := probeCounting(h.table.conn); counting && err != nil {
		t.Errorf("not refused: %v", err)
	}
}
