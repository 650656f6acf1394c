package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// noCount is an attribute that no kernel sends. In the place of NFTA_SET_COUNT it simulates a
// kernel before Linux 6.16, which returns no counts.
const noCount = 0x3fff

// bothKernels runs a test as on a kernel that returns element counts, and as on one that does not.
func bothKernels(t *testing.T, o Options, test func(h *host, counted bool)) {
	t.Helper()
	t.Parallel()
	for _, counted := range []bool{true, false} {
		t.Run(fmt.Sprintf("counted=%t", counted), func(t *testing.T) {
			t.Parallel()
			if counted {
				needCounts(t)
			}
			h := newHost(t, o)
			h.hide(counted)
			test(h, counted)
		})
	}
}

// needCounts skips a test of element counts on a kernel that returns none.
func needCounts(t *testing.T) {
	t.Helper()
	if !nettest.CountsElements(t) {
		t.Skip("this kernel returns no element counts (Linux 6.16)")
	}
}

func (h *host) hide(counted bool) {
	if !counted {
		h.table.countAttr = noCount
	}
}

// addresses returns n adjacent addresses from 11.0.0.0, and others.
func addresses(n int, others ...string) blocklist.Blocklist {
	return blocklist.New(slices.Concat(repeat(n, 32).Prefixes(), list(others...).Prefixes()))
}

// networks returns n prefixes of a length, 256 addresses apart from 12.0.0.0.
func networks(n, length int) []netip.Prefix {
	var ps []netip.Prefix
	for i := range n {
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{12, byte(i >> 8), byte(i), 0}), length))
	}
	return ps
}

// TestNearlyFull moves entries into a set that is nearly full. For a moment the set would hold its
// old elements and the moved ones, which exceeds its size. Each Apply succeeds without a gap and
// without a new table.
func TestNearlyFull(t *testing.T) {
	bothKernels(t, Options{}, func(h *host, counted bool) {
		t := h.tb
		const size = 2 * minSize
		blocked := nettest.Addrs("203.0.113.9", "12.0.7.0", "11.0.0.1")
		h.apply(addresses(minSize-100, "203.0.113.9"), list()) // the size of the set is twice as large
		with := func(addrs int, nets []netip.Prefix) blocklist.Blocklist {
			return blocklist.New(slices.Concat(addresses(addrs, "203.0.113.9").Prefixes(), nets))
		}
		h.apply(with(size-50, networks(200, 24)), list())
		handle := h.handle()
		h.Under(blocked, nettest.Addrs("9.9.9.9"), func() {
			// 200 networks become one address each, and 200 addresses are removed. The set has room
			// for its old elements or for the new ones, but not for both.
			h.apply(with(size-250, networks(200, 32)), list())
			h.apply(with(size-50, networks(200, 24)), list())
			h.apply(with(size-250, networks(200, 32)), list("10.0.0.0/8"))
			h.apply(with(size-201, networks(200, 24)), list())
			h.apply(with(size-400, networks(200, 32)), list()) // exactly as many as fit
			h.apply(with(size-50, networks(200, 24)), list())
			h.apply(with(size, networks(200, 32)), list()) // more than fit
		})
		h.Check("moved", blocked, nettest.Addrs("12.0.7.1", "9.9.9.9"))
		if got := h.handle(); got != handle {
			t.Errorf("the table was replaced: its handle went from %s to %s", handle, got)
		}
		e, err := h.tryApply(with(size, networks(200, 32)), list())
		if err != nil || e.Counted != counted || e.Sampled == 0 {
			t.Errorf("evidence: %+v, %v", e, err)
		}
	})
}

