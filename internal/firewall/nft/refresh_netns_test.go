package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// random returns n different addresses from 50.0.0.0 to 119.255.255.255.
func random(n int, seed uint64) []netip.Prefix {
	rng := rand.New(rand.NewPCG(seed, 1))
	ps := make([]netip.Prefix, n)
	for i := range ps {
		raw := [4]byte{byte(50 + rng.IntN(70)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}
		ps[i] = netip.PrefixFrom(netip.AddrFrom4(raw), 32)
	}
	return ps
}

// TestRefreshEverySecond refreshes every second for a minute, or ten times with -short, while
// listed and unlisted sources send. No packet of a listed source gets through, and no packet of an
// unlisted source is lost.
func TestRefreshEverySecond(t *testing.T) {
	t.Parallel()
	times := 60
	if testing.Short() {
		times = 10
	}
	h := newHost(t, Options{})
	always := nettest.Addrs("45.9.20.7", "62.1.1.1", "222.9.9.9", "2001:db8:f::1")
	never := nettest.Addrs("192.0.2.50", "9.9.9.9")
	next := func(seed uint64) blocklist.Blocklist {
		width := []int{32, 24, 20}[seed%3] // the sets of these sources change from one list to the next
		ps := random(5000, seed)
		for _, a := range always {
			ps = append(ps, netip.PrefixFrom(a, map[bool]int{true: width, false: a.BitLen()}[a.Is4()]))
		}
		return blocklist.New(ps)
	}
	h.apply(next(0), list("10.0.0.0/8"))
	h.Under(always, never, func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range times {
			h.apply(next(uint64(i)+1), list("10.0.0.0/8"))
			<-tick.C
		}
	})
}

// TestNewSetUnderTraffic moves listed sources into large networks and back into single addresses
// while they send. Each time their set is new and takes the kernel some milliseconds: a rule that
// looked it up at once would let them through.
func TestNewSetUnderTraffic(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	blocked := nettest.Addrs("62.1.1.1", "12.0.7.9", "13.0.0.1")
	wide := blocklist.New(slices.Concat(networks(30_000, 25), list("62.0.0.0/7", "13.0.0.0/25").Prefixes()))
	narrow := blocklist.New(slices.Concat(random(1000, 1), list("62.1.1.1", "12.0.7.9", "13.0.0.1").Prefixes()))
	h.apply(narrow, list())
	h.Under(blocked, nettest.Addrs("9.9.9.9"), func() {
		for range 3 {
			h.apply(wide, list())
			h.apply(narrow, list())
		}
	})
}

// TestIntervalsUnderTraffic refreshes a large interval set while listed and unlisted sources send,
// on the running kernel and as on a kernel before 6.17, which misses elements of a set that a
// transaction fills.
func TestIntervalsUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, steady := range slices.Compact([]bool{steadyIntervals(release()), false}) {
		t.Run(fmt.Sprintf("steady=%t", steady), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			h.table.steady = steady
			detours := h.table.Info().Detours
			if strings.Contains(strings.Join(detours, "|"), "(Linux 6.17)") == steady {
				t.Errorf("detours: %q", detours)
			}
			always := nettest.Addrs("62.1.1.1", "222.9.9.9", "2001:db8:0:b123::1")
			never := nettest.Addrs("192.0.2.50", "9.9.9.9", "2001:db9::1")
			next := func(seed uint64) blocklist.Blocklist {
				ps := list("62.0.0.0/7", "222.9.9.0/25", "2001:db8:0:b000::/52", "203.0.113.9").Prefixes()
				for _, p := range random(6000, seed) { // too many to be expanded into addresses
					ps = append(ps, netip.PrefixFrom(p.Addr(), 25).Masked())
				}
				return blocklist.New(ps)
			}
			h.apply(list("203.0.113.9"), list("10.0.0.0/8"))
			h.apply(next(0), list("10.0.0.0/8")) // one interval set exists, others are new
			h.Under(always, never, func() {
				for i := range 8 {
					h.apply(next(uint64(i)+1), list("10.0.0.0/8", "192.0.2.50"))
				}
			})
			h.Check("after", always, never)
			if out := h.Run("nft", "list", "table", "inet", tableName); strings.Contains(out, grownSuffix) {
				t.Errorf("a temporary set is left behind:\n%s", out)
			}
		})
	}
}

// needOwner skips a test of a table with other flags than the agent wants: without table owners the
// kernel has no flags that could differ.
func needOwner(t *testing.T) {
	t.Helper()
	if !nettest.TakesTable(t, nettest.TableOwner) {
		t.Skip("this kernel has no table owners (Linux 5.12), so no table has other flags")
	}
}

// TestReplacedUnderTraffic adopts a table that has other flags, so that the first list replaces it
// whole, while sources send. No packet of a source on both lists gets through, none of an
// allowlisted source is dropped, and no other table is left.
func TestReplacedUnderTraffic(t *testing.T) {
	t.Parallel()
	needOwner(t)
	n := 50_000
	if testing.Short() {
		n /= 10
	}
	h := newHost(t, Options{Keep: true})
	blocked := nettest.Addrs("62.1.1.1", "222.9.9.9", "45.9.20.7", "2001:db8:0:b123::1")
	open := nettest.Addrs("12.0.5.9", "45.9.20.8", "2001:db8:0:b124::1", "9.9.9.9")
	block := blocklist.New(slices.Concat(networks(n, 25),
		list("62.0.0.0/7", "222.9.9.0/25", "45.9.20.7", "45.9.20.8", "2001:db8:0:b000::/52").Prefixes()))
	allow := list("12.0.5.8/29", "45.9.20.8", "2001:db8:0:b124::/64")
	for range 3 {
		h.apply(block, allow)
		h.orphan()
		h.Under(blocked, open, func() {
			h.open(Options{})
			h.apply(block, allow)
		})
		if out := h.Run("nft", "list", "tables"); out != "table inet sikkerguard\n" {
			t.Errorf("tables:\n%s", out)
		}
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.open(Options{Keep: true})
	}
}

// TestReplacedKeepsItsCounters checks that the counters of a table that replaces another one start
// at the other one's values.
func TestReplacedKeepsItsCounters(t *testing.T) {
	t.Parallel()
	needOwner(t)
	h := newHost(t, Options{Keep: true})
	block := list("203.0.113.9", "2001:db8:f::1")
	h.apply(block, blocklist.Blocklist{})
	h.Check("before", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nil)
	before, err := h.counters()
	if err != nil || before.Packets4 == 0 || before.Packets6 == 0 {
		t.Fatalf("counted %+v, %v", before, err)
	}
	handle := h.handle()
	h.orphan()
	h.open(Options{})
	h.apply(block, blocklist.Blocklist{})
	if h.handle() == handle {
		t.Error("the table was not replaced")
	}
	if after, err := h.counters(); err != nil || after != before {
		t.Errorf("counters went from %+v to %+v, %v", before, after, err)
	}
}
