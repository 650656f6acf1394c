package nft

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// harm is a change that another program makes to the table when its owner is dead, or on a kernel
// without table owners. Each line of the script is one transaction.
type harm struct {
	name    string
	script  string
	broken  bool // the rules drop too little or too much until the next Apply
	replace bool // Apply needs a new table
	partial bool // the broken rules still drop 203.0.113.9 and nothing unlisted
}

// harms returns the harms, grouped by the part of the table that they change.
func harms() []harm {
	// base replaces the base chain by one with a rule that looks up a set of the agent.
	base := func(spec string) string {
		return "flush chain inet sikkerguard prerouting; delete chain inet sikkerguard prerouting; add chain inet sikkerguard prerouting " +
			spec + "; add rule inet sikkerguard prerouting ip saddr @blocklist4_32 jump blocked4"
	}
	// set replaces a set of the agent by another one.
	set := func(name, spec string) string {
		return "flush chain inet sikkerguard prerouting; flush chain inet sikkerguard blocked4; delete set inet sikkerguard " + name +
			"; add " + spec
	}
	return []harm{
		{name: "set used by a chain", script: "add set inet sikkerguard theirs { type ipv4_addr; }; add chain inet sikkerguard evil " +
			"{ type filter hook input priority 0; }; add rule inet sikkerguard evil ip saddr @theirs drop"},
		{name: "our set used by a chain", script: "add chain inet sikkerguard evil { type filter hook output priority 0; }; " +
			"add rule inet sikkerguard evil ip daddr @blocklist4_any drop; add rule inet sikkerguard evil ip daddr @blocklist4_32 jump blocked4"},
		{name: "chains that jump to each other", script: "add chain inet sikkerguard a; add chain inet sikkerguard b; add chain inet sikkerguard c; " +
			"add rule inet sikkerguard c jump a; add rule inet sikkerguard a jump b; add rule inet sikkerguard prerouting jump c"},
		{name: "map to chains", script: "add chain inet sikkerguard evil; add map inet sikkerguard m { type ipv4_addr : verdict; }; " +
			"add element inet sikkerguard m { 192.0.2.9 : jump evil, 192.0.2.10 : jump blocked4 }; add chain inet sikkerguard other; " +
			"add rule inet sikkerguard other ip saddr vmap @m; add rule inet sikkerguard prerouting jump other"},
		{name: "anonymous map in our chain", script: "add chain inet sikkerguard evil; " +
			"insert rule inet sikkerguard prerouting tcp dport vmap { 22 : jump evil, 80 : jump blocked4 }"},
		{name: "chain that is part of a rule", script: "add chain inet sikkerguard evil { type filter hook input priority 0; }; " +
			"add rule inet sikkerguard evil tcp dport 22 jump { counter; ip saddr @blocklist4_32 accept; }"},
		{name: "chain that is part of a rule in our chain", script: "insert rule inet sikkerguard prerouting tcp dport 22 jump { ip saddr @blocklist4_32 accept; }"},
		{name: "chain on a device", script: "add chain inet sikkerguard evil { type filter hook ingress device lo priority 0; policy drop; }"},
		{name: "set of networks and ports", script: "add set inet sikkerguard theirs { type ipv4_addr . inet_service; flags interval; }; " +
			"add element inet sikkerguard theirs { 192.0.2.0/24 . 1-1000 }; add chain inet sikkerguard evil { type filter hook input priority 0; }; " +
			"add rule inet sikkerguard evil ip saddr . udp dport @theirs drop"},
		{name: "dynamic set", script: "add set inet sikkerguard seen { type ipv4_addr; size 128; flags dynamic, timeout; timeout 1m; }; " +
			"add chain inet sikkerguard evil { type filter hook prerouting priority -301; }; add rule inet sikkerguard evil update @seen { ip saddr }"},

		{name: "base chain without hook", script: base(""), broken: true, replace: true},
		{name: "base chain with another priority", script: base("{ type filter hook prerouting priority -299; }"), broken: true, partial: true, replace: true},
		{name: "base chain with another hook", script: base("{ type filter hook input priority -300; }"), broken: true, partial: true, replace: true},
		{name: "base chain of another type", script: base("{ type nat hook prerouting priority -100; }"), broken: true, replace: true},
		{name: "base chain of another policy", script: "add chain inet sikkerguard prerouting { policy drop; }", broken: true},
		{name: "drop chain with a hook", script: "flush chain inet sikkerguard prerouting; flush chain inet sikkerguard blocked6; " +
			"delete chain inet sikkerguard blocked6; add chain inet sikkerguard blocked6 { type filter hook forward priority 0; }", broken: true, replace: true},
		{name: "chains renamed", script: "rename chain inet sikkerguard blocked4 evil"},
		{name: "rule in our chain", script: "insert rule inet sikkerguard prerouting accept", broken: true},

		{name: "set of another type", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type inet_service; size 4096; }"), broken: true, replace: true},
		{name: "set of another key length", script: set("blocklist4_24", "set inet sikkerguard blocklist4_24 { type ipv6_addr; size 4096; }"), broken: true, replace: true},
		{name: "set of two fields", script: set("blocklist4_any", "set inet sikkerguard blocklist4_any { type ipv4_addr . inet_service; flags interval; }"), broken: true, replace: true},
		{name: "set with intervals", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type ipv4_addr; flags interval; }"), broken: true, replace: true},
		{name: "set without intervals", script: set("whitelist4", "set inet sikkerguard whitelist4 { type ipv4_addr; }"), broken: true, replace: true},
		{name: "set with a timeout", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type ipv4_addr; size 4096; timeout 1s; }"), broken: true, replace: true},
		{name: "set with counters", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type ipv4_addr; size 4096; counter; }"), broken: true, replace: true},
		{name: "set of another policy", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type ipv4_addr; size 4096; policy memory; }"), broken: true, replace: true},
		{name: "set that is too small", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type ipv4_addr; size 2; }"), broken: true},
		{name: "set without a size", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type ipv4_addr; }"), broken: true},
		{name: "interval set with a size", script: set("whitelist4", "set inet sikkerguard whitelist4 { type ipv4_addr; flags interval; size 1; }"), broken: true, replace: true},
		{name: "constant set", script: set("blocklist4_32", "set inet sikkerguard blocklist4_32 { type ipv4_addr; flags constant; elements = { 192.0.2.9 }; }"), broken: true, replace: true},
		{name: "set that is a map", script: set("blocklist4_32", "map inet sikkerguard blocklist4_32 { type ipv4_addr : verdict; size 4096; }"), broken: true, replace: true},
		{name: "set with the temporary name", script: "add set inet sikkerguard blocklist4_32_grown { type ipv6_addr; size 8; }", replace: true},

		{name: "object", script: "add limit inet sikkerguard l { rate 1/second; }; add counter inet sikkerguard c"},
		{name: "our counter in a map", script: "add map inet sikkerguard m { type ipv4_addr : counter; }; " +
			"add element inet sikkerguard m { 192.0.2.9 : \"blocked4\" }; add chain inet sikkerguard evil; add rule inet sikkerguard evil counter name ip saddr map @m"},
		{name: "objects in a map", script: "add quota inet sikkerguard q { over 1 mbytes; }; add map inet sikkerguard m { type ipv4_addr : quota; }; " +
			"add element inet sikkerguard m { 192.0.2.9 : \"q\" }; add chain inet sikkerguard evil; add rule inet sikkerguard evil quota name ip saddr map @m"},
		{name: "quota named like the counter", script: "flush chain inet sikkerguard blocked4; delete counter inet sikkerguard blocked4; " +
			"add quota inet sikkerguard blocked4 { over 1 mbytes; }; add rule inet sikkerguard blocked4 drop", broken: true},
		{name: "conntrack objects", script: "add ct helper inet sikkerguard h { type \"ftp\" protocol tcp; }; " +
			"add ct timeout inet sikkerguard t { protocol tcp; policy = { established: 100 }; }"},
		{name: "flowtable", script: "add flowtable inet sikkerguard f { hook ingress priority 0; devices = { lo }; }; add chain inet sikkerguard evil " +
			"{ type filter hook forward priority 0; }; add rule inet sikkerguard evil flow add @f"},

		{name: "dormant table", broken: true, replace: true},
		{name: "table made by another program", script: "delete table inet sikkerguard; add table inet sikkerguard; add chain inet sikkerguard prerouting", broken: true},
		{name: "table deleted", script: "delete table inet sikkerguard", broken: true},
		{name: "emptied", script: "flush table inet sikkerguard; delete chain inet sikkerguard prerouting", broken: true, replace: true},
		{name: "layout of a later version", script: "flush table inet sikkerguard; delete chain inet sikkerguard prerouting; " +
			"delete chain inet sikkerguard blocked4; delete chain inet sikkerguard blocked6; delete set inet sikkerguard blocklist4_32; " +
			"delete set inet sikkerguard blocklist4_24; delete counter inet sikkerguard blocked4\n" +
			"add set inet sikkerguard blocklist4_32 { type ipv4_addr . ipv4_addr; flags interval; }; " +
			"add map inet sikkerguard verdicts { type ipv4_addr : verdict; flags interval; }; add set inet sikkerguard leases { type ipv4_addr; flags timeout; }; " +
			"add counter inet sikkerguard dropped; add quota inet sikkerguard blocked4 { over 9000 mbytes; }\n" +
			"add chain inet sikkerguard blocked4 { type filter hook input priority -10; }; add chain inet sikkerguard sink; " +
			"add rule inet sikkerguard sink counter name dropped drop; add chain inet sikkerguard prerouting { type filter hook prerouting priority -310; }\n" +
			"add element inet sikkerguard verdicts { 203.0.113.8/29 : goto sink, 45.9.20.0/24 : goto sink, 62.0.0.0/7 : goto sink }; " +
			"add rule inet sikkerguard prerouting ip saddr vmap @verdicts; add rule inet sikkerguard prerouting ip6 saddr 2001:db8:f::/64 goto sink", broken: true, replace: true, partial: true},
	}
}

