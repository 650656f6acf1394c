package iptables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestEqualRefreshChangesNothing applies the active ruleset again. No program that changes anything
// runs, and the kernel is still asked.
func TestEqualRefreshChangesNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			r := record(t, kind, "")
			f := startIn(t, h, Options{Legacy: kind == "legacy"}, []string{r.dir})
			rs := desired(list("203.0.113.0/24", "2001:db8:f::1/128"), list("10.0.0.0/8"))
			mustApply(t, h, f, rs)
			if runs, _ := r.take(); len(runs) < 5 {
				t.Fatalf("the first list: %q", runs)
			}
			rs.Block = list("203.0.113.0/24", "2001:db8:f::1/128")
			for range 3 {
				mustApply(t, h, f, rs)
			}
			if runs, _ := r.take(); runs[0] != "" {
				t.Errorf("the same list: %q", runs)
			}
			h.Run("ipset", "del", "sikkerguard-blocklist", "203.0.113.0/24")
			mustApply(t, h, f, rs)
			if runs, _ := r.take(); runs[0] == "" {
				t.Error("the same list, of which another program deleted an element: nothing was done")
			}
			h.Check("applied again", nettest.Addrs("203.0.113.9"), nettest.Addrs("203.0.114.9"))
		})
	}
}

// TestRefreshSendsWhatChanged refreshes a list of 5,000 entries of which a few changed. One run of
// ipset gets those, the additions first, and no other program changes anything.
func TestRefreshSendsWhatChanged(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	r := record(t, "legacy", "")
	f := startIn(t, h, Options{Legacy: true}, []string{r.dir})
	many := func(n int, more ...string) blocklist.Blocklist {
		var ps []netip.Prefix
		for i := range n {
			ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{46, byte(i >> 7), byte(i << 1), 1}), 32))
		}
		return blocklist.New(append(ps, list(more...).Prefixes()...))
	}
	allow := list("10.0.0.0/8", "192.0.2.7/32")
	mustApply(t, h, f, desired(many(5000, "203.0.113.8/32", "203.0.113.9/32", "2001:db8:f::1/128", "2001:db8:f::2/128"), allow))
	r.take()
	mustApply(t, h, f, desired(many(5000, "203.0.113.9/32", "203.0.113.64/26", "2001:db8:f::2/128", "2001:db8:f::3/128"),
		list("10.0.0.0/8", "192.0.2.8/32")))
	runs, input := r.take()
	var changes []string
	for line := range strings.Lines(input) {
		if !strings.HasPrefix(line, "create ") {
			changes = append(changes, strings.TrimSpace(line))
		} else if !strings.HasSuffix(line, " -exist\n") {
			t.Errorf("a set was made: %s", line)
		}
	}
	if diff := cmp.Diff([]string{"ipset restore"}, runs); diff != "" {
		t.Errorf("programs that changed something (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"add sikkerguard-whitelist 192.0.2.8/32",
		"add sikkerguard-blocklist 203.0.113.64/26",
		"add sikkerguard-blocklist6 2001:db8:f::3/128",
		"del sikkerguard-blocklist 203.0.113.8/32",
		"del sikkerguard-blocklist6 2001:db8:f::1/128",
		"del sikkerguard-whitelist 192.0.2.7/32",
	}, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	h.Check("refreshed", nettest.Addrs("203.0.113.9", "203.0.113.64", "2001:db8:f::2", "2001:db8:f::3", "46.0.2.1"),
		nettest.Addrs("203.0.113.8", "2001:db8:f::1"))
}

// fuzzedLists returns a function whose calls return successive versions of a list: each adds,
// deletes, widens, narrows and splits some entries.
func fuzzedLists(seed uint64, n int) func() blocklist.Blocklist {
	rng := rand.New(rand.NewPCG(seed, 14))
	entry := func() netip.Prefix {
		if rng.IntN(4) == 0 {
			raw := [16]byte{0x2a, 0, 0, byte(rng.IntN(4)), 15: byte(rng.IntN(200))}
			return netip.PrefixFrom(netip.AddrFrom16(raw), []int{128, 128, 64, 32}[rng.IntN(4)]).Masked()
		}
		raw := [4]byte{46, byte(rng.IntN(4)), byte(rng.IntN(16)), byte(rng.Uint32())}
		return netip.PrefixFrom(netip.AddrFrom4(raw), []int{32, 32, 32, 32, 30, 24, 20}[rng.IntN(7)]).Masked()
	}
	var ps []netip.Prefix
	for range n {
		ps = append(ps, entry())
	}
	return func() blocklist.Blocklist {
		for range rng.IntN(n / 8) {
			switch i := rng.IntN(len(ps)); rng.IntN(3) {
			case 0:
				ps = append(ps, entry())
			case 1:
				ps = slices.Delete(ps, i, i+1)
			default:
				width := ps[i].Bits() + rng.IntN(3) - 1
				ps[i] = netip.PrefixFrom(ps[i].Addr(), min(max(width, 1), ps[i].Addr().BitLen())).Masked()
			}
			for len(ps) < n/2 {
				ps = append(ps, entry())
			}
		}
		return blocklist.New(slices.Clone(ps))
	}
}

