package nft

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestHitsPruned deletes idle keys under a flood of others. No packet is lost, also those that came
// after the last reading, and a key that comes back is counted from there.
func TestHitsPruned(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	from := sources(9000)
	h.apply(addresses(9000), list())
	c := h.tally()
	c.read() // makes the spare set
	send := func(as []netip.Addr) {
		for _, a := range as {
			h.Send(a, "knock")
		}
		h.Settle()
	}
	send(from)
	c.read()
	held := func() int { return len(h.table.hits.keys["hits4"]) + len(h.table.hits.keys["others4"]) }
	if held() != 9000 {
		t.Fatalf("%d keys, want 9000", held())
	}
	send(from[:5]) // the agent has not read these
	f := h.Flood(from[8990:])
	f.Await(100)
	c.read()
	h.Do(func() { // as if the others had been idle
		h.table.hits.mu.Lock()
		for _, s := range []string{"hits4", "others4"} {
			for k, last := range h.table.hits.keys[s] {
				if !slices.Contains(from[8990:], k.Source) {
					last.moved -= int64(pruneInterval / time.Second)
					h.table.hits.keys[s][k] = last
				}
			}
		}
		h.table.hits.mu.Unlock()
		h.table.prune(time.Now())
	})
	sent := f.Stop()
	if out := h.Run("nft", "list", "set", "inet", tableName, "noisy4"); strings.Contains(out, "11.0.4.1 ") {
		t.Errorf("the noisy sources were not forgotten:\n%.300s", out)
	}
	h.Settle()
	c.read()
	if held() != 10 {
		t.Errorf("%d keys are left, want 10", held())
	}
	send(from[:100])
	c.read()
	if n := c.unattributed(); n != 0 || c.sum() != uint64(9000+5+sent+100) {
		t.Errorf("%d packets in no key, %d in one; want 0 and %d", n, c.sum(), 9000+5+sent+100)
	}
}

