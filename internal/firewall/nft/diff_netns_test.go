package nft

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// tap counts the transactions and messages that reach the kernel.
type tap struct {
	wire
	transactions int
	messages     int
	flushes      int    // messages that delete all elements of a set
	rules        int    // messages that add a rule
	lose         bool   // the answers
	refuse       error  // the kernel's refusal of every transaction
	before       func() // called before a transaction is sent
}

func (h *host) tap() *tap {
	t := &tap{wire: h.table.conn.wire, before: func() {}}
	h.table.conn.wire = t
	return t
}

func (t *tap) reset() { t.transactions, t.messages, t.flushes, t.rules = 0, 0, 0, 0 }

func (t *tap) send(tx []byte) error {
	t.before()
	t.transactions++
	t.messages -= 2 // the begin and the end of the transaction
	for rest := tx; len(rest) > 0; {
		size := int(binary.NativeEndian.Uint32(rest))
		t.messages++
		switch binary.NativeEndian.Uint16(rest[4:]) {
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM:
			attributes, err := netlink.UnmarshalAttributes(rest[unix.SizeofNlMsghdr+4 : size])
			if err == nil && len(attributes) == 2 { // table and set, without elements
				t.flushes++
			}
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE:
			t.rules++
		}
		rest = rest[align(size):]
	}
	if t.refuse != nil {
		return t.refuse
	}
	return t.wire.send(tx)
}

func (t *tap) receive(buf []byte) (int, error) {
	n, err := t.wire.receive(buf)
	if t.lose && err == nil {
		return 0, unix.ENOBUFS
	}
	return n, err
}

// reader returns a reader of the namespace.
func (h *host) reader() (r *reader) {
	h.tb.Helper()
	var err error
	h.Do(func() { r, err = openReader() })
	if err != nil {
		h.tb.Fatal(err)
	}
	h.tb.Cleanup(func() { _ = r.Close() })
	return r
}

// generation returns the number that each transaction in the namespace increments.
func (h *host) generation() uint32 {
	h.tb.Helper()
	n, err := h.table.reads.generation()
	if err != nil {
		h.tb.Error(err)
	}
	return n
}

// churn returns list with n of its entries exchanged for those of fresh.
func churn(ps []netip.Prefix, n int, fresh []netip.Prefix) blocklist.Blocklist {
	return blocklist.New(slices.Concat(fresh[:n], ps[n:]))
}

// TestEqualListIsNoTransaction applies a list again: the kernel's generation stays, and the
// evidence is as good as that of a change.
func TestEqualListIsNoTransaction(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	block := func() blocklist.Blocklist {
		return list("203.0.113.9", "45.9.20.0/24", "62.0.0.0/7", "2001:db8:f::1", "2001:db8:0:b000::/52")
	}
	h.apply(block(), list("203.0.113.1"))
	before := h.generation()
	for range 3 {
		e, err := h.tryApply(block(), list("203.0.113.1"))
		if err != nil || e.Sampled == 0 || e.Elements != 1+1+1+1+1 {
			t.Errorf("evidence %+v, %v", e, err)
		}
	}
	if after := h.generation(); after != before {
		t.Errorf("an equal list took %d transactions", after-before)
	}
	h.apply(block(), list("203.0.113.9")) // the allowlist overlaps: one set appears
	if h.generation() == before {
		t.Error("the generation does not show a transaction")
	}
}

// TestDifferenceMessages changes 1% of a list of 50,000 entries, and back: one transaction each,
// with at most three messages per thousand changes, none of which replaces rules or flushes a set.
func TestDifferenceMessages(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	const n, changed = 50_000, 500
	ps := slices.Concat(random(n-10_000, 1), networks(10_000, 24))
	first, second := blocklist.New(slices.Clone(ps)), churn(ps, changed, random(changed, 2))
	h.apply(first, list())
	tap := h.tap()
	for i, l := range []blocklist.Blocklist{second, first, second} { // the second is a rollback
		tap.reset()
		before := h.generation()
		h.apply(l, list())
		if got := h.generation() - before; got != 1 || tap.transactions != 1 {
			t.Errorf("change %d took %d transactions, of this agent %d", i, got, tap.transactions)
		}
		if most := max(3, 3*2*changed/1000); tap.messages > most || tap.messages == 0 {
			t.Errorf("change %d took %d messages, want at most %d", i, tap.messages, most)
		}
		if tap.flushes > 0 || tap.rules > 0 {
			t.Errorf("change %d flushed %d sets and added %d rules", i, tap.flushes, tap.rules)
		}
	}
	tap.reset()
	h.apply(blocklist.New(random(n, 3)), list()) // everything changes
	if tap.flushes == 0 {
		t.Error("a list that has nothing in common with the last one was sent as a difference")
	}
}