// TestRandomRefreshesEqualWholeFills refreshes a fuzzed list a thousand times, and compares the
// elements of the sets with those of sets that are filled whole.
func TestRandomRefreshesEqualWholeFills(t *testing.T) {
	t.Parallel()
	h, other := nettest.NewHost(t), nettest.NewHost(t)
	f := startKind(t, h, "legacy")
	refreshes := 1000
	if testing.Short() {
		refreshes = 50
	}
	next, allowed := fuzzedLists(1, 120), fuzzedLists(2, 16)
	byElements, whole := 0, 0
	for i := range refreshes {
		allow := allowed()
		rs := desired(next(), allow)
		if i%10 != 0 {
			rs.Block = rs.Block.Without(allow) // as the agent does; otherwise the rules look up the whitelist
		}
		if f.applied != nil {
			for range f.applied.differences(f.translate(rs)) {
				byElements++
			}
		}
		mustApply(t, h, f, rs)
		if got, want := elementsIn(t, h), filled(t, f, other, rs); got != want {
			t.Fatalf("refresh %d (-filled +refreshed):\n%s", i, cmp.Diff(want, got))
		}
		whole += len(f.families) * 2
	}
	t.Logf("%d of %d changes of sets by their elements", byElements, whole)
	if byElements < whole/4 || byElements > whole*9/10 {
		t.Errorf("%d of %d changes of sets by their elements: the test does not cover both ways", byElements, whole)
	}
}

// TestChurnUnderTraffic changes 5% of a list again and again while listed and unlisted sources
// send. Sources that are on each version, as addresses or in networks of any width, never get
// through, and others always do.
func TestChurnUnderTraffic(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	f := startKind(t, h, "nft")
	rng := rand.New(rand.NewPCG(5, 5))
	ps := make([]netip.Prefix, 4000)
	for i := range ps {
		ps[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{50, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}), 32)
	}
	shapes := [][]string{
		{"45.9.20.7/32", "62.1.1.1/32", "222.9.9.0/24"},
		{"45.9.20.0/24", "62.1.1.1/32", "222.9.9.9/32"},
		{"45.9.20.0/25", "62.1.1.0/24", "222.9.9.9/32"},
	}
	version := func(i int) ruleset.Ruleset {
		for range len(ps) / 20 {
			ps[rng.IntN(len(ps))] = netip.PrefixFrom(
				netip.AddrFrom4([4]byte{50, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}), 32)
		}
		anchors := list("9.1.0.0/24", "9.1.1.0/25") // their widths never disappear
		all := slices.Concat(ps, list(shapes[i%len(shapes)]...).Prefixes(), anchors.Prefixes())
		return desired(blocklist.New(all), list("10.0.0.0/8"))
	}
	mustApply(t, h, f, version(0))
	h.Under(nettest.Addrs("45.9.20.7", "62.1.1.1", "222.9.9.9"), nettest.Addrs("192.0.2.50", "51.2.3.4"), func() {
		for i := range 20 {
			rs := version(i + 1)
			if d := f.applied.differences(f.translate(rs)); !d.only(f.applied) {
				t.Errorf("version %d: sets are filled whole", i)
			}
			mustApply(t, h, f, rs)
		}
	})
}

// TestRefreshMeetsForeignChange has another program change the sets between refreshes. Each refresh
// leaves the sets as they should be.
func TestRefreshMeetsForeignChange(t *testing.T) {
	t.Parallel()
	h, other := nettest.NewHost(t), nettest.NewHost(t)
	f := startKind(t, h, "nft")
	rs := fourChanges()
	for i, harm := range []string{
		"del sikkerguard-blocklist 203.0.113.1", // the count differs
		"add sikkerguard-blocklist 9.9.9.9",
		"flush sikkerguard-blocklist6",
		"del sikkerguard-blocklist 203.0.113.1\nadd sikkerguard-blocklist 203.0.115.7", // is to be added
		"del sikkerguard-blocklist 203.0.113.9\nadd sikkerguard-blocklist 9.9.9.9",     // was to be deleted
		"del sikkerguard-whitelist 192.0.2.7\nadd sikkerguard-whitelist 192.0.2.9",     // was to be deleted
		"create x hash:net\nswap x sikkerguard-blocklist\ndestroy x\nadd sikkerguard-blocklist 9.9.9.9",
	} {
		mustApply(t, h, f, rs[0])
		h.Run("sh", "-c", "printf '"+strings.ReplaceAll(harm, "\n", `\n`)+`\n' | ipset restore`)
		mustApply(t, h, f, rs[1])
		if got, want := elementsIn(t, h), filled(t, f, other, rs[1]); got != want {
			t.Errorf("%d: %s (-want +got):\n%s", i, harm, cmp.Diff(want, got))
		}
	}
}