// TestPrunedPacketsCount sends packets between the reading and the deletion of their key: the kernel
// returns the last value with the deletion.
func TestPrunedPacketsCount(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.apply(list("203.0.113.9", "2001:db8:f::1"), list())
	c := h.tally()
	for _, a := range nettest.Addrs("203.0.113.9", "2001:db8:f::1") {
		h.Send(a, "knock")
	}
	h.Settle()
	c.read()
	for range 7 {
		for _, a := range nettest.Addrs("203.0.113.9", "2001:db8:f::1") {
			h.Send(a, "knock")
		}
	}
	h.Settle()
	h.Do(func() { h.table.prune(time.Now().Add(pruneInterval + time.Second)) })
	for name, keys := range h.table.hits.keys {
		if len(keys) > 0 {
			t.Errorf("set %s still has keys: %v", name, slices.Collect(maps.Keys(keys)))
		}
	}
	c.read()
	want := []string{"2001:db8:f::1 17 knock 9 x8", "203.0.113.9 17 knock 9 x8"}
	if diff := cmp.Diff(want, c.lines()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// TestPruneWithSmallBuffer deletes keys through a socket with the usual net.core.rmem_max, beyond which
// an agent in a user namespace cannot go: the kernel's answers fit, so that no packet is lost.
func TestPruneWithSmallBuffer(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	from := append(sources(2*pruneChunk), slices.Collect(addrs(repeat6(2*pruneChunk, 128)))...)
	h.apply(addresses(2*pruneChunk).Union(repeat6(2*pruneChunk, 128)), list())
	raw, err := h.table.conn.conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 212_992); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	c := h.tally()
	c.read()      // makes the spare set
	for range 2 { // the agent has not read the second packet of a key when it deletes the key
		for _, a := range from {
			h.Send(a, "knock")
		}
		h.Settle()
		if len(c.keys) == 0 {
			c.read()
		}
	}
	h.Do(func() { h.table.prune(time.Now().Add(2 * pruneInterval)) })
	for name, keys := range h.table.hits.keys {
		if len(keys) > 0 {
			t.Errorf("set %s still has %d keys", name, len(keys))
		}
	}
	c.read()
	if n := c.unattributed(); n != 0 || c.sum() != uint64(2*len(from)) {
		t.Errorf("%d packets in no key, %d in one; want 0 and %d", n, c.sum(), 2*len(from))
	}
}

// TestKeysOfADeadAgentAreLoggedAgain adopts keys whose first packets were logged to a killed agent.
// They are deleted once, and each packet of the new agent's time has a key.
func TestKeysOfADeadAgentAreLoggedAgain(t *testing.T) {
	t.Parallel()
	if !nettest.TakesTable(t, nettest.TableOwner|nettest.TablePersist) {
		t.Skip("needs Linux 6.9")
	}
	h := newHost(t, Options{Keep: true})
	needCounting(h)
	from := nettest.Addrs("203.0.113.9", "2001:db8:f::1")
	send := func(n int) {
		for range n {
			for _, a := range from {
				h.Send(a, "knock")
			}
		}
		h.Settle()
	}
	h.apply(list("203.0.113.9", "2001:db8:f::1"), list())
	send(1)
	if err := h.table.Close(); err != nil {
		t.Fatal(err)
	}
	h.open(Options{Keep: true})
	h.apply(list("203.0.113.9", "2001:db8:f::1"), list())
	c := h.tally()
	held := func() (n int) {
		for _, keys := range h.table.hits.keys {
			n += len(keys)
		}
		return n
	}
	send(3)
	if c.read(); held() != 2 {
		t.Errorf("%d keys are adopted, want 2", held())
	}
	send(2)
	h.Do(func() { h.table.prune(time.Now().Add(relogAfter)) })
	if n := held(); n != 0 {
		t.Errorf("%d keys are left, want 0", n)
	}
	send(1)
	c.read()
	h.Do(func() { h.table.prune(time.Now().Add(2 * relogAfter)) })
	if held() != 2 {
		t.Errorf("%d keys are new, want 2, which stay", held())
	}
	if c.sum() != 12 || c.unattributed() != 2 {
		t.Errorf("%d packets have a key, %d have none; want 12 and the 2 of the dead agent", c.sum(), c.unattributed())
	}
}

// TestNoisySetHasRoom has more quiet sources than the noisy set holds before one source scans: after
// the next reading the scan is limited as always.
func TestNoisySetHasRoom(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	const quiet = smallHitSetSize + 100
	h.apply(addresses(quiet, "203.0.113.9"), list())
	c := h.tally()
	c.read() // makes the spare set
	for _, a := range sources(quiet) {
		h.Send(a, "knock")
	}
	h.Settle()
	c.read()
	h.table.active.exact = false // so that Apply replaces the rules, and the limit begins anew
	h.apply(addresses(quiet, "203.0.113.9"), list())
	const scanned = 12_000
	for i := range scanned {
		h.Sender.Raw(netip.MustParseAddr("192.0.2.1"),
			ip4("203.0.113.9", unix.IPPROTO_UDP, 0, ports(4000, uint16(10_000+i), 4)...))
	}
	h.Settle()
	c.read()
	known := 0
	for k := range c.keys {
		if k.Source == netip.MustParseAddr("203.0.113.9") && k.Class == ruleset.Knock {
			known++
		}
	}
	if known > 5000 {
		t.Errorf("the scan has %d keys with ports, want the share of one source", known)
	}
}

// TestKindsAreAskedAgain checks that keys whose first packet alone shows their kind are deleted now and
// then also if they are in use, that others stay, and that no packet is lost.
func TestKindsAreAskedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	needCounting(h)
	h.apply(list("203.0.113.9"), list())
	c := h.tally()
	send := func() {
		for _, packet := range [][]byte{
			ip4("203.0.113.9", unix.IPPROTO_UDP, 0, ports(4000, 53, 4)...),
			ip4("203.0.113.9", unix.IPPROTO_TCP, 0, segment(4000, 22, 0x02)...),
			ip4("203.0.113.9", unix.IPPROTO_ICMP, 0, 8, 0, 0, 0, 0, 1, 0, 1),
		} {
			h.Sender.Raw(netip.MustParseAddr("192.0.2.1"), packet)
		}
		h.Settle()
	}
	held := func() (keys []string) {
		for _, of := range h.table.hits.keys {
			for k, last := range of {
				last.moved += 2 * int64(relogInterval/time.Second) // it is in use
				of[k] = last
				keys = append(keys, fmt.Sprintf("%d %d", k.Protocol, k.Port))
			}
		}
		slices.Sort(keys)
		return keys
	}
	send()
	c.read()
	all := []string{"1 2048", "17 53", "6 22"}
	for round, tt := range []struct {
		after time.Duration
		want  []string
	}{{relogInterval - time.Minute, all}, {relogInterval + time.Minute, []string{"1 2048", "6 22"}}} {
		if diff := cmp.Diff(all, held()); diff != "" {
			t.Errorf("round %d, before (-want +got):\n%s", round, diff)
		}
		send()
		h.Do(func() { h.table.prune(time.Now().Add(tt.after)) })
		if diff := cmp.Diff(tt.want, held()); diff != "" {
			t.Errorf("round %d (-want +got):\n%s", round, diff)
		}
		send()
		c.read()
	}
	if c.sum() != 15 || c.unattributed() != 0 {
		t.Errorf("%d packets have a key, %d have none; want 15 and 0", c.sum(), c.unattributed())
	}
}
