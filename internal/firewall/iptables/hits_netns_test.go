package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// hits returns the counts by key since the previous call.
func hits(t *testing.T, h *nettest.Host, f *Firewall) ruleset.Hits {
	t.Helper()
	var got ruleset.Hits
	var err error
	h.Do(func() { got, err = f.Hits() })
	if err != nil || !got.Supported {
		t.Fatalf("hits: %+v, %v", got, err)
	}
	return got
}

// total returns the number of packets.
func total(counts []ruleset.HitCount) (n uint64) {
	for _, c := range counts {
		n += c.Packets
	}
	return n
}

// bySource returns the packets by source.
func bySource(counts []ruleset.HitCount) map[netip.Addr]uint64 {
	sums := map[netip.Addr]uint64{}
	for _, c := range counts {
		sums[c.Source] += c.Packets
	}
	return sums
}

// TestHits sends packets of each protocol. Each is counted once, under its source, protocol and
// port, and the next reading has only what came since.
func TestHits(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			mustApply(t, h, f, desired(list("203.0.113.0/24", "2001:db8:f::/64"), list()))
			src4, src6 := nettest.Addrs("203.0.113.9")[0], nettest.Addrs("2001:db8:f::1")[0]
			dst4, dst6 := nettest.Addrs("192.0.2.1")[0], nettest.Addrs("2001:db8::1")[0]
			raw4 := func(protocol byte, fragment uint16, payload ...byte) []byte {
				ip := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 1, byte(fragment >> 8), byte(fragment), 64, protocol, 0, 0}
				ip = append(append(ip, src4.AsSlice()...), dst4.AsSlice()...)
				sum := uint32(0)
				for i := 0; i < len(ip); i += 2 {
					sum += uint32(ip[i])<<8 | uint32(ip[i+1])
				}
				sum = sum&0xffff + sum>>16
				sum = ^(sum&0xffff + sum>>16)
				ip[10], ip[11] = byte(sum>>8), byte(sum)
				return append(ip, payload...)
			}
			send := func(n int) {
				for _, p := range []struct{ src, dst netip.Addr }{{src4, dst4}, {src6, dst6}} {
					at := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
					for i := range n {
						h.Sender.SYN(at(p.src, uint16(5000+i)), at(p.dst, 22)) // any source port is one key
						h.Sender.SYN(at(p.src, 5000), at(p.dst, 23))
						h.Sender.UDP(at(p.src, uint16(6000+i)), at(p.dst, 53), "knock")
						h.Sender.Answer(at(p.src, 443), at(p.dst, uint16(7000+i))) // any destination port is one key
						h.Sender.Answer(at(p.src, 22), at(p.dst, 22))
						h.Sender.Ping(p.src, p.dst)
					}
				}
				for range n {
					h.Sender.Raw(dst4, raw4(unix.IPPROTO_GRE, 0, 0, 22, 0, 23)) // no ports, whatever is in it
					h.Sender.Raw(dst4, raw4(unix.IPPROTO_UDP, 100, 0, 22, 0, 23))
				}
				h.Settle()
			}
			want := func(n uint64) []ruleset.HitCount {
				var all []ruleset.HitCount
				key := func(src netip.Addr, protocol uint8, port uint16, class ruleset.HitClass) {
					all = append(all, ruleset.HitCount{
						HitKey:  ruleset.HitKey{Source: src, Protocol: protocol, Port: port, Class: class},
						Packets: n,
					})
				}
				for _, src := range []netip.Addr{src4, src6} {
					key(src, unix.IPPROTO_TCP, 22, ruleset.Knock)
					key(src, unix.IPPROTO_TCP, 23, ruleset.Knock)
					key(src, unix.IPPROTO_UDP, 53, ruleset.Knock)
					key(src, unix.IPPROTO_TCP, 443, ruleset.Reply)
					key(src, unix.IPPROTO_TCP, 22, ruleset.Reply)
				}
				key(src4, unix.IPPROTO_ICMP, 8<<8, ruleset.Reply)
				key(src6, unix.IPPROTO_ICMPV6, 128<<8, ruleset.Reply)
				key(src4, unix.IPPROTO_GRE, 0, ruleset.Portless)
				key(src4, 0, 0, ruleset.Portless) // the fragments
				return all
			}
			order := cmpopts.SortSlices(func(a, b ruleset.HitCount) bool { return fmt.Sprint(a) < fmt.Sprint(b) })
			sum := uint64(0)
			for _, n := range []int{1, 7} {
				send(n)
				got := hits(t, h, f)
				if diff := cmp.Diff(want(uint64(n)), got.Counts, order, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
					t.Errorf("%d packets each (-want +got):\n%s", n, diff)
				}
				sum += total(got.Counts)
			}
			if got := hits(t, h, f); len(got.Counts) > 0 || got.Full {
				t.Errorf("without packets: %+v", got)
			}
			if n := count(t, h, f); n.Packets() != sum {
				t.Errorf("counted %d by key and %d in all", sum, n.Packets())
			}
		})
	}
}