// TestNearlyFullAfterKill ends a change after the moved elements were added and before the rest:
// the next change counts them, in the same agent and in one that adopts the table.
func TestNearlyFullAfterKill(t *testing.T) {
	bothKernels(t, Options{Keep: true}, func(h *host, counted bool) {
		t := h.tb
		const size = minSize
		h.apply(addresses(minSize/2, "203.0.113.9"), list())
		size2 := 2 * size // of blocklist4_32
		others := addresses(size2-251, "203.0.113.9").Prefixes()
		before := blocklist.New(slices.Concat(others, networks(250, 24)))
		h.apply(before, list())
		after := blocklist.New(slices.Concat(others, networks(250, 32)))
		for _, killed := range []bool{false, true} {
			h.Do(func() {
				l, err := h.table.layout()
				if err != nil {
					t.Error(err)
					return
				}
				rs := ruleset.Ruleset{Block: after, LogGroup: 100, LogRate: 10}
				s := h.table.step(l, planBlock(after), nil, rs)
				s.filled, h.table.active.exact = map[string]bool{}, false
				if err := h.table.bridge(s); err != nil {
					t.Error(err)
				}
			})
			if killed {
				h.orphan()
				h.open(Options{Keep: true})
				h.hide(counted)
			}
			handle := h.handle()
			// Next, other addresses of the same networks move.
			next := slices.Concat(others, networks(250, 24)[:150])
			for _, p := range networks(250, 32)[150:] {
				next = append(next, netip.PrefixFrom(p.Addr().Next(), 32))
			}
			h.Under(nettest.Addrs("203.0.113.9", "12.0.200.1"), nil, func() {
				h.apply(blocklist.New(next), list())
			})
			if got := h.handle(); got != handle {
				t.Errorf("the table was replaced: its handle went from %s to %s", handle, got)
			}
			h.apply(before, list())
		}
	})
}

// TestNearlyFullAfterLostAnswer moves entries into a set whose fill level neither the kernel nor
// the agent knows, because the answer to the transaction that filled it was lost. The set counts as
// full and another one replaces it, so the kernel refuses nothing and the table is not replaced.
func TestNearlyFullAfterLostAnswer(t *testing.T) {
	bothKernels(t, Options{}, func(h *host, _ bool) {
		t := h.tb
		const size = 2 * minSize
		with := func(addrs, length int) blocklist.Blocklist {
			ps := addresses(addrs, "203.0.113.9").Prefixes()
			return blocklist.New(slices.Concat(ps, networks(200, length)))
		}
		h.apply(addresses(minSize-100, "203.0.113.9"), list()) // the size of the set is twice as large
		h.apply(with(size-50, 24), list())
		clear(h.table.active.held) // as send does
		handle := h.handle()
		h.Under(nettest.Addrs("203.0.113.9", "12.0.7.0"), nil, func() { h.apply(with(size-250, 32), list()) })
		if got := h.handle(); got != handle {
			t.Errorf("the table was replaced: its handle went from %s to %s", handle, got)
		}
	})
}

// TestFilledByOthers has another program fill a set, which a kernel without counts does not show:
// the moved elements find no room, and a new table replaces the old one.
func TestFilledByOthers(t *testing.T) {
	bothKernels(t, Options{}, func(h *host, counted bool) {
		h.table.flags = 0 // as on a kernel without owner: others may change the table
		block := func(length int) blocklist.Blocklist {
			ps := addresses(1000, "203.0.113.9").Prefixes()
			return blocklist.New(slices.Concat(ps, networks(200, length)))
		}
		h.apply(block(24), list("203.0.113.1"))
		var elements []string
		for i := range 3000 {
			elements = append(elements, fmt.Sprintf("13.0.%d.%d", i/256, i%256))
		}
		h.Run("nft", "add element inet sikkerguard blocklist4_32 { "+strings.Join(elements, ", ")+" }")
		h.Under(nettest.Addrs("203.0.113.9", "12.0.7.0"), nettest.Addrs("9.9.9.9"), func() {
			h.apply(block(32), list("203.0.113.1"))
		})
		h.Check("applied", nettest.Addrs("203.0.113.9", "12.0.7.0"),
			nettest.Addrs("12.0.7.1", "13.0.0.1", "203.0.113.1"))
	})
}

// TestRoomLeft moves entries to a set that has room for them: the set is not replaced, also on a
// kernel without counts.
func TestRoomLeft(t *testing.T) {
	bothKernels(t, Options{}, func(h *host, _ bool) {
		t := h.tb
		h.apply(addresses(1000, "12.0.1.0/24"), list())
		all := h.transactions(func() { h.apply(addresses(1000, "12.0.1.9"), list()) })
		filled := first(all, unix.NFT_MSG_NEWSETELEM, "blocklist4_32\x00")
		if filled != 0 || first(all, unix.NFT_MSG_NEWSET, grownSuffix) >= 0 {
			t.Error("a set that has room was replaced")
		}
	})
}