// orphan closes the connection, as the kernel does for a killed process, and waits until the kernel
// has ended the ownership. A process that another test starts at that moment has a copy of the
// socket until it executes its program.
func (h *host) orphan() {
	h.tb.Helper()
	if err := h.table.Close(); err != nil {
		h.tb.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var found *nftables.Table
		var err error
		h.Do(func() { found, err = findTable() })
		if err == nil && found != nil && found.Owner == 0 {
			return
		}
		if time.Now().After(end) {
			h.tb.Fatalf("the table is not an orphan: %+v, %v", found, err)
		}
	}
}

// harm makes the change. nft 1.0 cannot express a persistent table, so the dormant flag is set
// through the library.
func (h *host) harm(hm harm) {
	h.tb.Helper()
	if hm.script != "" {
		for part := range strings.Lines(hm.script) {
			h.Run("nft", part)
		}
		return
	}
	h.Do(func() {
		found, err := findTable()
		if err == nil {
			found.Flags |= nftables.TableFlagDormant
			c, _ := nftables.New()
			c.AddTable(found)
			err = c.Flush()
		}
		if err != nil {
			h.tb.Error(err)
		}
	})
}

func (h *host) hasFlowtables() bool {
	h.tb.Helper()
	out := h.Run("sh", "-c", "nft 'add table inet t; add flowtable inet t f { hook ingress priority 0; devices = { lo }; }; delete table inet t' || echo no")
	return !strings.Contains(out, "no")
}

