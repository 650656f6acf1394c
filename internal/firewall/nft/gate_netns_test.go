package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestGateUnderTraffic makes, grows, shrinks and deletes the gate of an interval set while listed
// sources send, some of which move between the interval set and a hash set. None gets through.
func TestGateUnderTraffic(t *testing.T) {
	t.Parallel()
	h := newHost(t, Options{})
	// 700 entries of each of these lengths would expand to more addresses than allowed, so all stay
	// in the interval set.
	wide := func(n int, more ...string) blocklist.Blocklist {
		var ps []netip.Prefix
		for i := range n {
			ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(64 + i>>8), byte(i), 0, 0}), 25))
		}
		return blocklist.New(slices.Concat(ps, list(more...).Prefixes()))
	}
	always := nettest.Addrs("62.1.1.1", "45.9.20.7", "64.1.0.77")
	never := nettest.Addrs("9.9.9.9", "64.1.0.200", "46.1.2.3")
	h.apply(wide(0, "62.0.0.0/7", "45.9.20.7", "64.1.0.0/25"), list())
	h.Under(always, never, func() {
		for i, l := range []blocklist.Blocklist{
			wide(700, "62.0.0.0/7", "45.9.20.0/25", "64.1.0.0/25"),  // the gate is new
			wide(900, "62.0.0.0/7", "45.9.20.7", "64.1.0.0/25"),     // an entry moves to a hash set
			wide(9000, "62.0.0.0/7", "45.9.20.0/25", "64.1.0.0/25"), // the gate outgrows its set
			wide(700, "62.1.1.0/24", "45.9.20.0/25", "64.1.0.0/25"), // and shrinks
			wide(700, "62.0.0.0/7", "45.0.0.0/7", "65.0.0.0/25").Union(list("64.1.0.77")),
			wide(10, "62.0.0.0/7", "45.9.20.7", "64.1.0.0/25"), // there is no gate any more
			wide(600, "62.0.0.0/7", "45.9.20.7", "64.1.0.0/25"),
		} {
			h.apply(l.Without(list("46.1.2.3")), list())
			out := h.Run("nft", "-t", "list", "table", "inet", tableName)
			rule := "ip saddr & 255.255.0.0 @gate4 ip saddr @blocklist4_any jump blocked4"
			if gated := strings.Contains(plain(out), rule); gated != (l.Len() > 100) {
				t.Errorf("step %d: gated %v for %d entries:\n%s", i, gated, l.Len(), out)
			}
			if strings.Contains(out, grownSuffix) {
				t.Errorf("step %d: a temporary set is left:\n%s", i, out)
			}
		}
	})
	h.Check("last", always, never)
	needCounts(t)
	// An element of the gate is as necessary as one of the interval set.
	h.table.flags = 0
	h.Do(func() {
		if err := h.table.Remove(); err != nil {
			t.Error(err)
		}
	})
	h.apply(wide(700), list())
	h.Run("nft", fmt.Sprintf("delete element inet %s gate4 { 64.9.0.0 }", tableName))
	h.Do(func() {
		if _, err := h.table.Verify(); err == nil {
			t.Error("Verify does not notice that the gate lacks an element")
		}
	})
	h.apply(wide(700), list())
	h.Check("repaired", nettest.Addrs("64.9.0.1"), nil)
}