// TestFloodHidesNobody sends a flood from one source that uses a new port for each packet, beside a
// packet of each of 200 other sources, with a log rate of five a second. Each packet is counted
// under its source.
func TestFloodHidesNobody(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			rs := desired(list("203.0.113.0/24", "46.0.0.0/8"), list())
			rs.LogRate = 5
			mustApply(t, h, f, rs)
			noisy, dst := nettest.Addrs("203.0.113.9")[0], nettest.Addrs("192.0.2.1")[0]
			const quiet, each = 200, 50
			for i := range quiet {
				for port := range uint16(each) {
					h.Sender.SYN(netip.AddrPortFrom(noisy, 4000), netip.AddrPortFrom(dst, uint16(i)*each+port+1))
				}
				h.Send(netip.AddrFrom4([4]byte{46, 0, 1, byte(i)}), "knock")
			}
			h.Settle()
			got := hits(t, h, f)
			sources := bySource(got.Counts)
			if len(sources) != quiet+1 || sources[noisy] != quiet*each || total(got.Counts) != quiet*(each+1) {
				t.Errorf("%d sources, %d packets of the noisy one, %d in all", len(sources), sources[noisy], total(got.Counts))
			}
			if n := count(t, h, f); n.Packets() != total(got.Counts) {
				t.Errorf("counted %d by key and %d in all", total(got.Counts), n.Packets())
			}
		})
	}
}