// TestExchangeOutlivesRefresh has another program exchange elements that stay on the list. A refresh
// by elements does not notice it. The next reading of all elements does, and the repair fills whole
// sets.
func TestExchangeOutlivesRefresh(t *testing.T) {
	t.Parallel()
	h, other := nettest.NewHost(t), nettest.NewHost(t)
	f := startKind(t, h, "legacy")
	rs := fourChanges()
	for i := range rs {
		for n := range 100 { // more than the samples
			rs[i].Block = rs[i].Block.Union(list(fmt.Sprintf("203.0.118.%d/32", 2*n)))
		}
	}
	mustApply(t, h, f, rs[0])
	h.Run("sh", "-c", `printf 'del sikkerguard-blocklist 203.0.118.66\nadd sikkerguard-blocklist 203.0.118.67\n' | ipset restore`)
	mustApply(t, h, f, rs[1])
	h.Do(func() {
		f.contents.due = time.Time{}
		if _, err := f.poll(t.Context()); !errors.Is(err, ruleset.ErrMismatch) {
			t.Errorf("exchanged: got %v", err)
		}
	})
	mustApply(t, h, f, rs[1])
	if got, want := elementsIn(t, h), filled(t, f, other, rs[1]); got != want {
		t.Errorf("repaired (-want +got):\n%s", cmp.Diff(want, got))
	}
}

// TestSetsThatAreFilled lists the changes for which a set is filled whole.
func TestSetsThatAreFilled(t *testing.T) {
	t.Parallel()
	f := &Firewall{families: []tables{{family: ipv4()}, {family: ipv6()}}}
	run := func(first, n int) blocklist.Blocklist {
		var ps []netip.Prefix
		for i := first; i < first+n; i++ {
			ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{46, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		}
		return blocklist.New(ps)
	}
	tests := []struct {
		name      string
		old, next blocklist.Blocklist
		room      int // of the old set, if it is not its number of elements
		want      bool
	}{
		{name: "OK equal", old: run(0, 5), next: run(0, 5), want: true},
		{name: "OK first addresses", old: list(), next: run(0, 5), want: true},
		{name: "OK a new width", old: run(0, 5), next: run(0, 5).Union(list("9.0.0.0/8")), want: true},
		{name: "OK many that are few of the list", old: run(0, 20_000), next: run(4000, 20_000), want: true},
		{name: "bad most of a list", old: run(0, 4000), next: run(3000, 4000)},
		{name: "bad the last of a width", old: run(0, 5).Union(list("9.0.0.0/8")), next: run(0, 5)},
		{name: "bad no addresses are left", old: run(0, 5), next: list("9.0.0.0/8")},
		{name: "bad outgrown", old: run(0, 70_000), next: run(0, 80_000), room: 39_000},
		{name: "bad much too large", old: run(0, 9_000), next: run(0, 8_999), room: 200_000},
		{name: "bad everything", old: run(0, 5), next: list("0.0.0.0/0")},
		{name: "bad no longer everything", old: list("0.0.0.0/0"), next: list("128.0.0.0/1")},
	}
	for _, tt := range tests {
		old := f.translate(desired(tt.old, list()))
		if tt.room > 0 {
			old.block[0].room = tt.room
		}
		next := f.translate(desired(tt.next, list()))
		d := old.differences(next)
		if _, got := d["sikkerguard-blocklist"]; got != tt.want {
			t.Errorf("%s: by elements %v, want %v", tt.name, got, tt.want)
		}
		if tt.want && next.block[0].create() != old.block[0].create() {
			t.Errorf("%s: the set is described as %q, but was made by %q", tt.name, next.block[0].create(), old.block[0].create())
		}
		if _, ok := d["sikkerguard-blocklist6"]; !ok && tt.want {
			t.Errorf("%s: the set of IPv6 did not change, and is filled", tt.name)
		}
	}
}
