package iptables

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestManySources sends three packets from each of 50,000 sources. Each is counted under its source,
// while the sets fill and are swapped.
func TestManySources(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "legacy")
	rs := desired(list("46.0.0.0/8"), list())
	rs.LogRate = 1_000_000
	mustApply(t, h, f, rs)
	n := 50_000
	if testing.Short() {
		n /= 10
	}
	sums, sent := map[netip.Addr]uint64{}, 0
	read := func() {
		for a, n := range bySource(hits(t, h, f).Counts) {
			sums[a] += n
		}
	}
	for range 3 {
		for i := range n {
			h.Send(netip.AddrFrom4([4]byte{46, 0, byte(i >> 8), byte(i)}), "knock")
			if sent++; sent%(n/2) == 0 {
				read()
			}
		}
	}
	h.Settle()
	for range 2 {
		read()
	}
	wrong := 0
	for _, packets := range sums {
		if packets != 3 {
			wrong++
		}
	}
	if len(sums) != n || wrong != 0 {
		t.Errorf("%d of %d sources, %d of them with a wrong count", len(sums), n, wrong)
	}
	if c := count(t, h, f); c.Packets() != uint64(3*n) {
		t.Errorf("counted %+v of %d", c, 3*n)
	}
}

// TestFullSet fills a set of keys. New packets that find no room are counted by source, Full is set,
// and the set is swapped with an empty one.
func TestFullSet(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "legacy")
	mustApply(t, h, f, desired(list("203.0.113.0/24"), list()))
	var b strings.Builder
	for port := range hitSetSize {
		fmt.Fprintf(&b, "add sikkerguard-hits 203.0.113.200,udp:%d packets 0\n", port)
	}
	restoreSets(t, h, b.String())
	const sources = 64 // the kernel divides the room of a set, so some find room
	knock := func() (portless int, full bool) {
		t.Helper()
		for i := range sources {
			h.Send(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), "knock")
		}
		h.Settle()
		got := hits(t, h, f)
		for a, n := range bySource(got.Counts) {
			if n != 1 {
				t.Errorf("%v: %d packets", a, n)
			}
		}
		for _, c := range got.Counts {
			if c.Class == ruleset.Portless {
				portless++
			}
		}
		if total(got.Counts) != sources {
			t.Errorf("counted %+v", got.Counts)
		}
		return portless, got.Full
	}
	if portless, full := knock(); portless == 0 || !full {
		t.Errorf("with a full set: %d without ports, full %v", portless, full)
	}
	if portless, _ := knock(); portless != 0 {
		t.Errorf("with a new set: %d without ports", portless)
	}
	hits(t, h, f)
	if sets := h.Run("ipset", "list", "-n"); strings.Contains(sets, "-last") {
		t.Errorf("a set that was swapped is left:\n%s", sets)
	}
}

// TestNoRoomAnywhere fills the sets of keys and of sources. A packet that finds no room in either is
// logged with a prefix, and dropped and counted like any other.
func TestNoRoomAnywhere(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "legacy")
	mustApply(t, h, f, desired(list("203.0.113.0/24"), list()))
	var b strings.Builder
	for i := range hitSetSize {
		fmt.Fprintf(&b, "add sikkerguard-hits 10.0.0.1,udp:%d\n", i)
	}
	for i := range hitSetSize {
		fmt.Fprintf(&b, "add sikkerguard-others 10.1.%d.%d\n", i>>8, i&0xff)
	}
	restoreSets(t, h, b.String())
	const sources = 128
	for i := range sources {
		h.Send(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), "knock")
	}
	h.Settle()
	got := hits(t, h, f)
	uncounted := uint64(0)
	for line := range strings.Lines(h.Run("iptables-legacy-save", "--counters", "--table", "raw")) {
		if strings.Contains(line, "--nflog-prefix") {
			if _, err := fmt.Sscanf(line, "[%d:", &uncounted); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !got.Full || uncounted == 0 || total(got.Counts)+uncounted != sources {
		t.Errorf("full %v, %d by key, %d by their events, of %d", got.Full, total(got.Counts), uncounted, sources)
	}
	if n := count(t, h, f); n.Packets() != sources {
		t.Errorf("counted %+v", n)
	}
}