// elements returns the elements of every set of the table, and its rules, as the kernel has them.
func (h *host) elements() map[string][]string {
	h.tb.Helper()
	all := map[string][]string{}
	h.Do(func() {
		sets, err := h.table.reads.kernelSets(nftaSetCount)
		if err != nil {
			h.tb.Fatal(err)
		}
		c, err := nftables.New()
		if err != nil {
			h.tb.Fatal(err)
		}
		for name := range sets {
			if isHitSet(name) {
				continue // its keys are those of packets, also of neighbour discovery
			}
			table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
			elements, err := c.GetSetElements(&nftables.Set{Table: table, Name: name})
			if err != nil {
				h.tb.Fatal(err)
			}
			all[name] = []string{}
			for _, e := range elements {
				if a, _ := netip.AddrFromSlice(e.Key); !a.IsUnspecified() || !e.IntervalEnd {
					all[name] = append(all[name], fmt.Sprintf("%s end=%t", a, e.IntervalEnd))
				}
			}
			slices.Sort(all[name])
		}
		rules, err := h.table.reads.kernelRules()
		if err != nil {
			h.tb.Fatal(err)
		}
		for chain, rr := range rules {
			all["chain "+chain] = rr
		}
	})
	return all
}

// mutate returns a list that differs from ps: entries of all widths appear and disappear, and
// become wider and narrower, so that their addresses move between sets.
func mutate(rng *rand.Rand, ps []netip.Prefix) []netip.Prefix {
	next := slices.DeleteFunc(slices.Clone(ps), func(netip.Prefix) bool { return rng.IntN(8) == 0 })
	pool4 := []int{32, 32, 32, 32, 31, 26, 24, 24, 23, 20, 16, 15, 9, 7}
	pool6 := []int{128, 128, 128, 120, 119, 64, 64, 60, 50, 48, 44, 32, 30}
	for range 1 + rng.IntN(20) {
		var p netip.Prefix
		// Few different bytes, so that entries meet those of other widths.
		if rng.IntN(3) > 0 {
			a := [4]byte{byte(50 + rng.IntN(4)), byte(rng.IntN(3)), byte(rng.IntN(4)), byte(rng.IntN(256))}
			p = netip.PrefixFrom(netip.AddrFrom4(a), pool4[rng.IntN(len(pool4))])
		} else {
			a := [16]byte{
				0x20, 0x01, 0xd, 0xb8, 0, byte(rng.IntN(3)), 0, byte(rng.IntN(3)), 14: byte(rng.IntN(3)), 15: byte(rng.IntN(256)),
			}
			p = netip.PrefixFrom(netip.AddrFrom16(a), pool6[rng.IntN(len(pool6))])
		}
		next = append(next, p.Masked())
	}
	switch rng.IntN(60) {
	case 0:
		return nil // nothing is left
	case 1:
		return append(next, random(minSize+500, rng.Uint64())...) // a set is outgrown
	case 2:
		return mutate(rng, list("51.0.0.0/24", "224.0.0.0/3", "8000::/1", "203.0.113.0/25").Prefixes())
	}
	return next
}

// TestThousandRefreshes refreshes a fuzzed list a thousand times, or a hundred times with -short.
// After each refresh the kernel has, element by element and rule by rule, the same sets as after a
// whole fill of another table with the same list. Almost all refreshes are differences.
func TestThousandRefreshes(t *testing.T) {
	t.Parallel()
	times := 1000
	if testing.Short() {
		times /= 10
	}
	const seed = 14
	rng := rand.New(rand.NewPCG(seed, seed))
	h, whole := newHost(t, Options{}), newHost(t, Options{})
	tap := h.tap()
	var ps []netip.Prefix
	var allow blocklist.Blocklist
	fills := 0
	for i := range times {
		if ps = mutate(rng, ps); len(ps) > 3*minSize {
			ps = ps[:100]
		}
		if rng.IntN(4) == 0 {
			allow = list(fmt.Sprintf("50.0.0.%d", rng.IntN(256)), fmt.Sprintf("10.0.%d.0/24", rng.IntN(256)), "2001:db8::7")
			if rng.IntN(4) == 0 {
				allow = list()
			}
		}
		block := blocklist.New(slices.Clone(ps))
		tap.reset()
		h.apply(block, allow)
		if tap.flushes > 0 {
			fills++
		}
		whole.table.active.exact = false
		whole.apply(block, allow)
		if diff := cmp.Diff(whole.elements(), h.elements()); diff != "" {
			t.Fatalf("refresh %d: table (-whole fill +differences):\n%s", i, diff)
		}
	}
	if fills > times/2 {
		t.Errorf("%d of %d refreshes filled a set", fills, times)
	}
}

