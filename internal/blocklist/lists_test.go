package blocklist_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// TestLists: the merged list contains what any list contains, and each address knows its lists.
func TestLists(t *testing.T) {
	t.Parallel()
	list := func(prefixes ...string) blocklist.Blocklist {
		var ps []netip.Prefix
		for _, p := range prefixes {
			ps = append(ps, netip.MustParsePrefix(p))
		}
		return blocklist.New(ps)
	}
	lists := blocklist.Lists{
		{Name: "sikker", Entries: list("203.0.113.0/24", "2001:db8::1/128")},
		{Name: "empty"},
		{Name: "custom", Entries: list("203.0.113.9/32", "198.51.100.1/32")},
	}
	if got, want := lists.Merge(), list("203.0.113.0/24", "198.51.100.1/32", "2001:db8::1/128"); !got.Equal(want) {
		t.Errorf("merged: %v", got.Prefixes())
	}
	if n := lists.Len(); n != 4 {
		t.Errorf("%d entries, want 4", n)
	}
	for addr, want := range map[string][]string{
		"203.0.113.9": {"sikker", "custom"}, "203.0.113.8": {"sikker"}, "198.51.100.1": {"custom"},
		"2001:db8::1": {"sikker"}, "192.0.2.1": nil,
	} {
		if got := lists.Sources(netip.MustParseAddr(addr)); !slices.Equal(got, want) {
			t.Errorf("%s: sources %q, want %q", addr, got, want)
		}
	}
	if all := (blocklist.Lists{}).Merge(); all.Len() != 0 {
		t.Errorf("no lists merge to %v", all.Prefixes())
	}
}