// TestHitsWhileSetsAreRenewed swaps the sets of keys with empty ones under traffic, at each reading.
// No packet is lost or counted twice.
func TestHitsWhileSetsAreRenewed(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			mustApply(t, h, f, desired(list("46.0.0.0/8"), list()))
			var sources []netip.Addr
			for i := range 2 * renewKeys {
				sources = append(sources, netip.AddrFrom4([4]byte{46, 1, byte(i >> 8), byte(i)}))
			}
			flood := h.Flood(sources)
			flood.Await(2 * renewKeys)
			sums := map[netip.Addr]uint64{}
			add := func() {
				for a, n := range bySource(hits(t, h, f).Counts) {
					sums[a] += n
				}
			}
			renewed := 0
			for range 10 {
				add()
				f.hits.mu.Lock()
				if f.hits.sets["sikkerguard-hits-last"] != nil {
					renewed++
				}
				f.hits.sets["sikkerguard-hits"].renewed = time.Time{}
				f.hits.mu.Unlock()
				flood.Await(2 * renewKeys)
			}
			sent := flood.Stop()
			h.Settle()
			for range 2 {
				add()
			}
			if renewed < 5 {
				t.Errorf("renewed %d times", renewed)
			}
			all := uint64(0)
			for i, a := range sources {
				all += sums[a]
				want := uint64(sent / len(sources))
				if i < sent%len(sources) {
					want++
				}
				if sums[a] != want {
					t.Errorf("%v: %d packets, want %d", a, sums[a], want)
				}
			}
			if n := count(t, h, f); all != uint64(sent) || n.Packets() != all {
				t.Errorf("sent %d, counted %d by key and %d in all", sent, all, n.Packets())
			}
			h.Do(func() {
				if _, err := f.Verify(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestHitsOverChanges reads counts over refreshes of each kind, a repair and another agent. Each
// packet is counted once.
func TestHitsOverChanges(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			rs := desired(list("203.0.113.9/32"), list())
			src := nettest.Addrs("203.0.113.9")[0]
			sum := uint64(0)
			step := func(name string, want uint64, change func()) {
				t.Helper()
				h.Send(src, "knock")
				h.Settle()
				change()
				mustApply(t, h, f, rs)
				h.Send(src, "knock")
				h.Settle()
				got := hits(t, h, f)
				sum += total(got.Counts)
				if total(got.Counts) != want {
					t.Errorf("%s: counted %+v", name, got.Counts)
				}
			}
			mustApply(t, h, f, rs)
			step("the same list", 2, func() {})
			step("elements", 2, func() { rs.Block = list("203.0.113.9/32", "203.0.113.10/32") })
			step("other rules", 2, func() { rs.LogRate = 7000 })
			step("with a whitelist", 2, func() { rs.Allow = list("203.0.113.10/32") })
			step("rules are gone", 2, func() { h.Run("iptables-"+kind, "-t", "raw", "-F") })
			step("a rule is gone", 2, func() { h.Run("iptables-"+kind, "-t", "raw", "-D", chain, "2") })
			if n := count(t, h, f); n.Packets() != sum {
				t.Errorf("counted %d by key and %d in all", sum, n.Packets())
			}
			// The packet that was counted under a key that is gone has none.
			step("keys are gone", 1, func() { h.Run("ipset", "flush", "sikkerguard-hits") })
		})
	}
}

// TestHitsOfKilledAgent leaves counts behind. The next agent does not count them again.
func TestHitsOfKilledAgent(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	src := nettest.Addrs("203.0.113.9")[0]
	for i := range 3 {
		f := startKind(t, h, "legacy")
		if i > 0 {
			h.Run("ipset", "create", "sikkerguard-hits-last", "hash:ip,port", "counters") // of the killed agent
		}
		mustApply(t, h, f, desired(list("203.0.113.9/32"), list()))
		if got := hits(t, h, f); len(got.Counts) != 0 {
			t.Errorf("agent %d counted %+v", i, got.Counts)
		}
		if v := f.hits.sets["sikkerguard-hits"]; v.due(time.Now()) || v.due(time.Now().Add(relogAfter)) != (i > 0) {
			t.Errorf("agent %d: the set with %d keys was last empty at %v", i, len(v.packets), v.renewed)
		}
		for range 3 {
			h.Send(src, "knock")
		}
		h.Settle()
		if got := hits(t, h, f); total(got.Counts) != 3 {
			t.Errorf("agent %d counted %+v", i, got.Counts)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestHitsAfterRemoval reads counts after the rules are removed. The packets since the last reading
// are there once.
func TestHitsAfterRemoval(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "nft")
	mustApply(t, h, f, bothFamilies())
	h.Send(nettest.Addrs("203.0.113.9")[0], "knock")
	h.Settle()
	h.Do(func() {
		if err := errors.Join(f.Disarm(), f.Remove()); err != nil {
			t.Error(err)
		}
	})
	for _, want := range []uint64{1, 0} {
		if got := hits(t, h, f); total(got.Counts) != want {
			t.Errorf("counted %+v, want %d", got.Counts, want)
		}
	}
}

// TestUnreadableSet cannot read one of the sets. Meanwhile the packets in the others are stored, one
// sum for each key, and the first reading that succeeds returns them.
func TestUnreadableSet(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "legacy")
	mustApply(t, h, f, bothFamilies())
	families, noName := f.families, strings.Repeat("x", 40) // the kernel refuses so long a name
	f.families = append(slices.Clone(families), tables{family: family{mark: noName}})
	const times = 5
	for range times {
		h.Send(nettest.Addrs("203.0.113.9")[0], "knock")
		h.Settle()
		h.Do(func() {
			if got, err := f.Hits(); err == nil {
				t.Errorf("hits: %+v without an error", got)
			}
		})
		if len(f.hits.pending) != 1 {
			t.Errorf("stored %+v", f.hits.pending)
		}
	}
	f.families = families
	if got := hits(t, h, f); len(got.Counts) != 1 || total(got.Counts) != times {
		t.Errorf("counted %+v, want %d packets", got.Counts, times)
	}
}

// FuzzDecodeElements decodes any message. The elements have addresses, and nothing panics.
func FuzzDecodeElements(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 8, 0x80, 4, 0, 7, 0x80})
	f.Fuzz(func(t *testing.T, message []byte) {
		decodeElements(message, func(e element) {
			if !e.source.IsValid() {
				t.Errorf("element %+v", e)
			}
		})
	})
}
