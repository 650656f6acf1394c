package blocklist_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// TestSplitEntryCountsOnce checks that the parts of an entry count as one entry.
func TestSplitEntryCountsOnce(t *testing.T) {
	t.Parallel()
	of := func(ss ...string) blocklist.Blocklist { return blocklist.New(prefixes(ss...)) }
	blockable := func(b blocklist.Blocklist) blocklist.Blocklist {
		rest, _ := b.Blockable()
		return rest
	}
	for _, tt := range []struct {
		name   string
		list   blocklist.Blocklist
		n4, n6 int
		whole  []string
	}{
		{
			"OK never cut",
			of("5.0.0.0/24", "6.0.0.1/32", "2001:db8::/32"),
			2, 1,
			[]string{"5.0.0.0/24", "6.0.0.1/32", "2001:db8::/32"},
		},
		{
			"OK a hole in each family",
			of("5.0.0.0/24", "6.0.0.1/32", "2001:db8::/32").Without(of("5.0.0.9/32", "2001:db8::9/128")),
			2, 1,
			[]string{"5.0.0.0/24", "6.0.0.1/32", "2001:db8::/32"},
		},
		{
			"OK cut twice",
			of("5.0.0.0/24", "6.0.0.1/32").Without(of("5.0.0.9/32")).Without(of("5.0.0.77/32")),
			2, 0,
			[]string{"5.0.0.0/24", "6.0.0.1/32"},
		},
		{
			"OK cut to one part",
			of("5.0.0.0/24", "6.0.0.1/32").Without(of("5.0.0.0/25")),
			2, 0,
			[]string{"5.0.0.128/25", "6.0.0.1/32"},
		},
		{
			"OK cut, then removed",
			of("5.0.0.0/24", "6.0.0.1/32").Without(of("5.0.0.9/32")).Without(of("5.0.0.0/24")),
			1, 0,
			[]string{"6.0.0.1/32"},
		},
		{
			"OK united with another list",
			of("5.0.0.0/24").Without(of("5.0.0.9/32")).Union(of("6.0.0.0/24").Without(of("6.0.0.9/32"))),
			2, 0,
			[]string{"5.0.0.0/24", "6.0.0.0/24"},
		},
		{
			"OK covered by an entry of another list",
			of("5.0.0.0/24").Without(of("5.0.0.9/32")).Union(of("5.0.0.0/8")),
			1, 0,
			[]string{"5.0.0.0/8"},
		},
		{
			"OK special-purpose space inside",
			blockable(of("192.0.0.0/8", "5.0.0.0/24")),
			2, 0,
			[]string{"5.0.0.0/24", "192.0.0.0/8"},
		},
		{
			"OK special-purpose space inside the represented IPv4 network",
			blockable(of("64:ff9b:1::/97")),
			0, 1,
			[]string{"64:ff9b:1::/97"},
		},
		{"OK adjacent", of("5.0.0.0/25", "5.0.0.128/25"), 2, 0, []string{"5.0.0.0/25", "5.0.0.128/25"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if n4, n6 := tt.list.Len4(), tt.list.Len6(); n4 != tt.n4 || n6 != tt.n6 || tt.list.Len() != n4+n6 {
				t.Errorf("got %d and %d, want %d and %d: %v", n4, n6, tt.n4, tt.n6, texts(tt.list))
			}
			if diff := cmp.Diff(tt.whole, texts(tt.list.Whole())); diff != "" {
				t.Errorf("whole (-want +got):\n%s", diff)
			}
		})
	}
}
