package nft

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// realList is 120,430 addresses that were really seen attacking.
func realList(tb testing.TB) []netip.Prefix {
	tb.Helper()
	f, err := os.Open("../../../../shared/blocklists/ipsum-level1.txt")
	if errors.Is(err, os.ErrNotExist) {
		nettest.Skip(tb, "the shared lists are not beside the project")
	}
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var ps []netip.Prefix
	for s := bufio.NewScanner(f); s.Scan(); {
		a := netip.MustParseAddr(s.Text())
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	if len(ps) != 120_430 {
		tb.Fatalf("%d addresses, want 120430", len(ps))
	}
	return ps
}

// sample is n listed sources and n unlisted ones.
func sample(l blocklist.Blocklist, n int) (listed, unlisted []netip.Addr) {
	rng := rand.New(rand.NewPCG(7, 7))
	all := l.Prefixes()
	for range n {
		listed = append(listed, all[rng.IntN(len(all))].Addr())
	}
	for len(unlisted) < n {
		a := netip.AddrFrom4([4]byte{byte(11 + rng.IntN(88)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
		if !l.Contains(a) {
			unlisted = append(unlisted, a)
		}
	}
	slices.SortFunc(listed, netip.Addr.Compare)
	return slices.Compact(listed), unlisted
}

// TestRealList loads all of it, and shows by packets that 200 listed sources are dropped and 200 others pass: before,
// during and after a refresh, with none of either kind on the wrong side.
func TestRealList(t *testing.T) {
	t.Parallel()
	ps := realList(t)
	l := blocklist.New(slices.Clone(ps))
	listed, unlisted := sample(l, 200)
	h := newHost(t, Options{})
	e := h.apply(l, list("10.0.0.0/8"))
	t.Logf("%d entries in %v: %+v", e.Entries(), e.Took, e)
	h.check("before", listed, unlisted)

	before := map[netip.Addr]int{}
	for _, a := range unlisted {
		before[a] = h.recv.Seen(a)
	}
	pass := h.flood(unlisted)
	h.under(listed, func() {
		for i := range 3 {
			// Four fifths of the list stay, others come: the sampled sources are always on it.
			next := slices.Concat(ps[:100_000], random(20_000, uint64(i)))
			for _, a := range listed {
				next = append(next, netip.PrefixFrom(a, 32))
			}
			h.apply(blocklist.New(next).Without(hosts(unlisted)), list("10.0.0.0/8"))
		}
	})
	sent := pass.stop()
	h.settle()
	got := 0
	for _, a := range unlisted {
		got += h.recv.Seen(a) - before[a]
	}
	if got != sent || sent == 0 {
		t.Errorf("%d of %d packets from unlisted sources got through during the refreshes", got, sent)
	}
	t.Logf("%d packets from unlisted sources, all through", sent)
	h.check("after", listed, unlisted)
}

func hosts(as []netip.Addr) blocklist.Blocklist {
	var ps []netip.Prefix
	for _, a := range as {
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	return blocklist.New(ps)
}

// TestHalfAMillion loads 500,000 entries of both families in one transaction: addresses, /24s, and widths that no hash
// set takes.
func TestHalfAMillion(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	l := big(500_000)
	e := h.apply(l, list("10.0.0.0/8"))
	t.Logf("%d entries in %v: %+v", e.Entries(), e.Took, e)
	listed, _ := sample(l, 200)
	h.check("loaded", listed, addrs("9.9.9.9", "192.0.2.77"))
	h.apply(list("203.0.113.9"), list())
	h.check("one entry", addrs("203.0.113.9"), listed)
}

// big is about n entries: 80% IPv4 addresses, 10% IPv6 addresses, the rest networks of /24, /20, /48 and /52.
func big(n int) blocklist.Blocklist {
	rng := rand.New(rand.NewPCG(uint64(n), 5))
	ps := random(n*80/100, uint64(n))
	v6 := func(length int) netip.Prefix {
		var raw [16]byte
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		raw[0], raw[1] = 0x2a, raw[1]&0x0f
		return netip.PrefixFrom(netip.AddrFrom16(raw), length).Masked()
	}
	for range n * 10 / 100 {
		ps = append(ps, v6(128))
	}
	for range n * 8 / 100 {
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(160 + rng.IntN(50)), byte(rng.Uint32()), byte(rng.Uint32())}), 24))
	}
	for range n * 1 / 200 {
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(212 + rng.IntN(8)), byte(rng.Uint32()), byte(rng.Uint32()) & 0xf0}), 20),
			v6(48), v6(52))
	}
	return blocklist.New(ps)
}

// BenchmarkApply loads and then refreshes lists of three sizes. It reports the time of the agent and of the kernel an
// entry, and the highest resident memory of the process so far: run one size at a time to read that.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{5_000, 50_000, 500_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ns := nettest.New(b)
			var table *Table
			var err error
			ns.Do(func() { table, err = Open(Options{}) })
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = table.Close() }()
			l := big(n)
			runtime.GC()
			b.ResetTimer()
			for range b.N {
				var e ruleset.Evidence
				ns.Do(func() {
					e, err = table.Apply(b.Context(), ruleset.Ruleset{Block: l, LogGroup: 100, LogRate: 10_000})
				})
				if err != nil || e.Entries() != l.Len() || !e.Counted {
					b.Fatalf("apply: %+v, %v", e, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(l.Len())/float64(time.Nanosecond), "ns/entry")
			var ru unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(ru.Maxrss)/1024, "peak-MiB")
		})
	}
}

// TestRefreshEverySecond refreshes every second for a minute, while listed and unlisted sources send: no packet of the
// former gets through, none of the latter is lost.
func TestRefreshEverySecond(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	h := newHost(t, Options{})
	always, never := addrs("45.9.20.7", "62.1.1.1", "222.9.9.9", "2001:db8:f::1"), addrs("192.0.2.50", "9.9.9.9")
	next := func(seed uint64) blocklist.Blocklist {
		width := []int{32, 24, 20}[seed%3] // the sets that hold it change from one list to the next
		ps := random(5000, seed)
		for _, a := range always {
			ps = append(ps, netip.PrefixFrom(a, map[bool]int{true: width, false: a.BitLen()}[a.Is4()]))
		}
		return blocklist.New(ps)
	}
	h.apply(next(0), list("10.0.0.0/8"))
	before := map[netip.Addr]int{}
	for _, a := range never {
		before[a] = h.recv.Seen(a)
	}
	pass := h.flood(never)
	h.under(always, func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range 60 {
			h.apply(next(uint64(i)+1), list("10.0.0.0/8"))
			<-tick.C
		}
	})
	sent := pass.stop()
	h.settle()
	got := 0
	for _, a := range never {
		got += h.recv.Seen(a) - before[a]
	}
	if got != sent {
		t.Errorf("%d of %d packets from unlisted sources got through", got, sent)
	}
	t.Logf("%d packets from unlisted sources, all through", sent)
}