// TestAdoptedGrows adopts a table whose sets are too small for the next list.
func TestAdoptedGrows(t *testing.T) {
	bothKernels(t, Options{Keep: true}, func(h *host, counted bool) {
		blocked := nettest.Addrs("203.0.113.9", "62.1.1.1", "45.9.20.7")
		h.apply(addresses(minSize, "203.0.113.9", "62.0.0.0/7", "45.9.20.0/24"), list("203.0.113.1"))
		for _, n := range []int{2 * minSize, 5 * minSize, 3, 60_000} {
			h.orphan()
			h.Under(blocked, nettest.Addrs("9.9.9.9"), func() {
				h.open(Options{Keep: true})
				h.hide(counted)
				h.apply(addresses(n, "203.0.113.9", "62.0.0.0/7", "45.9.20.7"), list("203.0.113.1"))
			})
			h.Check(fmt.Sprint(n, " entries"), append(blocked, netip.AddrFrom4([4]byte{11, 0, 0, 2})),
				nettest.Addrs("45.9.20.8", "203.0.113.1"))
		}
	})
}

// TestVerifyWithoutCounts has another program change sets. Verify finds some of the changes only on
// a kernel that returns counts.
func TestVerifyWithoutCounts(t *testing.T) {
	bothKernels(t, Options{}, func(h *host, counted bool) {
		t := h.tb
		h.table.flags = 0 // as on a kernel without owner: others may change the table
		block, allow := addresses(5000, "62.0.0.0/7"), list("62.0.2.1", "62.0.2.3")
		for _, tt := range []struct {
			name, nft string
			sampled   bool
		}{
			{"bad set flushed", "flush set inet sikkerguard blocklist4_32", true},
			{"bad first element gone", "delete element inet sikkerguard blocklist4_32 { 11.0.0.0 }", true},
			{"bad last element gone", "delete element inet sikkerguard blocklist4_32 { 11.0.19.135 }", true},
			{"bad interval gone", "delete element inet sikkerguard whitelist4 { 62.0.2.3 }", true},
			{"bad element gone", "delete element inet sikkerguard blocklist4_32 { 11.0.0.77 }", false},
			{"bad extra element", "add element inet sikkerguard blocklist4_32 { 9.9.9.9 }", false},
			{"bad extra interval", "add element inet sikkerguard whitelist4 { 62.0.2.9 }", false},
			{"bad extra network", "add element inet sikkerguard blocklist4_any { 9.0.0.0/8 }", false},
		} {
			h.apply(block, allow)
			h.Run("nft", tt.nft)
			h.Do(func() {
				e, err := h.table.Verify()
				want := tt.sampled || counted
				if errors.Is(err, ruleset.ErrMismatch) != want || err == nil && e.Counted {
					t.Errorf("%s: got %+v, %v", tt.name, e, err)
				}
			})
			h.apply(block, allow)
			h.Check("after "+tt.name,
				nettest.Addrs("11.0.0.0", "11.0.0.77", "11.0.19.135", "62.1.1.1"), nettest.Addrs("9.9.9.9"))
		}
	})
}

// TestSamplesAreSpread deletes adjacent elements of sets, a tenth of the list, as on a kernel
// without counts: Verify notices it for every tenth.
func TestSamplesAreSpread(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	h.hide(false)
	h.table.flags = 0 // as on a kernel without owner: others may change the table
	allow := make([]netip.Prefix, 0, 20)
	for i := range byte(20) {
		allow = append(allow, netip.PrefixFrom(netip.AddrFrom4([4]byte{62, 0, 2, 2 * i}), 32))
	}
	gone := func(set string, ps []netip.Prefix) {
		t.Helper()
		h.apply(addresses(100, "62.0.0.0/7"), blocklist.New(allow))
		var elements []string
		for _, p := range ps {
			elements = append(elements, p.Addr().String())
		}
		h.Run("nft", "delete element inet sikkerguard "+set+" { "+strings.Join(elements, ", ")+" }")
		h.Do(func() {
			if e, err := h.table.Verify(); !errors.Is(err, ruleset.ErrMismatch) {
				t.Errorf("%s without %s to %s: got %+v, %v", set, ps[0], ps[len(ps)-1], e, err)
			}
		})
	}
	for ps := range slices.Chunk(addresses(100).Prefixes(), 10) {
		gone("blocklist4_32", ps)
	}
	for ps := range slices.Chunk(allow, 2) {
		gone("whitelist4", ps)
	}
}
