package nft

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// TestSamplesOf compares the samples of sets with those picked from all elements of the set: evenly
// spread, with the first and the last.
func TestSamplesOf(t *testing.T) {
	t.Parallel()
	lists := []blocklist.Blocklist{
		list("5.0.0.1"), list("62.0.0.0/7", "5.0.0.0/20", "2001:db8::/44"), repeat(512, 25), repeat(513, 25), repeat(31, 32),
		blocklist.New(slices.Concat(repeat(300, 26).Prefixes(), random(1000, 1), networks(200, 20),
			list("2001:db8::1", "2001:db8:1::/60", "2001:db9::/50", "8000::/1").Prefixes())),
	}
	for _, l := range lists {
		sets := append(planBlock(l), planAllow(list("10.0.0.0/8", "192.0.2.1", "::1"))...)
		all := samplesOf(sets, l)
		for _, s := range sets {
			elements := slices.Collect(s.elements)
			got := all[s.name]
			if n := len(got); n != min(n, 2*samples) || n < min(samples, s.count) {
				t.Errorf("%s: %d samples of %d elements", s.name, n, s.count)
			}
			if got[0] != elements[0] || got[len(got)-1] != elements[len(elements)-1] {
				t.Errorf("%s: samples from %v to %v", s.name, got[0], got[len(got)-1])
			}
			step := max(1, (s.count-1)/(samples-1))
			var want []netip.Prefix
			for i, e := range elements {
				if i%step == 0 || i == s.count-1 {
					want = append(want, e)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", s.name, got, want)
			}
		}
	}
}