// TestChurnUnderTraffic changes 5% of a list every second, while listed and unlisted sources send.
// Some of the listed sources move between sets each time. No packet of a listed source gets
// through, and no packet of an unlisted source is lost.
func TestChurnUnderTraffic(t *testing.T) {
	t.Parallel()
	times := 30
	if testing.Short() {
		times = 5
	}
	h := newHost(t, Options{})
	always := nettest.Addrs("45.9.20.7", "62.1.1.1", "222.9.9.9", "2001:db8:0:b123::1", "51.1.1.1")
	never := nettest.Addrs("192.0.2.50", "9.9.9.9", "2001:db9::1", "45.9.21.7")
	const n = 20_000
	hosts, nets := random(n, 1), networks(n/4, 25) // too many networks to be expanded into addresses
	moving := [][]string{
		{"45.9.20.7", "62.0.0.0/7", "222.9.9.9", "2001:db8:0:b123::1", "51.1.1.1"},
		{"45.9.20.0/24", "62.1.1.1", "222.9.9.0/25", "2001:db8:0:b123::/64", "51.1.1.0/24"},
		{"45.9.20.0/25", "62.1.0.0/16", "222.9.9.9", "2001:db8:0:b000::/52", "51.0.0.0/9"},
	}
	next := func(i int) blocklist.Blocklist {
		copy(hosts[i*n/20%(n-n/20):], random(n/20, uint64(i)+10))
		for k := range n / 4 / 20 { // odd networks become adjacent ones
			j := (i*n/80 + k) % len(nets)
			a := nets[j].Addr().As4()
			a[3] ^= 0x80
			nets[j] = netip.PrefixFrom(netip.AddrFrom4(a), 25)
		}
		return blocklist.New(slices.Concat(hosts, nets, list(moving[i%3]...).Prefixes()))
	}
	h.apply(next(0), list("10.0.0.0/8"))
	tap := h.tap()
	h.Under(always, never, func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range times {
			h.apply(next(i+1), list("10.0.0.0/8"))
			<-tick.C
		}
	})
	h.Check("after", always, never)
	if tap.flushes > 0 && h.table.steady {
		t.Errorf("%d sets were flushed and filled", tap.flushes)
	}
}

// TestMoveOrder checks the order in which the kernel receives an address that moves to a set that is
// looked up later. The kernel publishes the changes of an interval set after those of a hash set.
// The network that has the address from then on also covers another interval, which must be deleted
// in the same transaction.
func TestMoveOrder(t *testing.T) {
	t.Parallel()
	for _, old := range []blocklist.Blocklist{list("60.0.0.0/7", "62.1.2.3"), list("62.0.0.0/7", "60.1.2.3")} {
		h := newHost(t, Options{})
		if !h.table.steady {
			t.Skip("this kernel gets a new interval set (Linux 6.17)")
		}
		others := list("64.0.0.0/7", "203.0.113.9", "203.0.113.10")
		h.apply(old.Union(others), list())
		tap := h.tap()
		all := h.transactions(func() { h.apply(list("60.0.0.0/6").Union(others), list()) })
		added := first(all, unix.NFT_MSG_NEWSETELEM, "blocklist4_any\x00", "\x3c\x00\x00\x00")
		removed := first(all, unix.NFT_MSG_DELSETELEM, "blocklist4_32\x00", "\x01\x02\x03")
		if added < 0 || removed <= added {
			t.Errorf("the network is added in transaction %d and its address deleted in %d", added, removed)
		}
		if tap.transactions != 2 || tap.flushes > 0 {
			t.Errorf("%d transactions, %d sets flushed", tap.transactions, tap.flushes)
		}
		h.Check("moved", nettest.Addrs("60.1.2.3", "62.1.2.3", "63.255.255.255"), nettest.Addrs("59.255.255.255"))
	}
}

// TestExpansionLimit adds and removes the one network with which those of its width no longer fit a
// hash set: all of them move to the interval set and back.
func TestExpansionLimit(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	blocked := nettest.Addrs("11.0.0.1", "11.0.200.1", "203.0.113.9", "62.1.1.1")
	with := func(n int) blocklist.Blocklist {
		return blocklist.New(slices.Concat(repeat(n, 25).Prefixes(), list("203.0.113.9", "62.0.0.0/7").Prefixes()))
	}
	h.apply(with(512), list())
	h.Under(blocked, nettest.Addrs("9.9.9.9", "11.1.0.200"), func() {
		for _, n := range []int{513, 512, 513, 511} {
			h.apply(with(n), list())
		}
	})
	if n := len(h.elements()["blocklist4_any"]); n != 2 {
		t.Errorf("the interval set has %d ends, want 2", n)
	}
}
