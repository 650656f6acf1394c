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

// random is n different addresses from 50.0.0.0 to 119.255.255.255.
func random(n int, seed uint64) []netip.Prefix {
	rng := rand.New(rand.NewPCG(seed, 1))
	ps := make([]netip.Prefix, n)
	for i := range ps {
		ps[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(50 + rng.IntN(70)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}), 32)
	}
	return ps
}

// TestRefreshEverySecond refreshes every second for a minute, or ten times with -short, while listed and unlisted sources
// send: no packet of the former gets through, none of the latter is lost.
func TestRefreshEverySecond(t *testing.T) {
	t.Parallel()
	times := 60
	if testing.Short() {
		times = 10
	}
	h := newHost(t, Options{})
	always, never := nettest.Addrs("45.9.20.7", "62.1.1.1", "222.9.9.9", "2001:db8:f::1"), nettest.Addrs("192.0.2.50", "9.9.9.9")
	next := func(seed uint64) blocklist.Blocklist {
		width := []int{32, 24, 20}[seed%3] // the sets that hold it change from one list to the next
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

// TestNewSetUnderTraffic has listed sources become members of large networks and addresses again, while they send. The set
// that they go to is new and takes the kernel some milliseconds: a rule that looked it up at once would let them through.
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

// TestIntervalsUnderTraffic refreshes a large interval set while listed and unlisted sources send: as the running kernel is,
// and as on one before 6.17, which misses elements of a set that a transaction fills.
func TestIntervalsUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, steady := range slices.Compact([]bool{steadyIntervals(release()), false}) {
		t.Run(fmt.Sprintf("steady=%t", steady), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, Options{})
			h.table.steady = steady
			if told := strings.Contains(strings.Join(h.table.Info().Detours, "|"), "(Linux 6.17)"); told == steady {
				t.Errorf("detours: %q", h.table.Info().Detours)
			}
			always, never := nettest.Addrs("62.1.1.1", "222.9.9.9", "2001:db8:0:b123::1"), nettest.Addrs("192.0.2.50", "9.9.9.9", "2001:db9::1")
			next := func(seed uint64) blocklist.Blocklist {
				ps := list("62.0.0.0/7", "222.9.9.0/25", "2001:db8:0:b000::/52", "203.0.113.9").Prefixes()
				for _, p := range random(6000, seed) { // too many to be expanded into addresses
					ps = append(ps, netip.PrefixFrom(p.Addr(), 25).Masked())
				}
				return blocklist.New(ps)
			}
			h.apply(list("203.0.113.9"), list("10.0.0.0/8"))
			h.apply(next(0), list("10.0.0.0/8")) // one interval set is there, others are new
			h.Under(always, never, func() {
				for i := range 8 {
					h.apply(next(uint64(i)+1), list("10.0.0.0/8", "192.0.2.50"))
				}
			})
			h.Check("after", always, never)
			if out := h.Run("nft", "list", "table", "inet", tableName); strings.Contains(out, grown) {
				t.Errorf("a set is left behind:\n%s", out)
			}
		})
	}
}

// TestReplacedUnderTraffic takes over a table that has other flags and is replaced whole, while
// sources send: none that is on the list before and after gets through, none that is whitelisted is
// dropped, and no other table is left.
func TestReplacedUnderTraffic(t *testing.T) {
	t.Parallel()
	if !nettest.TakesTable(t, nettest.TableOwner|nettest.TablePersist) {
		t.Skip("this kernel leaves no table of other flags behind")
	}
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
			t.Errorf("there are the tables:\n%s", out)
		}
		if err := h.table.Close(); err != nil {
			t.Fatal(err)
		}
		h.open(Options{Keep: true})
	}
}

// TestReplacedKeepsItsCounters: a table that takes the place of another one goes on counting where
// that one was.
func TestReplacedKeepsItsCounters(t *testing.T) {
	t.Parallel()
	if !nettest.TakesTable(t, nettest.TableOwner|nettest.TablePersist) {
		t.Skip("this kernel leaves no table of other flags behind")
	}
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
		t.Error("the table is the same")
	}
	if after, err := h.counters(); err != nil || after != before {
		t.Errorf("counters went from %+v to %+v, %v", before, after, err)
	}
}