// listed returns the parts of the table as nft prints them, sorted, without the counters' values.
func (h *host) listed() []string {
	h.tb.Helper()
	text := plain(h.Run("nft", "list", "table", "inet", tableName))
	text = regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAllString(text, "-")
	text = strings.TrimPrefix(text, "table inet sikkerguard {\n")
	return slices.Sorted(slices.Values(strings.Split(strings.TrimSuffix(text, "\n}\n"), "\n\n")))
}

// TestHarmedTable has another program change the table in many ways: while its owner is dead, so
// that a new agent adopts it, and on a kernel without table owners, where the same agent restores
// it. The next Apply succeeds, the table is as before, and no foreign part is left in it. No packet
// of a listed source gets through as long as the changed rules enforce the list.
func TestHarmedTable(t *testing.T) {
	t.Parallel()
	blocked := nettest.Addrs("203.0.113.9", "45.9.20.7", "62.1.1.1", "2001:db8:f::1")
	open := nettest.Addrs("203.0.113.1", "9.9.9.9", "2001:db8:9::1")
	block := list("203.0.113.9", "203.0.113.0/30", "203.0.113.10", "203.0.113.11", "45.9.20.0/24",
		"62.0.0.0/7", "2001:db8:f::1", "2001:db8:9::/64")
	allow := list("203.0.113.1", "2001:db8:9::1")
	for _, hm := range harms() {
		for _, owners := range []bool{true, false} {
			t.Run(hm.name+map[bool]string{true: ", orphaned", false: ", no owners"}[owners], func(t *testing.T) {
				t.Parallel()
				h := newHost(t, Options{Keep: true})
				if hm.name == "flowtable" && !h.hasFlowtables() {
					t.Skip("this kernel has no flowtables")
				}
				if !owners {
					h.table.flags = 0
				}
				h.apply(block, allow)
				want := h.listed()
				h.Check("before", blocked, open)
				before, err := h.counters()
				if err != nil {
					t.Fatal(err)
				}
				if owners {
					h.orphan()
				}
				handle := h.handle()
				h.harm(hm)
				made := strings.Contains(hm.script, "delete table")
				h.Do(func() {
					l, err := h.table.layout()
					if err != nil {
						t.Error(err)
						return
					}
					if made {
						return // there may be no table
					}
					if reason := l.incompatible(h.table.flags); (reason != "") != hm.replace {
						t.Errorf("the table is incompatible because %q", reason)
					}
				})
				refresh := func(l blocklist.Blocklist) {
					if owners {
						h.open(Options{Keep: true})
					}
					h.apply(l, allow)
				}
				switch {
				case hm.partial:
					h.Under(blocked[:1], open[1:2], func() { refresh(block) })
				case hm.broken:
					refresh(block)
				default:
					h.Under(blocked, open, func() { refresh(block) })
				}
				h.Check("after", blocked, open)
				if got := h.handle(); !made && (got == handle) == hm.replace {
					t.Errorf("the table's handle was %s and is %s", handle, got)
				}
				if diff := cmp.Diff(want, h.listed()); diff != "" {
					t.Errorf("nft list table (-want +got):\n%s", diff)
				}
				lost := made || strings.Contains(hm.script, "delete counter")
				if after, err := h.counters(); err != nil || after.Packets() < before.Packets() && !lost {
					t.Errorf("counters went from %+v to %+v, %v", before, after, err)
				}
				h.apply(block.Without(list("62.0.0.0/7")), allow)
				h.Check("refreshed", blocked[:2], open)
			})
		}
	}
}
